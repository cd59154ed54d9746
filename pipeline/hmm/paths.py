"""Best paths as every backend returns them."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.hmm.graphs import Graphs


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
        tries: (N,) integers, how many beams were tried.
        confidence: (N, T) float32, posterior of the frame's pdf given the utterance (0 behind the end); None unless
            asked for.
    """

    scores: torch.Tensor
    states: torch.Tensor
    arcs: torch.Tensor
    pdfs: torch.Tensor
    tids: torch.Tensor
    tries: torch.Tensor
    confidence: torch.Tensor | None = None

    @staticmethod
    def named(
        graphs: Graphs, scores: torch.Tensor, states: torch.Tensor, arcs: torch.Tensor, lengths: torch.Tensor
    ) -> BestPaths:
        """Paths of an exact search, with the pdf-ids and transition-ids that belong to their states and arcs."""
        graphs = graphs.to(states.device)
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
        tids = torch.where(last, graphs.final_tid.long()[flat], tids)
        return BestPaths(scores, states, arcs, pdfs, tids, torch.ones_like(lengths))
