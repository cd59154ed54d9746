"""A corpus in any usual format and a packed model in, alignments in the formats of other programs out."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.ali import AliSet, Segment
from pipeline.artifacts.audio_id import audio_id
from pipeline.artifacts.corpus import has_cuts, iter_cuts
from pipeline.artifacts.index import INDEX
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.text_norm import spell_numbers
from pipeline.base.digests import Digests
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write, write_jsonl
from pipeline.base.spool import JsonSpool
from pipeline.corpora.importer import LEFT_OUT, audio_identity, import_corpus
from pipeline.corpora.options import ImportOptions
from pipeline.tasks import ali_formats
from pipeline.tasks.align import FAILED
from pipeline.tasks.aligner import Aligner
from pipeline.tasks.corpus_options import AlignCorpusOptions
from pipeline.tasks.quality import measure, write_quality, write_words
from pipeline.tasks.unknown_speech import UNKNOWN

logger = logging.getLogger(__name__)


def align_corpus(
    packed: Path,
    source: Path,
    out: Path,
    options: AlignCorpusOptions,
    lexicon: Path | None = None,
    final: Path | None = None,
    bias: Path | None = None,
) -> dict[str, Any]:
    """Aligns a corpus and writes a directory.

    Args:
        packed: the packed model.
        source: a data directory with audio of the model's sampling rate, or what `pipeline.corpora` reads, which is
            converted to it.
        out: existing directory.
        lexicon, bias: see ``Aligner.align_data``.
        final: where `out` will stand; by default where it is.
    Returns:
        facts for the stamp.
    """
    work = out / "work"
    work.mkdir()
    unknown_speech = options.skip_speech or options.unknown_words == "skip"
    aligner = Aligner.load(packed, work / "model", options.device, unknown_speech)
    data = as_data_dir(source, work / "data", aligner.sampling_rate, aligner.card.language or None)
    if (data / LEFT_OUT).is_file() and data != source:
        shutil.copy(data / LEFT_OUT, out / LEFT_OUT)
    given = aligner.options(max_failed=options.max_failed, beam=options.beam, skip_speech=options.skip_speech)
    ali, report = aligner.align_data(data, work, given, lexicon, bias)
    if options.skip_speech:
        _tell_unknown(ali)
    _write_words(Lang.load(work / "lang"), out / "words.txt")
    shutil.copy(work / "ali" / FAILED, out / FAILED)
    model, words = aligner.model_for(work), JsonSpool()
    found = measure(model, AliSet.load(work / "ali"), work / "feats", options.device, words=words)
    flagged = write_quality(out / "quality.csv", found)
    doubtful, num_words = write_words(out / "quality_words.csv", found, words)
    if doubtful:
        told = "%d of %d words do not sound like their phones; they are flagged in quality_words.csv"
        logger.warning(told, doubtful, num_words)
    if flagged:
        logger.warning("%d of %d utterances are suspicious; quality.csv has them first", flagged, len(found))
    write_formats(ali, data, out, options)
    if not options.keep:
        shutil.rmtree(work)
    elif final is not None:
        _name_place(work, out, final)
    return {
        "model": aligner.card.name,
        "aligned": report.num_aligned,
        "failed": len(report.failed),
        "suspicious": flagged,
        "doubtful_words": doubtful,
        "frames": report.num_frames,
        "log_like_per_frame": report.total_log_like / max(report.num_frames, 1),
    }


def _name_place(work: Path, here: Path, there: Path) -> None:
    """Has the manifests below a directory name files of `here` as they will be called `there`."""
    old, new = (f'"{json.dumps(str(path.resolve()))[1:-1]}/' for path in (here, there))
    for path in sorted(work.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines, atomic_write(path) as file:
            file.writelines(line.replace(old, new) for line in lines)
    for index in work.rglob(INDEX):
        index.unlink()


def as_data_dir(source: Path, imported: Path, rate: int, language: str | None) -> Path:
    """A corpus as a data directory: itself if it is one, else `imported`, which is made with audio of a rate in Hz and
    text as ``import_options`` has it.
    """
    if is_data_dir(source):
        return source
    imported.mkdir()
    import_corpus(source, None, imported, imported, import_options(language, rate=rate))
    return imported


def is_data_dir(source: Path) -> bool:
    """Whether a corpus is a data directory of ours already: one supervision per cut, known by its first utterance."""
    if not has_cuts(source):
        return False
    try:
        return next(iter_cuts(source), None) is not None
    except DataError:
        return False


def audio_of(source: Path, digests: Digests) -> str:
    """Identity of the audio that a corpus names."""
    if is_data_dir(source):
        return audio_id(source, digests)
    return audio_identity(source, None, import_options(None), digests)


def import_options(language: str | None, **more: Any) -> ImportOptions:
    """How a corpus is read whose owner says no more than its language: words without punctuation, in their own case."""
    given: dict[str, Any] = {"punctuation": "strip", "language": language, "digits": language, **more}
    if language is not None:
        try:
            spell_numbers("1", language)
        except ConfigError:
            logger.info("numbers in digits are left as they are: num2words does not know the language %r", language)
            given["digits"] = None
    return ImportOptions(**given)


def write_formats(ali: AliSet, data: Path, out: Path, options: AlignCorpusOptions) -> None:
    """Writes an alignment in all formats that are asked for."""

    def cuts() -> Iterator[ali_formats.TimedCut]:
        return ali_formats.timed_cuts(ali, data)

    for kind in options.format:
        if kind == "textgrid":
            ali_formats.write_recording_textgrids(out / "textgrids", cuts())
        elif kind == "ctm":
            for tier in ("words", "phones"):
                ali_formats.write_ctm(out / f"{tier}.ctm", cuts(), tier)
        elif kind == "json":
            write_jsonl(out / "alignment.jsonl", map(_json, cuts()))
        else:
            ali_formats.write_supervisions(out / "supervisions.jsonl.gz", cuts())


def _tell_unknown(ali: AliSet) -> None:
    """How much speech the text lacks."""
    found = [s.duration for cut_id in ali for s in ali.words(cut_id) if s.symbol == UNKNOWN]
    if found:
        logger.warning(
            "%d stretches of speech, %.1f s, are not in the text; %s marks them", len(found), sum(found), UNKNOWN
        )


def _json(cut: ali_formats.TimedCut) -> dict[str, Any]:
    """An utterance with words and phones in seconds of its recording."""
    assert cut.supervision is not None, cut.cut_id

    def told(segments: list[Segment]) -> list[dict[str, Any]]:
        return [
            {
                "symbol": s.symbol,
                "start": round(cut.start + s.start, 4),
                "end": round(cut.start + s.end, 4),
                "confidence": None if s.confidence is None else round(s.confidence, 4),
            }
            for s in segments
        ]

    return {
        "id": cut.cut_id,
        "recording": cut.recording,
        "speaker": cut.supervision["speaker"],
        "text": cut.supervision["text"],
        "words": told(cut.words),
        "phones": told(cut.phones),
    }


def _write_words(lang: Lang, path: Path) -> None:
    """Lines of a word and the phones that it was aligned with."""
    with atomic_write(path) as file:
        file.writelines(f"{e.word} {' '.join(e.phones)}\n" for e in lang.base_lexicon().entries)
