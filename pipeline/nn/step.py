"""One step of a training: features of a batch to gradients in a model's parameters, and sums of figures; the same steps
for the training loop in one process (``pipeline.nn.train``) and for replicas of an asynchronous one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import nn

from pipeline.artifacts.model_meta import ENTROPY
from pipeline.base.errors import ConfigError, DataError, PipelineError
from pipeline.feats.dataset import Batch, Dataset, plan
from pipeline.nn.attention import SelfAttention
from pipeline.nn.distributed import World
from pipeline.nn.encoders import Encoder
from pipeline.nn.experts import balance_of, watched_experts
from pipeline.nn.normalised import Network
from pipeline.nn.options import TrainOptions
from pipeline.nn.specaugment import spec_augment

COUNT = "count of "  # name of a running sum: what a figure is counted in
CURES = "a lower --learning-rate, a lower --clip, features that were normalised (--cmvn)"  # of losses like NaN
NUMBER = "number of "  # name of a running sum that is a figure as it is, not per frame

Trained = TypeVar("Trained", bound=Network, contravariant=True)
Net = TypeVar("Net", bound=Network)


class DivergenceError(PipelineError):
    """The training has gone wrong; the message names how and what usually helps."""


@dataclass
class Loss:
    """Criterion of a batch.

    Attributes:
        total: scalar, summed over frames; carries the gradient.
        frames: number of frames in the sum.
        skipped: utterances left out because they have no path.
        sums: further figures summed over the frames ("correct", "silence", ..), reported per frame; or numbers, whose
            names begin with NUMBER.
        counts: over how many the sums of some figures are instead, where batches differ in what their frames are.
    """

    total: torch.Tensor
    frames: int
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Criterion(Protocol[Trained]):
    """What is minimised on one data set; it knows the targets of that set's utterances by their index."""

    def __call__(self, model: Trained, batch: Batch, done: float, /) -> Loss:
        """The loss of a batch.

        Args:
            model: in training or evaluation mode.
            batch: features are normalised (and augmented) already.
            done: share of the training that is done, 0 .. 1, for schedules.
        """

    def end_epoch(self, model: Trained, data: Dataset, done: float) -> None:
        """Called after each training epoch, to refresh what is estimated on the whole data (priors)."""

    def diagnose(self, model: Trained, figures: dict[str, float], done: float) -> str | None:
        """Names the trouble that an epoch's figures show, with the usual cures; None when all is well.

        The figures are those of all processes, and of the whole epoch even if it was interrupted. What nobody else is
        to see may be taken out of them.
        """


@runtime_checkable
class KeepsStatistics(Protocol[Trained]):
    """A criterion that estimates something from the batches that it sees, and leaves it in the model."""

    def join(self, model: Trained, world: World) -> None:
        """Brings together what the processes have estimated; called after each update where there are several."""


@runtime_checkable
class FollowsUpdates(Protocol[Trained]):
    """A criterion that follows the model as it learns, such as one with a teacher that is its moving average."""

    def updated(self, model: Trained) -> None:
        """Called after each update of the parameters."""


@runtime_checkable
class SetsRate(Protocol):
    """A criterion that wants another learning rate for some updates, such as one of two losses in turns."""

    def rate_factor(self, done: float) -> float:
        """Factor of the learning rate of the update that `done` is given for."""


@runtime_checkable
class KeepsOne(Protocol):
    """A model of several networks, such as a teacher and its student, of which one is written in the end."""

    @property
    def kept(self) -> Network:
        """The one."""


Its = TypeVar("Its", bound=Criterion[Any], covariant=True)


@dataclass(frozen=True)
class Task(Generic[Its]):
    """Utterances and the criterion that knows their targets."""

    data: Dataset
    criterion: Its


def pick_device(name: str) -> str:
    """ "auto" becomes "cuda" where there is a GPU; a GPU that is not there is a ConfigError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: there is no CUDA device")
    return name


def seed_step(*position: int) -> None:
    """Seeds torch's random numbers by a place in a training: (seed, epoch, step)."""
    seed = np.random.SeedSequence(position).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(seed >> np.uint64(1)))


def prepare(
    model: Network,
    data: Dataset,
    indices: np.ndarray,
    options: TrainOptions,
    done: float,
    frame_shift: float,
    device: str,
) -> Batch:
    """A training batch: normalised, then augmented if its time has come."""
    batch = normalised(model, data.batch(indices, device))
    if done < options.augment_from or not (options.time_masks or options.feature_masks):
        return batch
    size = int(round(options.time_mask_seconds / frame_shift))
    feats = spec_augment(
        batch.feats,
        batch.lens,
        options.time_masks,
        size,
        options.time_mask_share,
        options.feature_masks,
        options.feature_mask_size,
    )
    return Batch(batch.indices, feats, batch.lens)


def normalised(model: Network, batch: Batch) -> Batch:
    """The batch with normalised features, zeros behind each end."""
    mask = torch.arange(batch.feats.shape[1], device=batch.lens.device)[None, :] < batch.lens[:, None]
    return Batch(batch.indices, model.normalise(batch.feats) * mask[:, :, None], batch.lens)


