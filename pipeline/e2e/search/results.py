"""What the searches weigh and what they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

NEVER = -1e30  # log probability of what cannot be; finite, so that differences stay numbers


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of a hypothesis' score: model is (1 - ctc) attention + ctc CTC, or the transducer's, or
    CTC's.

    total = model + lm * LM - ilm * internal LM + length * number of tokens (the sentence end does not count).
    """

    ctc: float = 0.0
    lm: float = 0.0
    length: float = 0.0
    ilm: float = 0.0


@dataclass(frozen=True)
class Found:
    """A hypothesis.

    Attributes:
        tokens: without sentence ends and blanks.
        model: natural-log score of the model (attention and CTC weighted).
        lm: natural-log probability by the language model, 0.0 without one.
        total: the score by which hypotheses are ranked.
    """

    tokens: tuple[int, ...]
    model: float
    lm: float
    total: float


class State(Protocol):
    """State of a batch of hypotheses in a decoder, predictor or language model."""

    def select(self, rows: torch.Tensor) -> Any:
        """The states of some rows, which may repeat."""


def best_first(found: list[Found], number: int) -> list[Found]:
    """The best hypotheses by total; of equal ones the shorter, then the smaller in tokens, so that order is defined."""
    return sorted(found, key=lambda f: (-f.total, len(f.tokens), f.tokens))[:number]
