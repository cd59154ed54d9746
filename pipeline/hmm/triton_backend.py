"""The engine on CUDA through Triton: no compiler to install, no synchronisation but for the lengths.

Without a GPU the same kernels run in Triton's interpreter (TRITON_INTERPRET=1), slowly: that is how they are tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.hmm import triton_kernels as kernels
from pipeline.hmm import triton_viterbi as best_paths
from pipeline.hmm.gradients import differentiable
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.paths import BestPaths
from pipeline.hmm.posteriors import along_paths

SEARCHES = False  # searches exactly, over all scores
MAX_BLOCK = 1024  # states that a program treats at once


@dataclasses.dataclass
class Plan:
    """Graphs as the kernels read them, on one device.

    Arcs lie twice: sorted by the state that they enter [0] and that they leave [1]; `other` (2, A) is the state at the
    other end, `arc` (2, A) the number of the arc, `begin` and `degree` (2, S) the arcs of each state, `most` (2, N)
    the largest degree of a graph, `ends` (2, S) start and final weights. Groups are the different pdfs of each graph:
    `group_splits` (N + 1,), `group_pdf` (G,), their states members[member_at[g] : member_at[g + 1]].
    """

    ends: torch.Tensor
    begin: torch.Tensor
    degree: torch.Tensor
    most: torch.Tensor
    other: torch.Tensor
    weight: torch.Tensor
    tid: torch.Tensor
    arc: torch.Tensor
    group_splits: torch.Tensor
    group_pdf: torch.Tensor
    member_at: torch.Tensor
    members: torch.Tensor
    group_most: torch.Tensor
    sizes: list[int]
    num_groups: int


def plan_of(graphs: Graphs) -> Plan:
    """The plan, kept with the graphs."""
    plan = graphs.__dict__.get("_triton_plan")
    if plan is None:
        plan = _make_plan(graphs)
        object.__setattr__(graphs, "_triton_plan", plan)
    return plan


def _largest(values: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    """(size,) largest value of each index, 0 where it has none."""
    return values.new_zeros(size).scatter_reduce(0, index, values, "amax", include_self=True)


def _make_plan(graphs: Graphs) -> Plan:
    num, graph, dst = len(graphs), graphs.state_graph(), graphs.arc_dst()
    first = graphs.state_splits.long()[:-1]
    src = graphs.arc_src.long() + first[graph[dst]]
    order = torch.argsort(src, stable=True)
    inward = (graphs.arc_splits[1:] - graphs.arc_splits[:-1]).long()
    outward = torch.bincount(src, minlength=graphs.num_states)
    degree = torch.stack([inward, outward])
    key, members = torch.sort(graph * max(graphs.num_pdfs, 1) + graphs.state_pdf.long(), stable=True)
    key, counts = torch.unique_consecutive(key, return_counts=True)
    group_graph = torch.div(key, max(graphs.num_pdfs, 1), rounding_mode="floor")
    per_graph = torch.bincount(group_graph, minlength=num)
    zero = first.new_zeros(1)
    local = torch.stack([graphs.arc_src.long(), (dst - first[graph[dst]])[order]])
    ints = {
        "begin": degree.cumsum(1) - degree,
        "degree": degree,
        "most": torch.stack([_largest(inward, graph, num), _largest(outward, graph, num)]),
        "other": local,
        "tid": torch.stack([graphs.arc_tid, graphs.arc_tid[order]]),
        "arc": torch.stack([torch.arange(len(order), device=order.device), order]),
        "group_splits": torch.cat([zero, per_graph.cumsum(0)]),
        "group_pdf": key - group_graph * max(graphs.num_pdfs, 1),
        "member_at": torch.cat([zero, counts.cumsum(0)]),
        "members": members - first[graph[members]],
        "group_most": _largest(counts, group_graph, num),
    }
    return Plan(
        ends=torch.stack([graphs.start_weight, graphs.final_weight]).contiguous(),
        weight=torch.stack([graphs.arc_weight, graphs.arc_weight[order]]).contiguous(),
        sizes=torch.diff(graphs.state_splits.cpu()).tolist(),
        num_groups=int(per_graph.max()) if num else 0,
        **{k: v.to(torch.int32).contiguous() for k, v in ints.items()},
    )


class _Call:
    """One call's inputs as kernel arguments."""

    def __init__(
        self, graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
    ) -> None:
        self.device = emissions.device
        self.graphs = graphs.to(self.device)
        self.plan = plan_of(self.graphs)
        self.dtype = torch.float64 if emissions.dtype == torch.float64 else torch.float32
        self.kind = kernels.tl.float64 if self.dtype == torch.float64 else kernels.tl.float32
        self.emissions = emissions.detach()
        self.num = len(graphs)
        frames = lengths.cpu().long()
        cells = frames * torch.tensor(self.plan.sizes, dtype=torch.int64)
        self.num_rows, self.num_cells = int(frames.sum()), int(cells.sum())
        self.row_at, self.cell_at = ((x.cumsum(0) - x).to(self.device) for x in (frames, cells))
        self.lengths = lengths.to(self.device, torch.int32)
        used = None if transitions is None or transitions.shape[-1] == 0 else transitions.detach().contiguous()
        self.scored, self.timed = used is not None, used is not None and used.dim() == 3
        scores = self.new(1) if used is None else used
        self.transitions = (scores, *(scores.stride()[:2] if self.timed else (0, 0)))
        self.block = 1 << max(4, min(max(self.plan.sizes, default=1), MAX_BLOCK) - 1).bit_length()
        self.meta = {"DT": self.kind, "BLOCK": self.block, "num_warps": 8 if self.block > 256 else 4, "num_stages": 1}
        self.sweep = {"SCORED": self.scored, **self.meta}

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """An uninitialised tensor of the call's type."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    @property
    def scores_in(self) -> tuple[Any, ...]:
        """Emissions and transitions with their strides, and the lengths."""
        return (self.emissions, *self.emissions.stride(), *self.transitions, self.lengths)

    @property
    def arcs(self) -> tuple[torch.Tensor, ...]:
        """Arcs in both orders."""
        p = self.plan
        return p.begin, p.degree, p.most, p.other, p.weight, p.tid


@dataclasses.dataclass
class Saved:
    """What a forward pass hands to the backward pass: half alpha, half beta, O(T x S) per utterance."""

    call: _Call
    rows: torch.Tensor
    cum: torch.Tensor
    mid: torch.Tensor
    mid_cum: torch.Tensor
    scores: torch.Tensor


def _forward(call: _Call, keep: bool) -> Saved:
    states, wide = call.graphs.num_states, torch.float64
    saved = Saved(
        call=call,
        rows=call.new(call.num_cells if keep else 1),
        cum=call.new(call.num_rows if keep else 1, dtype=wide),
        mid=call.new(2, states),
        mid_cum=call.new(2, call.num, dtype=wide),
        scores=call.new(call.num, dtype=wide),
    )
    if call.num == 0:
        return saved
    g = call.graphs
    kernels.forward[(2 * call.num,)](
        *call.scores_in, call.row_at, call.cell_at, g.state_splits, g.state_pdf, call.plan.ends, *call.arcs,
        call.num, states, g.num_arcs, call.new(4, states), saved.rows, saved.cum, saved.mid, saved.mid_cum,
        KEEP=keep, **call.sweep,
    )  # fmt: skip
    kernels.join[(call.num,)](
        call.emissions, *call.emissions.stride(), call.lengths, g.state_splits, g.state_pdf, call.num, states,
        saved.mid, saved.mid_cum, saved.scores, **call.meta,
    )  # fmt: skip
    return saved


def _backward(saved: Saved, grads: torch.Tensor, arcs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Occupancies of states as they lie in `rows`, of arcs (2, A) if `arcs` is 1, of transition-ids (N, T, K) if 2."""
    call, g = saved.call, saved.call.graphs
    states = torch.empty_like(saved.rows)
    counts = torch.zeros((2, g.num_arcs if arcs == 1 else 1), dtype=call.dtype, device=call.device)
    timed = call.new(1, 1, 1)
    if arcs == 2:
        timed = torch.zeros(call.transitions[0].shape, dtype=call.dtype, device=call.device)
    if call.num:
        kernels.backward[(2 * call.num,)](
            *call.scores_in, call.row_at, call.cell_at, g.state_splits, g.state_pdf, *call.arcs, call.plan.arc,
            call.num, g.num_states, g.num_arcs, call.new(4, g.num_states), saved.rows, saved.cum, saved.mid,
            saved.mid_cum, saved.scores, grads, states, counts, timed, *timed.stride()[:2], ARCS=arcs, **call.sweep,
        )  # fmt: skip
    return states, counts, timed


