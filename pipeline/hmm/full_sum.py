"""Full-sum scores and occupancies of a batch of HMM graphs, differentiable in emissions and transitions.

    log Z = log sum over paths  prod_t  exp( e[t, pdf(s_t)] + r[t, tid(a_t)] + w(a_t) )

d log Z / d e[t, p] is the probability of emitting p at frame t given the utterance, d log Z / d r[t, k] that of taking
an arc labelled k into frame t: the occupancies of Baum-Welch training (cf. Mann et al. 2023, section 3). Scales,
priors and log-softmax are applied to e and r outside, where autograd sees them.
"""

from __future__ import annotations

import torch

from pipeline.hmm.backends import load
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.posteriors import Occupancies


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
    return load(backend, emissions).full_sum(graphs, emissions, lengths, transitions)


def feasible(scores: torch.Tensor) -> torch.Tensor:
    """(N,) bool: the utterance has a path. Mask by it, and count what it excludes."""
    return torch.isfinite(scores.detach())


def occupancies(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None = None,
    backend: str = "auto",
) -> Occupancies:
    """Soft alignments: arguments as for `full_sum`, no gradient is recorded.

    They take T x S numbers an utterance. For a recording that has too many of these take the gradient of `full_sum`,
    (T, P), or the confidence of `viterbi`, (T,), which stay small.
    """
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