def training_loss(criterion: Criterion[Net], model: Net, batch: Batch, done: float) -> Loss:
    """The criterion of a training batch, and for each of its frames what layers of experts add for their balance."""
    with watched_experts(model) as layers:
        loss = criterion(model, batch, done)
        balance = balance_of(layers)
    if balance is not None and loss.frames:
        loss.total = loss.total + loss.frames * balance[0]
        loss.sums["expert_balance"] = loss.frames * balance[1]
    return loss


def backward(model: nn.Module, loss: Loss, clip: float, where: str) -> bool:
    """Adds the gradient of the mean loss per frame, clipped, to the parameters' gradients.

    Args:
        where: place in the training, for the message.
    Returns:
        whether the gradient is finite; a loss that is not is a DivergenceError.
    """
    add_gradient(loss, loss.frames, where)
    return clip_gradient(model, clip)


def add_gradient(loss: Loss, scale: float, where: str) -> None:
    """Adds the gradient of the loss's sum, divided by `scale`; a loss that is not finite is a DivergenceError.

    In float16 small gradients would vanish, so the caller divides by less and multiplies the sum of all later.
    """
    if not bool(torch.isfinite(loss.total)):
        raise DivergenceError(f"{where}: the loss is {float(loss.total)} (NaN or infinity). Usual cures: {CURES}")
    (loss.total / scale).backward()


def clip_gradient(model: nn.Module, clip: float) -> bool:
    """Shortens the gradient of all parameters to the norm `clip`, and says whether it is finite."""
    return bool(torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), clip)))


@torch.no_grad()
def evaluate(
    model: Net, task: Task[Criterion[Net]], options: TrainOptions, device: str, done: float, world: World = World()
) -> dict[str, float]:
    """Figures of a task under a model that stays as it is, with names that begin with "dev_"; each process does its
    share. An error when there is no finite loss, by which epochs could be compared.
    """
    model.eval()
    sums: dict[str, float] = {}
    batches = plan(task.data.lens, options.batch_frames, options.max_batch)
    for indices in batches[world.rank :: world.size]:
        add_sums(sums, task.criterion(model, normalised(model, task.data.batch(indices, device)), done))
    sums = world.sum_of(sums)
    if not sums.get("frames"):
        raise DataError("dev data: every utterance was left out, so that no loss can choose among epochs")
    figures = per_frame(sums, "dev_")
    if not math.isfinite(figures["dev_loss"]):
        raise DivergenceError(f"the loss on dev data is {figures['dev_loss']} (NaN or infinity). Usual cures: {CURES}")
    return figures


@torch.no_grad()
def attention_entropy(model: Net, task: Task[Criterion[Net]], options: TrainOptions, device: str) -> dict[str, float]:
    """Mean entropy, in nats, of each layer of self-attention in a model's encoder over the first batch of a task's
    data, without masks and dropout; {} where there is none. Of a model with several networks, that which it keeps.

    When it falls to 0 in a layer, its gradients vanish and the training stalls (entropy collapse, Zhai et al. 2023).
    """
    network = model.kept if isinstance(model, KeepsOne) else model
    encoders = [module for module in network.modules() if isinstance(module, Encoder)]
    layers = [module for encoder in encoders for module in encoder.modules() if isinstance(module, SelfAttention)]
    if not layers:
        return {}
    model.eval()
    indices = plan(task.data.lens, options.batch_frames, options.max_batch)[0]
    batch = normalised(model, task.data.batch(indices, device))
    for layer in layers:
        layer.watched = True
    # The criterion is not asked: it may draw random numbers, or note what it has seen.
    for encoder in encoders:
        encoder(batch.feats, batch.lens)
    for layer in layers:
        layer.watched = False
    return {f"{ENTROPY}{number}": layer.entropy for number, layer in enumerate(layers, 1)}


def lowest_entropy(figures: dict[str, float]) -> dict[str, float]:
    """Of the entropies of attention after an epoch that of the layer where it is lowest, as a fact for a stamp."""
    found = [value for name, value in figures.items() if name.startswith(ENTROPY)]
    return {"attention_entropy": min(found)} if found else {}


def add_sums(sums: dict[str, float], loss: Loss) -> None:
    """Adds what a batch has yielded to running sums."""
    for name, value in (
        ("loss", float(loss.total.detach())),
        ("frames", loss.frames),
        ("skipped", loss.skipped),
        *loss.sums.items(),
        *((f"{COUNT}{name}", count) for name, count in loss.counts.items()),
    ):
        sums[name] = sums.get(name, 0.0) + value


def per_frame(sums: dict[str, float], prefix: str = "") -> dict[str, float]:
    """Running sums as means per frame, or what they are counted in, with the number of utterances left out, if there
    are any.
    """
    frames = max(sums.get("frames", 0.0), 1.0)
    figures = {k: v for k, v in sums.items() if k not in ("frames", "skipped") and not k.startswith(COUNT)}
    out = {
        f"{prefix}{k}": v if k.startswith(NUMBER) else v / max(sums.get(f"{COUNT}{k}", frames), 1.0)
        for k, v in figures.items()
    }
    if sums.get("skipped"):
        out[f"{prefix}skipped"] = sums["skipped"]
    return out
