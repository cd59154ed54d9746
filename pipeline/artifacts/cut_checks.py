"""Checks of the manifests of a data directory: one problem after the other, in words, with file and line."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.audio_header import shortage
from pipeline.artifacts.characters import odd_character, problem_of
from pipeline.artifacts.cut_types import type_problems
from pipeline.base.errors import DataError
from pipeline.base.files import parse_json, read_lines

MAX_LISTED = 20  # problems that an error message spells out
LOUDEST = 8.0  # above this floating-point samples are no sound that somebody has amplified, but of another scale
UNTRANSCRIBED = "untranscribed"  # key of a supervision's custom fields, true where nobody has said what is spoken
_PLAIN = (".wav", ".flac")  # what lhotse reads by libsndfile as it is
MOST_SECONDS = 1e9  # no recording lasts thirty years, and ids hold whole milliseconds
TOLERANCE = 0.002  # seconds by which rounded times may exceed their container


class ProblemsError(DataError):
    """Several problems of one directory; what reads it further may add its own."""

    def __init__(self, text: str, problems: Problems) -> None:
        super().__init__(text)
        self.problems = problems


class Problems:
    """Problems of a directory: the first of them in words, and the number of all."""

    def __init__(self, directory: str | Path) -> None:
        self.directory, self.count = directory, 0
        self.listed: list[str] = []

    def add(self, text: str, times: int = 1) -> None:
        """Note a problem, which stands for several alike."""
        self.count += times
        if len(self.listed) < MAX_LISTED:
            self.listed.append(text)

    def raise_if_any(self) -> None:
        """DataError with what was noted, if anything was."""
        if self.count == 1:
            raise ProblemsError(self.listed[0], self)
        if self.count:
            listed = "\n  ".join(self.listed)
            more = f"\n  ... and {self.count - len(self.listed)} more" if self.count > len(self.listed) else ""
            raise ProblemsError(f"{self.directory}: {self.count} problems\n  {listed}{more}", self)


class Seen:
    """Names with a number each, by hashes of 8 bytes: two of a million names have the same once in 10^7 corpora."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def add(self, name: str, number: int) -> int | None:
        """Note a name that is new; the number of one that is not."""
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        earlier = self._numbers.setdefault(key, number)
        return None if earlier == number else earlier


class Rates:
    """Sampling rates of utterances, with examples of each."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._examples: dict[float, list[str]] = {}

    def add(self, rate: float, where: str) -> None:
        self._counts[rate] += 1
        examples = self._examples.setdefault(rate, [])
        if len(examples) <= MAX_LISTED:
            examples.append(where)

    def tell(self, problems: Problems) -> None:
        """Note the utterances whose rate is not the most frequent one."""
        for rate, count in self._counts.most_common()[1:]:
            usual = self._counts.most_common(1)[0][0]
            for where in self._examples[rate]:
                problems.add(f"{where} has {rate} Hz, the others have {usual} Hz")
            problems.count += count - len(self._examples[rate])


def json_lines(path: Path, lines: range | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, JSON object) of a JSON-lines file, of some lines only where `lines` says so; DataError for a
    line that holds something else.
    """
    for line_no, line in read_lines(path):
        if lines is not None and line_no not in lines:
            if line_no >= lines.stop:
                return
            continue
        entry = parse_json(line, f"{path}:{line_no}")
        if not isinstance(entry, dict):
            raise DataError(f"{path}:{line_no}: not a JSON object")
        yield line_no, entry


