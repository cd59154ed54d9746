"""Several processes, each with a GPU or some cores, train one model; started by torchrun.

Every update takes accumulate * size batches. Each process computes the gradient of its share; the sums of all are the
gradient of the whole, so that n processes do what one does with n times the accumulation. Model and optimizer are equal
everywhere, since all begin with the same seed or checkpoint and apply the same gradient. The first process alone writes
files.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train together; rank 0 of 1 by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The processes that have been joined by ``lead`` and ``follow``."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def sum_of(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over all processes, names that only some have included."""
        if self.size == 1:
            return sums
        parts: list[dict[str, float]] = [{}] * self.size
        distributed.all_gather_object(parts, sums)
        out: dict[str, float] = {}
        for part in parts:
            for name, value in part.items():
                out[name] = out.get(name, 0.0) + value
        return out

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all processes."""
        if self.size == 1:
            return tensor
        total = tensor.to(_meeting_device())
        total = total.clone() if total is tensor else total
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def of_all(self, value: T) -> list[T]:
        """The values of all processes."""
        out: list[Any] = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(out, value)
        return out

    def of_first(self, value: Callable[[], T]) -> T:
        """What `value` returns in the first process, in all of them."""
        if self.size == 1:
            return value()
        found: list[Any] = [None if self.rank else value()]
        distributed.broadcast_object_list(found, src=0)
        result: T = found[0]
        return result

    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Gives all processes the values that the tensors have in the first one."""
        if self.size == 1:
            return
        for tensor in tensors:
            there = tensor.to(_meeting_device())
            distributed.broadcast(there, src=0)
            tensor.copy_(there)

    def join_gradients(self, model: nn.Module, factor: float) -> None:
        """Multiplies this process's gradients by a factor and adds up those of all processes.

        Parameters of which no process has a gradient get none, so that optimizers leave them alone as in one process.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = self.sum_tensor(torch.tensor([float(parameter.grad is not None) for parameter in trained]))
        for parameter, anywhere in zip(trained, found.tolist()):
            if not anywhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.mul_(factor)
            if self.size > 1:
                distributed.all_reduce(parameter.grad)


def _meeting_device() -> str:
    """Where tensors have to be for messages between the processes."""
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def lead(directory: Path | None, device: str) -> None:
    """Rank 0: tells the others where the training works; None: there is nothing to do. `device` as for the training."""
    _join(device)
    distributed.broadcast_object_list([None if directory is None else str(directory)], src=0)


def follow(action: Callable[[Path], object], device: str) -> None:
    """The other ranks: wait for rank 0 and take part in its training."""
    _join(device)
    found: list[str | None] = [None]
    distributed.broadcast_object_list(found, src=0)
    if found[0] is not None:
        action(Path(found[0]))


def _join(device: str) -> None:
    """Meets the other processes where torchrun says, and takes a GPU of its own, if there are any and they are
    wanted.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    distributed.init_process_group("nccl" if gpus else "gloo")
    atexit.register(_leave)
    if gpus:
        torch.cuda.set_device(distributed.get_rank() % gpus)


def _leave() -> None:
    """Ends the group's threads while Python still runs; where that is left to the end of the process, some abort it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
