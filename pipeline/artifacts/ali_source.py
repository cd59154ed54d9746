"""Where alignments come from: memory, shard files that are read one utterance at a time, or other alignments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.arrays import ArrayFile, NameTable
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write


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
    """Alignments of shard files, read one by one; about 60 bytes of memory for each and its id. See ``AliSource``."""

    def __init__(self, paths: Sequence[Path], num_tids: int) -> None:
        """Args:
        num_tids: transition-ids of the model that gives them their meaning.
        """
        self._shards = [_Shard(path, num_tids) for path in paths]
        self._names = NameTable.of([cut_id for shard in self._shards for cut_id in shard.take_ids()])
        self._first = np.cumsum([0, *(len(shard) for shard in self._shards)])
        twice = self._names.repeated()
        if twice is not None:
            raise DataError(f"{paths[0].parent}: cut {twice!r} is aligned twice")

    def _place(self, cut_id: str) -> tuple[_Shard, int] | None:
        i = self._names.find(cut_id)
        if i is None:
            return None
        number = int(np.searchsorted(self._first, i, side="right")) - 1
        return self._shards[number], i - int(self._first[number])

    def find(self, cut_id: str) -> Alignment | None:
        place = self._place(cut_id)
        return None if place is None else place[0].read(place[1], cut_id)

    def has(self, cut_id: str) -> bool:
        return self._names.find(cut_id) is not None

    def num_frames(self, cut_id: str) -> int:
        place = self._place(cut_id)
        assert place is not None, cut_id
        return place[0].num_frames(place[1])

    def ids(self) -> Iterator[str]:
        return (self._names[i] for i in range(len(self._names)))

    def count(self) -> int:
        return len(self._names)


class _Shard:
    """One file of alignments."""

    def __init__(self, path: Path, num_tids: int) -> None:
        self._file, self._num_tids = ArrayFile(path), num_tids
        try:
            self._ids: list[str] = [str(c) for c in json.loads(self._file.metadata["cut_ids"])]
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}: damaged alignment shard ({e!r})") from None
        self._frames = offsets(self._file.array("num_frames"))
        self._words = offsets(self._file.array("num_words"))
        self._log_like = self._file.array("log_like")
        sizes = {len(self._frames) - 1, len(self._words) - 1, len(self._log_like), len(self._ids)}
        ends = (self._file.shape("transition_ids"), self._file.shape("words"))
        if len(sizes) > 1 or ends != ((int(self._frames[-1]),), (int(self._words[-1]), 2)):
            raise DataError(f"{path}: damaged alignment shard (the lengths do not add up)")
        self._file.metadata = {}

    def __len__(self) -> int:
        return len(self._log_like)

    def take_ids(self) -> list[str]:
        """The cut ids, which this object does not keep."""
        ids, self._ids = self._ids, []
        return ids

    def num_frames(self, i: int) -> int:
        return int(self._frames[i + 1] - self._frames[i])

    def read(self, i: int, cut_id: str) -> Alignment:
        begin, end = int(self._frames[i]), int(self._frames[i + 1])
        tids = self._file.part("transition_ids", begin, end)
        if len(tids) and not 0 <= tids.min() <= tids.max() < self._num_tids:
            raise DataError(
                f"{self._file.path}: a transition-id of utterance {cut_id!r} is outside 0..{self._num_tids - 1}"
            )
        words = self._file.part("words", int(self._words[i]), int(self._words[i + 1]))
        confidence = self._file.part("confidence", begin, end) if "confidence" in self._file else None
        return Alignment(cut_id, tids, float(self._log_like[i]), words, confidence)


def offsets(sizes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N,) sizes -> (N + 1,) int64 bounds."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])


def write_shard(path: Path, alignments: list[Alignment]) -> None:
    """Write a file that ``AliShards`` reads."""
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
