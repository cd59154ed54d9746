"""Training graphs of a corpus, compiled where they are needed and kept where they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.hmm.compile import TrainingGraphs, compile_graphs
from pipeline.hmm.graphs import Graphs

CACHE_MIB = 2048
SHARE = 4  # graphs may take a quarter of what features may
BLOCK = 512  # transcripts that are compiled together


class GraphSource:
    """Graphs of N utterances.

    All are compiled once, block by block, since their shortest paths decide which utterances can be used. If they fit
    into the cache they stay; if not, those of a batch are compiled again whenever it is asked for, which takes some 30
    microseconds a word.

    Attributes:
        min_frames: (N,) int32 frames that the shortest path of each graph needs.
    """

    def __init__(
        self,
        lang: Lang,
        tree: Tree,
        transitions: TransitionModel,
        words: Callable[[int], Sequence[int]],
        count: int,
        cache_mib: int = CACHE_MIB,
    ) -> None:
        """Args:
            words: number of an utterance -> its word ids (``Lang.word_ids``).
            count: number of utterances, N.
            cache_mib: what features may take in memory; graphs may take a quarter of it beside them.
        Raises:
            DataError: what `words` raises, or an empty transcript.
        """
        self._model, self._words, self._rows = (lang, tree, transitions), words, np.arange(count)
        self._whole: TrainingGraphs | None = None
        self.min_frames: NDArray[Any] = np.zeros(count, dtype=np.int32)
        kept: list[TrainingGraphs] = []
        size, limit = 0, (cache_mib << 20) // SHARE
        for rows, graphs in self._compiled():
            self.min_frames[rows] = graphs.min_frames
            size += graphs.num_bytes
            if size <= limit:
                kept.append(graphs)
            else:
                kept.clear()
        if kept:
            self._whole = joined(kept)

    def _compiled(self) -> Iterator[tuple[NDArray[Any], TrainingGraphs]]:
        for begin in range(0, len(self._rows), BLOCK):
            rows = np.arange(begin, min(begin + BLOCK, len(self._rows)))
            yield rows, compile_graphs(*self._model, [self._words(i) for i in self._rows[rows].tolist()])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_tids(self) -> int:
        """Number of transition-ids."""
        return self._model[2].num_tids

    def of(self, indices: Sequence[int] | NDArray[Any]) -> TrainingGraphs:
        """The graphs of some utterances, in the order asked for."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        if self._whole is not None:
            return self._whole.select(rows)
        return compile_graphs(*self._model, [self._words(i) for i in rows.tolist()])

    def select(self, keep: NDArray[Any]) -> GraphSource:
        """Some of the utterances, by position or by a mask (N,) bool; they share what is in memory."""
        chosen = object.__new__(GraphSource)
        chosen._model, chosen._words, chosen._whole = self._model, self._words, self._whole
        chosen._rows, chosen.min_frames = self._rows[keep], self.min_frames[keep]
        return chosen

    def blocks(self) -> Iterator[tuple[NDArray[Any], TrainingGraphs]]:
        """All graphs, some hundred at a time, with the positions of their utterances."""
        for begin in range(0, len(self), BLOCK):
            rows = np.arange(begin, min(begin + BLOCK, len(self)))
            yield rows, self.of(rows)


def joined(parts: Sequence[TrainingGraphs]) -> TrainingGraphs:
    """The graphs of several lists as one list."""
    return TrainingGraphs(
        Graphs.cat([part.graphs for part in parts]),
        np.concatenate([part.state_word for part in parts]),
        np.concatenate([part.min_frames for part in parts]),
    )
