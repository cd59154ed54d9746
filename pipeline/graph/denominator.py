"""Denominators of sequence training: how probable each label is at each frame over all word (or phone) sequences.

The same sums in two ways: over a whole graph, by a recursion that keeps to a beam; and over lattices that a beam search
leaves, which takes longer and loses more (benchmarks/denominators.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.options import DecodeOptions
from pipeline.hmm import Graphs, occupancies
from pipeline.hmm.convert import from_arcs

if TYPE_CHECKING:
    from pipeline.artifacts.lattice import Lattice

ENGINE_STATES = 5000  # of a graph that a GPU sums over as a whole
References = Sequence[Sequence[int]] | None


@dataclass
class Competitors:
    """The denominators of a batch.

    Attributes:
        log_z: (N,) float64 natural-log sum over all paths; -inf without a path.
        occupancy: (N, T, P) float32 label posteriors, 0 behind each end and in utterances without a path.
        missing: rows whose reference is not among the paths (as far as that is known).
        accuracy: (N,) float64 expected sum of the accuracies, where these were given.
        gradient: (N, T, P) its derivative by the scores.
    """

    log_z: torch.Tensor
    occupancy: torch.Tensor
    missing: list[int] = field(default_factory=list)
    accuracy: torch.Tensor | None = None
    gradient: torch.Tensor | None = None

    def add(self, row: int, log_weight: torch.Tensor, occupancy: torch.Tensor, accuracy: torch.Tensor | None) -> None:
        """Adds further paths to one utterance.

        Args:
            log_weight: () their log sum.
            occupancy: (T, P) posteriors of their labels.
            accuracy: (N, T, P) accuracies of the batch, where there are any.
        """
        total = torch.logaddexp(self.log_z[row], log_weight)
        share = float((log_weight - total).exp())
        if self.accuracy is not None:
            assert accuracy is not None and self.gradient is not None
            new = float((occupancy * accuracy[row]).sum())
            old, mean = float(self.accuracy[row]), (1.0 - share) * float(self.accuracy[row]) + share * new
            self.gradient[row] = (1.0 - share) * (self.gradient[row] + (old - mean) * self.occupancy[row]) + share * (
                new - mean
            ) * occupancy
            self.accuracy[row] = mean
        self.occupancy[row] = (1.0 - share) * self.occupancy[row] + share * occupancy
        self.log_z[row] = total


class GraphSum:
    """Sums over all paths of one graph, the same for every utterance, by a recursion on the CPU that leaves out states
    of next to no probability; for a small graph on a GPU by the HMM engine.

    Nothing but that beam stands between these sums and the exact ones, where a lattice also lacks what its own beam
    cuts off. Paths begin in the graph's start and end in its final states: utterances are whole, so nothing like the
    leaky transitions that Kaldi needs for chunks (Povey et al. 2016) is wanted here.
    """

    def __init__(
        self,
        graph: DecodingGraph,
        log_probs: np.ndarray,
        transition_scale: float,
        beam: float = 13.0,
        max_active: int = 1 << 30,
        retries: int = 2,
    ) -> None:
        """Args:
        graph: a decoding graph of words or phones.
        log_probs: (n_tid,) natural-log transition probabilities.
        transition_scale: their weight.
        beam: states whose natural-log probability is by more below that of a frame's best state are left out.
        max_active: states of a frame beyond so many, too.
        retries: how often an utterance without a path is tried again with a doubled beam and max_active.
        """
        assert beam > 0 and max_active > 0, (beam, max_active)
        self._weight, self._final = _weights(graph, log_probs, transition_scale)
        self._graph, self._beam, self._max_active, self._retries = graph, beam, max_active, retries
        self._arranged: tuple[np.ndarray, ...] | None = None
        self._engine: Graphs | None = None

    def __call__(
        self,
        scores: torch.Tensor,
        lens: torch.Tensor,
        references: References = None,
        accuracy: torch.Tensor | None = None,
    ) -> Competitors:
        """The sums of a batch; utterances side by side in as many threads as numba may use.

        Args:
            scores: (N, T, P) acoustic scores with all their scales, natural logs.
            lens: (N,) frames.
            references: not read; they are taken to be in the graph.
            accuracy: (N, T, P) accuracy of each label; the result then has expected accuracies and their gradient.
        """
        import numba

        by_engine = scores.is_cuda and accuracy is None and self._graph.num_states <= ENGINE_STATES
        out = Competitors(
            torch.full((len(scores),), -np.inf, dtype=torch.float64), torch.zeros(scores.shape, device=scores.device)
        )
        if accuracy is not None:
            out.accuracy, out.gradient = torch.zeros(len(scores), dtype=torch.float64), torch.zeros_like(out.occupancy)

        def one(n: int) -> None:  # one graph, so nothing is copied per utterance
            length = int(lens[n])
            if by_engine:
                out.log_z[n], out.occupancy[n, :length] = self._by_engine(scores[n, :length])
                return
            right = None if accuracy is None else accuracy[n, :length].cpu()
            out.log_z[n], posteriors, mean, derivative = self._by_recursion(scores[n, :length].cpu(), right)
            out.occupancy[n, :length] = posteriors
            if out.accuracy is not None and out.gradient is not None:
                assert mean is not None and derivative is not None
                out.accuracy[n], out.gradient[n, :length] = mean, derivative

        threads = 1 if by_engine else min(numba.get_num_threads(), len(scores))
        if threads == 1:
            for n in range(len(scores)):
                one(n)
        else:
            self._arrange()  # once, not by each of the threads
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(one, range(len(scores))))
        return out

    def _by_engine(self, scores: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Log sum and (T, P) posteriors of one utterance by the HMM engine."""
        if self._engine is None:
            self._engine = engine_graph(self._graph, self._weight, self._final).to(scores.device)
        found = occupancies(self._engine, scores[None], torch.tensor([len(scores)], device=scores.device))
        return float(found.scores[0]), found.pdf(len(scores), scores.shape[1])[0]

    def _by_recursion(
        self, scores: torch.Tensor, accuracy: torch.Tensor | None = None
    ) -> tuple[float, torch.Tensor, float, torch.Tensor | None]:
        """The same by the recursion, with the expected accuracy and its (T, P) derivative where accuracies are
        given.
        """
        from pipeline.graph.graph_sums import LEAST, graph_sums

        scores = torch.where(scores < np.inf, scores, -np.inf)  # NaN and infinity are impossible, as in the engine
        best = scores.max(1, keepdim=True).values
        best = torch.where(best > -np.inf, best, 0.0)  # of a frame that is impossible altogether
        emission = (scores - best).double().exp().numpy()
        right = np.zeros((0, 0)) if accuracy is None else accuracy.double().numpy()
        beam, max_active = self._beam, self._max_active
        for _ in range(self._retries + 1):
            posteriors, derivative = np.zeros(emission.shape), np.zeros(right.shape)
            log_z, mean = graph_sums(
                *self._arrange(), emission, right, max(float(np.exp(-beam)), LEAST), max_active, posteriors, derivative
            )
            if log_z > -np.inf:
                break
            beam, max_active = 2 * beam, 2 * max_active
        return (
            log_z + float(best.double().sum()),
            torch.from_numpy(posteriors.astype(np.float32)),
            mean,
            None if accuracy is None else torch.from_numpy(derivative.astype(np.float32)),
        )

    def _arrange(self) -> tuple[np.ndarray, ...]:
        """The arcs that emit, by the states at either end, and the probabilities of ending."""
        if self._arranged is None:
            from pipeline.graph.graph_sums import arrange

            graph = self._graph
            emits = np.flatnonzero(graph.pdf >= 0)
            src = np.repeat(np.arange(graph.num_states), np.diff(graph.splits))[emits]
            dst, pdf, weight = graph.dst[emits], graph.pdf[emits], np.exp(self._weight[emits])
            self._arranged = (
                *arrange(src, dst, pdf, weight, graph.num_states),
                *arrange(dst, src, pdf, weight, graph.num_states),
                np.exp(self._final),
            )
        return self._arranged


