"""The engine on the CPU: numba kernels, run by as many threads as torch may use.

The kernels release the interpreter lock and plain threads share the utterances out, so that nothing here conflicts
with forked data loading or with OpenMP. Kernels are compiled at their first use and kept in numba's cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.hmm import numba_cache, numba_math, numba_plan, numba_scores
from pipeline.hmm import numba_kernels as kernels
from pipeline.hmm import numba_occupancy as occupancy
from pipeline.hmm import numba_viterbi as best_paths
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand

SEARCHES = True  # takes scores on demand, and prunes
SERIAL_CELLS = 10_000  # below this many states x frames a second thread costs more than it saves
HALVES = {torch.bfloat16: 1, torch.float16: 2}
HUGE_PAGE = 2 << 20  # bytes
MAX_BACKPOINTERS = 64 << 20  # states x frames whose backpointers a search keeps at once


@dataclasses.dataclass
class Saved:
    """What a forward pass hands to the backward pass: half alpha, half beta, O(T x S) per utterance."""

    call: numba_plan.Call
    rows: np.ndarray
    cum: np.ndarray
    mid: np.ndarray
    mid_cum: np.ndarray
    scores: np.ndarray


def drop_stale_code(*more: str) -> None:
    """numba's cache looks at the file of a loop, not at those it calls into: drop what is older than any of them.

    Args:
        more: source files of further functions that the loops here are compiled with.
    """
    sources = [
        Path(str(module.__file__)) for module in (numba_plan, kernels, numba_math, numba_scores, occupancy, best_paths)
    ]
    stems = [source.stem for source in sources]
    numba_cache.drop_stale_code(str(kernels.forward_tasks.stats.cache_path), stems, [*sources, *more])


drop_stale_code()


def plan_of(graphs: Graphs) -> numba_plan.Plan:
    """The graphs as the kernels read them, kept with the graphs."""
    plan = graphs.__dict__.get("_numba_plan")
    if plan is None:
        plan = _make_plan(graphs.to("cpu"))
        object.__setattr__(graphs, "_numba_plan", plan)
    return plan


def _make_plan(graphs: Graphs) -> numba_plan.Plan:
    g = graphs.numpy()
    num, states, arcs = len(graphs), graphs.num_states, graphs.num_arcs
    ints = functools.partial(np.zeros, dtype=np.int32)
    plan = numba_plan.Plan(
        splits=g["state_splits"],
        pdf=g["state_pdf"],
        ends=np.stack([g["start_weight"], g["final_weight"]]),
        tid=g["arc_tid"],
        arc_weight=g["arc_weight"],
        arc=np.full((3, states), -1, np.int32),
        width=ints(num),
        depth=ints((2, states)),
        edge_splits=ints(num + 1),
        edge_from=ints((2, arcs)),
        edge_arc=ints((2, arcs)),
        groups=ints((2, arcs)),
        group_edge=ints((2, arcs + 1)),
        group_splits=ints((2, num + 1)),
        final_tid=g["final_tid"],
        most=0,
    )
    numba_plan.make_plan(plan, g["arc_splits"], g["arc_src"])
    most = max(int(np.diff(splits).max(initial=0)) for splits in (g["arc_splits"], plan.group_edge[1]))
    return plan._replace(most=most)


def _source(emissions: torch.Tensor | OnDemand) -> tuple[Any, type]:
    """Emissions as the kernels read them, and the type to compute in."""
    if isinstance(emissions, OnDemand):
        return emissions.compiled(), np.float32
    half = HALVES.get(emissions.dtype, 0)
    array = emissions.detach()
    array = array.view(torch.int16).numpy().view(np.uint16) if half else array.numpy()
    return numba_scores.Dense(array, half), np.float64 if emissions.dtype == torch.float64 else np.float32


def _call(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
) -> tuple[numba_plan.Call, type]:
    """Kernel inputs, and the type to compute in."""
    source, dtype = _source(emissions)
    if transitions is None or transitions.shape[-1] == 0:
        scores: np.ndarray = np.zeros((1, 1, 1), dtype)
        timed = -1
    else:
        scores = transitions.detach().to(torch.float64 if dtype == np.float64 else torch.float32).numpy()
        timed = 0 if scores.ndim == 1 else 1
        scores = scores.reshape(1, 1, -1) if timed == 0 else scores
    frames = lengths.cpu().long().numpy()
    row_at, cell_at = numba_plan.offsets(frames, plan_of(graphs).splits)
    call = numba_plan.Call(
        source=source,
        num_pdfs=emissions.shape[2],
        lengths=frames,
        transitions=scores,
        timed=timed,
        row_at=row_at,
        cell_at=cell_at,
    )
    return call, dtype


class _Threads:
    """A pool of threads that is made when first needed, and anew in a forked process."""

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Drop the pool (its threads do not survive a fork)."""
        self.pool = None

    def run(self, action: Callable[[np.ndarray], None], tasks: np.ndarray, costs: np.ndarray) -> None:
        """Call action(some of the tasks) until every task has run; they are dealt out by cost."""
        count = min(torch.get_num_threads(), len(tasks))
        order = tasks[np.argsort(-costs, kind="stable")]
        if self.pool is None:
            self.pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="hmm")
        others = [self.pool.submit(action, order[i::count]) for i in range(1, count)]
        action(order[::count])
        for other in others:
            other.result()


