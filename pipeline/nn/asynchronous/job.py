"""What is trained: a description that is sent to each process, and what each process builds from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pipeline.feats.dataset import Dataset
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.sequence import OuterGradient
from pipeline.nn.step import Task


@dataclass(frozen=True)
class Built:
    """A model at its start, and its data.

    Attributes:
        model: see ``pipeline.nn.model.AcousticModel``; equal in all processes. What requires no gradient is not
            trained.
        task: all training data, and the criterion for batches of whole utterances.
        objective: outer gradient of the same criterion, for batches of frames; None where there is none.
        dev: what epochs are chosen by.
        frame_shift: seconds per feature frame.
    """

    model: Any
    task: Task
    objective: OuterGradient | None
    dev: Task | None
    frame_shift: float

    @property
    def data(self) -> Dataset:
        """The training data."""
        return self.task.data


class Job(Protocol):
    """Describes a training; it is sent to the processes, so it holds names of directories and options, not data."""

    @property
    def training(self) -> AsyncTraining:
        """What all processes go by."""

    def build(self) -> Built:
        """Loads the data and makes the model; equal in all processes."""


def trained_parameters(built: Built) -> dict[str, torch.nn.Parameter]:
    """What is trained, by name."""
    return {name: p for name, p in built.model.named_parameters() if p.requires_grad}
