"""What the training needs to know of a kind of model; ``end_to_end`` and ``hybrid`` are the two that there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from pipeline.artifacts.model_meta import EndToEndMeta, NetworkMeta
from pipeline.feats.dataset import Dataset
from pipeline.nn.normalised import Network
from pipeline.nn.step import Criterion, Task


class Given(NamedTuple):
    """What a teacher says of N utterances.

    Attributes:
        rows: (U_n,) labels of each.
        confidence: of each, 0 .. 1.
        log_probs: (N, T', C) natural-log posteriors of frames, None where the model has none.
        lens: (N,) int64 frames.
    """

    rows: list[np.ndarray]
    confidence: list[float]
    log_probs: torch.Tensor | None
    lens: torch.Tensor


Label = tuple[np.ndarray, float]  # (U,) labels of an utterance, and a confidence


class Side(Protocol):
    """A kind of model and its data.

    Attributes:
        network: with the teacher's parameters, on the CPU. meta: facts of the teacher.
        labelled, unlabelled: utterances with the features that the network reads.
        known: (U_n,) labels of the labelled ones.
        room: (N,) labels that the network gives an unlabelled utterance at most.
        num_labels: C.
        dev: data for the choice of epochs, None without.
    """

    @property
    def network(self) -> Network: ...
    @property
    def meta(self) -> EndToEndMeta | NetworkMeta: ...
    @property
    def labelled(self) -> Dataset: ...
    @property
    def unlabelled(self) -> Dataset: ...
    @property
    def known(self) -> Sequence[np.ndarray]: ...
    @property
    def room(self) -> np.ndarray: ...
    @property
    def num_labels(self) -> int: ...
    @property
    def dev(self) -> Task[Criterion[Any]] | None: ...

    def randomise(self) -> None:
        """Gives the network random parameters."""

    def criterion(self, targets: Sequence[np.ndarray]) -> Criterion[Any]:
        """The loss of the network with the labels of each utterance."""

    def given(self, pseudo: Path) -> Iterator[Label | None]:
        """Labels for each unlabelled utterance, from a file; None where it has none that can be learned.

        Args:
            pseudo: see ``Sources``.
        """

    def label(self, network: Network, feats: torch.Tensor, lens: torch.Tensor) -> Given:
        """Labels by a network in evaluation mode, of (N, T, F) normalised features."""

    def log_probs(self, network: Network, feats: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T', C) natural-log posteriors of frames, (N,), from normalised features."""

    def size(self, row: np.ndarray) -> int:
        """How much the labels of an utterance count in the loss."""

    def name_of(self, label: int) -> str:
        """Name of a label, for messages."""

    def save(self, out: Path, network: Network, history: list[dict[str, float]]) -> None:
        """Writes the model directory."""


def drawn(log_probs: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of frames and their posteriors.

    Args:
        log_probs: (N, T, C).
        temperature: 0: the best ones; else drawn from the posteriors to the power of 1 / temperature.
    Returns:
        (N, T) int64, (N, T).
    """
    if temperature == 0:
        best = log_probs.max(2)
        return best.indices, best.values.exp()
    shares = (log_probs / temperature).softmax(2)
    labels = torch.multinomial(shares.flatten(0, 1), 1).view(shares.shape[:2])
    return labels, log_probs.gather(2, labels[:, :, None])[:, :, 0].exp()
