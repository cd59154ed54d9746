"""Lattices: the word and state sequences that a search kept, with their scores in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import DataError

Array = npt.NDArray[Any]

FLOATS = ("acoustic", "graph", "lm")
ARCS = ("src", "dst", "pdf", "tid", "label", *FLOATS)  # columns with a value per arc


@dataclass(frozen=True, eq=False)
class Lattice:
    """The paths of one utterance: from state 0 to the last state, which alone is final.

    A path's total is acoustic * scale + graph, natural logs; its acoustic and graph scores may be weighed anew.

    Attributes:
        frame: (S,) int32 frame in which each state begins, never falling; the last two states of a path share it.
        src, dst: (A,) int32 states; arcs are sorted by src, and each leads to a later state.
        pdf, tid: (A,) int32 pdf-id and transition-id; -1 for none, on arcs into the last state in both.
        label: (A,) int32 output label, 0 for none; see ``spell``.
        acoustic: (A,) float32 unscaled acoustic score; where transitions depend on the input, with their scores.
        graph: (A,) float32 all other scores.
        lm: (A,) float32 the language model's share of graph.
        num_words: ids from here on are `sequences`.
        sequences: word ids of the labels that stand for several words.
        partial: the search reached no final state; paths end where it was.
    """

    frame: Array
    src: Array
    dst: Array
    pdf: Array
    tid: Array
    label: Array
    acoustic: Array
    graph: Array
    lm: Array
    num_words: int
    sequences: tuple[tuple[int, ...], ...] = ()
    partial: bool = False

    @classmethod
    def empty(cls, num_words: int, sequences: tuple[tuple[int, ...], ...] = ()) -> Lattice:
        """What a search leaves that found nothing."""
        ints, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
        columns = [*[ints] * 6, *[floats] * 3]
        return cls.of(columns, num_words, sequences, partial=True)

    @classmethod
    def of(
        cls,
        columns: Sequence[Array],
        num_words: int,
        sequences: tuple[tuple[int, ...], ...] = (),
        partial: bool = False,
    ) -> Lattice:
        """A lattice from its nine arrays, in the order of the fields."""
        arrays: dict[str, Any] = dict(zip(("frame", *ARCS), columns, strict=True))
        return cls(**arrays, num_words=num_words, sequences=sequences, partial=partial)

    @property
    def num_states(self) -> int:
        return len(self.frame)

    @property
    def num_arcs(self) -> int:
        return len(self.src)

    @property
    def num_frames(self) -> int:
        return int(self.frame[-1]) if len(self.frame) else 0

    @property
    def complete(self) -> bool:
        """Whether it has a path that ends where the graph ends."""
        return self.num_arcs > 0 and not self.partial

    def spell(self, labels: list[int]) -> list[int]:
        """Word ids of output labels: epsilons are left out, sequences written out."""
        out: list[int] = []
        for label in labels:
            if label >= self.num_words:
                out.extend(self.sequences[label - self.num_words])
            elif label > 0:
                out.append(label)
        return out

    def spelling(self) -> tuple[Array, Array]:
        """Words of every label: label l stands for words[splits[l]:splits[l + 1]]; splits (L + 1,), words int64."""
        counts = [0] + [1] * (self.num_words - 1) + [len(s) for s in self.sequences]
        words = [*range(1, self.num_words), *(w for s in self.sequences for w in s)]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.array(words, dtype=np.int64)

    def words_of_arcs(self) -> Array:
        """(A,) int64, how many words each arc stands for."""
        counts = (self.label > 0).astype(np.int64)
        for arc in np.flatnonzero(self.label >= self.num_words):
            counts[arc] = len(self.sequences[self.label[arc] - self.num_words])
        return counts

    def spelled(self) -> Lattice:
        """The same paths with at most one word on an arc: further words get arcs in front, which take no time."""
        extra = np.maximum(self.words_of_arcs() - 1, 0)
        if not extra.any():
            return replace(self, sequences=(), label=np.minimum(self.label, self.num_words - 1))
        before = np.bincount(self.src, weights=extra, minlength=self.num_states).astype(np.int64)
        number = np.arange(self.num_states) + np.cumsum(before) - before  # new states follow the one that they leave
        added = number.copy()
        rows: list[tuple[int, int, int, int]] = []  # src, dst, word, arc whose scores it has
        frame = np.repeat(self.frame, before + 1)
        for arc, (src, dst) in enumerate(zip(self.src.tolist(), self.dst.tolist())):
            words = self.spell([int(self.label[arc])]) or [0]
            at = int(number[src])
            for word in words[:-1]:
                added[src] += 1
                rows.append((at, int(added[src]), word, -1))
                at = int(added[src])
            rows.append((at, int(number[dst]), words[-1], arc))
        rows.sort(key=lambda row: row[:2])
        table = np.array(rows, dtype=np.int32)
        whose, real = table[:, 3], table[:, 3] >= 0
        columns: dict[str, Any] = {"src": table[:, 0].copy(), "dst": table[:, 1].copy(), "label": table[:, 2].copy()}
        columns |= {n: np.where(real, getattr(self, n)[whose], getattr(self, n).dtype.type(0)) for n in FLOATS}
        columns |= {n: np.where(real, getattr(self, n)[whose], np.int32(-1)) for n in ("pdf", "tid")}
        return replace(self, frame=frame, sequences=(), **columns)

    def validate(self, where: str) -> None:
        """DataError unless all numbers are within their ranges and every state is on a path."""
        states, arcs = self.num_states, self.num_arcs
        sizes = {len(getattr(self, name)) for name in ARCS}
        if sizes != {arcs} or self.num_words < 1:
            raise DataError(f"{where}: columns of different length")
        if not arcs:
            if states:
                raise DataError(f"{where}: states without arcs")
            return
        low = {"src": 0, "dst": 0, "pdf": -1, "tid": -1, "label": 0}
        high = {"src": states, "dst": states, "label": self.num_words + len(self.sequences)}
        for name, least in low.items():
            column = getattr(self, name)
            if column.min() < least or column.max() >= high.get(name, np.inf):
                raise DataError(f"{where}: {name} out of range")
        if not all(np.isfinite(getattr(self, name)).all() for name in FLOATS):
            raise DataError(f"{where}: scores that are no numbers")
        if (np.diff(self.src) < 0).any() or (self.dst <= self.src).any() or (np.diff(self.frame) < 0).any():
            raise DataError(f"{where}: states are not in the order of time")
        inner = np.arange(states)
        if not (np.isin(inner[1:], self.dst).all() and np.isin(inner[:-1], self.src).all()):
            raise DataError(f"{where}: a state on no path")