_threads = _Threads()


def _tasks(kernel: Callable, tasks: np.ndarray, cell_at: np.ndarray, *rest) -> None:
    """Run kernel(tasks, *rest), task 2 n + direction being a half of utterance n, whose cells begin at cell_at[n]."""
    if cell_at[-1] < SERIAL_CELLS or torch.get_num_threads() == 1:
        kernel(tasks, *rest)
    else:
        _threads.run(lambda some: kernel(some, *rest), tasks, np.diff(cell_at)[tasks // 2])


def _forward(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    keep: bool,
) -> Saved:
    call, dtype = _call(graphs, emissions, lengths, transitions)
    plan = plan_of(graphs)
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
    args = (plan, call, keep, saved.rows, saved.cum, saved.mid, saved.mid_cum, alive, dtype(kernels.NEG))
    _tasks(kernels.forward_tasks, np.arange(2 * num), call.cell_at, *args)
    kernels.join(plan, call, saved.mid, saved.mid_cum, alive, saved.scores, dtype(kernels.NEG))
    return saved


def _backward(graphs: Graphs, saved: Saved, sink: occupancy.Sink, grads: np.ndarray) -> None:
    call = saved.call
    neg = saved.rows.dtype.type(kernels.NEG)
    args = (plan_of(graphs), call, sink, saved.rows, saved.cum, saved.mid, saved.mid_cum, saved.scores, grads, neg)
    _tasks(occupancy.backward_tasks, np.arange(2 * len(graphs)), call.cell_at, *args)


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
        dense=1,
        emissions=d_emissions,
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


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros in huge pages where there are such: taking a large gradient page by page costs more than computing it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < 2 * HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


def _by_tid(graphs: Graphs, counts: np.ndarray, transitions: torch.Tensor) -> torch.Tensor:
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
    saved = _forward(graphs, emissions, lengths, transitions, keep=True)
    call, dtype = saved.call, saved.rows.dtype
    sink = occupancy.Sink(
        dense=0,
        emissions=np.zeros((1, 1, 1), call.source.emissions.dtype),
        arcs=1,
        counts=np.zeros((2, graphs.num_arcs), dtype),
        transitions=np.zeros((1, 1, 1), dtype),
    )
    _backward(graphs, saved, sink, np.ones(len(graphs)))
    for n in np.flatnonzero(~np.isfinite(saved.scores)):
        saved.rows[call.cell_at[n] : call.cell_at[n + 1]] = 0
    scores = torch.from_numpy(saved.scores.astype(dtype))
    return scores, torch.from_numpy(saved.rows), torch.from_numpy(sink.counts.sum(0))


def viterbi(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    beams: Sequence[float] = (math.inf,),
) -> tuple[torch.Tensor, ...]:
    """Scores (N,), best states (N, T) numbered within their graph, arcs (N, T) taken into each frame, pdf-ids and
    transition-ids (N, T), -1 elsewhere; and how many of the beams were tried for each utterance (N,)."""
    call, dtype = _call(graphs, emissions, lengths, transitions)
    plan = plan_of(graphs)
    num = len(graphs)
    mid: np.ndarray = np.empty((2, graphs.num_states), dtype)
    mid_cum = np.empty((2, num))
    alive, tries = np.zeros((2, num), np.bool_), np.zeros(num, np.int64)
    scores, paths = np.full(num, -np.inf), np.full((4, num, emissions.shape[1]), -1, np.int64)
    for beam in beams:
        for some in _parts(np.flatnonzero(scores == -np.inf), call.cell_at):
            backpointers = np.empty(
                call.cell_at[some[-1] + 1] - call.cell_at[some[0]], np.uint8 if plan.most <= 250 else np.int32
            )
            cells = call.cell_at - call.cell_at[some[0]]
            args = (plan, call, float(beam), backpointers, cells, mid, mid_cum, alive, dtype(kernels.NEG))
            tasks = np.stack([2 * some, 2 * some + 1], axis=1).reshape(-1)
            _tasks(best_paths.viterbi_tasks, tasks, call.cell_at, *args)
            best_paths.trace(some, plan, call, backpointers, cells, mid, mid_cum, alive, scores, paths)
            tries[some] += 1
    return torch.from_numpy(scores.astype(dtype)), *torch.from_numpy(paths), torch.from_numpy(tries)


def _parts(utterances: np.ndarray, cell_at: np.ndarray) -> Iterator[np.ndarray]:
    """Runs of utterances within MAX_BACKPOINTERS cells of the batch (a larger utterance is a run)."""
    if len(utterances) and cell_at[-1] <= MAX_BACKPOINTERS:
        yield utterances
    elif len(utterances):
        yield from np.split(utterances, np.flatnonzero(np.diff(cell_at[utterances] // MAX_BACKPOINTERS)) + 1)
