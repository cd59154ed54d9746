"""Alignments in the formats of other programs: NIST CTM, Praat TextGrid, lhotse supervisions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.ali import AliSet, Segment
from pipeline.artifacts.lang import SILENCE
from pipeline.base.errors import DataError
from pipeline.base.files import FileNames, atomic_write, read_lines, write_jsonl
from pipeline.base.spool import JsonSpool

if TYPE_CHECKING:
    from praatio.textgrid import Textgrid

logger = logging.getLogger(__name__)

# Tier whose text is the id, where the file's name is not; what pages of steps/report.py save has it.
ID_TIER = "utterance-id"
OVERLAP = 0.001  # seconds that symbols of a tier may overlap by, from rounding


@dataclass(frozen=True)
class TimedCut:
    """An aligned utterance; times in seconds from its start, which lies `start` seconds into its recording, and what
    the data directory says of it."""

    cut_id: str
    phones: list[Segment]
    words: list[Segment]
    duration: float
    start: float = 0.0
    supervision: Mapping[str, Any] | None = None
    recording: str = ""
    recording_duration: float = 0.0


def timed_cuts(ali: AliSet, data_dir: str | Path | None = None, strip_word_end: bool = True) -> Iterator[TimedCut]:
    """The cuts of an alignment in order of their ids.

    Args:
        data_dir: gives exact durations, offsets in the recordings and supervisions; without it an utterance is as long
            as its frames. Its utterances without alignment are left out; one more than it has is a DataError.
        strip_word_end: take the position marker off the phones, if the lang of the alignment had any.
    """
    known = JsonSpool()
    if data_dir is not None:
        from pipeline.artifacts.corpus import iter_cuts

        for _, cut in iter_cuts(data_dir):
            own = {name: cut[name] for name in ("duration", "start", "supervisions")}
            known[cut["id"]] = {**own, "of": [cut["recording"]["id"], cut["recording"]["duration"]]}
    for cut_id in sorted(ali):
        if data_dir is not None and cut_id not in known:
            raise DataError(f"{ali.directory}: cut {cut_id!r} is not in {data_dir}")
        phones, words = ali.phones(cut_id), ali.words(cut_id)
        if strip_word_end:
            phones = [replace(p, symbol=ali.base_phone(p.symbol)) for p in phones]
        if cut_id not in known:
            yield TimedCut(cut_id, phones, words, phones[-1].end)
            continue
        cut = known[cut_id]
        duration = float(cut["duration"])
        last = phones[-1].end
        yield TimedCut(
            cut_id,
            _fitted(phones, last, duration),
            _fitted(words, last, duration),
            duration,
            float(cut["start"]),
            cut["supervisions"][0],
            *cut["of"],
        )


def _fitted(segments: Sequence[Segment], last: float, duration: float) -> list[Segment]:
    """Segments cut to the utterance; what ends with the last frame, at time `last`, ends with the utterance."""
    out = []
    for s in segments:
        end = duration if abs(s.end - last) < 1e-6 else min(s.end, duration)
        if end > s.start:
            out.append(replace(s, duration=end - s.start))
    return out


def write_ctm(path: str | Path, cuts: Iterable[TimedCut], tier: str) -> None:
    """Lines ``utterance 1 start duration symbol [confidence]``, times in seconds with four digits.

    Args:
        tier: "phones" or "words".
    """
    with atomic_write(path) as f:
        for cut in cuts:
            for s in getattr(cut, tier):
                tail = "" if s.confidence is None else f" {s.confidence:.4f}"
                f.write(f"{cut.cut_id} 1 {s.start:.4f} {s.duration:.4f} {s.symbol}{tail}\n")


def read_ctm(path: str | Path) -> dict[str, list[Segment]]:
    """Utterance -> segments; DataError with file and line for anything else but empty lines and comments (;;)."""
    out: dict[str, list[Segment]] = {}
    for line_no, line in read_lines(path):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            if len(fields) not in (5, 6):
                raise ValueError
            start, duration = float(fields[2]), float(fields[3])
            confidence = float(fields[5]) if len(fields) == 6 and fields[5] != "NA" else None
            if not (0 <= start < math.inf and 0 <= duration < math.inf):
                raise ValueError
        except ValueError:
            raise DataError(
                f"{path}:{line_no}: needs 'utterance channel start duration symbol [confidence]', found {line!r}"
            ) from None
        out.setdefault(fields[0], []).append(Segment(fields[4], start, duration, confidence))
    return out


def write_textgrids(directory: str | Path, cuts: Iterable[TimedCut]) -> list[Path]:
    """One TextGrid per utterance with the tiers words and phones; both cover the utterance without gaps.

    Silence is SIL among the phones and an empty interval among the words. A tier utterance-id has ids that no file can
    be called by.
    """
    from praatio import textgrid

    d = Path(directory)
    out, names = [], FileNames(d, ".TextGrid")
    d.mkdir(parents=True, exist_ok=True)
    for cut in cuts:
        file = names.of(cut.cut_id)
        grid = textgrid.Textgrid(0.0, cut.duration)
        for tier, filler in (("words", ""), ("phones", SILENCE)):
            intervals = [(b, e, label) for b, e, label in _contiguous(getattr(cut, tier), cut.duration, filler)]
            grid.addTier(textgrid.IntervalTier(tier, intervals, 0.0, cut.duration))
        _tell_name(grid, cut.cut_id, file, cut.duration)
        out.append(d / file)
        grid.save(str(out[-1]), format="long_textgrid", includeBlankSpaces=True)
    return out


def write_recording_textgrids(directory: str | Path, cuts: Iterable[TimedCut]) -> list[Path]:
    """One TextGrid per recording, in its own times, with the tiers "words" and "phones", or two for each speaker.

    Tiers of several speakers are called "SPEAKER - words" and "SPEAKER - phones"; utterances whose speaker is nobody
    else's, named like the utterance itself, have no known one and share tiers without a name. Between utterances they
    are empty. Where speech of a speaker overlaps, what overlaps goes into further tiers, "SPEAKER (2) - words", and a
    warning names the recordings; silence gives way to the speech of a neighbour.

    Raises:
        DataError: two recordings would get the same file.
    """
    from praatio import textgrid

    spool = JsonSpool()
    recordings: dict[str, tuple[float, dict[str, list[tuple[float, float, str]]]]] = {}
    for cut in cuts:
        assert cut.supervision is not None, cut.cut_id
        speaker = str(cut.supervision["speaker"])
        spool[cut.cut_id] = (
            [[s.symbol, cut.start + s.start, s.duration] for s in cut.words],
            [[s.symbol, cut.start + s.start, s.duration] for s in cut.phones],
        )
        _, speakers = recordings.setdefault(cut.recording, (cut.recording_duration, {}))
        spoken = [s for s in cut.phones if s.symbol != SILENCE] or cut.phones
        span = (cut.start + spoken[0].start, cut.start + spoken[-1].end, cut.cut_id)
        speakers.setdefault("" if speaker == cut.cut_id else speaker, []).append(span)
    out, names, overlapping = [], FileNames(directory, ".TextGrid", "recordings"), []
    Path(directory).mkdir(parents=True, exist_ok=True)
    for recording, (seconds, speakers) in recordings.items():
        file = names.of(recording)
        grid = textgrid.Textgrid(0.0, seconds)
        rows = _rows(speakers)
        if len(rows) > len(speakers):
            overlapping.append(recording)
        for name, spans in rows.items():
            # Behind the speech of an utterance there is only silence, which may last until the next one speaks.
            ends = [*(begin for begin, _, _ in spans[1:]), seconds]
            told = [(spool[cut_id], end) for (_, _, cut_id), end in zip(spans, ends)]
            for number, tier in enumerate(("words", "phones")):
                segments = [Segment(x, at, min(lasts, end - at)) for one, end in told for x, at, lasts in one[number]]
                shown = f"{name} - {tier}" if name and len(rows) > 1 else tier
                intervals = list(_contiguous(segments, seconds, ""))
                grid.addTier(textgrid.IntervalTier(shown, intervals, 0.0, seconds))
        _tell_name(grid, recording, file, seconds)
        out.append(Path(directory) / file)
        grid.save(str(out[-1]), format="long_textgrid", includeBlankSpaces=True)
    if overlapping:
        logger.warning(
            "utterances of one speaker overlap in %d of %d recordings; what overlaps has tiers of its own: %s",
            *(len(overlapping), len(recordings), ", ".join(overlapping)),
        )
    return out


def _tell_name(grid: Textgrid, name: str, file: str, seconds: float) -> None:
    """Adds the tier of the id where the file has another name, as for ids with slashes."""
    from praatio import textgrid

    if file != f"{name}.TextGrid":
        grid.addTier(textgrid.IntervalTier(ID_TIER, [(0.0, seconds, name)], 0.0, seconds))


def _rows(
    speakers: Mapping[str, Sequence[tuple[float, float, str]]],
) -> dict[str, list[tuple[float, float, str]]]:
    """Speakers' utterances, as seconds at which speech begins and ends and the id, in rows without overlap, by name."""
    out: dict[str, list[tuple[float, float, str]]] = {}
    for speaker, spans in sorted(speakers.items()):
        rows: list[list[tuple[float, float, str]]] = []
        for span in sorted(spans):
            free = next((row for row in rows if row[-1][1] <= span[0] + OVERLAP), None)
            if free is None:
                rows.append([span])
            else:
                free.append(span)
        number = 1
        for row in rows:
            name = speaker
            while name in out or (number > 1 and name in speakers):
                number += 1
                name = f"{speaker} ({number})".strip()
            out[name] = row
    return out


