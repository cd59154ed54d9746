"""Alignments: one transition-id per frame, the same type whether a GMM or a neural HMM made them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.artifacts.lang import SILENCE
from pipeline.artifacts.model_dir import load_hmm, save_hmm
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import atomic_write, read_json, write_json

HEADER = "ali.json"


@dataclass(frozen=True)
class Alignment:
    """State sequence of one utterance.

    Attributes:
        transition_ids: (T,) int32. Frame t's id names the HMM-state it is in and whether the state is left after it.
        log_like: scaled log-likelihood of the path.
        words: (W, 2) int32, word id and first frame of every word.
        confidence: (T,) float16, posterior of the frame's pdf, or None.
    """

    cut_id: str
    transition_ids: np.ndarray
    log_like: float
    words: np.ndarray
    confidence: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.transition_ids.dtype == np.int32 and self.transition_ids.ndim == 1, self.cut_id
        assert self.words.dtype == np.int32 and self.words.ndim == 2 and self.words.shape[1] == 2, self.cut_id
        assert self.confidence is None or self.confidence.shape == self.transition_ids.shape, self.cut_id


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


@dataclass(frozen=True)
class AliHeader:
    """What an alignment is about; ids are content hashes.

    Attributes:
        frame_shift: seconds between frames of the transition-ids.
        frame_offset: seconds; frame i stands for the span [i * shift + offset, (i + 1) * shift + offset), that is,
            half a shift on either side of its window's centre.
        producer: the model directory that aligned.
    """

    topo_id: str
    tree_id: str
    lang_id: str
    frame_shift: float
    frame_offset: float
    producer: str


class AliSet(Mapping[str, Alignment]):
    """Alignments keyed by cut id, with the tree and topology that give the transition-ids their meaning."""

    def __init__(
        self,
        header: AliHeader,
        transitions: TransitionModel,
        words: SymbolTable,
        alignments: Iterable[Alignment] = (),
        directory: str | Path = "<memory>",
    ) -> None:
        self.header, self.transitions, self.word_symbols, self.directory = header, transitions, words, Path(directory)
        self._pdf, self._phone = transitions.tid_pdf(), transitions.tid_phone()
        self._ends = transitions.tid_ends_phone()
        self._silence = transitions.phones.id(SILENCE)
        self._items: dict[str, Alignment] = {}
        for ali in alignments:
            if ali.cut_id in self._items:
                raise DataError(f"{directory}: cut {ali.cut_id!r} is aligned twice")
            self._items[ali.cut_id] = ali

    def __getitem__(self, cut_id: str) -> Alignment:
        try:
            return self._items[cut_id]
        except KeyError:
            raise DataError(
                f"{self.directory}: no alignment for cut {cut_id!r} ({len(self)} cuts are aligned)"
            ) from None

    def __contains__(self, cut_id: object) -> bool:
        return cut_id in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def pdf_ids(self, cut_id: str, factor: int = 1, majority: bool = False) -> np.ndarray:
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
        out = []
        for (word, first), limit in zip(table.tolist(), ends):
            spoken = [b + n for p, b, n in segments if first <= b < limit and p != self._silence]
            end = max(spoken, default=limit)
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
        return AliSet(
            self.header,
            self.transitions,
            self.word_symbols,
            (self._stretch(a, factor) for a in self.values()),
            self.directory,
        )

    def _stretch(self, ali: Alignment, factor: float) -> Alignment:
        old = len(ali.transition_ids)
        new = max(1, int(round(old / factor)))
        bounds = np.array([0, *(first + count for _, first, count in self.phone_segments(ali.cut_id))])
        moved = spread(np.ceil(bounds * (new / old) - 0.5).astype(np.int64), new)
        phone = np.repeat(np.arange(len(bounds) - 1), np.diff(moved))
        source = ((np.arange(new) + 0.5) * old / new).astype(np.int64).clip(bounds[phone], bounds[phone + 1] - 1)
        last = np.append(phone[1:] != phone[:-1], True)
        source[last] = bounds[phone[last] + 1] - 1
        # A frame that stands twice leaves its state once: even transition-ids are loops.
        tids = ali.transition_ids[source]
        tids = np.where(np.append(source[1:] == source[:-1], False), tids & ~1, tids).astype(tids.dtype)
        words = ali.words.copy()
        words[:, 1] = moved[np.searchsorted(bounds, words[:, 1])].clip(max=new - 1)
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
        data = read_json(d / HEADER)
        try:
            header, shards = AliHeader(**data["header"]), [str(s) for s in data["shards"]]
        except (KeyError, TypeError) as e:
            raise DataError(f"{d / HEADER}: not an alignment header ({e!r})") from None
        hmm = load_hmm(d)
        if (hmm.topo.id, hmm.tree.id) != (header.topo_id, header.tree_id):
            raise MismatchError(f"{d / HEADER}: header and the tree or topology beside it do not agree")
        words = SymbolTable.load(d / "words.txt")
        return cls(
            header, hmm.transitions, words, (a for s in shards for a in _read_shard(d / s, hmm.transitions.num_tids)), d
        )


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
        shard_size: int = 10_000,
    ) -> None:
        self.directory, self.header, self.shard_size = Path(directory), header, shard_size
        self.directory.mkdir(parents=True, exist_ok=True)
        save_hmm(self.directory, topo, tree, transitions)
        words.save(self.directory / "words.txt")
        self._pending: list[Alignment] = []
        self._shards: list[str] = []

    def write(self, alignment: Alignment) -> None:
        self._pending.append(alignment)
        if len(self._pending) >= self.shard_size:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._shards.append(f"ali.{len(self._shards)}.safetensors")
            _write_shard(self.directory / self._shards[-1], self._pending)
            self._pending = []

    def __enter__(self) -> AliWriter:
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        if exc_type is None:
            self._flush()
            write_json(self.directory / HEADER, {"header": asdict(self.header), "shards": self._shards})


def subsample(labels: np.ndarray, factor: int, majority: bool = False) -> np.ndarray:
    """(T,) frame labels -> (ceil(T / factor),): the first of every `factor` frames, or the most frequent one."""
    assert factor >= 1, factor
    if factor == 1 or not majority:
        return labels[::factor]
    blocks = [labels[i : i + factor] for i in range(0, len(labels), factor)]
    return np.array([np.bincount(b).argmax() for b in blocks], dtype=labels.dtype)


def spread(bounds: np.ndarray, total: int) -> np.ndarray:
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


def _write_shard(path: Path, alignments: list[Alignment]) -> None:
    from safetensors.numpy import save

    with_confidence = [a.confidence is not None for a in alignments]
    assert len(set(with_confidence)) == 1, "either all or none of a shard's alignments carry confidences"
    arrays = {
        "transition_ids": np.concatenate([a.transition_ids for a in alignments]),
        "num_frames": np.array([len(a.transition_ids) for a in alignments], dtype=np.int32),
        "log_like": np.array([a.log_like for a in alignments], dtype=np.float64),
        "words": np.concatenate([a.words for a in alignments]),
        "num_words": np.array([len(a.words) for a in alignments], dtype=np.int32),
    }
    if with_confidence[0]:
        arrays["confidence"] = np.concatenate([a.confidence for a in alignments]).astype(np.float16)
    with atomic_write(path, "wb") as f:
        f.write(save(arrays, metadata={"cut_ids": json.dumps([a.cut_id for a in alignments])}))


def _read_shard(path: Path, num_tids: int) -> Iterator[Alignment]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="numpy") as f:
            cut_ids = json.loads(f.metadata()["cut_ids"])
            arrays = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  not a mapping
        tids, confidence = arrays["transition_ids"], arrays.get("confidence")
        frames = np.concatenate([[0], np.cumsum(arrays["num_frames"])])
        rows = np.concatenate([[0], np.cumsum(arrays["num_words"])])
        log_like, words = arrays["log_like"], arrays["words"]
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        raise DataError(f"{path}: damaged alignment shard ({e})") from None
    if len(frames) != len(cut_ids) + 1 or frames[-1] != len(tids) or rows[-1] != len(words):
        raise DataError(f"{path}: damaged alignment shard (the lengths do not add up)")
    if len(tids) and not 0 <= tids.min() <= tids.max() < num_tids:
        raise DataError(f"{path}: a transition-id is outside 0..{num_tids - 1}")
    for i, cut_id in enumerate(cut_ids):
        span = slice(frames[i], frames[i + 1])
        yield Alignment(
            cut_id,
            tids[span],
            float(log_like[i]),
            words[rows[i] : rows[i + 1]],
            None if confidence is None else confidence[span],
        )
