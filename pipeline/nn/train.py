"""The training loop of networks: a model, a criterion and data in, a trained model out.

It runs in one process or in several that step together; asynchronous replicas run the parts of ``pipeline.nn.step`` in
a loop of their own (``pipeline.nn.asynchronous.replica``). A criterion is plugged in (``Criterion``); batches,
augmentation, optimisation, learning rates, checkpoints, resuming and the watch for divergence are the same for all.
Whatever is random is a function of (seed, epoch, step), so that a training that was interrupted ends with the same bits
as one that was not.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Generic

import numpy as np
import torch

from pipeline.artifacts.model_meta import ENTROPY
from pipeline.base.errors import ConfigError
from pipeline.base.log import Meter, duration, progress
from pipeline.feats.dataset import plan
from pipeline.nn.distributed import World
from pipeline.nn.options import TrainOptions
from pipeline.nn.schedule import learning_rate, make_optimizer, set_rate
from pipeline.nn.sigma import vectors_of
from pipeline.nn.step import (
    Criterion,
    DivergenceError,
    FollowsUpdates,
    KeepsStatistics,
    Loss,
    Net,
    SetsRate,
    Task,
    add_gradient,
    add_sums,
    attention_entropy,
    clip_gradient,
    evaluate,
    per_frame,
    pick_device,
    prepare,
    seed_step,
    training_loss,
)
from pipeline.nn.tracking import tracked
from pipeline.nn.train_state import (
    CHECKPOINT,
    FIRST_SCALE,
    TrainState,
    average,
    best_epochs,
    epoch_file,
    load_state,
    save_state,
)

logger = logging.getLogger(__name__)

SAVE_SECONDS = 300.0  # between checkpoints inside a long epoch
MAX_BAD_STEPS = 20  # batches without a finite gradient, in a training
EPOCHS = "epochs"

__all__ = ["CHECKPOINT", "EPOCHS", "Criterion", "DivergenceError", "Loss", "Task", "clean_up", "pick_device", "train"]


def train(
    model: Net,
    task: Task[Criterion[Net]],
    dev: Task[Criterion[Net]] | None,
    options: TrainOptions,
    out: Path,
    frame_shift: float = 0.01,
) -> list[dict[str, float]]:
    """Trains a model in place and leaves the mean of its best epochs in it.

    Args:
        model: the criterion knows what it computes.
        task: training data.
        dev: data for the choice of epochs and the plateau schedule.
        out: directory for TensorBoard events (under log/) and checkpoints; a training resumes from the one found there.
        frame_shift: seconds per feature frame.
    Returns:
        figures of each epoch ("loss" and "dev_loss" are per frame).
    """
    device = pick_device(options.device)
    if options.precision != "float32" and not device.startswith("cuda"):
        raise ConfigError(f"--precision {options.precision} is for GPUs; the device is {device}")
    devices = [torch.cuda.current_device()] if device.startswith("cuda") else []
    model.to(device)
    with torch.random.fork_rng(devices=devices):
        run = _Run(model, task, dev, options, Path(out), device, frame_shift)
        run.go()
        return run.state.history


def clean_up(out: Path) -> None:
    """Removes the checkpoints of a completed training, once its result has been saved."""
    shutil.rmtree(out / EPOCHS, ignore_errors=True)
    (out / CHECKPOINT).unlink(missing_ok=True)


class _Run(Generic[Net]):
    """One call of train()."""

    def __init__(
        self,
        model: Net,
        task: Task[Criterion[Net]],
        dev: Task[Criterion[Net]] | None,
        options: TrainOptions,
        out: Path,
        device: str,
        frame_shift: float,
    ) -> None:
        self.model, self.task, self.dev, self.options, self.out = model, task, dev, options, out
        self.device, self.frame_shift, self.world = device, frame_shift, World.current()
        self.optimizer = make_optimizer(model.parameters(), options, model.rate_factors(), model.without_decay())
        first = TrainState(loss_scale=FIRST_SCALE if options.precision == "float16" else 1.0)
        self.state = load_state(out, model, self.optimizer) or first
        self.start, self.start_share = time.monotonic(), self.state.epoch / options.epochs
        self.last_save = self.start

    def go(self) -> None:
        (self.out / EPOCHS).mkdir(parents=True, exist_ok=True)
        if self.world.rank:
            self._follow()
            return self.world.copy_first(self.model.state_dict().values())
        if self.state.epoch or self.state.step:
            logger.info("resuming after epoch %d, batch %d", self.state.epoch, self.state.step)
        with (
            tracked(self.out, self.state.epoch, self.options.tracker) as put,
            Meter("epochs", self.options.epochs, self.state.epoch) as meter,
        ):
            while self.state.epoch < self.options.epochs:
                figures = self._epoch()
                meter.at(self.state.epoch)
                put(figures, self.state.epoch)
        self._finish()
        self.world.copy_first(self.model.state_dict().values())

    def _follow(self) -> None:
        """The part of a process that has no files to write."""
        while self.state.epoch < self.options.epochs:
            self._epoch()

    def _epoch(self) -> dict[str, float]:
        options, state = self.options, self.state
        batches = plan(self.task.data.lens, options.batch_frames, options.max_batch, (options.seed, state.epoch))
        began = time.monotonic()
        self.model.train()
        size = options.accumulate * self.world.size
        starts = range(state.step, len(batches), size)
        for first in progress(starts, desc=f"epoch {state.epoch + 1} of {options.epochs}"):
            group = list(enumerate(batches[first : first + size], start=first))
            self._update(group, (state.epoch + first / len(batches)) / options.epochs)
            state.step = first + len(group)
            if time.monotonic() - self.last_save > SAVE_SECONDS:
                self._save()
        done = (state.epoch + 1) / options.epochs
        self.task.criterion.end_epoch(self.model, self.task.data, done)
        figures = per_frame(state.sums)
        figures["learning_rate"] = self._rate(done)
        if self.dev is not None:
            figures.update(evaluate(self.model, self.dev, options, self.device, done, self.world))
        figures.update(attention_entropy(self.model, self.dev or self.task, options, self.device))
        self._plateau(figures)
        figures["seconds"] = time.monotonic() - began
        trouble = self.task.criterion.diagnose(self.model, figures, done)
        if trouble is not None:
            raise DivergenceError(f"epoch {state.epoch + 1}: {trouble}")
        state.history.append(figures)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        if self.world.rank:
            return figures
        self._keep_epoch()
        self._save()
        self._report(figures)
        return figures

    def _update(self, group: list[tuple[int, np.ndarray]], done: float) -> None:
        """One update with the gradient of the mean loss per frame of some batches, of which each process takes its
        share.
        """
        state = self.state
        criterion = self.task.criterion
        factor = criterion.rate_factor(done) if isinstance(criterion, SetsRate) else 1.0
        set_rate(self.optimizer, factor * self._rate(done))
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {"frames": 0}
        scale = 0.0  # what the gradients of this process's sums have been divided by
        for step, indices in group[self.world.rank :: self.world.size]:
            loss = self._loss(step, indices, done)
            add_sums(sums, loss)
            if loss.frames:
                scale = scale or loss.frames / state.loss_scale
                add_gradient(loss, scale, f"epoch {state.epoch + 1}, batch {step + 1}")
        self.world.copy_first(vectors_of(self.model))  # which each pass moves, and not all have as many
        sums = self.world.sum_of(sums)
        for name, value in sums.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if not sums["frames"]:
            return
        if len(group) > 1 or self.world.size > 1 or state.loss_scale != 1:
            self.world.join_gradients(self.model, scale / sums["frames"])
        if self.world.size > 1 and isinstance(criterion, KeepsStatistics):
            criterion.join(self.model, self.world)
        finite = clip_gradient(self.model, self.options.clip)
        if finite:
            self.optimizer.step()
            if isinstance(criterion, FollowsUpdates):
                criterion.updated(self.model)
        if self.options.precision == "float16" and state.adapt_scale(finite):
            return
        if finite:
            return
        state.skipped_steps += 1
        if state.skipped_steps > MAX_BAD_STEPS:
            raise DivergenceError(
                f"epoch {state.epoch + 1}: NaN in the gradient of more than {MAX_BAD_STEPS} batches. "
                f"Usual cures: a lower --learning-rate, a lower --clip"
            )

    def _loss(self, step: int, indices: np.ndarray, done: float) -> Loss:
        """The criterion of one batch; what is random in it depends on the number of the batch alone."""
        options = self.options
        seed_step(options.seed, self.state.epoch, step)
        batch = prepare(self.model, self.task.data, indices, options, done, self.frame_shift, self.device)
        kind = torch.float16 if options.precision == "float16" else torch.bfloat16
        with torch.autocast(self.device.split(":")[0], kind, enabled=options.precision != "float32"):
            return training_loss(self.task.criterion, self.model, batch, done)

    def _rate(self, done: float) -> float:
        return learning_rate(min(done, 1.0), self.options, self.state.decays)

    def _plateau(self, figures: dict[str, float]) -> None:
        name = "dev_loss" if self.dev is not None else "loss"
        before = [h[name] for h in self.state.history]
        if self.options.schedule == "plateau" and before and figures[name] >= min(before):
            self.state.decays += 1

    def _keep_epoch(self) -> None:
        from pipeline.artifacts.checkpoint import save_tensors

        directory = self.out / EPOCHS
        save_tensors(epoch_file(directory, self.state.epoch), self.model.state_dict())
        keep = {epoch_file(directory, e) for e in best_epochs(self.state.history, self.options.average)}
        for path in directory.glob("epoch-*.safetensors"):
            if path not in keep:
                path.unlink()

    def _save(self) -> None:
        if self.world.rank:
            return
        save_state(self.out, self.state, self.model, self.optimizer)
        self.last_save = time.monotonic()

    def _report(self, figures: dict[str, float]) -> None:
        share = self.state.epoch / self.options.epochs
        left = (time.monotonic() - self.start) / max(share - self.start_share, 1e-9) * (1.0 - share)
        entropies = [value for name, value in figures.items() if name.startswith(ENTROPY)]
        text = ", ".join(
            f"{k} {v:.3g}" if k == "learning_rate" else f"{k} {v:.3f}"
            for k, v in figures.items()
            if k != "seconds" and not k.startswith(ENTROPY)
        )
        logger.info(
            "epoch %d of %d: %s; %s, %s left",
            self.state.epoch,
            self.options.epochs,
            text,
            duration(figures["seconds"]),
            duration(left),
        )
        if entropies:
            logger.info("attention entropy of the layers: %s nats", " ".join(f"{value:.2f}" for value in entropies))

    def _finish(self) -> None:
        chosen = best_epochs(self.state.history, self.options.average)
        self.model.load_state_dict(average([epoch_file(self.out / EPOCHS, e) for e in chosen]))
        self.model.eval()
        logger.info("final model: mean of epochs %s", ", ".join(map(str, chosen)))
