"""The watch over pseudo-labels: a model that learns from itself may end with few labels, or none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipeline.nn.step import NUMBER
from pipeline.semisup.options import SemiSupervisedOptions

logger = logging.getLogger(__name__)

CURES = (
    "Usual cures: a better first model, --labelled-epochs, --soft-share 0 (hard labels), a lower --pseudo-weight, a "
    "higher --repeat-labelled, --min-confidence, a higher --momentum (ema) or lower --renew (cache)"
)
SEEN, EMPTY, DOUBTFUL = (f"{NUMBER}{what}" for what in ("pseudo-labels", "empty ones", "doubtful ones"))
OF_LABEL = f"{NUMBER}label "  # followed by its id


class Watch:
    """Compares the frequencies of an epoch's pseudo-labels with those of the labelled data.

    What it counts are sums of the losses (``pipeline.nn.step.Loss``), so that processes add theirs up and a training
    that was interrupted is judged as one that was not.
    """

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

    def numbers(self, rows: Sequence[np.ndarray], doubtful: int) -> dict[str, float]:
        """What a batch adds to the sums.

        Args:
            rows: (U_n,) pseudo-labels of its utterances.
            doubtful: how many of them are left out for their confidence.
        """
        counts = np.bincount(np.concatenate(rows))
        found = {f"{OF_LABEL}{label}": float(counts[label]) for label in np.flatnonzero(counts).tolist()}
        return {SEEN: len(rows), EMPTY: sum(not len(row) for row in rows), DOUBTFUL: doubtful, **found}

    def trouble(self, figures: dict[str, float]) -> str | None:
        """Takes these numbers out of an epoch's figures and logs what they show; names a collapse, with cures."""
        numbers = {name: figures.pop(name) for name in list(figures) if name.startswith(NUMBER)}
        if not numbers.get(SEEN):
            return None
        seen, empty, doubtful = (numbers[name] for name in (SEEN, EMPTY, DOUBTFUL))
        counts = np.array([numbers.get(f"{OF_LABEL}{label}", 0.0) for label in range(len(self.expected))])
        found, expected = entropy(counts), entropy(self.expected)
        logger.info(
            "pseudo-labels: %d, %.1f %% empty, %.1f %% left out by confidence, entropy %.2f nats (labelled data: %.2f)",
            *(seen, 100 * empty / seen, 100 * doubtful / seen, found, expected),
        )
        if empty / seen > self.options.max_empty:
            return f"the pseudo-labels have collapsed: {empty / seen:.0%} of them are empty. {CURES}"
        if counts.any() and found < self.options.min_entropy * expected:
            most = int(np.argmax(counts))
            return (
                f"the pseudo-labels have collapsed to a few labels: entropy {found:.2f} nats, in the labelled data "
                f"{expected:.2f}; {self.name_of(most)!r} is {counts[most] / counts.sum():.0%} of them. {CURES}"
            )
        return None


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of relative frequencies; 0 without any."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float((share * np.log(1 / share)).sum())
