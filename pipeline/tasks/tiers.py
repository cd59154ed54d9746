"""Times of phones and words by utterance, of whatever holds them: an alignment, gold times of data, label files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifacts.ali import HEADER, AliSet, Segment
from pipeline.artifacts.corpus import has_cuts
from pipeline.artifacts.lang import SILENCE
from pipeline.base.errors import DataError
from pipeline.base.spool import JsonSpool
from pipeline.corpora.annotated import annotation_files
from pipeline.corpora.folder import id_of
from pipeline.corpora.label_files import read_labels
from pipeline.corpora.text_files import whole_text
from pipeline.corpora.textgrid import interval_tiers
from pipeline.tasks.ali_formats import ID_TIER, OVERLAP, read_ctm

LABELS = {".textgrid": "TextGrid", ".ctm": "CTM", ".phn": "labels in samples", ".wrd": "labels in samples"}
_PHONES = re.compile(r"(^|.*[\W_])(phones?|phonemes?|phon|phn|segments?|mau)", re.IGNORECASE)
_WORDS = re.compile(r"(^|.*[\W_])(words?|wrd|ort(hography)?)", re.IGNORECASE)
_SILENT = {"", "sil", "sp", "<sil>", "<eps>", "<p:>", "h#", "#h", "pau", "epi", "_"}


@dataclass(frozen=True)
class Tiers:
    """Times of one utterance in seconds from its start; silence is left out of the words and may be among the
    phones. Symbols overlap where several people speak.
    """

    phones: list[Segment]
    words: list[Segment]
    duration: float
    speaker: str = ""


class _TiersOf(Mapping[str, Tiers]):
    """Tiers by name, made when they are asked for of what is kept for each name."""

    _kept: AliSet | JsonSpool

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class AliTiers(_TiersOf):
    """Tiers of the cuts of an alignment, made when they are asked for; position markers of phones are taken off."""

    def __init__(self, ali: AliSet) -> None:
        self._kept: AliSet = ali

    def __getitem__(self, cut_id: str) -> Tiers:
        if cut_id not in self._kept:
            raise KeyError(cut_id)
        seconds = self._kept.num_frames(cut_id) * self._kept.header.frame_shift
        phones = [replace(p, symbol=self._kept.base_phone(p.symbol)) for p in self._kept.phones(cut_id)]
        return Tiers(phones, self._kept.words(cut_id), seconds)


class GoldTiers(_TiersOf):
    """Gold tiers of a data directory, which wait in a temporary file."""

    def __init__(self, data_dir: str | Path) -> None:
        """Raises:
        DataError: no utterance has any.
        """
        from pipeline.artifacts.corpus import iter_cuts

        self._kept: JsonSpool = JsonSpool()
        for _, cut in iter_cuts(data_dir):
            supervision = cut["supervisions"][0]
            tiers = supervision.get("alignment") or {}
            rows = [[item[:3] for item in tiers.get(name, [])] for name in ("phone", "word")]
            if any(rows):
                self._kept[cut["id"]] = [*rows, float(cut["duration"]), str(supervision.get("speaker", ""))]
        if not self._kept:
            raise DataError(f"{data_dir}: no utterance has gold times of phones or words")

    def __getitem__(self, cut_id: str) -> Tiers:
        phones, words, duration, speaker = self._kept[cut_id]
        spoken = [[Segment(str(s), b, d) for s, b, d in rows] for rows in (phones, words)]
        return Tiers(spoken[0], spoken[1], duration, speaker)


class LabelTiers(_TiersOf):
    """Tiers of label files, which wait in a temporary file; those named like silence are silence.

    Praat's TextGrids have tiers whose names end in words and phones (as ``ann - words``; those of several speakers
    together, in the order in which symbols start, where they may overlap); of .ctm files those named like phones hold
    phones, others words; .phn and .wrd are TIMIT's. A file stands for an utterance that is named by its path below the
    folder, as in imported corpora; .ctm files name theirs, and TextGrids may, in a tier called utterance-id.
    """

    def __init__(self, source: str | Path, rate: int) -> None:
        """Args:
            source: a file, or a folder of files of one kind.
            rate: samples per second of .phn and .wrd files.
        Raises:
            DataError: no such file, files of several kinds, or one that cannot be read or has neither tier.
        """
        kinds = dict[str, Path]()
        self._kept: JsonSpool = JsonSpool()
        for path, relative in annotation_files(Path(source), tuple(LABELS)):
            suffix = path.suffix.lower()
            if suffix not in LABELS:
                raise DataError(f"{path}: neither a directory nor one of {', '.join(LABELS)}")
            kinds.setdefault(LABELS[suffix], path)
            if len(kinds) > 1:
                raise DataError(f"{source}: has {' and '.join(map(str, kinds.values()))}; name a folder of one kind")
            name, speaker = id_of(relative), os.path.basename(os.path.dirname(relative))
            if suffix == ".textgrid":
                self._textgrid(path, name, speaker)
            elif suffix == ".ctm":
                for utt_id, segments in read_ctm(path).items():
                    self._add(utt_id, bool(_PHONES.fullmatch(path.stem)), [segments], "", f"{path}: {utt_id}")
            else:
                labels = [Segment(s, b, e - b) for s, b, e in read_labels(path, rate)]
                self._add(name, suffix == ".phn", [labels], speaker, str(path))
        if not self._kept:
            raise DataError(f"{source}: no alignment, data directory or label files ({', '.join(LABELS)})")

    def _textgrid(self, path: Path, name: str, speaker: str) -> None:
        tiers, found = interval_tiers(whole_text(path), path), False
        names = [text for tier, rows in tiers if tier == ID_TIER for _, _, text, _ in rows if text]
        if len(names) > 1:
            raise DataError(f"{path}: the tier {ID_TIER} has {len(names)} names")
        name = names[0] if names else name
        for pattern in (_PHONES, _WORDS):
            chosen = [
                [Segment(text.strip(), b, e - b) for b, e, text, _ in sorted(rows, key=lambda row: row[0])]
                for tier, rows in tiers
                if pattern.fullmatch(tier.strip())
            ]
            found = found or bool(chosen)
            self._add(name, pattern is _PHONES, chosen, speaker, str(path))
        if not found:
            there = ", ".join(repr(tier) for tier, _ in tiers) or "none"
            raise DataError(f"{path}: has no tier named like words or phones, but {there}")

    def _add(self, name: str, phones: bool, tiers: Sequence[Sequence[Segment]], speaker: str, where: str) -> None:
        """Adds tiers of an utterance, one for each of those who speak in it; DataError for times that cannot be."""
        rows: list[tuple[str, float, float]] = []
        last = 0.0
        for tier in tiers:
            end = 0.0
            for s in tier:
                if not (s.duration >= 0 and s.start >= end - OVERLAP and s.end < math.inf):
                    raise DataError(
                        f"{where}: {s.symbol!r} spans [{s.start}, {s.end}] s, before the end of the one before"
                    )
                end = s.end
                if not _is_silence(s.symbol):
                    rows.append((s.symbol, s.start, s.duration))
                elif phones and len(tiers) == 1:  # several speakers are silent at different times
                    rows.append((SILENCE, s.start, s.duration))
            last = max(last, end)
        if len(tiers) > 1:
            rows.sort(key=lambda row: row[1])
        known = self._kept.get(name) or [[], [], 0.0, speaker]
        if known[0 if phones else 1] and rows:
            raise DataError(f"{where}: has {'phones' if phones else 'words'} that another file has already")
        known[0 if phones else 1], known[2] = rows or known[0 if phones else 1], max(known[2], last)
        self._kept[name] = known

    def __getitem__(self, name: str) -> Tiers:
        phones, words, duration, speaker = self._kept[name]
        return Tiers([Segment(*row) for row in phones], [Segment(*row) for row in words], duration, speaker)


def _is_silence(symbol: str) -> bool:
    return symbol.strip().casefold() in _SILENT


class ChangedTiers(Mapping[str, Tiers]):
    """Tiers of another mapping, changed when they are asked for: no more of them is in memory."""

    def __init__(self, base: Mapping[str, Tiers], change: Callable[[str, Tiers], Tiers]) -> None:
        """Args:
        change: of an utterance's id and its tiers.
        """
        self._base, self._change = base, change

    def __getitem__(self, cut_id: str) -> Tiers:
        return self._change(cut_id, self._base[cut_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def tiers_of(place: str | Path, rate: int = 16000) -> Mapping[str, Tiers]:
    """Tiers of an alignment, of a data directory with gold times, or of label files.

    Args:
        rate: see `LabelTiers`.
    Raises:
        DataError: it is none of these, or broken.
    """
    if (Path(place) / HEADER).is_file():
        return AliTiers(AliSet.load(place))
    return GoldTiers(place) if has_cuts(place) else LabelTiers(place, rate)
