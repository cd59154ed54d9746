"""A part of the parameters with their optimizer: gradients come in, in any order and of any age; parameters go out."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import nn

from pipeline.artifacts.checkpoint import load_tensors, save_tensors
from pipeline.base.errors import DataError
from pipeline.base.files import parse_json
from pipeline.nn.options import TrainOptions
from pipeline.nn.schedule import load_optimizer_tensors, make_optimizer, optimizer_tensors, set_rate

Gradients = Sequence[torch.Tensor | None]
REFUSED = -1  # the staleness of a gradient that was not taken, since its sender had been given up
MAX_AGE = 1000  # staler gradients are counted together


def partition_tensors(parameters: Mapping[str, nn.Parameter], shards: int) -> list[list[str]]:
    """Names for each shard: the largest tensor that is left goes to the shard that holds least (ties: to the first).

    Each list is in the order of `parameters`. With more shards than tensors some hold nothing.
    """
    load = [0] * shards
    owner: dict[str, int] = {}
    for name in sorted(parameters, key=lambda n: -parameters[n].numel()):
        owner[name] = min(range(shards), key=lambda k: load[k])
        load[owner[name]] += parameters[name].numel()
    return [[name for name in parameters if owner[name] == k] for k in range(shards)]


class Shard:
    """Tensors, optimizer and a version that counts updates; all calls may come from several threads.

    Attributes:
        version: updates so far.
        ages: staleness -> number of gradients; staleness is the number of updates between fetch and application.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], options: TrainOptions) -> None:
        """Args:
        parameters: by name; updated in place.
        """
        self.parameters = dict(parameters)
        self.optimizer = make_optimizer(self.parameters.values(), options) if self.parameters else None
        self.version = 0
        self.ages: dict[int, int] = {}
        self.given_up: set[int] = set()
        self._lock = threading.RLock()

    def pull(self) -> tuple[int, list[torch.Tensor]]:
        """The version and a copy of all tensors, in the order of `parameters`."""
        with self._lock:
            return self.version, [p.detach().clone() for p in self.parameters.values()]

    def push(self, replica: int, gradients: Gradients, rate: float, fetched: int) -> int:
        """Applies a gradient at once.

        Args:
            gradients: one for each tensor, None for one that had no part in the loss.
            fetched: version that they were computed with.
        Returns:
            staleness, or REFUSED.
        """
        with self._lock:
            if replica in self.given_up:
                return REFUSED
            return self._apply(gradients, rate, [fetched])[0]

    def give_up(self, replica: int) -> None:
        """From now on nothing is taken from a replica."""
        with self._lock:
            self.given_up.add(replica)

    def leave(self, replica: int) -> None:
        """A replica has no work for now; nobody waits for it here anyway."""

    def facts(self) -> tuple[int, dict[int, int]]:
        """Version and ages."""
        with self._lock:
            return self.version, dict(self.ages)

    def _apply(self, gradients: Gradients, rate: float, fetched: Sequence[int]) -> list[int]:
        assert len(gradients) == len(self.parameters), (len(gradients), len(self.parameters))
        if self.optimizer is not None:
            for parameter, gradient in zip(self.parameters.values(), gradients):
                parameter.grad = gradient
            set_rate(self.optimizer, rate)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        ages = [self.version - version for version in fetched]
        assert min(ages) >= 0, (self.version, fetched)
        self.version += 1
        for age in ages:
            self.ages[min(age, MAX_AGE)] = self.ages.get(min(age, MAX_AGE), 0) + 1
        return ages

    def save(self, path: Path) -> None:
        """Writes tensors, optimizer and counts; replaced as a whole or not at all."""
        with self._lock:
            tensors: dict[str, torch.Tensor] = {f"p.{name}": p for name, p in self.parameters.items()}
            if self.optimizer is not None:
                tensors.update({f"o.{name}": t for name, t in optimizer_tensors(self.optimizer).items()})
            # clone: of what the lock protects, only a copy may be written after it
            tensors = {name: t.detach().clone() for name, t in tensors.items()}
            facts = {"version": self.version, "ages": sorted(self.ages.items())}
        save_tensors(path, tensors or {"empty": torch.zeros(1)}, {"shard": json.dumps(facts)})

    def load(self, path: Path) -> None:
        """Restores what ``save`` wrote, in place."""
        from safetensors import SafetensorError, safe_open

        tensors = load_tensors(path)
        try:
            with safe_open(str(path), framework="pt") as f:
                facts = parse_json(f.metadata()["shard"], path)
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(tensors[f"p.{name}"])
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
            raise DataError(
                f"{path}: not a checkpoint of this training ({e!r}); remove its directory to start anew"
            ) from None
        if self.optimizer is not None:
            load_optimizer_tensors(self.optimizer, {n[2:]: t for n, t in tensors.items() if n.startswith("o.")})
        self.version = int(facts["version"])
        self.ages = {int(age): int(count) for age, count in facts["ages"]}


class SynchronousShard(Shard):
    """Waits for a gradient of each replica that takes part, and applies their mean.

    A round ends when all have sent theirs; one that leaves (for want of work, or because it is lost) is not waited for.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], options: TrainOptions, replicas: int) -> None:
        super().__init__(parameters, options)
        self._taking_part = set(range(replicas))
        self._round: dict[int, tuple[Gradients, float, int, Future[int]]] = {}

    def submit(self, replica: int, gradients: Gradients, rate: float, fetched: int) -> Future[int]:
        """Hands in a gradient; the result is there when the round has been applied."""
        future: Future[int] = Future()
        with self._lock:
            if replica in self.given_up:
                future.set_result(REFUSED)
                return future
            assert replica not in self._round, replica
            self._taking_part.add(replica)
            self._round[replica] = (gradients, rate, fetched, future)
        self._close()
        return future

    def leave(self, replica: int) -> None:
        """The others do not wait for this replica until it submits again."""
        with self._lock:
            self._taking_part.discard(replica)
        self._close()

    def give_up(self, replica: int) -> None:
        super().give_up(replica)
        with self._lock:
            mine = self._round.pop(replica, None)
        if mine is not None:
            mine[3].set_result(REFUSED)
        self.leave(replica)

    def _close(self) -> None:
        with self._lock:
            if not self._round or self._taking_part - set(self._round):
                return
            # sorted: the sum must not depend on who came first
            entries = [self._round[replica] for replica in sorted(self._round)]
            self._round = {}
            mean = [_mean(column) for column in zip(*(gradients for gradients, _, _, _ in entries))]
            rate = sum(entry[1] for entry in entries) / len(entries)
            ages = self._apply(mean, rate, [entry[2] for entry in entries])
        for entry, age in zip(entries, ages):
            entry[3].set_result(age)


def _mean(gradients: Gradients) -> torch.Tensor | None:
    """Mean over those that sent something; None counts as 0 beside others."""
    found = [g for g in gradients if g is not None]
    if not found:
        return None
    return found[0] if len(gradients) == 1 else torch.stack(found).sum(0) / len(gradients)