def _weights(graph: DecodingGraph, log_probs: np.ndarray, transition_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(A,) float64 log weights of all arcs with the transition scores, and (S,) those of ending in each state.

    A decoding graph emits on the arc that leaves a state and scores the transition there; with fixed transition
    probabilities that is a weight like any other.
    """
    src = np.repeat(np.arange(graph.num_states), np.diff(graph.splits))
    weight = (graph.lm + graph.lex).astype(np.float64) + transition_scale * np.append(log_probs, 0.0)[graph.tid]
    final = np.full(graph.num_states, -np.inf)
    ends = graph.pdf < 0
    np.logaddexp.at(final, src[ends], weight[ends])
    return weight, final


def engine_graph(graph: DecodingGraph, weight: np.ndarray, final: np.ndarray) -> Graphs:
    """A decoding graph for the HMM engine.

    Args:
        weight: (A,) log weights of the arcs.
        final: (S,) log weights of ending.
    """
    src, emits = np.repeat(np.arange(graph.num_states), np.diff(graph.splits)), graph.pdf >= 0
    ends = np.flatnonzero(np.isfinite(final))
    return from_arcs(
        src[emits],
        graph.dst[emits],
        graph.pdf[emits],
        np.full(int(emits.sum()), -1),
        weight[emits],
        [(0, 0.0)],
        [(int(s), float(final[s])) for s in ends],
        graph.num_pdfs,
        0,
    )


class LatticeSum:
    """Sums over lattices made on the fly by a beam search."""

    def __init__(
        self,
        graph: DecodingGraph,
        log_probs: np.ndarray,
        tid_pdf: np.ndarray,
        transition_scale: float,
        options: DecodeOptions,
    ) -> None:
        """Args:
        graph, log_probs, transition_scale: as for ``GraphSum``.
        tid_pdf: (n_tid,) pdf-id of each transition-id.
        options: beams and retries of the search; its acoustic scale must be 1, for scores come scaled.
        """
        from pipeline.graph.search import Searcher

        assert options.acoustic_scale == 1.0, options.acoustic_scale
        self._searcher = Searcher(graph, log_probs, tid_pdf, transition_scale, options)
        self._retries = options.retries
        words = [graph.spell([label]) for label in range(len(graph.words) + len(graph.word_sequences))]
        self._spell_splits = np.concatenate([[0], np.cumsum([len(w) for w in words])]).astype(np.int64)
        self._spell_words = np.array([w for spelled in words for w in spelled], dtype=np.int64)

    def __call__(
        self,
        scores: torch.Tensor,
        lens: torch.Tensor,
        references: References = None,
        accuracy: torch.Tensor | None = None,
    ) -> Competitors:
        """As ``GraphSum``; an empty lattice is searched for again with wider beams.

        Args:
            references: word ids of each utterance, to be looked for in the lattices.
            accuracy: (N, T, P) accuracy of each label; the result then has expected accuracies and their gradient.
        """
        out = Competitors(torch.full((len(scores),), -np.inf, dtype=torch.float64), torch.zeros_like(scores))
        if accuracy is not None:
            out.accuracy, out.gradient = torch.zeros(len(scores), dtype=torch.float64), torch.zeros_like(scores)
        rows = list(range(len(scores)))
        for widen in range(self._retries + 1):
            lattices = self._searcher.search(scores[rows].detach().cpu(), lens[rows].cpu(), widen=widen)
            for row, lattice in zip(rows, lattices):
                if lattice.complete:
                    self._collect(row, lattice, references, accuracy, out)
            rows = [rows[i] for i in lattices.empty()]
            if not rows:
                break
        return out

    def _collect(
        self, row: int, lattice: Lattice, references: References, accuracy: torch.Tensor | None, out: Competitors
    ) -> None:
        """Writes the sums of the lattice of a row into `out`."""
        from pipeline.graph.lattice_sums import contains, posteriors
        from pipeline.graph.lattices import arc_scores

        emits = lattice.pdf >= 0
        cell = (
            torch.from_numpy(lattice.frame[lattice.src][emits].astype(np.int64)),
            torch.from_numpy(lattice.pdf[emits].astype(np.int64)),
        )
        right = np.zeros(0)
        if accuracy is not None:
            right = np.zeros(lattice.num_arcs)
            right[emits] = accuracy[row].cpu()[cell].numpy()
        gamma, derivative, log_z, mean = posteriors(lattice.src, lattice.dst, arc_scores(lattice, 1.0, 0.0), right)
        _add(out.occupancy[row], cell, gamma[emits])
        out.log_z[row] = log_z
        if accuracy is not None:
            assert out.accuracy is not None and out.gradient is not None
            _add(out.gradient[row], cell, derivative[emits])
            out.accuracy[row] = mean
        if references is not None and not contains(
            lattice.src,
            lattice.dst,
            lattice.label,
            self._spell_splits,
            self._spell_words,
            np.asarray(references[row], dtype=np.int64),
        ):
            out.missing.append(row)


def _add(to: torch.Tensor, cell: tuple[torch.Tensor, torch.Tensor], values: np.ndarray) -> None:
    """Adds values to cells of a (T, P) matrix; the same cell may come several times."""
    to.index_put_(tuple(c.to(to.device) for c in cell), torch.from_numpy(values).to(to), accumulate=True)
