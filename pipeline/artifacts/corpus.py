"""Data directories: lhotse manifests of one part of a corpus, written, read and checked here.

A data directory holds recordings.jsonl.gz, supervisions.jsonl.gz and cuts.jsonl.gz. A cut is an utterance: its id is
the utterance id, it has one supervision with the same id, a transcript of words separated by single blanks and a
speaker; where nobody has transcribed it, the transcript is empty and the supervision says so (``UNTRANSCRIBED``).
Gold times of words and phones stand in ``supervision.alignment`` under "word" and "phone", in seconds from the start of
the cut. Paths of audio files are absolute. A directory of shards (``pipeline.artifacts.shar``) is read as one, too: its
cuts are those of all shards.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pipeline.artifacts.cut_checks import (
    Beside,
    Problems,
    ProblemsError,
    Rates,
    Seen,
    audio_info,
    audio_problems,
    cut_problems,
    json_lines,
)
from pipeline.artifacts.cut_spool import CutSpool
from pipeline.artifacts.shar import is_shar, shard_files
from pipeline.base.errors import DataError, PipelineError
from pipeline.base.files import write_jsonl

if TYPE_CHECKING:
    import numpy.typing as npt
    from lhotse import CutSet, Recording
    from lhotse.cut import MonoCut

logger = logging.getLogger(__name__)

CUTS = "cuts.jsonl.gz"


def has_cuts(place: str | Path) -> bool:
    """Whether there are manifests of a data directory; whether they are good shows when they are read."""
    return (Path(place) / CUTS).is_file() or is_shar(Path(place))


def cut_files(data_dir: str | Path) -> list[Path]:
    """Files with the cuts of a data directory, in order: cuts.jsonl.gz, or one for each of its shards; DataError if
    there are none.
    """
    if is_shar(Path(data_dir)):
        return [cuts for cuts, _ in shard_files(Path(data_dir))]
    path = Path(data_dir) / CUTS
    if not path.is_file():
        raise DataError(f"{path}: no such file; {data_dir} is not a data directory")
    return [path]


class Span(NamedTuple):
    """A word or phone with its start and duration in seconds from the start of the utterance."""

    symbol: str
    start: float
    duration: float


class DataFacts(NamedTuple):
    """What a data directory holds; ``seconds`` is the total duration of its utterances."""

    num_utterances: int
    num_speakers: int
    seconds: float
    sampling_rate: int


def utterance(
    utt_id: str,
    recording: Recording,
    text: str,
    speaker: str,
    words: Iterable[Span] = (),
    phones: Iterable[Span] = (),
    language: str | None = None,
    gender: str | None = None,
    start: float = 0.0,
    duration: float | None = None,
) -> MonoCut:
    """Make the cut of an utterance, which spans its whole recording or a part of it.

    Args:
        utt_id: utterance id; the supervision gets it as well.
        recording: the audio.
        text: the words, separated by blanks.
        speaker: speaker id.
        words, phones: gold times from the start of the utterance, in order; empty where there are none.
        language: name of the language.
        gender: of the speaker.
        start, duration: the part of the recording, in seconds; without a duration all that follows.
    """
    from lhotse import MonoCut, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    alignment = {
        tier: [AlignmentItem(*span) for span in spans]
        for tier, spans in (("word", list(words)), ("phone", list(phones)))
        if spans
    }
    duration = recording.duration - start if duration is None else duration
    supervision = SupervisionSegment(
        id=utt_id,
        recording_id=recording.id,
        start=0.0,
        duration=duration,
        text=" ".join(text.split()),
        speaker=speaker,
        language=language,
        gender=gender,
        alignment=alignment or None,
    )
    return MonoCut(
        id=utt_id, start=start, duration=duration, channel=0, supervisions=[supervision], recording=recording
    )


def audio_recording(utt_id: str, path: Path) -> Recording:
    """Describe an audio file by its header; DataError if it is missing or no audio file."""
    info = audio_info(path)
    return known_recording(utt_id, path.resolve(), info.samplerate, info.frames, info.channels)


def known_recording(utt_id: str, path: Path, rate: int, num_samples: int, num_channels: int = 1) -> Recording:
    """Describe an audio file whose rate in Hz, number of samples and of channels are known already."""
    from lhotse import Recording
    from lhotse.audio import AudioSource

    channels = list(range(num_channels))
    source = AudioSource(type="file", channels=channels, source=str(path))
    return Recording(utt_id, [source], rate, num_samples, num_samples / rate, channels)


def store_audio(
    utt_id: str, samples: npt.NDArray[Any] | Iterable[npt.NDArray[Any]], rate: int, path: Path, final_path: Path
) -> Recording:
    """Write int16 samples (T,) as FLAC and describe them.

    Args:
        utt_id: id of the recording.
        samples: int16 (T,), or blocks (t,) that come one after the other.
        rate: in Hz.
        path: where to write; the file appears when it is complete.
        final_path: where the file will stand, for the manifest.
    Raises:
        PipelineError: the file cannot be written; libsndfile does not say why.
    """
    import numpy as np
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with soundfile.SoundFile(str(partial), "w", rate, 1, "PCM_16", format="FLAC") as file:
            for block in [samples] if isinstance(samples, np.ndarray) else samples:
                file.write(block)
    except soundfile.LibsndfileError as err:
        raise PipelineError(f"{path}: cannot be written ({err}); is the disk full, or does it fail?") from None
    partial.rename(path)
    recording = audio_recording(utt_id, path)
    recording.sources[0].source = str(final_path.resolve())
    return recording


def load_samples(cut: MonoCut) -> npt.NDArray[Any]:
    """Audio of an utterance, float32 (T,), full scale being 1.

    Raises:
        DataError: names the utterance and the file that cannot be loaded.
    """
    import numpy as np

    try:
        samples: npt.NDArray[Any] = cut.load_audio()[0].astype(np.float32)
    except Exception as err:  # lhotse's own, and whatever its backends raise
        reason = str(err).strip().splitlines()
        source = cut.recording.sources[0].source
        raise DataError(f"utterance {cut.id!r}: {source} cannot be loaded ({reason[0] if reason else err!r})") from None
    return samples


def save_data_dir(data_dir: str | Path, cuts: Iterable[MonoCut | dict[str, Any]]) -> int:
    """Write the manifests of a data directory, sorted by utterance id; equal content gives equal bytes.

    The cuts are taken one by one and wait in a temporary file, so that memory holds only their ids.

    Args:
        cuts: as lhotse has them, or what ``cut_entry`` makes of them.
    Returns:
        number of utterances.
    """
    data_dir = Path(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    with CutSpool(data_dir) as spool:
        for cut in cuts:
            spool.add(cut if isinstance(cut, dict) else cut_entry(cut))
        order = spool.order()
        write_jsonl(data_dir / "recordings.jsonl.gz", spool.recordings())
        write_jsonl(data_dir / "supervisions.jsonl.gz", (s for i in order for s in spool[i]["supervisions"]))
        return write_jsonl(data_dir / CUTS, (spool[i] for i in order))


def load_cuts(data_dir: str | Path, check_audio: bool = False) -> CutSet:
    """Read the utterances of a data directory into memory after checking its manifests; see ``iter_cuts``.

    Args:
        data_dir: the data directory.
        check_audio: check the audio files as well (exist, header as in the manifest, not cut short).
    Returns:
        lhotse CutSet, in the order of the file.
    """
    from lhotse import CutSet

    return CutSet.from_cuts(as_cut(entry) for _, entry in iter_cuts(data_dir, check_audio))


@contextlib.contextmanager
def checked_cuts(
    data_dir: str | Path, work_dir: Path, check_audio: bool = False, lines: range | None = None
) -> Iterator[CutSpool]:
    """The utterances of a data directory once all of them have been checked; they wait in a temporary file.

    Args:
        work_dir: where that file is made.
        check_audio, lines: see ``iter_cuts``, whose errors come before anything is yielded.
    """
    with CutSpool(work_dir) as spool:
        for _, entry in iter_cuts(data_dir, check_audio, lines=lines):
            spool.add(entry)
        yield spool


def as_cut(entry: dict[str, Any]) -> MonoCut:
    """The lhotse cut of a JSON object that ``iter_cuts`` has yielded, which stays as it is.

    Raises:
        DataError: lhotse does not know what is in it.
    """
    from lhotse.serialization import deserialize_item

    try:
        return cast("MonoCut", deserialize_item(copy.deepcopy(entry)))  # lhotse takes the object apart
    except Exception as err:  # whatever constructors raise for fields that only lhotse knows
        raise DataError(f"utterance {entry.get('id')!r}: not a cut that lhotse reads ({err!r})") from None


def iter_cuts(
    data_dir: str | Path,
    check_audio: bool = False,
    decode: bool = False,
    final_dir: Path | None = None,
    lines: range | None = None,
    starts: list[int] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the cuts of a data directory line by line, with checks.

    Args:
        data_dir: the data directory.
        check_audio: check the audio files as well (exist, header as in the manifest, not cut short).
        decode: decode every audio file to its end; otherwise the header is read and the last samples are fetched.
        final_dir: where the directory will stand; audio that is named below it is looked for below ``data_dir``.
        lines: the only ones to look at, by default all; of a manifest that has been checked as a whole.
        starts: gets the number of the first line of each file when its turn comes.
    Yields:
        (line number, counted on from file to file, and cut as JSON object) of the utterances without a problem.
    Raises:
        DataError: behind the last utterance; lists up to 20 problems with file and line, and their number.
    """
    moved = None if final_dir is None else (Path(final_dir).resolve(), Path(data_dir).resolve())
    problems = Problems(data_dir)
    seen = Seen()
    rates = Rates()
    count = 0
    for line_no, where, entry in _cut_lines(data_dir, lines, [] if starts is None else starts):
        found = list(cut_problems(entry))
        if not found:
            count += 1
            earlier = seen.add(entry["id"], line_no)
            if earlier is not None:
                found.append(f"utterance id {entry['id']!r} stands in line {earlier} already")
            if check_audio:
                found += audio_problems(entry["recording"], decode, moved)
            rates.add(entry["recording"]["sampling_rate"], f"{where}: utterance {entry['id']!r}")
        for problem in found:
            problems.add(f"{where}: {problem}")
        if not found:
            yield line_no, entry
    if not count and not problems.count:
        problems.add(f"{cut_files(data_dir)[0]}: holds no utterance")
    rates.tell(problems)
    problems.raise_if_any()


