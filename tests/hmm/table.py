"""A table of scores that is read on demand, and counts how often."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba.extending import overload

from pipeline.hmm import OnDemand, numba_scores
from pipeline.hmm.numba_calls import drop_stale_code


class Source(NamedTuple):
    """Scores (N, T, P) and how often each was asked for."""

    scores: np.ndarray
    asked: np.ndarray


@overload(numba_scores.make_scratch)
def _make_scratch(source):
    return (lambda source: None) if source.instance_class is Source else None


@overload(numba_scores.score)
def _score(source, scratch, n, t, pdfs, count, scores):
    if source.instance_class is not Source:
        return None

    def read(source, scratch, n, t, pdfs, count, scores):
        for p in pdfs[:count]:
            source.asked[n, t, p] += 1
            scores[p] = source.scores[n, t, p]

    return read


drop_stale_code(__file__)


class Table(OnDemand):
    """`Source` for the engine."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores.float()
        self.asked = np.zeros(scores.shape, np.int64)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.scores.shape)

    @property
    def device(self) -> torch.device:
        return self.scores.device

    def __getitem__(self, chosen: list[int]) -> Table:
        return Table(self.scores[chosen])

    def stretches(self, rows: list[int], begins: list[int], ends: list[int]) -> Table:
        longest = max(end - begin for begin, end in zip(begins, ends))
        scores = self.scores.new_zeros(len(rows), longest, self.shape[2])
        for i, (row, begin, end) in enumerate(zip(rows, begins, ends)):
            scores[i, : end - begin] = self.scores[row, begin:end]
        return Table(scores)

    def dense(self) -> torch.Tensor:
        return self.scores

    def compiled(self) -> Source:
        return Source(self.scores.numpy(), self.asked)
