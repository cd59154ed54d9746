"""The engine on the CPU: full sums and occupancies by numba kernels, run by as many threads as torch may use."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import mmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmm import numba_calls as calls
from pipeline.hmm import numba_kernels as kernels
from pipeline.hmm import numba_occupancy as occupancy
from pipeline.hmm import numba_plan, numba_scores
from pipeline.hmm.gradients import differentiable
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.numba_scores import NEG
from pipeline.hmm.numba_search import viterbi
from pipeline.hmm.on_demand import OnDemand

__all__ = ["SEARCHES", "full_sum", "occupancies", "path_posteriors", "viterbi"]

SEARCHES = True  # takes scores on demand, and prunes
HUGE_PAGE = 2 << 20  # bytes


@dataclasses.dataclass
class Saved:
    """What a forward pass hands to the backward pass: half alpha, half beta, O(T x S) per utterance, and O(sqrt(T) x S)
    beyond MAX_CELLS."""

    call: numba_plan.Call
    rows: NDArray[Any]
    cum: NDArray[Any]
    mid: NDArray[Any]
    mid_cum: NDArray[Any]
    scores: NDArray[Any]


def _forward(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    keep: bool,
    most_cells: int | None = None,
) -> Saved:
    most_cells = calls.MAX_CELLS if most_cells is None else most_cells
    call, dtype = calls.call_of(graphs, emissions, lengths, transitions, most_cells)
    plan = calls.plan_of(graphs)
    num = len(graphs)
    saved = Saved(
        call=call,
        rows=np.empty(call.cell_at[-1] if keep else 0, dtype),
        cum=np.empty(call.row_at[-1] if keep else 0),
        mid=np.empty((2, graphs.num_states), dtype),
        mid_cum=np.empty((2, num)),
        scores=np.empty(num),
    )
    alive = np.zeros((2, num), np.bool_)
    args = (keep, saved.rows, saved.cum, saved.mid, saved.mid_cum, alive, dtype(NEG))
    calls.run_halves(kernels.forward_tasks, np.arange(2 * num), plan, call, *args)
    kernels.join(plan, call, saved.mid, saved.mid_cum, alive, saved.scores, dtype(NEG))
    return saved


def _backward(graphs: Graphs, saved: Saved, sink: occupancy.Sink, grads: NDArray[Any]) -> None:
    call = saved.call
    neg = saved.rows.dtype.type(NEG)
    args = (sink, saved.rows, saved.cum, saved.mid, saved.mid_cum, saved.scores, grads, neg)
    calls.run_halves(occupancy.backward_tasks, np.arange(2 * len(graphs)), calls.plan_of(graphs), call, *args)


def forward(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    keep: bool,
) -> tuple[torch.Tensor, Saved | None]:
    """Scores (N,) and, with `keep`, what `backward` needs."""
    saved = _forward(graphs, emissions, lengths, transitions, keep)
    scores = torch.from_numpy(saved.scores.astype(saved.rows.dtype))
    return scores, saved if keep else None


def backward(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    saved: Saved,
    grad: torch.Tensor,
    need_transitions: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of emissions and transitions: the occupancies weighted by `grad` (N,)."""
    call, dtype = saved.call, saved.rows.dtype
    d_emissions = _zeros(call.source.emissions.shape, call.source.emissions.dtype)
    timed = need_transitions and call.timed == 1
    static = need_transitions and call.timed == 0
    sink = occupancy.Sink(
        kind=occupancy.PDFS,
        emissions=d_emissions,
        path=np.empty((1, 1), np.int64),
        posterior=np.empty((1, 1), np.float32),
        arcs=1 if static else 2 if timed else 0,
        counts=np.zeros((2, graphs.num_arcs if static else 0), dtype),
        transitions=_zeros(call.transitions.shape if timed else (1, 1, 1), dtype),
    )
    _backward(graphs, saved, sink, grad.detach().double().numpy())
    bits = d_emissions.view(np.int16) if call.source.half else d_emissions
    d_transitions = None
    if timed:
        assert transitions is not None
        d_transitions = torch.from_numpy(sink.transitions).to(transitions.dtype)
    elif need_transitions:
        assert transitions is not None
        d_transitions = _by_tid(graphs, sink.counts, transitions)
    gradient = torch.from_numpy(bits)
    return gradient.view(emissions.dtype) if call.source.half else gradient, d_transitions


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros in huge pages where there are such: taking a large gradient page by page costs more than computing it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < 2 * HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


def _by_tid(graphs: Graphs, counts: NDArray[Any], transitions: torch.Tensor) -> torch.Tensor:
    """Sum arc occupancies (2, A) by transition-id, in float64."""
    tid = graphs.numpy()["arc_tid"]
    scored = tid >= 0
    weights = counts.sum(0, dtype=np.float64)[scored]
    total = np.bincount(tid[scored], weights=weights, minlength=transitions.shape[-1])
    return torch.from_numpy(total).to(transitions.dtype)


def occupancies(
    graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (N,), state occupancies (sum of T_n S_n,) frame by frame of each graph, expected counts of arcs (A,)."""
    saved = _forward(graphs, emissions, lengths, transitions, keep=True, most_cells=np.iinfo(np.int64).max)
    call, dtype = saved.call, saved.rows.dtype
    sink = occupancy.Sink(
        kind=occupancy.STATES,
        emissions=np.zeros((1, 1, 1), call.source.emissions.dtype),
        path=np.empty((1, 1), np.int64),
        posterior=np.empty((1, 1), np.float32),
        arcs=1,
        counts=np.zeros((2, graphs.num_arcs), dtype),
        transitions=np.zeros((1, 1, 1), dtype),
    )
    _backward(graphs, saved, sink, np.ones(len(graphs)))
    for n in np.flatnonzero(~np.isfinite(saved.scores)):
        saved.rows[call.cell_at[n] : call.cell_at[n + 1]] = 0
    scores = torch.from_numpy(saved.scores.astype(dtype))
    return scores, torch.from_numpy(saved.rows), torch.from_numpy(sink.counts.sum(0))


full_sum = differentiable(forward, backward)


def path_posteriors(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    pdfs: torch.Tensor,
) -> torch.Tensor:
    """(N, T) float32 posterior of the pdf that `pdfs` (N, T) names at each frame, given the utterance."""
    saved = _forward(graphs, emissions, lengths, transitions, keep=True)
    dtype = saved.rows.dtype
    half = saved.call.source.half if isinstance(saved.call.source, numba_scores.Dense) else 0
    sink = occupancy.Sink(
        kind=occupancy.PATH,
        emissions=np.zeros((1, 1, 1), np.uint16 if half else dtype),
        path=pdfs.numpy().astype(np.int64, copy=False),
        posterior=np.zeros(pdfs.shape, np.float32),
        arcs=0,
        counts=np.zeros((2, 0), dtype),
        transitions=np.zeros((1, 1, 1), dtype),
    )
    _backward(graphs, saved, sink, np.ones(len(graphs)))
    return torch.from_numpy(sink.posterior)
