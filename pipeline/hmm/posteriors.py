"""Soft alignments: posterior probabilities of states, arcs and pdfs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from pipeline.hmm.graphs import Graphs


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

    def of_path(self, pdfs: torch.Tensor) -> torch.Tensor:
        """(N, T) float32 posterior of the pdf named at each frame (N, T), summed over the states that share it; on the
        device of the occupancies, wherever the names are.
        """
        pdfs = pdfs.to(self.state.device)
        out = torch.zeros(pdfs.shape, dtype=torch.float32, device=pdfs.device)
        splits = self.graphs.state_splits.tolist()
        for n in range(len(pdfs)):
            gamma = self.of(n)
            pdf = self.graphs.state_pdf[splits[n] : splits[n + 1]].to(pdfs.device).long()
            length = len(gamma)
            same = pdf[None, :] == pdfs[n, :length, None]
            out[n, :length] = (gamma * same).sum(1).to(torch.float32)
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


def along_paths(
    occupancies: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> Callable[..., torch.Tensor]:
    """The `path_posteriors` of a backend that has no way of its own, from its occupancies."""

    def path_posteriors(
        graphs: Graphs,
        emissions: torch.Tensor,
        lengths: torch.Tensor,
        transitions: torch.Tensor | None,
        pdfs: torch.Tensor,
    ) -> torch.Tensor:
        """(N, T) float32 posteriors of the pdfs (N, T)."""
        scores, state, arc = occupancies(graphs, emissions, lengths, transitions)
        return Occupancies(scores, state, arc, graphs, lengths).of_path(pdfs)

    return path_posteriors
