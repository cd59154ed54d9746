"""Emission scores that are computed where a path needs them, in place of a tensor of all."""

from __future__ import annotations

import abc
from collections.abc import Sequence
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