def forward(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    keep: bool,
) -> tuple[torch.Tensor, Saved | None]:
    """Scores (N,) and, with `keep`, what `backward` needs."""
    saved = _forward(_Call(graphs, emissions, lengths, transitions), keep)
    return saved.scores.to(saved.call.dtype), saved if keep else None


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
    call, plan = saved.call, saved.call.plan
    arcs = 0 if not (need_transitions and call.scored) else 2 if call.timed else 1
    grads = grad.detach().to(call.device, torch.float64).contiguous()
    states, counts, timed = _backward(saved, grads, arcs)
    d_emissions = torch.zeros(emissions.shape, dtype=emissions.dtype, device=call.device)
    if call.num_rows:
        row_graph = torch.repeat_interleave(torch.arange(call.num, device=call.device), call.lengths.long())
        block = min(call.block, 256)
        kernels.scatter[(call.num_rows, -(-plan.num_groups // block))](
            d_emissions, *d_emissions.stride(), row_graph, call.row_at, call.cell_at, call.graphs.state_splits,
            saved.scores, grads, states, plan.group_splits, plan.group_pdf, plan.member_at, plan.members,
            plan.group_most, BLOCK=block, num_warps=4 if block > 32 else 1,
        )  # fmt: skip
    d_transitions = None
    if arcs == 2:
        assert transitions is not None
        d_transitions = timed.to(transitions.dtype)
    elif need_transitions:
        assert transitions is not None
        d_transitions = torch.zeros(transitions.shape, dtype=torch.float64, device=call.device)
        if arcs == 1:
            scored = call.graphs.arc_tid >= 0
            d_transitions.index_add_(0, call.graphs.arc_tid[scored].long(), counts.double().sum(0)[scored])
        d_transitions = d_transitions.to(transitions.dtype)
    return d_emissions, d_transitions


def occupancies(
    graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (N,), state occupancies (sum of T_n S_n,) frame by frame of each graph, expected counts of arcs (A,)."""
    call = _Call(graphs, emissions, lengths, transitions)
    saved = _forward(call, keep=True)
    states, counts, _ = _backward(saved, torch.ones(call.num, dtype=torch.float64, device=call.device), arcs=1)
    cells = (call.lengths.long().cpu() * torch.tensor(call.plan.sizes, dtype=torch.int64)).to(call.device)
    alive = torch.repeat_interleave(torch.isfinite(saved.scores), cells)
    states = states[: len(alive)]
    return saved.scores.to(call.dtype), torch.where(alive, states, torch.zeros_like(states)), counts.sum(0)


full_sum = differentiable(forward, backward)
path_posteriors = along_paths(occupancies)


def viterbi(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    beams: Sequence[float] = (),
) -> BestPaths:
    """Best paths by an exact search, whatever the beams."""
    call = _Call(graphs, emissions, lengths, transitions)
    g = call.graphs
    backpointer, last = call.new(call.num_cells, dtype=torch.int32), call.new(call.num, dtype=torch.int32)
    scores = call.new(call.num, dtype=torch.float64)
    states, arcs = torch.full((2, *emissions.shape[:2]), -1, dtype=torch.int64, device=call.device)
    if call.num:
        best_paths.viterbi[(call.num,)](
            *call.scores_in, call.cell_at, g.state_splits, g.state_pdf, call.plan.ends, *call.arcs, g.num_states,
            call.new(2, g.num_states), backpointer, last, scores, **call.sweep,
        )  # fmt: skip
        best_paths.trace[(call.num,)](
            call.lengths, call.cell_at, g.state_splits, call.plan.other, backpointer, last, scores, states, arcs,
            states.stride(0), num_warps=1,
        )  # fmt: skip
    return BestPaths.named(graphs, scores.to(call.dtype), states, arcs, lengths)
