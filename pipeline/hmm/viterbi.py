"""Best paths through a batch of HMM graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from pipeline.hmm.backends import load
from pipeline.hmm.full_sum import check
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.paths import BestPaths


def widening(first: float) -> tuple[float, ...]:
    """A beam, four times the beam, and none: the last search is exact, so only scores without any path fail."""
    return (first, 4 * first, math.inf) if math.isfinite(first) else (math.inf,)


def viterbi(
    graphs: Graphs,
    emissions: torch.Tensor | OnDemand,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None = None,
    backend: str = "auto",
    confidence: bool = False,
    beams: Sequence[float] = (math.inf,),
) -> BestPaths:
    """Best path of each utterance. Results repeat, equal scores included; those resolve by backend: to the first arc
    into a state with torch and Triton; on the CPU, where both halves are searched towards the middle frame, to the
    first state of that frame, and on either side of it to the loop before steps by one, by two, and other arcs.

    Args:
        graphs, lengths, transitions, backend: as for `full_sum`.
        emissions: as for `full_sum`, or scores on demand.
        confidence: also compute the posterior of each frame's pdf, at the cost of a full-sum pass. The CPU backend
            keeps a part of long recordings only (T x S above 64 million): 2 sqrt(T / 2) S numbers.
        beams: natural logs by which a path may fall behind the best one of its frame, counted from either end of the
            utterance; each but the first is for the utterances that found no path with the one before. For the CPU
            backend, which gains by it; the others search exactly.
    """
    check(graphs, emissions, lengths, transitions)
    engine = load(backend, emissions)
    with torch.no_grad():
        if not engine.SEARCHES:
            emissions = all_scores(emissions)
        best = engine.viterbi(graphs, emissions, lengths, transitions, beams)
        if not confidence:
            return best
        posterior = engine.path_posteriors(graphs, emissions, lengths, transitions, best.pdfs)
    return dataclasses.replace(best, confidence=posterior)


def all_scores(emissions: torch.Tensor | OnDemand) -> torch.Tensor:
    """(N, T, P) scores as a tensor."""
    return emissions.dense() if isinstance(emissions, OnDemand) else emissions
