"""Corpora of long recordings with transcribed stretches: lhotse's recipes read them, and this makes data directories.

lhotse's recipes know the layouts of many corpora, but a broken one ends them with whatever Python raises or loses
lines, and SPHERE files they hand to an external program. Here they read SPHERE with libsndfile, and lines are looked
at before. Each channel that is used is copied to FLAC once, at one rate.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.base.errors import DataError
from pipeline.base.files import read_lines

if TYPE_CHECKING:
    from lhotse import Recording
    from lhotse.cut import MonoCut

logger = logging.getLogger(__name__)

MAX_MISSING = 0.01  # share of recordings without a transcript, or of transcripts without a recording, that is let pass
OVERHANG = 0.5  # seconds by which a stretch may end behind its recording, where it is cut
SHORTEST = 0.05  # seconds of a stretch
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A channel of an audio file, counted from 0."""

    path: Path
    channel: int = 0


@dataclass(frozen=True)
class Stretch:
    """A transcribed part of a recording; times in seconds, ``where`` for messages."""

    utt_id: str
    recording: str
    speaker: str
    start: float
    end: float
    text: str
    where: str


def with_lhotse(recipe: Callable[[], T], files: Iterable[Path], line: re.Pattern[str], needs: str) -> T:
    """What a recipe of lhotse makes of a corpus whose transcripts are as they should be.

    Args:
        recipe: calls it.
        files: transcripts that it reads.
        line: what each of their lines looks like; lhotse takes others for something else.
        needs: the same in words.
    Raises:
        DataError: the first line that is not as it should be, or, if there is none, what lhotse says.
    """
    from lhotse.audio.backend import audio_backend

    for path in files:
        for number, text in read_lines(path):
            if text and line.fullmatch(text) is None:
                raise DataError(f"{path}:{number}: needs {needs}, found {text[:80]!r}")
    try:
        with audio_backend("LibsndfileBackend"):
            return recipe()
    except Exception as err:  # whatever lhotse's recipes raise
        raise DataError(f"lhotse cannot read the corpus ({type(err).__name__}: {err})") from None


def compare_names(audio: Mapping[str, Path], texts: Mapping[str, Path], max_missing: float = MAX_MISSING) -> list[str]:
    """Names that have both a recording and a transcript; a few without are warned of.

    Args:
        audio, texts: name -> file.
        max_missing: share that may lack the one or the other.
    Raises:
        DataError: more do; names the first of them.
    """
    for have, lack, what in ((audio, texts, "transcript"), (texts, audio, "recording")):
        alone = sorted(set(have) - set(lack))
        if alone:
            told = f"{have[alone[0]]} has no {what}: {len(alone)} of {len(have)} files like it have none"
            if len(alone) > max_missing * len(have):
                raise DataError(f"{told}; is the corpus unpacked as a whole?")
            logger.warning("%s; left out: %s", told, " ".join(alone))
    return sorted(set(audio) & set(texts))


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Name without suffix -> file; DataError where two have one name."""
    found: dict[str, Path] = {}
    for path in sorted(files):
        earlier = found.setdefault(path.stem, path)
        if earlier != path:
            raise DataError(f"{path}: has the name of {earlier}; two copies of the corpus below one folder?")
    return found


def cuts_of(
    stretches: Sequence[Stretch],
    sources: Mapping[str, Source],
    rate: int,
    language: str,
    work_dir: Path,
    final_dir: Path,
    num_jobs: int = 1,
) -> Iterator[MonoCut]:
    """The utterances of recordings, each of which is copied to FLAC with one channel at ``rate`` Hz below audio/.

    Args:
        sources: recording -> its audio.
        work_dir, final_dir: where files are written, and where they will stand.
        num_jobs: threads that copy.
    Raises:
        DataError: audio that cannot be read, stretches that lie outside of it, ids that stand twice.
    """
    from pipeline.artifacts.corpus import utterance

    used = sorted({stretch.recording for stretch in stretches})
    with ThreadPoolExecutor(num_jobs) as pool:
        copies = pool.map(lambda name: _copy(name, sources[name], rate, work_dir, final_dir), used)
        stored = dict(zip(used, copies))
    seen: dict[str, str] = {}
    for stretch in stretches:
        earlier = seen.setdefault(stretch.utt_id, stretch.where)
        if earlier != stretch.where:
            raise DataError(f"{stretch.where}: utterance {stretch.utt_id!r} stands in {earlier} already")
        recording = stored[stretch.recording]
        seconds = recording.num_samples / rate
        start, end = round(stretch.start * rate) / rate, min(round(stretch.end * rate) / rate, seconds)
        if stretch.end > seconds + OVERHANG or end - start < SHORTEST:
            span = f"[{stretch.start}, {stretch.end}] s of {seconds:.3f} s of audio"
            raise DataError(f"{stretch.where}: {stretch.utt_id!r} spans {span} in {sources[stretch.recording].path}")
        place = {"start": start, "duration": end - start}
        yield utterance(stretch.utt_id, recording, stretch.text, stretch.speaker, language=language, **place)


def _copy(name: str, source: Source, rate: int, work_dir: Path, final_dir: Path) -> Recording:
    """One channel of a file as a recording of its own."""
    from pipeline.artifacts.corpus import known_recording
    from pipeline.corpora.audio import choose_channel, look, store

    facts = look(str(source.path))
    relative = Path("audio", f"{name}.flac")
    channel = choose_channel(facts, source.channel, None)
    kept = store(facts, channel, rate, name, work_dir / relative, final_dir / relative)
    return known_recording(name, Path(kept.path), kept.rate, kept.samples)
