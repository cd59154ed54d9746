"""Asynchronous training from a job to a trained model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.base.errors import ConfigError
from pipeline.nn.asynchronous.coordinator import STATE
from pipeline.nn.asynchronous.frames import check_frames
from pipeline.nn.asynchronous.job import Built, Job
from pipeline.nn.asynchronous.launch import Node, run_processes
from pipeline.nn.asynchronous.ledger import partition
from pipeline.nn.train import EPOCHS
from pipeline.nn.train_state import average, best_epochs, epoch_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        built: its model holds the mean of the best epochs, in evaluation mode.
        history: figures of each epoch.
        facts: figures of the whole training: updates, staleness, lost replicas, seconds.
    """

    built: Built
    history: list[dict[str, float]]
    facts: dict[str, Any]


def train_async(job: Job, out: Path, node: Node = Node()) -> Trained:
    """Trains with several processes; called on the first machine.

    Args:
        out: directory for checkpoints and logs; a checkpoint found there is resumed from.
    """
    with torch.random.fork_rng(devices=[]):
        built = job.build()
    training = job.training
    if training.schedule == "plateau":
        raise ConfigError("--schedule plateau needs epochs that end one after the other: one_cycle or constant go")
    if training.accumulate > 1:
        raise ConfigError(
            "--accumulate: a replica sends the gradient of each batch; larger batches (--batch-frames) do the same"
        )
    if training.precision != "float32":
        raise ConfigError(f"--precision {training.precision}: replicas compute in float32")
    partition(built.data.lens, training.replicas, training.seed)
    check_frames(built, training)
    if training.simulate_decode_rtf:
        logger.warning(
            "replicas sleep %g s per second of speech in place of a decoder: times are those of a simulation",
            training.simulate_decode_rtf,
        )
    (out / "log").mkdir(parents=True, exist_ok=True)
    result = run_processes(job, out, node)
    assert result is not None
    chosen = best_epochs(result["history"], training.average)
    built.model.load_state_dict(average([epoch_file(out / EPOCHS, e) for e in chosen]))
    built.model.requires_grad_(True).eval()
    logger.info(
        "final model: mean of epochs %s; %d updates, staleness %.2f on average, %d at most; %d replicas lost",
        ", ".join(map(str, chosen)),
        *(result["facts"][k] for k in ("updates", "staleness", "staleness_max", "replicas_lost")),
    )
    return Trained(built, result["history"], result["facts"])


def seconds_to(history: Sequence[dict[str, float]], loss: float) -> float | None:
    """When the dev loss was as low as `loss` for the first time: linear between epochs, None when it never was.

    Before the end of the first epoch nothing is known, so that it counts from there on.
    """
    for number, figures in enumerate(history):
        if figures.get("dev_loss", float("inf")) <= loss:
            if number == 0:
                return figures["seconds"]
            before = history[number - 1]
            share = (before["dev_loss"] - loss) / (before["dev_loss"] - figures["dev_loss"])
            return before["seconds"] + share * (figures["seconds"] - before["seconds"])
    return None


def clean_up(out: Path) -> None:
    """Removes the checkpoints of a completed training, once its result has been saved."""
    shutil.rmtree(out / EPOCHS, ignore_errors=True)
    (out / STATE).unlink(missing_ok=True)
    for path in out.glob("shard*.safetensors"):
        path.unlink()
