"""The engine in plain torch, for any device: the fallback, and the float64 reference of the tests.

One step per frame over all arcs of the batch. Scores are kept relative to the best state of each graph and frame, so
float32 does not lose the differences between states late in a long utterance.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import torch

from pipeline.hmm.gradients import differentiable
from pipeline.hmm.graphs import NEG_INF, Graphs
from pipeline.hmm.paths import BestPaths
from pipeline.hmm.posteriors import along_paths

SEARCHES = False  # searches exactly, over all scores
warnings.filterwarnings("ignore", message="scatter_reduce.* is in beta")  # torch 1.13 says so at each first use


@dataclasses.dataclass
class Saved:
    """What a forward pass hands to the backward pass: alpha (T, S) and the scores (N,)."""

    alpha: torch.Tensor
    scores: torch.Tensor


class _Batch:
    """Index tensors of one call, with every arc and state counted over the batch."""

    def __init__(
        self, graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
    ) -> None:
        device = emissions.device
        graphs = graphs.to(device)
        self.dtype = emissions.dtype if emissions.dtype == torch.float64 else torch.float32
        self.emissions, self.transitions = emissions, transitions
        self.pdf = graphs.state_pdf.long()
        self.graph = graphs.state_graph()
        self.dst = graphs.arc_dst()
        self.arc_graph = self.graph[self.dst]
        self.src = graphs.arc_src.long() + graphs.state_splits.long()[self.arc_graph]
        self.weight = graphs.arc_weight.to(self.dtype)
        self.start, self.final = graphs.start_weight.to(self.dtype), graphs.final_weight.to(self.dtype)
        self.tid = graphs.arc_tid.long()
        self.num_graphs, self.num_states, self.num_arcs = len(graphs), graphs.num_states, graphs.num_arcs
        self.lengths = lengths.to(device).long()
        self.num_frames = int(self.lengths.max()) if len(self.lengths) else 0

    def emit(self, t: int) -> torch.Tensor:
        """(S,) emission of every state at frame t."""
        return self.emissions[self.graph, t, self.pdf].to(self.dtype)

    def arc_score(self, t: int) -> torch.Tensor:
        """(A,) weight and transition score of every arc taken into frame t."""
        if self.transitions is None or self.transitions.shape[-1] == 0:
            return self.weight
        tid = self.tid.clamp(min=0)
        if self.transitions.dim() == 1:
            score = self.transitions[tid]
        else:
            score = self.transitions[self.arc_graph, t, tid]
        return self.weight + torch.where(self.tid >= 0, score.to(self.dtype), torch.zeros_like(self.weight))

    def max_of(self, values: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
        """(size,) maximum of the values of each index, -inf where it has none."""
        out = values.new_full((size,), NEG_INF)
        return out.scatter_reduce(0, index, values, "amax", include_self=True)

    def log_sum(self, values: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
        """(size,) log of the summed exponentials of the values of each index, -inf where it has none."""
        best = self.max_of(values, index, size)
        safe = torch.where(best > NEG_INF, best, torch.zeros_like(best))
        total = values.new_zeros(size).index_add(0, index, (values - safe[index]).exp())
        return safe + total.log()

    def softmax(self, values: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
        """Exponentials that sum to 1 over each index; 0 where all of it is -inf."""
        best = self.max_of(values, index, size)
        safe = torch.where(best > NEG_INF, best, torch.zeros_like(best))
        shares = (values - safe[index]).exp()
        # Divided by their own sum, not shifted by its logarithm: values far below 0 would lose digits.
        total = values.new_zeros(size).index_add(0, index, shares)
        return shares / torch.where(total > 0, total, torch.ones_like(total))[index]

    def centred(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The values less the best of their graph, and that best (N,), 0 where there is none."""
        best = self.max_of(values, self.graph, self.num_graphs)
        best = torch.where(best > NEG_INF, best, torch.zeros_like(best))
        return values - best[self.graph], best


