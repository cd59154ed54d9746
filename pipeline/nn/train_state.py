"""Training checkpoints: one safetensors file holds parameters, optimizer and counters, so that it is never half
written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from pipeline.artifacts.checkpoint import check_finite, load_tensors, save_tensors
from pipeline.artifacts.features import Count
from pipeline.base.errors import DataError
from pipeline.base.files import parse_json
from pipeline.base.records import STRICT, from_json
from pipeline.nn.schedule import load_optimizer_tensors, optimizer_tensors

CHECKPOINT = "train.ckpt.safetensors"
FIRST_SCALE = 65536.0  # of losses in float16
GROW_STEPS = 2000
LOG_PROBS = "log_prior"  # name of a buffer that holds log probabilities
_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass(config=STRICT)
class TrainState:
    """Counters of a training; everything random follows from (seed, epoch, step), so no generator is stored.

    Attributes:
        epoch: epochs completed.
        step: batches of the current epoch completed.
        decays: see ``learning_rate``.
        skipped_steps: batches whose gradient was not finite.
        loss_scale: losses are multiplied by it where gradients are in float16, whose range is small.
        good_steps: updates since it has changed.
        sums: running sums of the current epoch.
        history: one dict of figures per completed epoch.
    """

    epoch: Count = 0
    step: Count = 0
    decays: Count = 0
    skipped_steps: Count = 0
    loss_scale: float = 1.0
    good_steps: Count = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def adapt_scale(self, finite: bool) -> bool:
        """Halves the scale after a gradient that was not finite, and doubles it after GROW_STEPS that were; False when
        it cannot become smaller, so that the trouble has another cause. cf. torch.cuda.amp.GradScaler.
        """
        self.good_steps = self.good_steps + 1 if finite else 0
        if finite:
            if self.good_steps == GROW_STEPS:
                self.loss_scale, self.good_steps = self.loss_scale * 2, 0
            return True
        if self.loss_scale <= 1.0:
            return False
        self.loss_scale /= 2
        return True


def save_state(directory: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes the checkpoint, replacing the former one."""
    tensors = {f"{_MODEL}{k}": v for k, v in model.state_dict().items()}
    tensors.update({f"{_OPTIMIZER}{name}": tensor for name, tensor in optimizer_tensors(optimizer).items()})
    save_tensors(directory / CHECKPOINT, tensors, {"state": json.dumps(asdict(state))})


def load_state(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    """Restores model and optimizer in place; None when there is no checkpoint."""
    from safetensors import SafetensorError, safe_open

    path = directory / CHECKPOINT
    if not path.is_file():
        return None
    tensors = load_tensors(path)
    check_finite(tensors, path)
    try:
        with safe_open(str(path), framework="pt") as f:
            state = from_json(TrainState, parse_json(f.metadata()["state"], path), path)
        model.load_state_dict({k[len(_MODEL) :]: v for k, v in tensors.items() if k.startswith(_MODEL)})
        own = {k[len(_OPTIMIZER) :]: v for k, v in tensors.items() if k.startswith(_OPTIMIZER)}
        load_optimizer_tensors(optimizer, own)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise DataError(f"{path}: not a checkpoint of this training ({e}); remove {directory} to start anew") from None
    return state


def epoch_file(directory: Path, epoch: int) -> Path:
    """File of the parameters after an epoch."""
    return directory / f"epoch-{epoch}.safetensors"


def best_epochs(history: Sequence[dict[str, float]], count: int) -> list[int]:
    """The `count` epochs (from 1) of lowest dev loss, ascending; the last ones where there is no dev loss."""
    epochs = list(range(1, len(history) + 1))
    if all("dev_loss" in h for h in history):
        return sorted(sorted(epochs, key=lambda e: history[e - 1]["dev_loss"])[:count])
    return epochs[-count:]


def average(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean of the floating-point tensors of several files; others from the last file. Of log probabilities, the log of
    the probabilities' mean.
    """
    loaded = [load_tensors(p) for p in paths]
    out = dict(loaded[-1])
    for name, tensor in out.items():
        if tensor.is_floating_point():
            values = torch.stack([t[name].double() for t in loaded])
            is_log = name.rpartition(".")[2] == LOG_PROBS
            mean = values.logsumexp(0) - math.log(len(values)) if is_log else values.mean(0)
            out[name] = mean.to(tensor.dtype)
    return out