def cut_problems(cut: dict[str, Any]) -> Iterator[str]:
    """Problems of one cut that show without its audio."""
    utt_id = cut.get("id")
    if not isinstance(utt_id, str) or not _is_name(utt_id):
        yield f"utterance id {utt_id!r} is empty or holds blanks or invisible characters"
        return
    name = f"utterance {utt_id!r}"
    wrong = list(type_problems(cut))
    if wrong:
        yield from (f"{name}: {problem}" for problem in wrong)
        return
    recording, supervisions = cut.get("recording"), cut.get("supervisions") or []
    if not recording or not recording.get("sources"):
        yield f"{name} has no recording"
        return
    missing = [key for key in ("id", "sampling_rate", "num_samples", "duration") if recording.get(key) is None]
    if missing or cut.get("start") is None or cut.get("duration") is None:
        yield f"{name} lacks {', '.join(missing) or 'a start or duration'}"
        return
    if cut.get("type") is None:
        yield f"{name} lacks a type, which is MonoCut"
    yield from (f"{name}: {problem}" for problem in _recording_problems(recording, cut.get("channel")))
    if cut["duration"] <= 0 or cut["start"] < 0 or cut["start"] + cut["duration"] > recording["duration"] + TOLERANCE:
        span = f"[{cut['start']}, {cut['start'] + cut['duration']}]"
        yield f"{name} spans {span} s of a recording with [0, {recording['duration']}] s"
    if len(supervisions) != 1:
        yield f"{name} has {len(supervisions)} supervisions instead of one"
        return
    yield from (f"{name}: {problem}" for problem in _supervision_problems(supervisions[0], cut))


def _is_name(text: str) -> bool:
    return text.split() == [text] and odd_character(text) is None


def _recording_problems(recording: dict[str, Any], channel: Any) -> Iterator[str]:
    """Audio of other kinds than files would be computed or fetched, by commands among others, when it is loaded."""
    sources = recording["sources"]
    if any(source.get(key) is None for source in sources for key in ("type", "channels", "source")):
        yield "a source of its recording lacks type, channels or source"
        return
    kinds = {source["type"] for source in sources} - {"file"}
    if kinds:
        yield f"its audio is of type {sorted(kinds)[0]!r}; only files are read (steps/import_data.py makes them)"
    there = [number for source in sources for number in source["channels"]]
    if isinstance(channel, list):
        yield f"takes the channels {channel}, and one has to be chosen"
    elif channel is None or channel not in there:
        yield f"takes channel {channel!r} of a recording that has {there}"
    if (recording.get("channel_ids") or there) != sorted(there):
        yield f"its recording has the channels {there}, and by its channel_ids {recording['channel_ids']}"
    seconds = recording["num_samples"] / recording["sampling_rate"]
    if abs(seconds - recording["duration"]) > TOLERANCE:
        yield f"its recording has {seconds:.3f} s of samples, and by its duration {recording['duration']} s"


def _supervision_problems(supervision: dict[str, Any], cut: dict[str, Any]) -> Iterator[str]:
    text, speaker = supervision.get("text"), supervision.get("speaker")
    if supervision.get("id") != cut["id"]:
        yield f"its supervision has another id, {supervision.get('id')!r}"
    if (supervision.get("custom") or {}).get(UNTRANSCRIBED) is True:
        if text != "":
            yield f"transcript {text!r} of an utterance that is marked {UNTRANSCRIBED}"
    elif not isinstance(text, str) or not text.split():
        yield "empty transcript"
    elif " ".join(text.split()) != text:
        yield f"transcript {text!r} has words not separated by single blanks"
    elif (problem := problem_of(text)) is not None:
        yield f"transcript {text!r} {problem}; steps/import_data.py mends it"
    if not isinstance(speaker, str) or not _is_name(speaker):
        yield f"speaker {speaker!r} is missing or holds blanks or invisible characters"
    if supervision.get("recording_id") != cut["recording"]["id"]:
        yield f"its supervision is of recording {supervision.get('recording_id')!r}, not {cut['recording']['id']!r}"
    start, duration = supervision.get("start"), supervision.get("duration")
    if start is None or duration is None:
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


def audio_info(path: Path) -> Any:
    """Header of an audio file; DataError if it is missing or no audio file."""
    import soundfile

    try:
        if not path.is_file():
            raise DataError(f"{path}: no such audio file")
        return soundfile.info(str(path))
    except (RuntimeError, TypeError, OSError) as err:  # OSError: a name of 5,000 letters
        raise DataError(f"{path}: not a readable audio file ({err})") from None


