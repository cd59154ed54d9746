"""The criterion of semi-supervised training: that of supervised training, with a teacher's labels where there are no
others.

    L = (sum over labelled + w * sum over unlabelled utterances) / (their frames, or tokens)

An unlabelled utterance has (1 - s) of the loss of its best labels and s of the cross-entropy between the teacher's
posteriors of frames and the student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.feats.dataset import Batch, Dataset
from pipeline.nn.masks import mask_of
from pipeline.nn.step import Criterion, Loss, normalised
from pipeline.semisup.collapse import Watch
from pipeline.semisup.options import SemiSupervisedOptions
from pipeline.semisup.side import Given, Side
from pipeline.semisup.teacher import KeptLabels, Pair

CHANGE_MEMORY = 0.99  # of the running mean of how much renewed labels differ from the former ones


class Targets(Sequence[np.ndarray]):
    """Labels of the labelled utterances, each of which stands there several times, and what a teacher has just given
    to others.
    """

    def __init__(self, known: Sequence[np.ndarray], times: int) -> None:
        self._known, self.first = known, len(known) * times  # first: the first unlabelled one
        self.given: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.first + len(self.given)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]  # no slices
        return self._known[i % len(self._known)] if i < self.first else self.given[i]


class SemiSupervised:
    """See the module; ``pipeline.nn.step.Criterion`` of a ``Pair``."""

    def __init__(
        self, side: Side, data: Dataset, targets: Targets, options: SemiSupervisedOptions, momentum: float, watch: Watch
    ) -> None:
        """Args:
        data: labelled utterances, as often as an epoch sees them, then the unlabelled ones.
        momentum: of the average, for each update.
        """
        self.side, self.data, self.targets, self.options = side, data, targets, options
        self.momentum, self.watch = momentum, watch
        self.base = side.criterion(targets)

    def __call__(self, pair: Pair, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.step.Criterion``."""
        labelled = batch.indices < self.targets.first
        out = Loss(torch.zeros((), device=batch.feats.device), 0)
        if labelled.any():
            _add(out, self.base(pair.student, batch.take(labelled), done), 1.0)
        if not labelled.all() and done >= self.options.labelled_epochs / self.options.epochs:
            self._add_unlabelled(out, pair, batch.take(~labelled), done)
        return out

    def _add_unlabelled(self, out: Loss, pair: Pair, batch: Batch, done: float) -> None:
        given = self._labels(pair, batch)
        spoken = np.array([len(row) > 0 for row in given.rows])
        doubtful = spoken & (np.array(given.confidence) < self.options.min_confidence)
        keep = spoken & ~doubtful
        out.sums.update(self.watch.numbers(given.rows, int(doubtful.sum())))
        if not keep.any():
            return
        batch, soft = batch.take(keep), self.options.soft_share
        rows = [row for row, kept in zip(given.rows, keep) if kept]
        if soft < 1.0:
            self.targets.given = dict(zip(batch.indices.tolist(), rows))
            _add(out, self.base(pair.student, batch, done), self.options.pseudo_weight * (1.0 - soft))
        if soft:
            assert given.log_probs is not None
            count = sum(self.side.size(row) for row in rows)
            value = self._soft(pair, batch, given.log_probs[torch.from_numpy(keep)]) * count
            own = Loss(value, 0 if soft < 1.0 else count, sums={"soft": float(value.detach())})
            _add(out, own, self.options.pseudo_weight * soft)

    def _soft(self, pair: Pair, batch: Batch, wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with posteriors, mean over frames.

        Args:
            wanted: (N, T', C) natural logs.
        """
        found, lens = self.side.log_probs(pair.student, batch.feats, batch.lens)
        each = -(wanted[:, : found.shape[1]].exp() * found).sum(2)
        return each[mask_of(lens, found.shape[1])].mean()

    def _labels(self, pair: Pair, batch: Batch) -> Given:
        """What the teacher says now, or said when the label was last due."""
        rows, kept = batch.indices - self.targets.first, pair.labels
        if kept is None:
            return self._ask(pair, batch.indices)
        due = np.array([i not in kept for i in rows])
        if self.options.teacher == "cache":
            due |= torch.rand(len(rows)).numpy() < self._renewal(kept)
        if due.any():
            new = self._ask(pair, batch.indices[due])
            for i, row, confidence in zip(rows[due].tolist(), new.rows, new.confidence):
                self._note_change(kept, i, row)
                kept.put(i, row, confidence)
        found = [kept[i] for i in rows.tolist()]
        return Given([row for row, _ in found], [confidence for _, confidence in found], None, batch.lens)

    @torch.no_grad()
    def _ask(self, pair: Pair, indices: np.ndarray) -> Given:
        """The teacher's labels of utterances without masks."""
        device = next(pair.student.parameters()).device
        clean = normalised(pair, self.data.batch(indices, device))
        network = pair.student if pair.teacher is None else pair.teacher
        training = network.training
        network.eval()
        with torch.autocast(device.type, enabled=False):
            given = self.side.label(network, clean.feats, clean.lens)
        network.train(training)
        return given

    def _renewal(self, kept: KeptLabels) -> float:
        """Probability with which a label is renewed."""
        if self.options.renew_by == "constant":
            return self.options.renew
        return max(self.options.renew, float(kept.change))

    @staticmethod
    def _note_change(kept: KeptLabels, i: int, row: np.ndarray) -> None:
        from kaldialign import edit_distance

        if i in kept:
            old = kept[i][0].tolist()
            changed = min(edit_distance(old, row.tolist())["total"] / max(len(old), 1), 1.0)
            kept.change.lerp_(torch.full_like(kept.change, changed), 1.0 - CHANGE_MEMORY)

    def updated(self, pair: Pair) -> None:
        """See ``pipeline.nn.step.FollowsUpdates``."""
        if self.options.teacher == "ema":
            pair.follow(self.momentum)

    def end_epoch(self, pair: Pair, data: Dataset, done: float) -> None:
        """A round ends: the student becomes the teacher, and all labels are due."""
        epoch = round(done * self.options.epochs)
        if self.options.teacher == "rounds" and epoch % self.options.round_epochs == 0:
            pair.follow(0.0)
            if pair.labels is not None:
                pair.labels.forget()

    def diagnose(self, pair: Pair, figures: dict[str, float], done: float) -> str | None:
        """Names a collapse of the pseudo-labels."""
        return self.watch.trouble(figures)


class OfKept:
    """A criterion on dev data, of the network that is written in the end."""

    def __init__(self, base: Criterion[Any]) -> None:
        self.base = base

    def __call__(self, pair: Pair, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.step.Criterion``."""
        return self.base(pair.kept, batch, done)

    def end_epoch(self, pair: Pair, data: Dataset, done: float) -> None:
        """Nothing to refresh."""

    def diagnose(self, pair: Pair, figures: dict[str, float], done: float) -> str | None:
        """Nothing beyond what the training shows."""
        return None


def _add(out: Loss, loss: Loss, weight: float) -> None:
    out.total = out.total + weight * loss.total
    out.frames, out.skipped = out.frames + loss.frames, out.skipped + loss.skipped
    for name, value in loss.sums.items():
        out.sums[name] = out.sums.get(name, 0.0) + value
