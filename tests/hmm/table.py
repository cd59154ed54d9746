"""A table of scores that is read on demand, and counts how often."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba.extending import overload

from pipeline.hmm import OnDemand, numba_scores
from pipeline.hmm.numba_backend import drop_stale_code


class Source(NamedTuple):
    """Scores (N, T, P) and how often each was asked for."""

    scores: np.ndarray
    asked: np.ndarray


@overload(numba_scores.make_scratch)
def _make_scratch(source):
    return (lambda source: np.zeros(2, np.int64)) if source.instance_class is Source else None


@overload(numba_scores.load)
def _load(source, scratch, n, t):
    if source.instance_class is not Source:
        return None

    def remember(source, scratch, n, t):
        scratch[0], scratch[1] = n, t
        return not np.isnan(source.scores[n, t, 0])

    return remember


@overload(numba_scores.score)
def _score(source, scratch, pdf):
    if source.instance_class is not Source:
        return None

    def read(source, scratch, pdf):
        source.asked[scratch[0], scratch[1], pdf] += 1
        return source.scores[scratch[0], scratch[1], pdf]

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

    def dense(self) -> torch.Tensor:
        return self.scores

    def compiled(self) -> Source:
        return Source(self.scores.numpy(), self.asked)