def _contiguous(segments: Sequence[Segment], duration: float, filler: str) -> Iterator[tuple[float, float, str]]:
    """(start, end, label) without gaps and overlaps from 0 to `duration`; times rounded to microseconds."""
    at, end_of_all = 0.0, duration
    for s in segments:
        start, end = max(at, round(s.start, 6)), min(round(s.end, 6), end_of_all)
        if end_of_all - end < 1e-5:
            end = end_of_all
        if end <= start:
            continue
        if start > at:
            yield at, start, filler
        yield start, end, s.symbol
        at = end
    if at < end_of_all:
        yield at, end_of_all, filler


def read_textgrid(path: str | Path) -> dict[str, list[Segment]]:
    """Tier -> segments of a TextGrid file, intervals with empty labels left out."""
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
        return {
            name: [Segment(e.label, float(e.start), float(e.end) - float(e.start)) for e in grid.getTier(name).entries]
            for name in grid.tierNames
        }
    except (PraatioException, ValueError, IndexError, OSError) as e:
        raise DataError(f"{path}: not a TextGrid ({e})") from None


def write_supervisions(path: str | Path, cuts: Iterable[TimedCut]) -> None:
    """A lhotse manifest: the data directory's supervisions with alignment {"word", "phone"} in seconds of the
    recording.
    """
    write_jsonl(path, (_supervision(c) for c in cuts))


def _supervision(cut: TimedCut) -> dict[str, Any]:
    assert cut.supervision is not None, cut.cut_id
    tiers = {"word": cut.words, "phone": cut.phones}
    items = {
        name: [[s.symbol, round(cut.start + s.start, 6), round(s.duration, 6), s.confidence] for s in segments]
        for name, segments in tiers.items()
    }
    # A supervision's own times count from the start of the cut, those of a manifest from the start of the recording.
    return {**cut.supervision, "start": cut.start + float(cut.supervision["start"]), "alignment": items}
