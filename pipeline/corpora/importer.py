"""A corpus of any known format made into a data directory: utterances, their audio, their text, all problems at once.

Three passes, none of which keeps more than ids in memory. The first reads what the corpus says; the second looks at
the headers of its audio and drops what cannot work; the third reads every sample, converts what has to be converted,
and writes the manifests.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.cut_checks import TOLERANCE
from pipeline.artifacts.lexicon_formats import read_words
from pipeline.artifacts.oov import UnknownWords
from pipeline.artifacts.text_norm import TextNormaliser, TextReport
from pipeline.base.digests import Digests
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import progress
from pipeline.corpora.formats import format_of, read_corpus
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.recordings import Recordings
from pipeline.corpora.source import LeftOut, SourceUtterance, Tier, Unique
from pipeline.corpora.spool import UtteranceSpool

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from pipeline.artifacts.corpus import Span

logger = logging.getLogger(__name__)

LEFT_OUT = "left_out.txt"
NEW_IDS = "new_ids.tsv"
UNKNOWN_WORDS = "oov.tsv"
OVERHANG = 0.5  # seconds by which a segment may end behind its recording, where it is cut, as in Kaldi
SHORTEST = 0.05  # seconds of an utterance


def audio_identity(source: Path, root: Path | None, options: ImportOptions, digests: Digests) -> str:
    """Hash over the content of the audio that a corpus names, wherever it is; a command counts as it is written."""
    seen = dict[str, None]()
    commands = dict[str, None]()
    for utt in read_corpus(source, root, options, LeftOut()):
        (commands if utt.audio.command else seen)[utt.audio.command or utt.audio.path] = None
    parts = [*digests.of(seen, lenient=True), *commands]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def import_corpus(
    source: Path,
    root: Path | None,
    work_dir: Path,
    final_dir: Path,
    options: ImportOptions,
    lexicon: Path | None = None,
) -> dict[str, Any]:
    """Make a data directory of a corpus; see the options.

    Args:
        source: folder or file.
        root: directory that relative paths of audio start from; None: looked for.
        work_dir: where the data directory is written.
        final_dir: where it will stand.
        lexicon: its words are compared with those of the corpus.
    Returns:
        facts for the stamp.
    Raises:
        DataError: too many utterances cannot go in; the message sums all problems up.
    """
    from pipeline.artifacts.corpus import save_data_dir, validate_data_dir

    if options.allow_commands and options.rate is None:
        raise ConfigError("--allow-commands needs --rate: what commands print shows its rate only when they run")
    options = replace(options, format=format_of(source, options))
    logger.info("%s: read as %s", source, options.format)
    words = None
    if lexicon is not None:
        words = UnknownWords(set(read_words(lexicon, options.lexicon_format)), str(lexicon))
    with LeftOut(work_dir / LEFT_OUT) as out, UtteranceSpool(work_dir) as utterances:
        normalise = TextNormaliser(options)
        recordings = Recordings(work_dir, final_dir, options)
        utterances.write(_with_text(progress(read_corpus(source, root, options, out), desc="read"), normalise, out))
        log_text(normalise.report)
        recordings.look(utterances)
        utterances.write(_possible(utterances, recordings, out))
        _check_share(source, len(utterances), out, options)
        recordings.store(utterances)
        cuts = Cuts(utterances, recordings, out, words)
        count = save_data_dir(work_dir, cuts)
        _check_share(source, count, out, options)
    if words is not None:
        words.log(work_dir / UNKNOWN_WORDS, final_dir / UNKNOWN_WORDS)
    cuts.write_new_ids(work_dir / NEW_IDS)
    if cuts.num_bad_times:
        logger.warning("%d utterances: times of words or phones overlap or are outside; dropped", cuts.num_bad_times)
    facts = validate_data_dir(work_dir, final_dir=final_dir)
    if out.total:
        logger.warning("%d utterances are left out, listed in %s:\n%s", out.total, final_dir / LEFT_OUT, out.summary())
    return {
        "format": options.format,
        "utterances": count,
        "speakers": facts.num_speakers,
        "hours": round(facts.seconds / 3600, 4),
        "sampling_rate": facts.sampling_rate,
        "left_out": dict(out.counts),
        "text": dict(normalise.report.counts),
        "new_ids": cuts.ids.num_changed,
        "bad_times": cuts.num_bad_times,
        **({} if words is None else {"unknown_words": words.counts.total(), "unknown_share": round(words.share, 4)}),
        **recordings.facts(),
    }


def log_text(report: TextReport) -> None:
    """Tells what became of the transcripts."""
    for line in report.lines():
        logger.info("text: %s", line)


def _with_text(read: Iterator[SourceUtterance], normalise: TextNormaliser, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances with words as the options want them; those without any are left out."""
    for utt in read:
        where = utt.text_where or utt.where
        try:
            text = normalise(utt.text, f"{where}: transcript of {utt.id!r}")
        except DataError as err:
            out.add(utt.id, "control characters", str(err))
            continue
        if not text:
            out.add(utt.id, "no words", f"{where}: the transcript of {utt.id!r} has no words: {utt.text!r}")
            continue
        yield replace(utt, text=text)


