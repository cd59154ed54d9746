"""The engine on the CPU: best paths by numba kernels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmm import numba_calls as calls
from pipeline.hmm import numba_long as long
from pipeline.hmm import numba_plan
from pipeline.hmm import numba_viterbi as best_paths
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.numba_scores import NEG
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.paths import BestPaths


def viterbi(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    beams: Sequence[float] = (math.inf,),
) -> BestPaths:
    """Best paths; each beam but the first is for the utterances that found none with the one before."""
    call, dtype = calls.call_of(graphs, emissions, lengths, transitions, calls.MAX_CELLS)
    plan = calls.plan_of(graphs)
    num = len(graphs)
    cells = np.concatenate([[0], np.cumsum(np.diff(plan.splits).astype(np.int64) * call.lengths)])
    found = _Found(
        scores=np.full(num, -np.inf),
        paths=np.full((4, num, emissions.shape[1]), -1, np.int64),
        mid=np.empty((2, graphs.num_states), dtype),
        mid_cum=np.empty((2, num)),
        alive=np.zeros((2, num), np.bool_),
    )
    tries = np.zeros(num, np.int64)
    for beam in beams:
        for some in _parts(np.flatnonzero(found.scores == -np.inf), cells):
            search = _search_long if call.every[some[0]] > 1 else _search
            search(plan, call, float(beam), some, cells, found, np.uint8 if plan.most <= 250 else np.int32)
            tries[some] += 1
    scores = torch.from_numpy(found.scores.astype(dtype))
    states, arcs, pdfs, tids = torch.from_numpy(found.paths)
    return BestPaths(scores, states, arcs, pdfs, tids, torch.from_numpy(tries))


@dataclasses.dataclass
class _Found:
    """What a search sets: scores (N,), paths (4, N, T), and of each half its last row, offset and whether it lives."""

    scores: NDArray[Any]
    paths: NDArray[Any]
    mid: NDArray[Any]
    mid_cum: NDArray[Any]
    alive: NDArray[Any]


def _parts(utterances: NDArray[Any], cell_at: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Runs of utterances within MAX_CELLS cells of the batch (a larger utterance is a run)."""
    if len(utterances) and cell_at[-1] <= calls.MAX_CELLS:
        yield utterances
    elif len(utterances):
        sizes = np.diff(cell_at)[utterances]
        apart = np.diff(cell_at[utterances] // calls.MAX_CELLS).astype(bool) | (
            np.maximum(sizes[1:], sizes[:-1]) > calls.MAX_CELLS
        )
        yield from np.split(utterances, np.flatnonzero(apart) + 1)


def _halves(utterances: NDArray[Any]) -> NDArray[Any]:
    """The tasks of some utterances."""
    halves: NDArray[Any] = np.stack([2 * utterances, 2 * utterances + 1], axis=1).reshape(-1)
    return halves


def _search(
    plan: numba_plan.Plan,
    call: numba_plan.Call,
    beam: float,
    some: NDArray[Any],
    cells: NDArray[Any],
    found: _Found,
    code: type,
) -> None:
    """Search utterances side by side, with all their backpointers."""
    backpointers: NDArray[Any] = np.empty(cells[some[-1] + 1] - cells[some[0]], code)
    cell_at = cells - cells[some[0]]
    args = (beam, backpointers, cell_at, found.mid, found.mid_cum, found.alive, found.mid.dtype.type(NEG))
    calls.run_halves(best_paths.viterbi_tasks, _halves(some), plan, call, *args)
    mids = (found.mid, found.mid_cum, found.alive)
    best_paths.trace(some, plan, call, backpointers, cell_at, *mids, found.scores, found.paths)


def _search_long(
    plan: numba_plan.Plan,
    call: numba_plan.Call,
    beam: float,
    some: NDArray[Any],
    cells: NDArray[Any],
    found: _Found,
    code: type,
) -> None:
    """Search one utterance whose backpointers would not fit, in two passes."""
    (n,) = some.tolist()
    dtype, num_frames = found.mid.dtype, int(call.lengths[n])
    size, every = int(plan.splits[n + 1] - plan.splits[n]), int(long.spacing(num_frames))
    best, rows = np.empty((2, num_frames), dtype), np.empty((2, -(-num_frames // 2) // every + 1, size), dtype)
    table: NDArray[Any] = np.empty((2, every * size), code)
    ends, neg = (found.mid, found.mid_cum), dtype.type(NEG)
    calls.run_halves(long.forward_tasks, _halves(some), plan, call, beam, table, best, rows, *ends, found.alive, neg)
    if not found.alive[:, n].all():
        return
    found.scores[n] = long.score_of(plan, n, *ends)
    if np.isfinite(found.scores[n]):
        calls.run_halves(long.trace_tasks, _halves(some), plan, call, beam, table, best, rows, *ends, found.paths, neg)
        long.finish_path(plan, n, num_frames, *ends, found.paths)