def audio_problems(recording: dict[str, Any], decode: bool, moved: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Problems of the audio files of one recording, against what its manifest says.

    Args:
        decode: decode the files to their ends; otherwise the headers are read and the last samples are fetched.
        moved: what is named below the first directory stands below the second.
    """
    import soundfile

    for source in recording["sources"]:
        if source.get("type") != "file":
            continue
        path = Path(source.get("source", ""))
        if moved is not None and path.is_relative_to(moved[0]):
            path = moved[1] / path.relative_to(moved[0])
        try:
            info = audio_info(path)
        except DataError as err:
            yield str(err)
            continue
        short = shortage(path)
        if short is not None:
            yield f"{path}: cut short: {short}"
            continue
        if not recording.get("transforms"):
            if info.samplerate != recording["sampling_rate"]:
                yield f"{path}: sampling rate {info.samplerate} Hz, the manifest says {recording['sampling_rate']} Hz"
                continue
            if info.frames != recording["num_samples"]:
                yield f"{path}: {info.frames} samples, the manifest says {recording['num_samples']}"
        if info.channels != len(source.get("channels") or []):
            yield f"{path}: {info.channels} channels, the manifest says {source.get('channels')}"
            continue
        try:
            found, peak = _decoded(path, info.frames) if decode else (_tail_samples(path, info.frames), None)
        except soundfile.LibsndfileError as err:
            yield f"{path}: truncated or damaged ({err.error_string})"
            continue
        if found < info.frames:
            yield f"{path}: truncated, {found} of {info.frames} samples can be decoded"
        elif peak == 0:
            yield f"{path}: all samples are zero"
        elif peak is not None and not peak <= LOUDEST:
            yield f"{path}: floating-point samples up to {peak:,.0f}, where 1 is full scale"
        elif path.suffix.lower() not in _PLAIN:
            yield from _loading_problems(recording, path)


def _tail_samples(path: Path, num_samples: int) -> int:
    """Number of samples up to the last one that can be read, without decoding what comes before."""
    import soundfile

    start = max(num_samples - 16, 0)
    return start + len(soundfile.read(str(path), start=start, dtype="int16")[0])


def _decoded(path: Path, num_samples: int) -> tuple[int, float]:
    """Number of samples that can be decoded, and the largest absolute value; full scale is 1."""
    import numpy as np
    import soundfile

    count, peak = 0, 0.0
    for block in soundfile.blocks(str(path), blocksize=1 << 16, frames=num_samples, dtype="float32"):
        count += len(block)
        peak = float(np.maximum(peak, np.abs(block).max(initial=0.0)))  # NaN stays
    return count, peak


def _loading_problems(recording: dict[str, Any], path: Path) -> Iterator[str]:
    """What speaks against loading a recording as features are made; lhotse calls other programs for some suffixes."""
    from lhotse import Recording

    try:
        Recording.from_dict(recording).load_audio(duration=min(0.01, recording["duration"]))
    except Exception as err:  # lhotse's own, and whatever its backends raise
        reason = str(err).partition("Details: ")[2].splitlines() or [str(err)]
        yield f"{path}: cannot be loaded ({reason[0]}); steps/import_data.py converts it"


class Beside:
    """A manifest beside cuts.jsonl.gz, and what it should say: a value for each id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._expected: dict[str, bytes] = {}

    def expect(self, name: str, value: object) -> None:
        """Note what should stand there; equal values of one id count once."""
        self._expected[name] = _short(value)

    def compare(self, key: str, problems: Problems) -> None:
        """Read the manifest and note what differs."""
        if not self._path.is_file():
            problems.add(f"{self._path}: no such file")
            return
        missing = set(self._expected)
        for line_no, item in json_lines(self._path):
            name = item.get("id")
            if not isinstance(name, str) or name not in self._expected:
                problems.add(f"{self._path}:{line_no}: {name!r} does not occur in cuts.jsonl.gz")
                continue
            missing.discard(name)
            if _short(item.get(key)) != self._expected[name]:
                problems.add(f"{self._path}:{line_no}: {name!r} has another {key} in cuts.jsonl.gz")
        for name in self._expected:
            if name in missing:
                problems.add(f"{self._path}: lacks {name!r}")


def _short(value: object) -> bytes:
    """8 bytes that stand for a value."""
    return hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
