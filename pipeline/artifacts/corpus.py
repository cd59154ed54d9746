"""Data directories: lhotse manifests of one part of a corpus, written, read and checked here.

A data directory holds recordings.jsonl.gz, supervisions.jsonl.gz and cuts.jsonl.gz. A cut is an utterance: its id is
the utterance id, it has one supervision with the same id, a transcript of words separated by single blanks and a
speaker. Gold times of words and phones stand in ``supervision.alignment`` under "word" and "phone", in seconds from the
start of the recording. Paths of audio files are absolute.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.base.errors import DataError
from pipeline.base.files import read_lines, write_jsonl

if TYPE_CHECKING:
    import numpy as np
    from lhotse import CutSet, Recording
    from lhotse.cut import MonoCut

logger = logging.getLogger(__name__)

MAX_LISTED = 20  # problems that an error message spells out
TOLERANCE = 0.002  # seconds by which rounded times may exceed their container


class Span(NamedTuple):
    """A word or phone with its start and duration in seconds from the start of the recording."""

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
) -> MonoCut:
    """Make the cut of an utterance that spans its whole recording.

    Args:
        utt_id: utterance id; the recording and the supervision get it as well.
        recording: the audio.
        text: the words, separated by blanks.
        speaker: speaker id.
        words, phones: gold times, in order; empty where there are none.
        language: name of the language.
    """
    from lhotse import MonoCut, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    alignment = {
        tier: [AlignmentItem(*span) for span in spans]
        for tier, spans in (("word", list(words)), ("phone", list(phones)))
        if spans
    }
    supervision = SupervisionSegment(
        id=utt_id,
        recording_id=recording.id,
        start=0.0,
        duration=recording.duration,
        text=" ".join(text.split()),
        speaker=speaker,
        language=language,
        alignment=alignment or None,
    )
    return MonoCut(
        id=utt_id, start=0.0, duration=recording.duration, channel=0, supervisions=[supervision], recording=recording
    )


def audio_recording(utt_id: str, path: Path) -> Recording:
    """Describe an audio file by its header; DataError if it is missing or no audio file."""
    from lhotse import Recording
    from lhotse.audio import AudioSource

    info = _audio_info(path)
    source = AudioSource(type="file", channels=list(range(info.channels)), source=str(path.resolve()))
    return Recording(
        utt_id, [source], info.samplerate, info.frames, info.frames / info.samplerate, list(range(info.channels))
    )


def store_audio(utt_id: str, samples: np.ndarray, rate: int, path: Path, final_path: Path) -> Recording:
    """Write int16 samples (T,) as FLAC and describe them.

    Args:
        utt_id: id of the recording.
        samples: int16 (T,).
        rate: in Hz.
        path: where to write; the file appears when it is complete.
        final_path: where the file will stand, for the manifest.
    """
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    soundfile.write(str(partial), samples, rate, format="FLAC", subtype="PCM_16")
    partial.rename(path)
    recording = audio_recording(utt_id, path)
    recording.sources[0].source = str(final_path.resolve())
    return recording


def save_data_dir(data_dir: str | Path, cuts: Iterable[MonoCut]) -> None:
    """Write the manifests of a data directory, sorted by utterance id; equal content gives equal bytes."""
    data_dir = Path(data_dir)
    ordered = sorted(cuts, key=lambda cut: cut.id)
    recordings = {cut.recording.id: cut.recording for cut in ordered if cut.has_recording}
    write_jsonl(data_dir / "recordings.jsonl.gz", (recordings[name].to_dict() for name in sorted(recordings)))
    write_jsonl(data_dir / "supervisions.jsonl.gz", (s.to_dict() for cut in ordered for s in cut.supervisions))
    write_jsonl(data_dir / "cuts.jsonl.gz", (_cut_dict(cut) for cut in ordered))


def load_cuts(data_dir: str | Path, check_audio: bool = False) -> CutSet:
    """Read the utterances of a data directory after checking its manifests.

    Args:
        data_dir: the data directory.
        check_audio: check the audio files as well (exist, header as in the manifest, not cut short).
    Returns:
        lhotse CutSet in memory, in the order of the file.
    Raises:
        DataError: lists up to 20 problems with file and line, and their number.
    """
    from lhotse import CutSet
    from lhotse.serialization import deserialize_item

    entries, problems = _read_entries(Path(data_dir), check_audio, decode=False)
    _raise_if(problems, data_dir)
    return CutSet.from_cuts(deserialize_item(entry) for _, entry in entries)


def cut_entries(data_dir: str | Path) -> list[tuple[int, dict]]:
    """The utterances of a data directory as (line number, JSON object) pairs, checked as by load_cuts but without
    lhotse.
    """
    entries, problems = _read_entries(Path(data_dir), check_audio=False, decode=False)
    _raise_if(problems, data_dir)
    return entries


def validate_data_dir(data_dir: str | Path, decode: bool = False) -> DataFacts:
    """Check manifests and audio files of a data directory.

    Args:
        data_dir: the data directory.
        decode: decode every audio file to its end; otherwise the header is read and the last samples are fetched.
    Returns:
        number of utterances and speakers, total duration, sampling rate.
    Raises:
        DataError: lists up to 20 problems with file and line, and their number.
    """
    data_dir = Path(data_dir)
    entries, problems = _read_entries(data_dir, check_audio=True, decode=decode)
    problems += _manifest_problems(data_dir, [entry for _, entry in entries])
    _raise_if(problems, data_dir)
    return DataFacts(
        num_utterances=len(entries),
        num_speakers=len({entry["supervisions"][0]["speaker"] for _, entry in entries}),
        seconds=sum(entry["duration"] for _, entry in entries),
        sampling_rate=entries[0][1]["recording"]["sampling_rate"],
    )


def _cut_dict(cut: MonoCut) -> dict[str, Any]:
    entry = cut.to_dict()
    entry["supervisions"] = [supervision.to_dict() for supervision in cut.supervisions]
    return entry


def _raise_if(problems: list[str], data_dir: str | Path) -> None:
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        listed = "\n  ".join(problems[:MAX_LISTED])
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DataError(f"{data_dir}: {len(problems)} problems\n  {listed}{more}")


def _read_entries(data_dir: Path, check_audio: bool, decode: bool) -> tuple[list[tuple[int, dict]], list[str]]:
    """Returns the (line number, cut as dict) pairs of cuts.jsonl.gz and the problems found."""
    path = data_dir / "cuts.jsonl.gz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; {data_dir} is not a data directory")
    entries: list[tuple[int, dict]] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for line_no, entry in _json_lines(path):
        where = f"{path}:{line_no}"
        found = list(_cut_problems(entry))
        if not found:
            entries.append((line_no, entry))
            if entry["id"] in first_line:
                found.append(f"utterance id {entry['id']!r} stands in line {first_line[entry['id']]} already")
            first_line.setdefault(entry["id"], line_no)
            if check_audio:
                found += _audio_problems(entry["recording"], decode)
        problems += [f"{where}: {problem}" for problem in found]
    if not entries and not problems:
        problems.append(f"{path}: holds no utterance")
    rates = Counter(entry["recording"]["sampling_rate"] for _, entry in entries)
    if len(rates) > 1:
        usual = rates.most_common(1)[0][0]
        for line_no, entry in entries:
            rate = entry["recording"]["sampling_rate"]
            if rate != usual:
                problems.append(
                    f"{path}:{line_no}: utterance {entry['id']!r} has {rate} Hz, the others have {usual} Hz"
                )
    return entries, problems


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    for line_no, line in read_lines(path):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as err:
            raise DataError(f"{path}:{line_no}: not JSON: {err.msg}") from None
        if not isinstance(entry, dict):
            raise DataError(f"{path}:{line_no}: not a JSON object")
        yield line_no, entry


def _cut_problems(cut: dict) -> Iterator[str]:
    """Problems of one cut that show without its audio."""
    utt_id = cut.get("id")
    if not isinstance(utt_id, str) or not utt_id or utt_id.split() != [utt_id]:
        yield f"utterance id {utt_id!r} is empty or holds blanks"
        return
    name = f"utterance {utt_id!r}"
    recording, supervisions = cut.get("recording"), cut.get("supervisions")
    if not isinstance(recording, dict) or not recording.get("sources"):
        yield f"{name} has no recording"
        return
    missing = [key for key in ("id", "sampling_rate", "num_samples", "duration") if key not in recording]
    if missing or not _is_time(cut.get("start")) or not _is_time(cut.get("duration")):
        yield f"{name} lacks {', '.join(missing) or 'a start or duration'}"
        return
    if cut["duration"] <= 0 or cut["start"] < 0 or cut["start"] + cut["duration"] > recording["duration"] + TOLERANCE:
        span = f"[{cut['start']}, {cut['start'] + cut['duration']}]"
        yield f"{name} spans {span} s of a recording with [0, {recording['duration']}] s"
    if not isinstance(supervisions, list) or len(supervisions) != 1:
        yield f"{name} has {len(supervisions or [])} supervisions instead of one"
        return
    yield from (f"{name}: {problem}" for problem in _supervision_problems(supervisions[0], cut))


def _supervision_problems(supervision: dict, cut: dict) -> Iterator[str]:
    text, speaker = supervision.get("text"), supervision.get("speaker")
    if supervision.get("id") != cut["id"]:
        yield f"its supervision has another id, {supervision.get('id')!r}"
    if not isinstance(text, str) or not text.split():
        yield "empty transcript"
    elif " ".join(text.split()) != text:
        yield f"transcript {text!r} has words not separated by single blanks"
    if not isinstance(speaker, str) or not speaker or speaker.split() != [speaker]:
        yield f"speaker {speaker!r} is missing or holds blanks"
    start, duration = supervision.get("start"), supervision.get("duration")
    if not _is_time(start) or not _is_time(duration):
        yield "supervision lacks a start or duration"
        return
    if duration <= 0 or start < -TOLERANCE or start + duration > cut["duration"] + TOLERANCE:
        yield f"supervision spans [{start}, {start + duration}] s of a cut with {cut['duration']} s"
    for tier, items in (supervision.get("alignment") or {}).items():
        end = -TOLERANCE
        for symbol, item_start, item_duration, *_ in items:
            if (
                item_duration < 0
                or item_start < end - TOLERANCE
                or item_start + item_duration > start + duration + TOLERANCE
            ):
                yield f"{tier} {symbol!r} at {item_start} s has a negative duration, overlaps or leaves the supervision"
                break
            end = item_start + item_duration


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _audio_info(path: Path) -> Any:
    import soundfile

    if not path.is_file():
        raise DataError(f"{path}: no such audio file")
    try:
        return soundfile.info(str(path))
    except (RuntimeError, TypeError) as err:
        raise DataError(f"{path}: not a readable audio file ({err})") from None


def _audio_problems(recording: dict, decode: bool) -> Iterator[str]:
    """Problems of the audio files of one recording, against what its manifest says."""
    import soundfile

    for source in recording["sources"]:
        if source.get("type") != "file":
            continue
        path = Path(source.get("source", ""))
        try:
            info = _audio_info(path)
        except DataError as err:
            yield str(err)
            continue
        if not recording.get("transforms"):
            if info.samplerate != recording["sampling_rate"]:
                yield f"{path}: sampling rate {info.samplerate} Hz, the manifest says {recording['sampling_rate']} Hz"
                continue
            if info.frames != recording["num_samples"]:
                yield f"{path}: {info.frames} samples, the manifest says {recording['num_samples']}"
        try:
            found = _decoded_samples(path, info.frames) if decode else _tail_samples(path, info.frames)
        except soundfile.LibsndfileError as err:
            yield f"{path}: truncated or damaged ({err.error_string})"
            continue
        if found < info.frames:
            yield f"{path}: truncated, {found} of {info.frames} samples can be decoded"


def _tail_samples(path: Path, num_samples: int) -> int:
    """Number of samples up to the last one that can be read, without decoding what comes before."""
    import soundfile

    start = max(num_samples - 16, 0)
    return start + len(soundfile.read(str(path), start=start, dtype="int16")[0])


def _decoded_samples(path: Path, num_samples: int) -> int:
    import soundfile

    return sum(
        len(block) for block in soundfile.blocks(str(path), blocksize=1 << 16, frames=num_samples, dtype="int16")
    )


def _manifest_problems(data_dir: Path, entries: list[dict]) -> list[str]:
    """Differences between cuts.jsonl.gz and the two manifests beside it."""
    problems = []
    expected = {
        "recordings.jsonl.gz": {entry["recording"]["id"]: entry["recording"]["num_samples"] for entry in entries},
        "supervisions.jsonl.gz": {entry["id"]: entry["supervisions"][0]["text"] for entry in entries},
    }
    for name, values in expected.items():
        path, key = data_dir / name, "num_samples" if name.startswith("recordings") else "text"
        if not path.is_file():
            problems.append(f"{path}: no such file")
            continue
        seen = set()
        for line_no, item in _json_lines(path):
            seen.add(item.get("id"))
            if item.get("id") not in values:
                problems.append(f"{path}:{line_no}: {item.get('id')!r} does not occur in cuts.jsonl.gz")
            elif item.get(key) != values[item["id"]]:
                problems.append(f"{path}:{line_no}: {item['id']!r} has another {key} in cuts.jsonl.gz")
        problems += [f"{path}: lacks {missing!r}" for missing in values if missing not in seen]
    return problems
