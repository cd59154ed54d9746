"""Calls of the CPU backend's compiled loops: their inputs, the threads that run them, and the cache of their code.

The kernels release the interpreter lock and plain threads share the utterances out, so that nothing here conflicts
with forked data loading or with OpenMP. Kernels are compiled at their first use and kept in numba's cache.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.hmm import numba_cache, numba_long, numba_math, numba_plan, numba_scores, numba_viterbi
from pipeline.hmm import numba_kernels as kernels
from pipeline.hmm import numba_occupancy as occupancy
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.threads import thread_count

SERIAL_CELLS = 10_000  # below this many states x frames a second thread costs more than it saves
MAX_CELLS = 64 << 20  # states x frames of an utterance of which all is kept; and of the utterances searched at once
HALVES = {torch.bfloat16: 1, torch.float16: 2}


def drop_stale_code(*more: str) -> None:
    """numba's cache looks at the file of a loop, not at those it calls into: drop what is older than any of them.

    Args:
        more: source files of further functions that the loops here are compiled with.
    """
    modules = (numba_plan, kernels, numba_math, numba_scores, occupancy, numba_viterbi, numba_long)
    sources = [Path(str(module.__file__)) for module in modules]
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


def source_of(emissions: torch.Tensor | OnDemand) -> tuple[Any, type]:
    """Emissions as the kernels read them, and the type to compute in."""
    if isinstance(emissions, OnDemand):
        return emissions.compiled(), np.float32
    half = HALVES.get(emissions.dtype, 0)
    array = emissions.detach()
    array = array.view(torch.int16).numpy().view(np.uint16) if half else array.numpy()
    return numba_scores.Dense(array, half), np.float64 if emissions.dtype == torch.float64 else np.float32


def call_of(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    most_cells: int,
) -> tuple[numba_plan.Call, type]:
    """Kernel inputs, and the type to compute in; up to so many cells all rows of an utterance are stored."""
    source, dtype = source_of(emissions)
    if transitions is None or transitions.shape[-1] == 0:
        scores: NDArray[Any] = np.zeros((1, 1, 1), dtype)
        timed = -1
    else:
        scores = transitions.detach().to(torch.float64 if dtype == np.float64 else torch.float32).numpy()
        timed = 0 if scores.ndim == 1 else 1
        scores = scores.reshape(1, 1, -1) if timed == 0 else scores
    frames = lengths.cpu().long().numpy()
    row_at, cell_at, every = numba_plan.offsets(frames, plan_of(graphs).splits, most_cells)
    call = numba_plan.Call(
        source=source,
        num_pdfs=emissions.shape[2],
        lengths=frames,
        transitions=scores,
        timed=timed,
        row_at=row_at,
        cell_at=cell_at,
        every=every,
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

    def run(self, action: Callable[[NDArray[Any]], None], tasks: NDArray[Any], costs: NDArray[Any]) -> None:
        """Call action(some of the tasks) until every task has run; they are dealt out by cost."""
        count = min(thread_count(), len(tasks))
        order = tasks[np.argsort(-costs, kind="stable")]
        if self.pool is None:
            self.pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="hmm")
        others = [self.pool.submit(action, order[i::count]) for i in range(1, count)]
        action(order[::count])
        for other in others:
            other.result()


_threads = _Threads()


def run_halves(
    kernel: Callable[..., None], tasks: NDArray[Any], plan: numba_plan.Plan, call: numba_plan.Call, *rest: Any
) -> None:
    """Run kernel(tasks, plan, call, *rest), task 2 n + direction being a half of utterance n."""
    costs = np.diff(plan.splits).astype(np.int64) * call.lengths
    if costs.sum() < SERIAL_CELLS or thread_count() == 1:
        kernel(tasks, plan, call, *rest)
    else:
        _threads.run(lambda some: kernel(some, plan, call, *rest), tasks, costs[tasks // 2])
