"""Best paths through a batch of HMM graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from pipeline.hmm.backends import load
from pipeline.hmm.full_sum import check, occupancies
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand


@dataclasses.dataclass(frozen=True)
class BestPaths:
    """Best path of each utterance; -1 behind its end and everywhere in an utterance without a path.

    Args:
        scores: (N,) natural-log score of the path; -inf without a path.
        states: (N, T) int64, state at each frame, numbered within its graph.
        arcs: (N, T) int64, arc taken into each frame, counted over the batch; -1 at frame 0.
        pdfs: (N, T) int64, pdf-id at each frame.
        tids: (N, T) int64, transition-id at each frame: the label of the arc that leaves the frame's state, that is,
            of the arc into frame t + 1; at the last frame the state's final_tid. So each frame names its own state,
            as in Kaldi's alignments.
        confidence: (N, T) float32, posterior of the frame's pdf given the utterance (0 behind the end); None unless
            asked for.
        tries: (N,) int64, how many beams were tried.
    """

    scores: torch.Tensor
    states: torch.Tensor
    arcs: torch.Tensor
    pdfs: torch.Tensor
    tids: torch.Tensor
    confidence: torch.Tensor | None
    tries: torch.Tensor


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
    """Best path of each utterance. Equal scores resolve to the first arc into a state, so results repeat.

    Args:
        graphs, lengths, transitions, backend: as for `full_sum`.
        emissions: as for `full_sum`, or scores on demand.
        confidence: also compute the posterior of each frame's pdf, at the cost of a full-sum pass over all scores.
        beams: natural logs by which a path may fall behind the best one of its frame, counted from either end of the
            utterance; each but the first is for the utterances that found no path with the one before. For the CPU
            backend, which gains by it; the others search exactly.
    """
    check(graphs, emissions, lengths, transitions)
    engine = load(backend, emissions)
    with torch.no_grad():
        if engine.SEARCHES:
            scores, states, arcs, pdfs, tids, tries = engine.viterbi(graphs, emissions, lengths, transitions, beams)
        else:
            scores, states, arcs = engine.viterbi(graphs, all_scores(emissions), lengths, transitions)
            pdfs, tids = _names(graphs.to(states.device), states, arcs, lengths)
            tries = torch.ones_like(lengths)
    posterior = None
    if confidence:
        occupied = occupancies(graphs, all_scores(emissions), lengths, transitions, backend)
        posterior = _confidence(occupied, pdfs)
    return BestPaths(scores, states, arcs, pdfs, tids, posterior, tries)


def all_scores(emissions: torch.Tensor | OnDemand) -> torch.Tensor:
    """(N, T, P) scores as a tensor."""
    return emissions.dense() if isinstance(emissions, OnDemand) else emissions


def _names(
    graphs: Graphs, states: torch.Tensor, arcs: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """pdf-ids and transition-ids (N, T) of paths."""
    inside = states >= 0
    first = graphs.state_splits[:-1].long()[:, None]
    flat = (states + first) * inside
    none = torch.full_like(states, -1)
    pdfs = torch.where(inside, graphs.state_pdf.long()[flat], none)
    tids = none.clone()
    if graphs.num_arcs:
        leaving = torch.where(arcs >= 0, graphs.arc_tid.long()[arcs.clamp(min=0)], none)
        tids[:, :-1] = leaving[:, 1:]
    frame = torch.arange(states.shape[1], device=states.device)
    last = inside & (frame + 1 == lengths.to(states.device)[:, None])
    return pdfs, torch.where(last, graphs.final_tid.long()[flat], tids)


def _confidence(occupied, pdfs: torch.Tensor) -> torch.Tensor:
    """Posterior (N, T) of the pdf of each frame, summed over the states that share it."""
    out = torch.zeros(pdfs.shape, dtype=torch.float32, device=pdfs.device)
    splits = occupied.graphs.state_splits.tolist()
    for n in range(len(pdfs)):
        gamma = occupied.of(n)
        pdf = occupied.graphs.state_pdf[splits[n] : splits[n + 1]].to(pdfs.device).long()
        length = len(gamma)
        same = pdf[None, :] == pdfs[n, :length, None]
        out[n, :length] = (gamma * same).sum(1).to(torch.float32)
    return out