def _cut_lines(
    data_dir: str | Path, lines: range | None, starts: list[int]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number of a line, its place for messages, and what it holds; see ``iter_cuts``."""
    files, last = cut_files(data_dir), 0
    for path in files:
        starts.append(last + 1)
        for line, entry in json_lines(path, lines if len(files) == 1 else None):
            last = starts[-1] + line - 1
            if lines is None or last in lines:
                yield last, f"{path}:{line}", entry


def validate_data_dir(data_dir: str | Path, decode: bool = False, final_dir: Path | None = None) -> DataFacts:
    """Check manifests and audio files of a data directory.

    Args:
        data_dir: the data directory.
        decode: decode every audio file to its end; otherwise the header is read and the last samples are fetched.
        final_dir: where the directory will stand, see ``iter_cuts``.
    Returns:
        number of utterances and speakers, total duration, sampling rate.
    Raises:
        DataError: lists up to 20 problems with file and line, and their number.
    """
    data_dir = Path(data_dir)
    problems = Problems(data_dir)
    recordings, texts = Beside(data_dir / "recordings.jsonl.gz"), Beside(data_dir / "supervisions.jsonl.gz")
    count, seconds, rate, speakers = 0, 0.0, 0, set()
    try:
        for _, entry in iter_cuts(data_dir, check_audio=True, decode=decode, final_dir=final_dir):
            recording, supervision = entry["recording"], entry["supervisions"][0]
            recordings.expect(recording["id"], recording["num_samples"])
            texts.expect(entry["id"], supervision["text"])
            speakers.add(supervision["speaker"])
            count, seconds, rate = count + 1, seconds + entry["duration"], recording["sampling_rate"]
    except ProblemsError as err:
        problems = err.problems
    if (data_dir / CUTS).is_file():  # shards have no manifests beside their cuts
        recordings.compare("num_samples", problems)
        texts.compare("text", problems)
    problems.raise_if_any()
    return DataFacts(num_utterances=count, num_speakers=len(speakers), seconds=seconds, sampling_rate=rate)


def without_features(entry: dict[str, Any]) -> dict[str, Any]:
    """A cut as it stands in cuts.jsonl.gz of a directory that has no features, or others."""
    return {name: value for name, value in entry.items() if name != "features"}


def cut_entry(cut: MonoCut) -> dict[str, Any]:
    """The JSON object of a cut, as it stands in cuts.jsonl.gz."""
    entry: dict[str, Any] = cut.to_dict()
    entry["supervisions"] = [supervision.to_dict() for supervision in cut.supervisions]
    return entry