def _clean(values: torch.Tensor) -> torch.Tensor:
    """NaN and +inf count as impossible, so that they surface as an utterance without a path."""
    return torch.where(values < float("inf"), values, torch.full_like(values, NEG_INF))


def forward(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    keep: bool,
) -> tuple[torch.Tensor, Saved | None]:
    """Scores (N,) float64 or float32 and, with `keep`, what `backward` needs."""
    b = _Batch(graphs, emissions, lengths, transitions)
    total = torch.zeros(b.num_graphs, dtype=torch.float64, device=emissions.device)
    alpha = torch.full_like(b.start, NEG_INF)
    rows = []
    for t in range(b.num_frames):
        if t == 0:
            new = b.start + _clean(b.emit(0))
        else:
            new = b.log_sum(_clean(alpha[b.src] + b.arc_score(t)), b.dst, b.num_states) + _clean(b.emit(t))
        new, best = b.centred(new)
        active = t < b.lengths
        total = total + torch.where(active, best, torch.zeros_like(best)).double()
        alpha = torch.where(active[b.graph], new, alpha)
        if keep:
            rows.append(alpha)
    scores = b.log_sum(alpha + b.final, b.graph, b.num_graphs).double() + total
    scores = scores.to(b.dtype)
    saved = Saved(torch.stack(rows) if rows else alpha.new_zeros((0, b.num_states)), scores) if keep else None
    return scores, saved


class _Sweep:
    """The backward recursion: yields per frame the occupancies of states and of the arcs into the next frame."""

    def __init__(self, b: _Batch, saved: Saved) -> None:
        self.b, self.saved = b, saved
        feasible = torch.isfinite(saved.scores)
        self.state_ok, self.arc_ok = feasible[b.graph], feasible[b.arc_graph]

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        b = self.b
        beta = torch.full_like(b.start, NEG_INF)
        for t in reversed(range(b.num_frames)):
            arcs = None
            if t + 1 < b.num_frames:
                into = _clean((_clean(b.emit(t + 1)) + beta)[b.dst] + b.arc_score(t + 1))
                inside = (t + 1 < b.lengths)[b.arc_graph] & self.arc_ok
                value = torch.where(inside, self.saved.alpha[t][b.src] + into, torch.full_like(into, NEG_INF))
                arcs = b.softmax(value, b.arc_graph, b.num_graphs)
                beta = b.centred(b.log_sum(into, b.src, b.num_states))[0]
            ends = (b.lengths == t + 1)[b.graph]
            beta = torch.where(ends, b.final, beta)
            beta = torch.where((t < b.lengths)[b.graph], beta, torch.full_like(beta, NEG_INF))
            value = torch.where(self.state_ok, self.saved.alpha[t] + beta, torch.full_like(beta, NEG_INF))
            yield t, b.softmax(value, b.graph, b.num_graphs), arcs


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
    b = _Batch(graphs, emissions, lengths, transitions)
    feasible = torch.isfinite(saved.scores)
    grad = torch.where(feasible, grad.to(b.dtype), torch.zeros_like(saved.scores))
    d_emissions = torch.zeros(emissions.shape, dtype=b.dtype, device=emissions.device)
    d_transitions = None
    if need_transitions:
        assert transitions is not None
        d_transitions = torch.zeros(transitions.shape, dtype=b.dtype, device=emissions.device)
    scored = b.tid >= 0
    for t, states, arcs in _Sweep(b, saved):
        frame = d_emissions[:, t]
        frame.index_put_((b.graph, b.pdf), states * grad[b.graph], accumulate=True)
        if d_transitions is not None and transitions is not None and arcs is not None:
            value = (arcs * grad[b.arc_graph])[scored]
            if transitions.dim() == 1:
                d_transitions.index_add_(0, b.tid[scored], value)
            else:
                frame = d_transitions[:, t + 1]
                frame.index_put_((b.arc_graph[scored], b.tid[scored]), value, accumulate=True)
    d_emissions = d_emissions.to(emissions.dtype)
    if d_transitions is not None and transitions is not None:
        d_transitions = d_transitions.to(transitions.dtype)
    return d_emissions, d_transitions


