"""Where alignments come from: memory, shard files that are read one utterance at a time, or other alignments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.shards import Layout, Record, Shards
from pipeline.base.errors import DataError

LAYOUT = Layout(
    "alignment",
    {"num_frames": {"transition_ids": "i4", "confidence": "f2"}, "num_words": {"words": ("i4", 2)}},
    values={"log_like": "f8"},
    optional=("confidence",),
)


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
    transition_ids: npt.NDArray[Any]
    log_like: float
    words: npt.NDArray[Any]
    confidence: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        assert self.transition_ids.dtype == np.int32 and self.transition_ids.ndim == 1, self.cut_id
        assert self.words.dtype == np.int32 and self.words.ndim == 2 and self.words.shape[1] == 2, self.cut_id
        assert self.confidence is None or self.confidence.shape == self.transition_ids.shape, self.cut_id


@runtime_checkable
class AliSource(Protocol):
    """Where the alignments of a set come from."""

    def find(self, cut_id: str) -> Alignment | None:
        """The alignment of a cut, None if there is none."""

    def has(self, cut_id: str) -> bool:
        """Whether there is one."""

    def num_frames(self, cut_id: str) -> int:
        """Frames of one that is there."""

    def ids(self) -> Iterator[str]:
        """All cut ids, in the order in which they were written."""

    def count(self) -> int:
        """Their number."""


class InMemory:
    """Alignments in memory; see ``AliSource``."""

    def __init__(self, alignments: Iterable[Alignment], where: str) -> None:
        self._items: dict[str, Alignment] = {}
        for ali in alignments:
            if ali.cut_id in self._items:
                raise DataError(f"{where}: cut {ali.cut_id!r} is aligned twice")
            self._items[ali.cut_id] = ali

    def find(self, cut_id: str) -> Alignment | None:
        return self._items.get(cut_id)

    def has(self, cut_id: str) -> bool:
        return cut_id in self._items

    def num_frames(self, cut_id: str) -> int:
        return len(self._items[cut_id].transition_ids)

    def ids(self) -> Iterator[str]:
        return iter(self._items)

    def count(self) -> int:
        return len(self._items)


class Derived:
    """Alignments that are made of those of another set, under ids with a suffix; see ``AliSource``."""

    def __init__(self, source: Mapping[str, Alignment], suffix: str, make: Callable[[Alignment], Alignment]) -> None:
        self._set, self._suffix, self._make = source, suffix, make

    def find(self, cut_id: str) -> Alignment | None:
        return self._make(self._set[cut_id.removesuffix(self._suffix)]) if self.has(cut_id) else None

    def has(self, cut_id: str) -> bool:
        return cut_id.endswith(self._suffix) and cut_id.removesuffix(self._suffix) in self._set

    def num_frames(self, cut_id: str) -> int:
        found = self.find(cut_id)
        assert found is not None, cut_id
        return len(found.transition_ids)

    def ids(self) -> Iterator[str]:
        return (cut_id + self._suffix for cut_id in self._set)

    def count(self) -> int:
        return len(self._set)


class AliShards:
    """Alignments of shard files, read one by one; see ``AliSource``."""

    def __init__(self, paths: Sequence[Path], num_tids: int, num_words: int) -> None:
        """Args:
        num_tids: transition-ids of the model that gives them their meaning. num_words: of the table beside them.
        """
        self._shards, self._num_tids, self._num_words = Shards(paths, LAYOUT), num_tids, num_words

    def find(self, cut_id: str) -> Alignment | None:
        found = self._shards.find(cut_id)
        if found is None:
            return None
        record, path = found
        tids = record["transition_ids"]
        if len(tids) and not 0 <= tids.min() <= tids.max() < self._num_tids:
            raise DataError(f"{path}: a transition-id of utterance {cut_id!r} is outside 0..{self._num_tids - 1}")
        ids, first = record["words"].T
        if len(ids) and not (0 <= ids.min() <= ids.max() < self._num_words and first.min() >= 0):
            raise DataError(f"{path}: damaged words of utterance {cut_id!r}")
        confidence = record.get("confidence")
        if not np.isfinite(record["log_like"][0]) or not (confidence is None or np.isfinite(confidence).all()):
            raise DataError(f"{path}: scores of utterance {cut_id!r} that are no numbers")
        return Alignment(cut_id, tids, float(record["log_like"][0]), record["words"], confidence)

    def has(self, cut_id: str) -> bool:
        return cut_id in self._shards

    def num_frames(self, cut_id: str) -> int:
        return self._shards.length(cut_id, "num_frames")

    def ids(self) -> Iterator[str]:
        return iter(self._shards)

    def count(self) -> int:
        return len(self._shards)


def record_of(ali: Alignment) -> Record:
    """The columns of an alignment."""
    record = {"transition_ids": ali.transition_ids, "words": ali.words}
    record["log_like"] = np.array([ali.log_like], dtype=np.float64)
    if ali.confidence is not None:
        record["confidence"] = ali.confidence.astype(np.float16)
    return record
