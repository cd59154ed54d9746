"""Sequence training as an auxiliary function: an outer gradient over label scores, frozen, times the network's log
posteriors.

A sequence criterion F depends on the network only through its scores, so its gradient has an outer part, dF / d score
(for MMI k (gamma_num - gamma_den): sums to 0 over the labels of a frame, may be negative), and an inner part, which
back-propagation knows. The auxiliary function of Heigold et al. 2014,

    A(theta; theta') = sum over frames t and labels s of  g_theta'(t, s) log p_theta(s | x_t),

has at theta = theta' the gradient of F. So whoever trains only sees targets g; they may be exact (computed with the
parameters they are used with), stale (with older parameters theta') or come from another process.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from pipeline.feats.dataset import Batch, Dataset
from pipeline.nn.masks import mask_of
from pipeline.nn.model import AcousticModel
from pipeline.nn.train import Loss

logger = logging.getLogger(__name__)


@dataclass
class Outer:
    """The outer part of a gradient, and what was counted on the way.

    Attributes:
        gradient: (N, T, P) dF / d score, to be maximised; 0 on frames that are skipped or rejected, in failed
            utterances and behind each end.
        objective: F, summed over the utterances that have not failed.
        frames: their frames.
        skipped_frames: frames whose gradient is next to nothing (numerator and denominator cancel).
        rejected_frames: frames left out because the denominator hardly knows their reference state.
        failed: rows of the batch that are left out.
        sums: further figures, summed over the frames.
    """

    gradient: torch.Tensor
    objective: float
    frames: int
    skipped_frames: int = 0
    rejected_frames: int = 0
    failed: list[int] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)


class OuterGradient(Protocol):
    """A sequence criterion seen from the network: label posteriors in, gradient with respect to them out."""

    def outer(self, log_posteriors: torch.Tensor, lens: torch.Tensor, indices: np.ndarray) -> Outer:
        """The outer gradient of a batch; nothing is recorded for autograd.

        Args:
            log_posteriors: (N, T, P) natural-log label posteriors of the network, without scale and prior.
            lens: (N,) label frames.
            indices: (N,) positions of the utterances in their data set.
        """


class Objective(OuterGradient, Protocol):
    """An outer gradient that a training loop can follow."""

    def diagnose(self, figures: dict[str, float]) -> str | None:
        """Names the trouble that an epoch's figures show, with the usual cures; None when all is well."""


Sought = TypeVar("Sought", bound=Objective, covariant=True)


class SequenceCriterion(Generic[Sought]):
    """An outer gradient as a criterion of the training loop (``pipeline.nn.train.Criterion``).

    The value of the loss is -F, its gradient that of the auxiliary function. On dev data always exact.
    """

    def __init__(self, objective: Sought, refresh: int = 0) -> None:
        """Args:
        objective: knows the references by utterance index.
        refresh: outer gradients come from a copy of the network that is renewed after so many utterances; 0: from the
            network itself in each batch. An interrupted training renews the copy when it goes on.
        """
        self.objective, self.refresh = objective, refresh
        self._stale: AcousticModel | None = None
        self._seen = 0

    def __call__(self, model: AcousticModel, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.train.Criterion``; frames are label frames of utterances that have not failed."""
        log_post, lens = model(batch.feats, batch.lens, normalised=True)
        outer = self.objective.outer(self._scores_of(model, batch, log_post), lens, batch.indices)
        # log(0) must not meet a gradient of 0
        auxiliary = (outer.gradient * log_post.masked_fill(outer.gradient == 0.0, 0.0)).sum()
        total = auxiliary.detach() - auxiliary - outer.objective
        sums = {"cancelled": float(outer.skipped_frames), "rejected": float(outer.rejected_frames), **outer.sums}
        return Loss(total, outer.frames, len(outer.failed), sums)

    @torch.no_grad()
    def _scores_of(self, model: AcousticModel, batch: Batch, log_post: torch.Tensor) -> torch.Tensor:
        """(N, T', P) log posteriors that the outer gradient is taken at."""
        if not (self.refresh and model.training):
            return log_post.detach()
        if self._stale is None or self._seen >= self.refresh:
            self._stale, self._seen = copy.deepcopy(model).train(), 0
        self._seen += len(batch.indices)
        return self._stale(batch.feats, batch.lens, normalised=True)[0]

    def end_epoch(self, model: AcousticModel, data: Dataset, done: float) -> None:
        """Nothing to refresh."""

    def diagnose(self, model: AcousticModel, figures: dict[str, float], done: float) -> str | None:
        """The objective's own complaint about an epoch, if it has any."""
        return self.objective.diagnose(figures)


class FrameCrossEntropy:
    """Cross-entropy with an alignment as an outer gradient: the 1 of the label minus the posteriors."""

    def __init__(self, labels: Sequence[np.ndarray]) -> None:
        """Args:
        labels: (T_n,) int pdf-ids at the label frame rate, by utterance index.
        """
        self.labels = labels

    @torch.no_grad()
    def outer(self, log_posteriors: torch.Tensor, lens: torch.Tensor, indices: np.ndarray) -> Outer:
        """See ``OuterGradient``."""
        mask = mask_of(lens, log_posteriors.shape[1])
        targets = torch.zeros(log_posteriors.shape[:2], dtype=torch.int64)
        for row, index in enumerate(indices):
            targets[row, : int(lens[row])] = torch.from_numpy(np.asarray(self.labels[index], dtype=np.int64))
        targets = targets.to(log_posteriors.device)[:, :, None]
        picked = log_posteriors.gather(2, targets)[:, :, 0][mask]
        gradient = -log_posteriors.exp()
        gradient.scatter_add_(2, targets, torch.ones_like(gradient[:, :, :1]))
        correct = float((log_posteriors.argmax(2) == targets[:, :, 0])[mask].sum())
        return Outer(gradient * mask[:, :, None], float(picked.sum()), int(mask.sum()), sums={"accuracy": correct})

    def diagnose(self, figures: dict[str, float]) -> str | None:
        """No trouble of its own."""
        return None
