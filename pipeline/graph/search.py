"""Beam search over a decoding graph for batches of utterances, by this package's own search or by k2's."""

from __future__ import annotations

import collections
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.checkpoint import forget_pages
from pipeline.artifacts.lattice import Lattice
from pipeline.base.errors import ConfigError
from pipeline.graph.beam_search import Beams, BeamSearch, SearchGraph
from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.lattices import Lattices
from pipeline.graph.options import DecodeOptions
from pipeline.hmm import OnDemand

if TYPE_CHECKING:
    import torch

__all__ = ["Lattices", "Searcher"]


class Searcher:
    """A decoding graph with its scales, ready to search batches.

    Args:
        graph: the graph.
        log_probs: (n_tid,) natural-log transition probabilities of the model.
        tid_pdf: (n_tid,) pdf-id of each transition-id.
        transition_scale: weight of the transition scores.
        options: which search, beams and acoustic scale.
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
        self._options, self._dynamic = options, dynamic
        if options.search == "k2":
            if importlib.util.find_spec("k2") is None:
                raise ConfigError("--search k2 needs the package k2, which is not installed here")
            from pipeline.graph.search_k2 import K2Search

            self._k2: K2Search | None = K2Search(graph, log_probs, tid_pdf, transition_scale, options, dynamic)
        else:
            self._k2 = None
            self._graph = SearchGraph(graph, log_probs, tid_pdf, transition_scale, dynamic)
            self._idle: collections.deque[BeamSearch] = collections.deque()

    def search(
        self,
        scores: torch.Tensor | OnDemand,
        lens: torch.Tensor,
        transitions: torch.Tensor | None = None,
        widen: int = 0,
    ) -> Lattices:
        """Searches a batch.

        Args:
            scores: (N, T, P) unscaled acoustic scores (natural log); or on demand.
            lens: (N,) frames.
            transitions: (N, T, n_tid) natural-log transition scores where the searcher is dynamic.
            widen: beam and max_active are doubled this many times.
        """
        assert self._dynamic == (transitions is not None), "dynamic searchers, and no others, take transition scores"
        if self._k2 is not None:
            matrices = scores.dense() if isinstance(scores, OnDemand) else scores
            return Lattices(self._k2.search(matrices, lens, transitions, widen))
        if isinstance(scores, OnDemand):
            source = scores
            return self._all(len(lens), widen, lambda n, s: s.advance_on_demand(source, n, int(lens[n])))
        matrix = scores.detach().float().cpu().numpy()
        trans = None if transitions is None else transitions.detach().float().cpu().numpy()

        def dense(n: int, search: BeamSearch) -> None:
            length = int(lens[n])
            search.advance(matrix[n, :length], None if trans is None else trans[n, :length])

        return self._all(len(lens), widen, dense)

    def _all(self, count: int, widen: int, feed: Callable[[int, BeamSearch], None]) -> Lattices:
        """Searches utterances side by side in as many threads as numba may use."""
        import numba

        def one(n: int) -> Lattice:
            # Their memory serves further utterances; no two threads get the same one.
            try:
                search = self._idle.pop()
            except IndexError:
                search = BeamSearch(self._graph, self._beams(widen))
            search.start(self._beams(widen))
            feed(n, search)
            lattice = search.finish()
            self._idle.append(search)
            return lattice

        threads = min(numba.get_num_threads(), os.cpu_count() or 1, count)
        if threads <= 1:
            found = [one(n) for n in range(count)]
        else:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(one, range(count)))
        # Lattices look up their arcs here and there, until all of a mapped graph is in memory.
        forget_pages(self._graph.graph.lm, sparse=True)
        return Lattices(found)

    def _beams(self, widen: int) -> Beams:
        o = self._options
        return Beams(o.acoustic_scale, o.beam * 2**widen, o.lattice_beam, o.min_active, o.max_active * 2**widen)
