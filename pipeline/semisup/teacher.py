"""Teacher and student: two copies of a network, of which the first follows the second."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline.base.errors import ConfigError
from pipeline.nn.normalised import Network
from pipeline.nn.options import TrainOptions

NEVER = -1  # length of a label that has not been given yet


class Pair(Network):
    """What the loop trains; a checkpoint holds all of it.

    Attributes:
        student: is trained.
        teacher: labels, always in evaluation mode; None: the student does.
        labels: those that the teacher has given; None: they are not kept.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network | None,
        labels: KeptLabels | None = None,
        keep: Literal["student", "teacher"] = "student",
    ) -> None:
        """Args:
        keep: which of the two is wanted in the end.
        """
        super().__init__()
        self.student, self.labels, self._keep = student, labels, keep
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()

    @property
    def kept(self) -> Network:
        """The network that is evaluated on dev data and written in the end."""
        if self._keep == "student":
            return self.student
        assert self.teacher is not None
        return self.teacher

    def normalise(self, feats: torch.Tensor) -> torch.Tensor:
        """See ``Network``; the same for both."""
        return self.student.normalise(feats)

    def rate_factors(self) -> dict[nn.Parameter, float]:
        """See ``Network``."""
        return self.student.rate_factors()

    def without_decay(self) -> set[nn.Parameter]:
        """See ``Network``."""
        return self.student.without_decay()

    def train(self, mode: bool = True) -> Pair:
        """The student's mode; the teacher has no dropout."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, in float32; what is no parameter is copied.

        In 16 bits (1 - momentum) * (student - teacher) would be lost against the teacher (Manohar et al. 2021).
        """
        assert self.teacher is not None
        for mine, other in zip(self.teacher.parameters(), self.student.parameters()):
            assert mine.dtype == torch.float32, mine.dtype
            mine.lerp_(other.float(), 1.0 - momentum)
        for there, here in zip(self.teacher.buffers(), self.student.buffers()):
            there.copy_(here)


class KeptLabels(nn.Module):
    """Labels of N utterances, in memory and in checkpoints.

    Attributes:
        lens: (N,) int64, NEVER before the first.
        confidence: (N,) of the labels.
        change: share of labels that renewing them has lately changed, 1 before it has changed any.
    """

    labels: torch.Tensor
    lens: torch.Tensor
    confidence: torch.Tensor
    change: torch.Tensor

    def __init__(self, room: np.ndarray) -> None:
        """Args:
        room: (N,) labels that each has at most.
        """
        super().__init__()
        self._room = np.asarray(room, dtype=np.int64)
        self._begin = np.cumsum(self._room) - self._room
        self.register_buffer("labels", torch.zeros(int(room.sum()), dtype=torch.int32))
        self.register_buffer("lens", torch.full((len(room),), NEVER, dtype=torch.int64))
        self.register_buffer("confidence", torch.zeros(len(room)))
        self.register_buffer("change", torch.ones(()))

    def __contains__(self, i: int) -> bool:
        return int(self.lens[i]) != NEVER

    def __getitem__(self, i: int) -> tuple[np.ndarray, float]:
        begin, length = int(self._begin[i]), int(self.lens[i])
        return self.labels[begin : begin + length].cpu().numpy().copy(), float(self.confidence[i])

    def put(self, i: int, row: np.ndarray, confidence: float) -> None:
        """Keeps the (U,) labels of an utterance, for which there has to be room."""
        assert len(row) <= self._room[i], (i, len(row), self._room[i])
        begin = int(self._begin[i])
        self.labels[begin : begin + len(row)] = torch.from_numpy(row.astype(np.int32))
        self.lens[i], self.confidence[i] = len(row), confidence

    def forget(self) -> None:
        """All labels are to be given anew."""
        self.lens.fill_(NEVER)


def scaled(options: TrainOptions, momentum: float, frames: float, reference: int) -> tuple[float, float]:
    """Momentum and learning rate for updates of another size than they are meant for (Busbridge et al. 2023).

    rho -> rho^k with k = frames / reference: the average then looks back over as much data. Learning rates go with k
    for SGD and with sqrt(k) for adaptive optimizers.

    Args:
        momentum: rho, for updates of `reference` frames; 0: for those that there are.
        frames: per update, on average.
    """
    if not reference:
        return momentum, options.learning_rate
    kappa = frames / reference
    if not 1e-3 < kappa < 1e3:
        raise ConfigError(f"--reference-batch {reference}: an update has {frames:.0f} frames, {kappa:g} times as many")
    return momentum**kappa, options.learning_rate * (kappa if options.optimizer == "sgd" else kappa**0.5)
