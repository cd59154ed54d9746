"""Losses of end-to-end training that need no transcripts, in turns with those that do (Talnikar et al. 2020).

An update learns either the self-supervised loss, from all utterances of its batches, or the supervised one, from those
with transcripts, by a chance that depends on the seed and the place in the training alone: all batches and processes of
an update learn the same. The paper has an optimizer for each loss; here one keeps the moments of both, with a factor of
its learning rate for the first.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from pipeline.base.errors import ConfigError
from pipeline.e2e.auxiliary import ModelWithAuxHeads
from pipeline.e2e.contrast import span_mask
from pipeline.e2e.criterion import EndToEndLoss
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.position import some_frames
from pipeline.feats.dataset import Batch, Dataset
from pipeline.feats.joined import joined
from pipeline.nn.attention import Transformer, content_alone
from pipeline.nn.step import Loss, Task, normalised

logger = logging.getLogger(__name__)

PLACES = 1 << 32  # that the turns of a training tell apart
WITHOUT_EFFECT = {  # options, by the kind of loss
    "none": ("self_share", "self_rate", "self_mask_share", "self_mask_seconds", "repeat_labelled"),
    "contrast": (),
    "position": ("self_mask_seconds",),
}


def in_turns(
    task: Task[EndToEndLoss], unlabelled: Dataset | None, options: TrainEndToEndOptions, frame_shift: float
) -> Task[InTurns]:
    """Both losses, and the training data with those of the self-supervised one alone.

    Args:
        task: the supervised loss, with utterances of which an epoch sees each --repeat-labelled times.
        unlabelled: utterances without transcripts, with the same features.
        frame_shift: seconds per feature frame.
    """
    data = task.data.select(np.tile(np.arange(len(task.data)), options.repeat_labelled))
    if unlabelled is not None:
        data = joined(data, unlabelled)
    logger.info(
        "%d utterances with transcripts, %d without", len(task.data), 0 if unlabelled is None else len(unlabelled)
    )
    return Task(data, InTurns(task.criterion, data, len(task.data), options, frame_shift))


class InTurns:
    """See the module; ``pipeline.nn.step.Criterion`` of a ``ModelWithAuxHeads``."""

    def __init__(
        self, base: EndToEndLoss, data: Dataset, labelled: int, options: TrainEndToEndOptions, frame_shift: float
    ) -> None:
        """Args:
        base: the supervised loss.
        data: its utterances, --repeat-labelled times, then those without transcripts.
        labelled: number of its utterances.
        frame_shift: seconds per feature frame.
        """
        self.base, self.data, self.labelled, self.options = base, data, labelled, options
        self.span = max(round(options.self_mask_seconds / (frame_shift * options.label_factor)), 1)

    def is_self_supervised(self, done: float) -> bool:
        """Which loss the update learns that begins after this share of the training."""
        chance = np.random.default_rng((self.options.seed, int(done * PLACES))).random()
        return bool(chance < self.options.self_share)

    def rate_factor(self, done: float) -> float:
        """See ``pipeline.nn.step.SetsRate``."""
        return self.options.self_rate if self.is_self_supervised(done) else 1.0

    def __call__(self, with_heads: ModelWithAuxHeads, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.step.Criterion``; frames are tokens and sentence ends, or those of the encoder that have a
        self-supervised loss.
        """
        if self.is_self_supervised(done):
            # The batch may have masks of SpecAugment, under which there would be nothing to predict.
            clean = normalised(with_heads, self.data.batch(batch.indices, batch.feats.device))
            loss = (
                self._contrast(with_heads, clean)
                if self.options.self_supervised == "contrast"
                else self._position(with_heads, clean)
            )
        else:
            known = batch.indices < self.labelled * self.options.repeat_labelled
            if not known.any():
                return Loss(torch.zeros((), device=batch.feats.device), 0)
            part = batch.take(known)
            loss = self.base(with_heads, replace(part, indices=part.indices % self.labelled), done)
        loss.counts = dict.fromkeys(loss.sums, loss.frames)
        return loss

    def _contrast(self, with_heads: ModelWithAuxHeads, batch: Batch) -> Loss:
        head, factor = with_heads.auxiliary.contrast, self.options.label_factor
        assert head is not None
        num_frames = -(-batch.feats.shape[1] // factor)
        mask = span_mask(-(-batch.lens // factor), num_frames, self.options.self_mask_share, self.span)
        hidden = mask.repeat_interleave(factor, 1)[:, : batch.feats.shape[1], None]
        encoded, _, _ = with_heads.model.encode_layers(batch.feats.masked_fill(hidden, 0.0), batch.lens, ())
        total, right = head(encoded, batch.feats, batch.lens, mask)
        return Loss(total, int(mask.sum()), sums={"contrast": float(total.detach()), "contrast_right": float(right)})

    def _position(self, with_heads: ModelWithAuxHeads, batch: Batch) -> Loss:
        head, factor = with_heads.auxiliary.position, self.options.label_factor
        network = with_heads.model.encoder.network
        assert head is not None and isinstance(network, Transformer)
        lens = -(-batch.lens // factor)
        context = some_frames(lens, -(-batch.feats.shape[1] // factor), 1.0 - self.options.self_mask_share)
        with content_alone(network, context):
            encoded, lens, _ = with_heads.model.encode_layers(batch.feats, batch.lens, ())
        total, right = head(encoded, lens)
        return Loss(total, int(lens.sum()), sums={"position": float(total.detach()), "position_right": float(right)})

    def end_epoch(self, model: ModelWithAuxHeads, data: Dataset, done: float) -> None:
        """Nothing to refresh."""

    def diagnose(self, model: ModelWithAuxHeads, figures: dict[str, float], done: float) -> str | None:
        """Nothing beyond what the loop sees."""
        return None


def check_self_supervision(options: TrainEndToEndOptions, with_unlabelled: bool, with_dev: bool) -> None:
    """ConfigError for options that do not go together."""
    kind = options.self_supervised
    if kind == "none" and with_unlabelled:
        raise ConfigError("--unlabelled is speech for --self-supervised, which is none")
    defaults = TrainEndToEndOptions()
    changed = [name for name in WITHOUT_EFFECT[kind] if getattr(options, name) != getattr(defaults, name)]
    if changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigError(f"{flags}: without effect, --self-supervised is {kind}")
    if kind == "none":
        return
    if kind == "position" and (options.encoder != "transformer" or options.frames_per_step > 1):
        raise ConfigError("--self-supervised position needs --encoder transformer with --frames-per-step 1")
    if options.self_share == 1.0 and with_dev:
        raise ConfigError("--self-share 1 trains nothing that writes tokens, so --dev cannot choose among its epochs")
