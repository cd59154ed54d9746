"""Beam search by k2, on the CPU or a GPU; its lattices become this package's own."""

from __future__ import annotations

import math

import k2
import numpy as np
import torch

from pipeline.artifacts.lattice import Lattice
from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.lattice_paths import on_paths
from pipeline.graph.options import DecodeOptions

MOST_ACTIVE = 1 << 20  # k2 sizes its tables by it, in 32 bits
LOWEST = -1e30  # so that no difference of infinities arises in frames where every pdf is impossible


def graph_fsa(
    graph: DecodingGraph,
    log_probs: np.ndarray,
    transition_scale: float = 1.0,
    device: str = "cpu",
    dynamic: bool = False,
) -> k2.Fsa:
    """A graph for k2: label = column of the score matrix, -1 final; arc-sorted.

    Args:
        log_probs: (n_tid,) natural-log transition probabilities.
        transition_scale: their weight.
        dynamic: label arcs by transition-id instead (columns 1..n_tid, then one per pdf for arcs without
            transition), leaving the transition scores to the score matrix.
    Returns:
        Fsa with scores lm + lex + transition_scale * transition, and the attributes aux_labels (int32 words),
        graph_scores (the scores again) and arc_ids (int32 places in the graph).
    """
    assert log_probs.shape == (graph.num_tids,), (log_probs.shape, graph.num_tids)
    trans = np.append(log_probs, np.float32(0.0))[graph.tid]  # tid -1 takes the last entry
    label = np.where(graph.tid >= 0, graph.tid, graph.num_tids + graph.pdf) if dynamic else graph.pdf
    label = np.where(graph.pdf < 0, -1, label + 1)
    scores = graph.lm + graph.lex + (0.0 if dynamic else np.float32(transition_scale)) * trans
    src = np.repeat(np.arange(graph.num_states, dtype=np.int32), np.diff(graph.splits))
    table = np.stack([src, graph.dst, label.astype(np.int32), scores.astype(np.float32).view(np.int32)], axis=1)
    fsa = k2.Fsa(torch.from_numpy(np.ascontiguousarray(table, dtype=np.int32)))
    fsa.aux_labels = torch.from_numpy(graph.word.copy())
    fsa.arc_ids = torch.arange(graph.num_arcs, dtype=torch.int32)
    fsa.graph_scores = fsa.scores.detach().clone()
    return (k2.arc_sort(fsa) if dynamic else fsa).to(device)


class K2Search:
    """k2's pruned intersection; the arguments are those of ``pipeline.graph.search.Searcher``."""

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
        self.fsa = graph_fsa(graph, log_probs, transition_scale, options.device, dynamic)
        self._tid_pdf = torch.from_numpy(tid_pdf.astype(np.int64)).to(options.device)

    def search(
        self, scores: torch.Tensor, lens: torch.Tensor, transitions: torch.Tensor | None, widen: int
    ) -> list[Lattice]:
        """As ``Searcher.search``."""
        # NaN and +inf stand for an impossible pdf. The best score of a frame is the same on all
        # paths; without it float32 keeps its precision on long utterances.
        scores = scores.to(self.options.device)
        scores = torch.where(scores < math.inf, scores, torch.full_like(scores, -math.inf))
        best = scores.max(dim=2, keepdim=True).values.clamp(min=LOWEST)
        columns = (scores - best) * self.options.acoustic_scale
        if self.dynamic:
            assert transitions is not None
            # The arc that leaves a state at frame t is the transition into frame t + 1; the last frame has none.
            shifted = torch.nn.functional.pad(transitions[:, 1:], (0, 0, 0, 1)) * self.transition_scale
            columns = torch.cat([columns[:, :, self._tid_pdf] + shifted, columns], dim=2)
        # Column 0 is no label of ours.
        columns = torch.nn.functional.pad(columns, (1, 0), value=-math.inf)
        segments = torch.tensor([[i, 0, n] for i, n in enumerate(lens.tolist())], dtype=torch.int32)
        o = self.options
        fsa = k2.intersect_dense_pruned(
            self.fsa,
            k2.DenseFsaVec(columns, segments),
            o.beam * 2**widen,
            o.lattice_beam,
            o.min_active,
            min(o.max_active * 2**widen, MOST_ACTIVE),
            frame_idx_name="frame",
        )
        return self._lattices(fsa, best[:, :, 0].cpu().numpy(), lens.tolist())

    def _lattices(self, fsa: k2.Fsa, best: np.ndarray, lens: list[int]) -> list[Lattice]:
        """Arrays of all utterances.

        Args:
            best: (N, T) what was taken off the scores of each frame.
        """
        shape = fsa.arcs.shape()
        splits = shape.row_splits(2)[shape.row_splits(1).long()].tolist()
        ends = fsa.arcs.values()[:, :2].cpu().numpy()
        arc, frame = fsa.arc_ids.cpu().numpy(), fsa.frame.cpu().numpy()
        graph_score = fsa.graph_scores.detach().cpu().numpy()
        acoustic = (fsa.scores.detach().cpu().numpy() - graph_score) / np.float32(self.options.acoustic_scale)
        empty = Lattice.empty(len(self.graph.words), self.graph.word_sequences)
        out = []
        for n, (b, e) in enumerate(zip(splits[:-1], splits[1:])):
            src, dst, kept = on_paths(ends[b:e, 0], ends[b:e, 1])
            if not len(src):
                out.append(empty)
                continue
            a, t = arc[b:e][kept], frame[b:e][kept]
            pdf, states = self.graph.pdf[a], np.full(int(dst[-1]) + 1, lens[n], np.int32)
            states[src] = t
            own = acoustic[b:e][kept] + np.append(best[n], np.float32(0.0))[t]
            out.append(
                Lattice(
                    states,
                    src,
                    dst,
                    pdf,
                    self.graph.tid[a],
                    self.graph.word[a],
                    np.where(pdf < 0, np.float32(0.0), own).astype(np.float32),
                    graph_score[b:e][kept],
                    self.graph.lm[a],
                    empty.num_words,
                    empty.sequences,
                )
            )
        return out
