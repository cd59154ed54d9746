"""Two data sets as one: the utterances of the first, then those of the second."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.base.errors import DataError
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import Spans


def joined(first: Dataset, second: Dataset) -> Dataset:
    """One data set of two, which go on caching for themselves.

    Raises:
        DataError: they share an utterance.
    """
    assert first.dim == second.dim, (first.dim, second.dim)
    there = set(first.ids)
    for i in range(len(second)):
        if second.id(i) in there:
            raise DataError(
                f"{second.where(i)} stands in both data sets, at {first.where(first.ids.index(second.id(i)))}"
            )
    return Dataset(_JoinedNames(first, second), _JoinedFrames(first, second))


class _JoinedNames:
    """See ``pipeline.feats.dataset.Names``."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        self._sets, self._count = (first, second), len(first)

    def _own(self, i: int) -> tuple[Dataset, int]:
        return (self._sets[0], i) if i < self._count else (self._sets[1], i - self._count)

    def id(self, i: int) -> str:
        data, own = self._own(i)
        return data.id(own)

    def speaker_of(self, i: int) -> str:
        data, own = self._own(i)
        return data.speaker(own)

    def text(self, i: int) -> str:
        data, own = self._own(i)
        return data.text(own)

    def where(self, i: int) -> str:
        data, own = self._own(i)
        return data.where(own)


class _JoinedFrames:
    """See ``pipeline.feats.frames.Frames``."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        self._sets = first, second
        self.lens, self.dim = np.concatenate([first.lens, second.lens]), first.dim

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        parts = self.each(rows)
        return torch.cat(parts) if parts else self._sets[0].flat(rows)

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        return self._of_both(rows, [data.each(own) for data, own in zip(self._sets, self._divided(rows))])

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        found = []
        for number, (data, own) in enumerate(zip(self._sets, self._divided(spans.rows))):
            here = (spans.rows >= len(self._sets[0])) == bool(number)
            found.append(data.frames.spans(Spans(data.rows[own], spans.begins[here], spans.ends[here])))
        return self._of_both(spans.rows, found)

    def _divided(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = len(self._sets[0])
        return rows[rows < count], rows[rows >= count] - count

    def _of_both(self, rows: np.ndarray, found: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        """What was found in each, in the order asked for."""
        take = [iter(parts) for parts in found]
        return [next(take[int(row >= len(self._sets[0]))]) for row in rows.tolist()]
