"""Beam search over a decoding graph with k2, and the lattices that it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.artifacts.occupancies import Occupancies
from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.options import DecodeOptions

if TYPE_CHECKING:
    import k2


MOST_ACTIVE = 1 << 20  # k2 sizes its tables by it, in 32 bits


class Searcher:
    """A decoding graph with its scales, ready to search batches.

    Args:
        graph: the graph.
        log_probs: (n_tid,) natural-log transition probabilities of the model.
        tid_pdf: (n_tid,) pdf-id of each transition-id.
        transition_scale: weight of the transition scores.
        options: beams and acoustic scale.
        dynamic: transition scores come with each batch (input-dependent transition models).
    """

    def __init__(
        self,
        graph: DecodingGraph,
        log_probs: np.ndarray,
        tid_pdf: np.ndarray,
        transition_scale: float,
        options: DecodeOptions,
        dynamic: bool = False,
    ) -> None:
        self.graph, self.options, self.dynamic, self.transition_scale = graph, options, dynamic, transition_scale
        self.fsa = graph.to_k2(log_probs, transition_scale, options.device, dynamic)
        self._tid_pdf = torch.from_numpy(tid_pdf.astype(np.int64)).to(options.device)

    def search(
        self, scores: torch.Tensor, lens: torch.Tensor, transitions: torch.Tensor | None = None, widen: int = 0
    ) -> Lattices:
        """Searches a batch.

        Args:
            scores: (N, T, P) unscaled acoustic scores (natural log).
            lens: (N,) frames.
            transitions: (N, T, n_tid) natural-log transition scores where the searcher is dynamic.
            widen: beam and max_active are doubled this many times.
        """
        import k2

        # The best score of a frame is the same on all paths; without it float32 keeps its precision on long utterances.
        scores = scores - scores.max(dim=2, keepdim=True).values
        columns = scores * self.options.acoustic_scale
        if self.dynamic:
            assert transitions is not None, "the searcher needs transition scores"
            # The arc that leaves a state at frame t is the transition into frame t + 1; the last frame has none.
            shifted = torch.nn.functional.pad(transitions[:, 1:], (0, 0, 0, 1)) * self.transition_scale
            columns = torch.cat([columns[:, :, self._tid_pdf] + shifted, columns], dim=2)
        columns = torch.nn.functional.pad(columns, (1, 0), value=-math.inf)  # column 0 is no label of ours
        segments = torch.tensor([[i, 0, n] for i, n in enumerate(lens.tolist())], dtype=torch.int32)
        o = self.options
        lattice = k2.intersect_dense_pruned(
            self.fsa,
            k2.DenseFsaVec(columns, segments),
            o.beam * 2**widen,
            o.lattice_beam,
            o.min_active,
            min(o.max_active * 2**widen, MOST_ACTIVE),
            frame_idx_name="frame",
        )
        return Lattices(lattice, self.graph, self.options.acoustic_scale)


class Lattices:
    """Lattices of N utterances whose acoustic and graph scores can be weighed anew.

    A path's total is acoustic / lm_weight + graph - penalty * words, as in Kaldi's scoring. Where the searcher was
    dynamic, the transition scores stay with the acoustic ones.

    Attributes:
        fsa: k2 FsaVec; aux_labels are words, graph_scores the part of the scores that is not acoustic, lm_scores the
            language model's share of it. Its scores are those of the last weighing.
        acoustic: (A,) unscaled acoustic scores.
        spell: words of output labels (``DecodingGraph.spell``).
    """

    def __init__(self, fsa: k2.Fsa, graph: DecodingGraph, acoustic_scale: float) -> None:
        self.fsa, self._graph, self.spell = fsa, graph, graph.spell
        per_label = torch.from_numpy(graph.words_per_label()).to(fsa.device)
        self._words = per_label[fsa.aux_labels.long()].to(torch.float32)
        self.acoustic = (fsa.scores - fsa.graph_scores) / acoustic_scale

    def arc_splits(self) -> torch.Tensor:
        """(N + 1,) arcs of utterance n are splits[n]:splits[n + 1]."""
        return _arc_splits(self.fsa)

    def empty(self) -> list[int]:
        """Utterances whose search reached no end."""
        splits = self.arc_splits()
        return torch.nonzero(splits[1:] == splits[:-1]).flatten().tolist()

    def best_words(self, lm_weight: float, word_penalty: float) -> list[list[int]]:
        """Word ids of the best path of each utterance; empty for failed ones."""
        return self.best_words_of([(lm_weight, word_penalty)])[0]

    def best_words_of(self, weights: Sequence[tuple[float, float]]) -> list[list[list[int]]]:
        """For each pair of LM weight and word penalty the word ids of the best path of each utterance."""
        from pipeline.graph.lattice_paths import best_labels

        splits = self.arc_splits().tolist()
        states = np.diff(self.fsa.arcs.shape().row_splits(1).cpu().numpy())
        ends = self.fsa.arcs.values()[:, :2].cpu().numpy()
        columns = [
            ends[:, 0],
            ends[:, 1],
            self.fsa.aux_labels.cpu().numpy(),
            *(x.double().cpu().numpy() for x in (self.acoustic, self.fsa.graph_scores.detach(), self._words)),
        ]
        inverse, penalty = (np.array(x, dtype=np.float64) for x in zip(*((1 / w, p) for w, p in weights)))
        out: list[list[list[int]]] = [[] for _ in weights]
        for n, (b, e) in enumerate(zip(splits[:-1], splits[1:])):
            found = (
                best_labels(*(c[b:e] for c in columns), int(states[n]), inverse, penalty).tolist()
                if e > b
                else [[] for _ in weights]
            )
            for texts, labels in zip(out, found):
                texts.append(self._graph.spell(labels))
        return out

    def occupancies(self, lm_weight: float, word_penalty: float) -> list[Occupancies]:
        """Posteriors of the pdfs in each frame of each utterance over all paths of its lattice, cf. Kaldi
        lattice-to-post.

        Not for dynamic searchers, whose labels are transition-ids.
        """
        splits = self.arc_splits().tolist()
        if not self.fsa.num_arcs:
            empty = np.zeros(0, dtype=np.int64)
            return [Occupancies.summed(empty, empty, empty) for _ in splits[1:]]
        self.weigh(lm_weight, word_penalty)
        share = self.fsa.get_arc_post(use_double_scores=True, log_semiring=True).exp()
        share = share.nan_to_num(0.0).cpu().numpy()  # arcs that lead to no end have no posterior
        frame, pdf = self.fsa.frame.cpu().numpy(), self.fsa.labels.cpu().numpy().astype(np.int64) - 1
        return [Occupancies.summed(frame[b:e], pdf[b:e], share[b:e]) for b, e in zip(splits[:-1], splits[1:])]

    def weigh(self, lm_weight: float, word_penalty: float) -> None:
        """Sets the scores of all arcs."""
        # The same object each time: k2 caches what depends on the structure alone.
        self.fsa.scores = self.acoustic / lm_weight + self.fsa.graph_scores - word_penalty * self._words


def _arc_splits(fsa: k2.Fsa) -> torch.Tensor:
    shape = fsa.arcs.shape()
    return shape.row_splits(2)[shape.row_splits(1).long()]
