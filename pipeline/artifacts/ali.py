"""Alignments: one transition-id per frame, the same type whether a GMM or a neural HMM made them."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass as record

from pipeline.artifacts.ali_source import LAYOUT, Alignment, AliShards, AliSource, Derived, InMemory, record_of
from pipeline.artifacts.features import Seconds
from pipeline.artifacts.lang import SILENCE, Position, position_of, without_position
from pipeline.artifacts.model_dir import load_hmm, save_hmm
from pipeline.artifacts.shards import MOST_RECORDS, Run, ShardNames, ShardWriter
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record, to_json

HEADER = "ali.json"


@dataclass(frozen=True)
class Segment:
    """A phone or word in time; start and duration in seconds; confidence is the mean of its frames (None: not
    computed).
    """

    symbol: str
    start: float
    duration: float
    confidence: float | None = None

    @property
    def end(self) -> float:
        return self.start + self.duration


@record(frozen=True, config=STRICT)
class AliHeader:
    """What an alignment is about; ids are content hashes.

    Attributes:
        frame_shift: seconds between frames of the transition-ids.
        frame_offset: seconds; frame i stands for the span [i * shift + offset, (i + 1) * shift + offset), that is,
            half a shift on either side of its window's centre.
        producer: the model directory that aligned.
        position: of the lang, which says how its phones end; None in alignments that were made before it was kept.
    """

    topo_id: str
    tree_id: str
    lang_id: str
    frame_shift: Seconds
    frame_offset: float
    producer: str
    position: Position | None = None


@record(frozen=True, config=STRICT)
class _Facts:
    """What ali.json holds."""

    header: AliHeader
    shards: ShardNames


class AliSet(Mapping[str, Alignment]):
    """Alignments keyed by cut id, with the tree and topology that give the transition-ids their meaning."""

    def __init__(
        self,
        header: AliHeader,
        transitions: TransitionModel,
        words: SymbolTable,
        alignments: Iterable[Alignment] | AliSource = (),
        directory: str | Path = "<memory>",
    ) -> None:
        """Args:
        alignments: where they are read from when they are asked for, or alignments to keep in memory.
        directory: for messages.
        """
        self.header, self.transitions, self.word_symbols, self.directory = header, transitions, words, Path(directory)
        self._pdf, self._phone = transitions.tid_pdf(), transitions.tid_phone()
        self._ends = transitions.tid_ends_phone()
        self._silence = transitions.phones.id(SILENCE)
        self._source: AliSource = (
            alignments if isinstance(alignments, AliSource) else InMemory(alignments, str(directory))
        )
        self._position = position_of(transitions.phones) if header.position is None else header.position
        self._last: Alignment | None = None  # several questions about one cut follow each other

    def __getitem__(self, cut_id: str) -> Alignment:
        last = self._last
        if last is not None and last.cut_id == cut_id:
            return last
        found = self._source.find(cut_id)
        if found is None:
            raise DataError(f"{self.directory}: no alignment for cut {cut_id!r} ({len(self)} cuts are aligned)")
        self._last = found
        return found

    def __contains__(self, cut_id: object) -> bool:
        return isinstance(cut_id, str) and self._source.has(cut_id)

    def __iter__(self) -> Iterator[str]:
        return self._source.ids()

    def __len__(self) -> int:
        return self._source.count()

    def base_phone(self, symbol: str) -> str:
        """A phone's name without its position marker, if the lang had any."""
        return without_position(symbol, self._position)

    def num_frames(self, cut_id: str) -> int:
        """Frames of an alignment, without reading it where it stands in a file."""
        return self._source.num_frames(cut_id)

    def pdf_ids(self, cut_id: str, factor: int = 1, majority: bool = False) -> npt.NDArray[Any]:
        """Frame labels, also at a lower frame rate.

        Args:
            factor: every `factor` frames give one label.
            majority: take the most frequent label of the frames (smallest id at a tie) instead of the first.
        Returns:
            (ceil(T / factor),) int32 pdf-ids.
        """
        return subsample(self._pdf[self[cut_id].transition_ids], factor, majority)

    def phone_segments(self, cut_id: str) -> list[tuple[int, int, int]]:
        """(phone id, first frame, number of frames) of every phone instance; repeated phones stay apart."""
        tids = self[cut_id].transition_ids
        phone = self._phone[tids]
        cut = np.ones(len(tids) + 1, dtype=bool)
        cut[1:-1] = self._ends[tids[:-1]] | (phone[1:] != phone[:-1])
        bounds = np.nonzero(cut)[0]
        return [(int(phone[b]), int(b), int(e - b)) for b, e in zip(bounds[:-1], bounds[1:])]

    def phones(self, cut_id: str) -> list[Segment]:
        """Phone instances with times in seconds, silence included."""
        return [self._segment(cut_id, self.transitions.phones.name(p), b, n) for p, b, n in self.phone_segments(cut_id)]

    def words(self, cut_id: str) -> list[Segment]:
        """Words with times in seconds; silence between them belongs to none."""
        segments = self.phone_segments(cut_id)
        table = self[cut_id].words
        ends = [*table[1:, 1].tolist(), len(self[cut_id].transition_ids)]
        begins = [b for _, b, _ in segments]
        out = []
        for (word, first), limit in zip(table.tolist(), ends):
            own = segments[bisect.bisect_left(begins, first) : bisect.bisect_left(begins, limit)]
            end = next((b + n for p, b, n in reversed(own) if p != self._silence), limit)
            out.append(self._segment(cut_id, self.word_symbols.name(word), first, end - first))
        return out

    def _segment(self, cut_id: str, symbol: str, first: int, num_frames: int) -> Segment:
        shift, confidence = self.header.frame_shift, self[cut_id].confidence
        mean = None if confidence is None else float(confidence[first : first + num_frames].astype(np.float64).mean())
        start = max(0.0, first * shift + self.header.frame_offset)
        end = max(start, (first + num_frames) * shift + self.header.frame_offset)
        return Segment(symbol, start, end - start, mean)

    def silence_share(self) -> float:
        """Share of all frames that are silence."""
        total = sum(len(a.transition_ids) for a in self.values())
        silent = sum(int((self._phone[a.transition_ids] == self._silence).sum()) for a in self.values())
        return silent / max(total, 1)

    def at_speed(self, factor: float) -> AliSet:
        """The same alignments for audio played at another speed, as lhotse's ``perturb_speed`` names and times it.

        Args:
            factor: > 1 is faster. Cut ids get the suffix ``_sp{factor}``; T becomes round(T / factor) and every new
                frame takes the label at its place in the old time axis. Phones keep their number: each has at least one
                frame where the utterance has as many.
        """
        if not factor > 0.0:
            raise DataError(f"speed factor {factor} must be positive")
        source = Derived(self, f"_sp{factor}", lambda ali: self._stretch(ali, factor))
        return AliSet(self.header, self.transitions, self.word_symbols, source, self.directory)

    def renamed(self, suffix: str) -> AliSet:
        """The same alignments under cut ids with a suffix, as for copies with noise."""
        source = Derived(self, suffix, lambda ali: replace(ali, cut_id=ali.cut_id + suffix))
        return AliSet(self.header, self.transitions, self.word_symbols, source, self.directory)

    def _stretch(self, ali: Alignment, factor: float) -> Alignment:
        old = len(ali.transition_ids)
        new = max(1, int(round(old / factor)))
        bounds = np.array([0, *(first + count for _, first, count in self.phone_segments(ali.cut_id))])
        moved = spread(np.ceil(bounds * (new / old) - 0.5).astype(np.int64), new)
        phone = np.repeat(np.arange(len(bounds) - 1), np.diff(moved))
        source = stretched(old, new).clip(bounds[phone], bounds[phone + 1] - 1)
        last = np.append(phone[1:] != phone[:-1], True)
        source[last] = bounds[phone[last] + 1] - 1
        # A frame that stands twice leaves its state once: even transition-ids are loops.
        tids = ali.transition_ids[source]
        tids = np.where(np.append(source[1:] == source[:-1], False), tids & ~1, tids).astype(tids.dtype)
        words = ali.words.copy()
        owner = (np.searchsorted(bounds, words[:, 1], side="right") - 1).clip(max=len(bounds) - 2)
        # A word that starts within a phone, as imported ones may, starts there at another time.
        within = np.where(words[:, 1] > bounds[owner], np.ceil(words[:, 1] * (new / old) - 0.5) - moved[owner], 0)
        words[:, 1] = moved[owner] + within.clip(0, np.diff(moved)[owner] - 1)
        return replace(
            ali,
            cut_id=f"{ali.cut_id}_sp{factor}",
            transition_ids=tids,
            words=words,
            confidence=None if ali.confidence is None else ali.confidence[source],
        )

    def check_tree(self, tree: Tree, topo: Topo, other_dir: str | Path) -> None:
        """MismatchError naming both directories unless the labels belong to this tree and topology."""
        for what, mine, theirs in (("topo", self.header.topo_id, topo.id), ("tree", self.header.tree_id, tree.id)):
            if mine != theirs:
                raise MismatchError(
                    f"alignment {self.directory} has {what} {mine}, but {other_dir} has {what} {theirs}"
                )

    @classmethod
    def load(cls, directory: str | Path) -> AliSet:
        """Reads an ``exp/*_ali`` directory written by AliWriter."""
        d = Path(directory)
        facts = read_record(d / HEADER, _Facts)
        header = facts.header
        hmm = load_hmm(d)
        if (hmm.topo.id, hmm.tree.id) != (header.topo_id, header.tree_id):
            raise MismatchError(f"{d / HEADER}: header and the tree or topology beside it do not agree")
        words = SymbolTable.load(d / "words.txt")
        source = AliShards([d / name for name in facts.shards], hmm.transitions.num_tids, len(words))
        return cls(header, hmm.transitions, words, source, d)


