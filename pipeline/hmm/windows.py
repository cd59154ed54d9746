"""Confidence along the best paths of long recordings, window by window.

The posterior of a frame's label given an hour of speech hardly depends on what is said minutes away. So a recording is
cut into windows, and in each one all paths are summed that leave the best path only inside of it: they begin and end in
its states at the edges, which lie `context` frames off the frames that are asked for. Work and memory grow with the
length of the recording, not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmm.backends import load
from pipeline.hmm.graphs import NEG_INF, Graphs
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.paths import BestPaths
from pipeline.hmm.viterbi import all_scores

FRAMES = 4000  # of a window
CONTEXT = 1000  # frames on either side of it
MARGIN = 300  # states before and behind those of the best path, for numberings that are not quite in the order of time
LONG = 64 << 20  # frames x states of an utterance
CELLS = 32 << 20  # frames x states that are summed over at once


def too_long(graphs: Graphs, lengths: torch.Tensor) -> bool:
    """Whether the table of an utterance's frames and states passes LONG, so that exact sums would take minutes."""
    return bool((lengths.cpu().long() * graphs.state_splits.cpu().long().diff()).max() > LONG)


class _Window(NamedTuple):
    """Frames begin..end of an utterance, of which first..last are asked for, and the states of its graph there."""

    row: int
    begin: int
    end: int
    first: int
    last: int
    low: int
    high: int

    @property
    def cells(self) -> int:
        return (self.end - self.begin) * (self.high - self.low)


def window_posteriors(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    best: BestPaths,
    frames: int = FRAMES,
    context: int = CONTEXT,
) -> torch.Tensor:
    """Posterior of each frame's pdf among the paths that leave the best one within a window only.

    Utterances of one window are summed over exactly, as by ``viterbi(.., confidence=True)``.

    Args:
        graphs, emissions, lengths, transitions: what the paths were found with. Graphs on the CPU, with states numbered
            in the order of time.
        best: the paths.
        frames, context: of a window, and beside it.
    Returns:
        (N, T) float32 on the CPU, 0 behind the ends and for utterances without a path.
    """
    engine = load("auto", emissions)
    if not engine.SEARCHES:
        emissions = all_scores(emissions)
    out = torch.zeros(best.pdfs.shape)
    arrays, states, pdfs = graphs.numpy(), best.states.cpu().numpy(), best.pdfs.cpu()
    found = torch.isfinite(best.scores).tolist()
    windows = [
        window
        for row, length in enumerate(lengths.tolist())
        if found[row]
        for window in _windows(row, int(length), states[row], np.diff(arrays["state_splits"])[row], frames, context)
    ]
    for some in _groups(windows):
        own = torch.full((len(some), max(w.end - w.begin for w in some)), -1, dtype=pdfs.dtype)
        for i, w in enumerate(some):
            own[i, : w.end - w.begin] = pdfs[w.row, w.begin : w.end]
        posterior = engine.path_posteriors(
            _cut(graphs, arrays, states, some),
            _stretches(emissions, some),
            torch.tensor([w.end - w.begin for w in some]),
            _of_windows(transitions, some) if transitions is not None and transitions.ndim == 3 else transitions,
            own,
        ).cpu()
        for i, w in enumerate(some):
            out[w.row, w.first : w.last] = posterior[i, w.first - w.begin : w.last - w.begin]
    return out


def _windows(
    row: int, length: int, states: NDArray[Any], num_states: int, frames: int, context: int
) -> Iterator[_Window]:
    if length <= frames + 2 * context:
        yield _Window(row, 0, length, 0, length, 0, int(num_states))
        return
    for first in range(0, length, frames):
        begin, last = max(0, first - context), min(length, first + frames)
        end = min(length, last + context)
        low = 0 if begin == 0 else max(0, int(states[begin]) - MARGIN)
        high = num_states if end == length else min(num_states, int(states[end - 1]) + 1 + MARGIN)
        yield _Window(row, begin, end, first, last, low, int(high))


def _groups(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Windows in order, as many at a time as CELLS allows."""
    some: list[_Window] = []
    cells = 0
    for window in windows:
        if some and cells + window.cells > CELLS:
            yield some
            some, cells = [], 0
        some.append(window)
        cells += window.cells
    if some:
        yield some


def _cut(graphs: Graphs, arrays: dict[str, NDArray[Any]], states: NDArray[Any], windows: list[_Window]) -> Graphs:
    """The graph of each window: its states, the arcs between them, and the best path's states as its ends."""
    parts: dict[str, list[NDArray[Any]]] = {}

    def add(**values: NDArray[Any]) -> None:
        for name, value in values.items():
            parts.setdefault(name, []).append(value)

    length = {row: int((states[row] >= 0).sum()) for row in {w.row for w in windows}}
    for w in windows:
        first = int(arrays["state_splits"][w.row])
        of = slice(first + w.low, first + w.high)
        splits = arrays["arc_splits"][first + w.low : first + w.high + 1].astype(np.int64)
        arcs = slice(int(splits[0]), int(splits[-1]))
        source = arrays["arc_src"][arcs] - w.low
        inside = (source >= 0) & (source < w.high - w.low)
        into = np.repeat(np.arange(w.high - w.low), np.diff(splits))[inside]
        start, final = arrays["start_weight"][of], arrays["final_weight"][of]
        if w.begin > 0:
            start = np.full_like(start, NEG_INF)
            start[states[w.row, w.begin] - w.low] = 0.0
        if w.end < length[w.row]:
            final = np.full_like(final, NEG_INF)
            final[states[w.row, w.end - 1] - w.low] = 0.0
        add(
            state_pdf=arrays["state_pdf"][of],
            final_tid=arrays["final_tid"][of],
            start_weight=start,
            final_weight=final,
            degree=np.bincount(into, minlength=w.high - w.low),
            arc_src=source[inside],
            arc_tid=arrays["arc_tid"][arcs][inside],
            arc_weight=arrays["arc_weight"][arcs][inside],
        )
    joined: dict[str, Any] = {name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}
    degree = joined.pop("degree").numpy()
    return Graphs(
        **joined,
        state_splits=torch.tensor([0, *np.cumsum([w.high - w.low for w in windows])]),
        arc_splits=torch.from_numpy(np.concatenate([[0], np.cumsum(degree)])),
        num_pdfs=graphs.num_pdfs,
        num_tids=graphs.num_tids,
    )


def _stretches(emissions: torch.Tensor | OnDemand, windows: list[_Window]) -> torch.Tensor | OnDemand:
    if isinstance(emissions, OnDemand):
        return emissions.stretches([w.row for w in windows], [w.begin for w in windows], [w.end for w in windows])
    return _of_windows(emissions, windows)


def _of_windows(values: torch.Tensor, windows: list[_Window]) -> torch.Tensor:
    """(M, longest, ..) frames of (N, T, ..) values, 0 behind the ends."""
    out = values.new_zeros((len(windows), max(w.end - w.begin for w in windows), *values.shape[2:]))
    for i, w in enumerate(windows):
        out[i, : w.end - w.begin] = values[w.row, w.begin : w.end]
    return out
