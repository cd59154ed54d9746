"""Full-sum scores and occupancies of a batch of HMM graphs, differentiable in emissions and transitions.

    log Z = log sum over paths  prod_t  exp( e[t, pdf(s_t)] + r[t, tid(a_t)] + w(a_t) )

d log Z / d e[t, p] is the probability of emitting p at frame t given the utterance, d log Z / d r[t, k] that of taking
an arc labelled k into frame t: the occupancies of Baum-Welch training (cf. Mann et al. 2023, section 3). Scales,
priors and log-softmax are applied to e and r outside, where autograd sees them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pipeline.hmm.backends import load
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand


def full_sum(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Log-likelihood of each utterance, summed over the paths of its graph.

    Args:
        graphs: N graphs.
        emissions: (N, T, P) natural-log emission scores; float32, float64, float16 or bfloat16. NaN and +inf count
            as impossible.
        lengths: (N,) frames of each utterance; what lies behind is not read and gets a zero gradient.
        transitions: None, (K,) natural-log scores by transition-id, or (N, T, K), where frame t holds the scores of
            the arcs taken into frame t (frame 0 is not read).
        backend: "auto", "numba", "torch", "triton" or "k2".
    Returns:
        (N,) float32 (float64 for float64 emissions). An utterance without any path gets -inf and a zero gradient,
        whatever gradient reaches it; `feasible` finds them.
    """
    check(graphs, emissions, lengths, transitions)
    engine = load(backend, emissions)
    if hasattr(engine, "full_sum"):
        return engine.full_sum(graphs, emissions, lengths, transitions)
    return _FullSum.apply(emissions, transitions, graphs, lengths, engine)


def feasible(scores: torch.Tensor) -> torch.Tensor:
    """(N,) bool: the utterance has a path. Mask by it, and count what it excludes."""
    return torch.isfinite(scores.detach())


@dataclasses.dataclass(frozen=True)
class Occupancies:
    """Posterior probabilities of states and arcs given the utterances.

    Args:
        scores: (N,) as `full_sum` gives them; all occupancies of an utterance without a path are 0.
        state: (sum of T_n S_n,) probabilities of being in state s at frame t, frame by frame, graph after graph.
        arc: (A,) expected number of times that each arc is taken.
        graphs, lengths: what they were computed for.
    """

    scores: torch.Tensor
    state: torch.Tensor
    arc: torch.Tensor
    graphs: Graphs
    lengths: torch.Tensor

    def of(self, n: int) -> torch.Tensor:
        """(T_n, S_n) state occupancies of utterance n (a view)."""
        sizes = (self.graphs.state_splits[1:] - self.graphs.state_splits[:-1]).cpu().long()
        cells = sizes * self.lengths.cpu().long()
        begin = int(cells[:n].sum())
        return self.state[begin : begin + int(cells[n])].view(int(self.lengths[n]), int(sizes[n]))

    def pdf(self, num_frames: int | None = None, num_pdfs: int | None = None) -> torch.Tensor:
        """(N, T, P) occupancies of the pdfs, zero behind each utterance's end."""
        num_frames = int(self.lengths.max()) if num_frames is None else num_frames
        num_pdfs = self.graphs.num_pdfs if num_pdfs is None else num_pdfs
        out = self.state.new_zeros((len(self.graphs), num_frames, num_pdfs))
        splits = self.graphs.state_splits.tolist()
        for n in range(len(self.graphs)):
            pdf = self.graphs.state_pdf[splits[n] : splits[n + 1]].to(out.device).long()
            out[n, : int(self.lengths[n])].index_add_(1, pdf, self.of(n))
        return out

    def tid_counts(self, include_final: bool = False) -> torch.Tensor:
        """(num_tids,) expected number of times that each transition-id is scored.

        Args:
            include_final: also count the transition-id that names the last frame (as Kaldi's accumulators do).
        """
        graphs = self.graphs.to(self.arc.device)
        size = max(graphs.num_tids, int(graphs.final_tid.max()) + 1 if include_final else 0)
        out = torch.zeros(size, dtype=torch.float64, device=self.arc.device)
        scored = graphs.arc_tid >= 0
        out.index_add_(0, graphs.arc_tid[scored].long(), self.arc[scored].double())
        if include_final:
            splits = graphs.state_splits.tolist()
            for n in range(len(graphs)):
                tid = graphs.final_tid[splits[n] : splits[n + 1]].long()
                if int(self.lengths[n]) > 0:
                    out.index_add_(0, tid[tid >= 0], self.of(n)[-1][tid >= 0].double())
        return out


def occupancies(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None = None,
    backend: str = "auto",
) -> Occupancies:
    """Soft alignments: arguments as for `full_sum`, no gradient is recorded."""
    check(graphs, emissions, lengths, transitions)
    engine = load(backend, emissions)
    with torch.no_grad():
        scores, state, arc = engine.occupancies(graphs, emissions, lengths, transitions)
    return Occupancies(scores, state, arc, graphs, lengths)


def check(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
) -> None:
    """Assert that the shapes of a call fit together."""
    assert len(emissions.shape) == 3, emissions.shape
    assert isinstance(emissions, OnDemand) or emissions.is_floating_point(), emissions.dtype
    num = len(graphs)
    assert num == emissions.shape[0] == lengths.shape[0], (num, emissions.shape, lengths.shape)
    assert graphs.num_pdfs <= emissions.shape[2], (graphs.num_pdfs, emissions.shape)
    assert num == 0 or (int(lengths.min()) >= 0 and int(lengths.max()) <= emissions.shape[1]), lengths
    if transitions is not None:
        assert transitions.is_floating_point() and transitions.shape[-1] >= graphs.num_tids, transitions.shape
        assert transitions.dim() == 1 or tuple(transitions.shape[:-1]) == tuple(emissions.shape[:-1]), transitions.shape


class _FullSum(torch.autograd.Function):
    """The one place where occupancies become gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        emissions: torch.Tensor,
        transitions: torch.Tensor | None,
        graphs: Graphs,
        lengths: torch.Tensor,
        engine: Any,
    ) -> torch.Tensor:
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        scores, saved = engine.forward(graphs, emissions, lengths, transitions, keep)
        if keep:
            ctx.save_for_backward(emissions, transitions)
            ctx.rest = (graphs, lengths, engine, saved)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        emissions, transitions = ctx.saved_tensors
        graphs, lengths, engine, saved = ctx.rest
        d_emissions, d_transitions = engine.backward(
            graphs, emissions, lengths, transitions, saved, grad, ctx.needs_input_grad[1]
        )
        return d_emissions if ctx.needs_input_grad[0] else None, d_transitions, None, None, None
