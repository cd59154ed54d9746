"""C: phones become phones in context, with as many phones of context as the tree asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.tree import BOUNDARY
from pipeline.graph.phone_graph import COLUMNS, NO_PHONE, PhoneGraph


@dataclass(frozen=True)
class ContextGraph:
    """Arcs that each stand for one phone in its context, or for nothing.

    Attributes:
        src, dst: (A,) int64 states; arcs sorted by source.
        window: (A,) int64 row of `windows`, -1 for an arc that emits nothing.
        word: (A,) int64 word id, 0 for none.
        lm, lex: (A,) float64, as in PhoneGraph.
        windows: (W, left + 1 + right) int64 phone ids, BOUNDARY outside the utterance.
        start, final: states.
        num_states: S.
    """

    src: np.ndarray
    dst: np.ndarray
    window: np.ndarray
    word: np.ndarray
    lm: np.ndarray
    lex: np.ndarray
    windows: np.ndarray
    start: int
    final: int
    num_states: int


def expand_context(graph: PhoneGraph, num_phones: int, left: int, right: int) -> ContextGraph:
    """Expands a phone graph to windows of `left` + 1 + `right` phones, cf. Kaldi fstcomposecontext.

    A state of the result is (the last left + right phones, state of the graph). Reading a phone puts out the window
    whose centre was read `right` phones ago: nothing for the first `right` phones, and after the end `right`
    boundaries are read to put out the rest. The words stay on the arcs where they were read.

    Args:
        num_phones: size of the phone table.
    """
    graph = _with_boundaries(graph, right)
    unread = num_phones  # history digit of a place that no phone has reached yet
    radix = num_phones + 1
    width = left + right
    assert width * math.log2(radix) + math.log2(graph.num_states) < 62, "context too wide for a 64-bit key"
    reader = _Reader(graph, left, right, radix, unread)
    start = 0
    for position in range(width):
        start = start * radix + (BOUNDARY if position < left else unread)
    start_key = start * graph.num_states + graph.start
    known = frontier = np.array([start_key], dtype=np.int64)
    while len(frontier):
        reached = np.unique(reader.successors(frontier)[1])
        frontier = reached[known[np.searchsorted(known, reached).clip(max=len(known) - 1)] != reached]
        known = np.union1d(known, frontier)
    arc, dst_key, window, index = reader.read(known)
    emits = window >= 0
    codes, row = np.unique(window[emits], return_inverse=True)
    rows = np.full(len(window), -1, dtype=np.int64)
    rows[emits] = row
    final = np.nonzero(known % graph.num_states == graph.final)[0]
    assert len(final) <= 1, len(final)  # 0: nothing leads to the end
    return ContextGraph(
        index,
        np.searchsorted(known, dst_key),
        rows,
        graph.word[arc],
        graph.lm[arc],
        graph.lex[arc],
        _digits(codes, radix, width + 1),
        int(np.searchsorted(known, start_key)),
        int(final[0]) if len(final) else -1,
        len(known),
    )


def _with_boundaries(graph: PhoneGraph, right: int) -> PhoneGraph:
    """Puts `right` boundary phones behind the final state."""
    if right == 0:
        return graph
    extra = graph.num_states + np.arange(right)
    src, dst = np.concatenate([[graph.final], extra[:-1]]), extra
    columns = [
        np.concatenate([old, np.broadcast_to(np.asarray(new, dtype=old.dtype), (right,))])
        for old, new in (
            (graph.src, src),
            (graph.dst, dst),
            (graph.phone, BOUNDARY),
            (graph.word, 0),
            (graph.lm, 0.0),
            (graph.lex, 0.0),
        )
    ]
    order = np.argsort(columns[0], kind="stable")
    arcs = {name: column[order] for name, column in zip(COLUMNS, columns)}
    return PhoneGraph(**arcs, start=graph.start, final=int(extra[-1]), num_states=graph.num_states + right)


class _Reader:
    """Steps from (history, state) pairs over the arcs of a graph."""

    def __init__(self, graph: PhoneGraph, left: int, right: int, radix: int, unread: int) -> None:
        self.graph, self.left, self.right, self.radix, self.unread = graph, left, right, radix, unread
        self.splits = np.searchsorted(graph.src, np.arange(graph.num_states + 1))

    def successors(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(arc, key reached, index into keys) of all steps."""
        history, state = np.divmod(keys, self.graph.num_states)
        count = self.splits[state + 1] - self.splits[state]
        index = np.repeat(np.arange(len(keys)), count)
        arc = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(self.splits[state], count)
        phone, dst = self.graph.phone[arc], self.graph.dst[arc]
        width = self.left + self.right
        after = history[index]
        if width:
            shifted = (after * self.radix + phone) % self.radix**width
            after = np.where(phone == NO_PHONE, after, self._reached_left(shifted))
        after = np.where(dst == self.graph.final, 0, after)  # one final state, whatever came before
        return arc, after * self.graph.num_states + dst, index

    def read(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(arc, key reached, window code or -1, index into keys) of all steps."""
        arc, reached, index = self.successors(keys)
        phone = self.graph.phone[arc]
        window = (keys[index] // self.graph.num_states) * self.radix + phone
        centre = (window // self.radix**self.right) % self.radix
        return arc, reached, np.where((phone == NO_PHONE) | (centre == self.unread), -1, window), index

    def _reached_left(self, history: np.ndarray) -> np.ndarray:
        """An unread place that has moved into the left context lies before the utterance."""
        if self.left == 0:
            return history
        place = self.radix**self.right
        digit = (history // place) % self.radix
        return np.where(digit == self.unread, history + (BOUNDARY - self.unread) * place, history)


def _digits(codes: np.ndarray, radix: int, width: int) -> np.ndarray:
    columns = []
    for _ in range(width):
        codes, digit = np.divmod(codes, radix)
        columns.append(digit)
    return np.stack(columns[::-1], axis=1) if columns else np.zeros((len(codes), 0), dtype=np.int64)
