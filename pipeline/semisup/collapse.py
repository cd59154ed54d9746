"""The watch over pseudo-labels: a model that learns from itself may end with few labels, or none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np
import torch

from pipeline.nn.distributed import World
from pipeline.semisup.options import SemiSupervisedOptions

logger = logging.getLogger(__name__)

CURES = (
    "Usual cures: a better first model, --labelled-epochs, --soft-share 0 (hard labels), a lower --pseudo-weight, a "
    "higher --repeat-labelled, --min-confidence, a higher --momentum (ema) or lower --renew (cache)"
)


class Watch:
    """Counts an epoch's pseudo-labels and compares their frequencies with those of the labelled data."""

    def __init__(
        self,
        labelled: Iterable[np.ndarray],
        num_labels: int,
        name_of: Callable[[int], str],
        options: SemiSupervisedOptions,
    ) -> None:
        """Args:
        labelled: (U_n,) labels of the labelled utterances.
        name_of: name of a label, for messages.
        """
        self.options, self.name_of = options, name_of
        self.expected = np.zeros(num_labels)
        for row in labelled:
            self.expected += np.bincount(row, minlength=num_labels)
        self._clear()

    def _clear(self) -> None:
        self.counts = np.zeros_like(self.expected)
        self.seen = self.empty = self.doubtful = 0

    def saw(self, row: np.ndarray, doubtful: bool) -> None:
        """Counts the labels of an utterance; doubtful: they are left out for their confidence."""
        self.counts += np.bincount(row, minlength=len(self.counts))
        self.seen, self.empty, self.doubtful = self.seen + 1, self.empty + (not len(row)), self.doubtful + doubtful

    def trouble(self, world: World) -> str | None:
        """Logs what an epoch has shown and begins the next one; names a collapse, with cures."""
        own = torch.tensor([*self.counts, self.seen, self.empty, self.doubtful], dtype=torch.float64)
        *counts, seen, empty, doubtful = world.sum_tensor(own).tolist()
        self._clear()
        if not seen:
            return None
        found, expected = entropy(np.array(counts)), entropy(self.expected)
        logger.info(
            "pseudo-labels: %d, %.1f %% empty, %.1f %% left out by confidence, entropy %.2f nats (labelled data: %.2f)",
            *(seen, 100 * empty / seen, 100 * doubtful / seen, found, expected),
        )
        if empty / seen > self.options.max_empty:
            return f"the pseudo-labels have collapsed: {empty / seen:.0%} of them are empty. {CURES}"
        if sum(counts) and found < self.options.min_entropy * expected:
            most = int(np.argmax(counts))
            return (
                f"the pseudo-labels have collapsed to a few labels: entropy {found:.2f} nats, in the labelled data "
                f"{expected:.2f}; {self.name_of(most)!r} is {counts[most] / sum(counts):.0%} of them. {CURES}"
            )
        return None


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of relative frequencies; 0 without any."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float((share * np.log(1 / share)).sum())