def _possible(utterances: UtteranceSpool, recordings: Recordings, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances against which neither the header of their audio nor their times speak."""
    seen = UniqueOnce()
    for utt in utterances:
        problem = recordings.problem(utt.audio)
        if problem is None and not seen.add(utt.id):
            problem = ["stands twice", f"{utt.where}: utterance {utt.id!r} came before"]
        if problem is None:
            problem = _time_problem(utt, recordings.seconds(utt.audio))
        if problem is not None:
            out.add(utt.id, problem[0], problem[1] if utt.where in problem[1] else f"{utt.where}: {problem[1]}")
            continue
        yield utt


def _time_problem(utt: SourceUtterance, seconds: float | None) -> list[str] | None:
    """Kind and words of what is wrong with the times of an utterance in a recording of so many seconds."""
    if seconds is None:
        return None
    end = seconds if utt.end is None else min(utt.end, seconds)
    told = (
        f"{utt.id!r} spans [{utt.start}, {'end' if utt.end is None else utt.end}] s of a recording of {seconds:.3f} s"
    )
    if utt.start < 0 or (utt.end is not None and utt.end > seconds + OVERHANG) or utt.start >= seconds:
        return ["outside the recording", told]
    if end - utt.start < SHORTEST:
        return ["too short", told]
    return None


class UniqueOnce:
    """Names by hashes of 8 bytes."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def add(self, name: str) -> bool:
        """Note a name; whether it is new."""
        key = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def _check_share(source: Path, good: int, out: LeftOut, options: ImportOptions) -> None:
    total = good + out.total
    if not total:
        raise DataError(f"{source}: holds no utterance")
    if out.total > options.max_bad * total or not good:
        raise DataError(
            f"{source}: {out.total:,} of {total:,} utterances cannot be imported, more than the allowed share of "
            f"{options.max_bad:.0%} (--max-bad). All are listed in {out.path}; by kind:\n{out.summary()}"
        )


class Cuts:
    """The cuts of utterances whose audio is stored, with ids and speakers as data directories have them."""

    def __init__(
        self, utterances: UtteranceSpool, recordings: Recordings, out: LeftOut, words: UnknownWords | None = None
    ) -> None:
        self._utterances, self._recordings, self._out, self._words = utterances, recordings, out, words
        self.ids, self._speakers, self._speaker_names = Unique(), Unique(), dict[str, str]()
        self._renamed: list[tuple[str, str]] = []
        self.num_bad_times = 0  # utterances whose times of words or phones are not possible, and are dropped

    def __iter__(self) -> Iterator[MonoCut]:
        from pipeline.artifacts.corpus import utterance

        for utt in self._utterances:
            problem = self._recordings.problem(utt.audio)
            stored = self._recordings.stored(utt.audio) if problem is None else None
            if stored is not None:
                problem = _time_problem(utt, stored.duration)
            if problem is not None:
                self._out.add(utt.id, problem[0], f"{utt.where}: {problem[1]}")
                continue
            assert stored is not None, utt
            if self._words is not None:
                self._words.add(utt.text.split())
            rate = stored.sampling_rate
            start = round(utt.start * rate)
            end = stored.num_samples if utt.end is None else min(round(utt.end * rate), stored.num_samples)
            tiers = {name: _tier(items, (end - start) / rate) for name, items in utt.tiers.items()}
            self.num_bad_times += None in tiers.values()
            yield utterance(
                self._id(utt.id),
                stored,
                utt.text,
                self._speaker(utt.speaker or utt.id),
                tiers.get("word") or (),
                tiers.get("phone") or (),
                utt.language,
                utt.gender,
                start / rate,
                (end - start) / rate,
            )

    def _id(self, name: str) -> str:
        found = self.ids(name)
        if found != name:
            self._renamed.append((found, name))
        return found

    def _speaker(self, name: str) -> str:
        if name not in self._speaker_names:
            self._speaker_names[name] = self._speakers(name)
        return self._speaker_names[name]

    def write_new_ids(self, path: Path) -> None:
        """Lists the ids that are not those of the corpus: new TAB old."""
        if self._renamed:
            path.write_text("".join(f"{new}\t{old!r}\n" for new, old in self._renamed), encoding="utf-8")
            new, old = self._renamed[0]
            logger.info("%d ids are new, such as %s for %r; all in %s", len(self._renamed), new, old, path.name)


def _tier(items: Tier, duration: float) -> list[Span] | None:
    """Symbols with times, None if they overlap or leave the utterance."""
    from pipeline.artifacts.corpus import Span

    end = 0.0
    for _, start, length in items:
        if not (length >= 0 and start >= end - TOLERANCE and start + length <= duration + TOLERANCE):
            return None
        end = start + length
    return [Span(*item) for item in items]
