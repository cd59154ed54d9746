"""Emission scores that are computed where they are needed, in place of a tensor of all."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class OnDemand(abc.ABC):
    """Scores of N utterances for `viterbi`, natural logs.

    Near the best path a frame has a dozen living states, while its utterance's graph has a hundred pdfs or more and the
    model thousands. The CPU backend scores only what living states need; the others take all scores from `dense`.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(N, T, P): utterances, frames of the longest, pdfs."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where `dense` computes."""

    @abc.abstractmethod
    def __getitem__(self, chosen: Sequence[int]) -> OnDemand:
        """Scores of some of the utterances."""

    @abc.abstractmethod
    def stretches(self, rows: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> OnDemand:
        """Scores of frames begins[i]:ends[i] of utterance rows[i], each as an utterance."""

    @abc.abstractmethod
    def dense(self) -> torch.Tensor:
        """(N, T, P) float32, all scores; anything behind an utterance's end."""

    @abc.abstractmethod
    def compiled(self) -> NamedTuple:
        """Arrays of a type for which `pipeline.hmm.numba_scores` has the functions that score a frame."""


class FrameScores:
    """Scores of one utterance by the frames that are asked for, of which all would be too many: frames x pdfs of an
    hour and a few thousand pdfs are gigabytes.
    """

    def __init__(
        self,
        num_frames: int,
        scores: Callable[[int, int], torch.Tensor],
        transitions: Callable[[int, int], torch.Tensor | None] = lambda begin, end: None,
    ) -> None:
        """Args:
        num_frames: T.
        scores, transitions: compute what the methods of these names return.
        """
        self.num_frames, self._scores, self._transitions = num_frames, scores, transitions

    @torch.no_grad()
    def scores(self, begin: int, end: int) -> torch.Tensor:
        """(end - begin, P) natural-log scores of frames begin..end."""
        assert 0 <= begin <= end <= self.num_frames, (begin, end, self.num_frames)
        return self._scores(begin, end)

    @torch.no_grad()
    def transitions(self, begin: int, end: int) -> torch.Tensor | None:
        """(end - begin, n_tid) log probabilities of the transitions into frames begin..end; None: they do not depend on
        the input.
        """
        return self._transitions(begin, end)