class AliWriter:
    """Writes an AliSet directory in shards, so that memory stays bounded by one shard.

    Use as a context manager; the directory is readable once it has closed without an exception.
    """

    def __init__(
        self,
        directory: str | Path,
        header: AliHeader,
        tree: Tree,
        topo: Topo,
        transitions: TransitionModel,
        words: SymbolTable,
        shard_size: int = MOST_RECORDS,
    ) -> None:
        self.directory, self.header = Path(directory), header
        self.directory.mkdir(parents=True, exist_ok=True)
        save_hmm(self.directory, topo, tree, transitions)
        words.save(self.directory / "words.txt")
        self._shards = ShardWriter(self.directory, "ali", LAYOUT, shard_size)

    def write(self, alignment: Alignment) -> None:
        self._shards.write(alignment.cut_id, record_of(alignment))

    def write_run(self, run: Run) -> None:
        """Alignments of another set of the same model, at once."""
        self._shards.write_run(run)

    def __enter__(self) -> AliWriter:
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        if exc_type is None:
            shards = self._shards.close()
            write_json(self.directory / HEADER, {"header": to_json(self.header), "shards": shards})


def subsample(labels: npt.NDArray[Any], factor: int, majority: bool = False) -> npt.NDArray[Any]:
    """(T,) frame labels -> (ceil(T / factor),): the first of every `factor` frames, or the most frequent one."""
    assert factor >= 1, factor
    if factor == 1 or not majority:
        return labels[::factor]
    blocks = [labels[i : i + factor] for i in range(0, len(labels), factor)]
    return np.array([np.bincount(b).argmax() for b in blocks], dtype=labels.dtype)


def stretched(old: int, new: int) -> npt.NDArray[np.int64]:
    """(new,) frames of `old` whose time the middles of as many frames of the same span have."""
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


def spread(bounds: npt.NDArray[Any], total: int) -> npt.NDArray[Any]:
    """Moves bounds, as little as possible, such that each span between them holds at least one of `total` frames.

    Args:
        bounds: (K + 1,) ascending, from 0 to total.
    Returns:
        (K + 1,) bounds, strictly ascending if K <= total; else as they were.
    """
    steps = np.arange(len(bounds))
    if steps[-1] > total:
        return bounds
    rising = np.maximum.accumulate(bounds - steps) + steps
    return np.minimum(rising, total - steps[::-1])