def occupancies(
    graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (N,), state occupancies (sum of T_n S_n,) frame by frame of each graph, expected counts of arcs (A,)."""
    scores, saved = forward(graphs, emissions, lengths, transitions, keep=True)
    assert saved is not None
    b = _Batch(graphs, emissions, lengths, transitions)
    states = torch.zeros((b.num_frames, b.num_states), dtype=b.dtype, device=emissions.device)
    counts = torch.zeros(b.num_arcs, dtype=b.dtype, device=emissions.device)
    for t, gamma, arcs in _Sweep(b, saved):
        states[t] = gamma
        if arcs is not None:
            counts += arcs
    splits = graphs.state_splits.tolist()
    flat = [states[: int(b.lengths[n]), splits[n] : splits[n + 1]].reshape(-1) for n in range(len(graphs))]
    return scores, torch.cat(flat) if flat else states.reshape(-1), counts


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
    b = _Batch(graphs, emissions, lengths, transitions)
    device = emissions.device
    total = torch.zeros(b.num_graphs, dtype=torch.float64, device=device)
    alpha = torch.full_like(b.start, NEG_INF)
    none = torch.full((b.num_states,), b.num_arcs, dtype=torch.long, device=device)
    arcs = torch.arange(b.num_arcs, device=device)
    backpointer = []
    for t in range(b.num_frames):
        if t == 0:
            new, chosen = b.start + _clean(b.emit(0)), none
        else:
            value = _clean(alpha[b.src] + b.arc_score(t))
            best = b.max_of(value, b.dst, b.num_states)
            # The first of equally good arcs wins, on every device.
            first = torch.where(value == best[b.dst], arcs, torch.full_like(arcs, b.num_arcs))
            chosen = none.scatter_reduce(0, b.dst, first, "amin", include_self=True)
            new = best + _clean(b.emit(t))
        new, best = b.centred(new)
        active = t < b.lengths
        total = total + torch.where(active, best, torch.zeros_like(best)).double()
        alpha = torch.where(active[b.graph], new, alpha)
        backpointer.append(chosen)
    last = alpha + b.final
    best = b.max_of(last, b.graph, b.num_graphs)
    scores = (best.double() + total).to(b.dtype)
    here = torch.arange(b.num_states, device=device)
    first = torch.where(last == best[b.graph], here, torch.full_like(here, b.num_states))
    state = torch.full((b.num_graphs,), b.num_states, dtype=torch.long, device=device)
    state = state.scatter_reduce(0, b.graph, first, "amin", include_self=True)
    states, taken = _trace(b, scores, state, backpointer, emissions.shape[1], graphs)
    return BestPaths.named(graphs, scores, states, taken, lengths)


def _trace(
    b: _Batch,
    scores: torch.Tensor,
    state: torch.Tensor,
    backpointer: list[torch.Tensor],
    num_frames: int,
    graphs: Graphs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow the chosen arcs from the best last states back to frame 0."""
    states = torch.full((b.num_graphs, num_frames), -1, dtype=torch.long, device=scores.device)
    arcs = states.clone()
    feasible = torch.isfinite(scores)
    source = torch.cat([b.src, b.src.new_zeros(1)])
    state = state.clamp(max=max(b.num_states - 1, 0))
    for t in reversed(range(b.num_frames)):
        active = (t < b.lengths) & feasible
        states[:, t] = torch.where(active, state, states[:, t])
        if t > 0:
            arc = backpointer[t][state]
            arcs[:, t] = torch.where(active, arc, arcs[:, t])
            state = torch.where(active, source[arc], state)
    first_state = graphs.state_splits.to(scores.device).long()[:-1, None]
    return torch.where(states >= 0, states - first_state, states), arcs
