"""Who works on what: the batches of all epochs, dealt to replicas, taken back from those that are lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.errors import ConfigError


class Key(NamedTuple):
    """Names a batch: epoch, share of the utterances, and position in the share's plan, all from 0."""

    epoch: int
    part: int
    step: int


@dataclass(frozen=True)
class Item:
    """A batch to be worked on.

    Attributes:
        key: its name.
        indices: utterances.
        done: share of the training that is done, as its own share counts it.
        rate: learning rate.
        of: number of batches of its share in an epoch.
        fetch: where intervals between fetches are counted over all replicas: how many have passed.
    """

    key: Key
    indices: list[int]
    done: float
    rate: float
    of: int
    fetch: int = 0


class Interval:
    """When parameters are fetched: when so many utterances and so many seconds have both passed since the last time.

    Attributes:
        number: fetches so far.
    """

    def __init__(self, utterances: float, seconds: float) -> None:
        self.utterances, self.seconds = utterances, seconds
        self.number = 0
        self._since, self._last = 0.0, 0.0

    def passes(self, utterances: float) -> bool:
        """Whether to fetch before so many utterances that are about to be worked on; always the first time."""
        now = time.monotonic()
        due = not self.number or (self._since >= self.utterances and now - self._last >= self.seconds)
        if due:
            self.number += 1
            self._since, self._last = 0.0, now
        self._since += utterances
        return due


class Wait:
    """There is nothing to do now, but there may be later."""


Plan = Callable[[int, int], Sequence[np.ndarray]]
LEAD = 1  # epochs that a quick replica may be ahead of the slowest one; bounds what is kept


def partition(lens: np.ndarray, parts: int, seed: int) -> list[np.ndarray]:
    """Deals utterances to replicas so that each has about as many frames.

    Args:
        lens: (M,) frames.
    Returns:
        ascending utterance numbers of each part; each utterance stands in one of them.
    """
    if parts > len(lens):
        raise ConfigError(f"--replicas {parts}: there are only {len(lens)} utterances; each replica needs some")
    if parts == 1:
        return [np.arange(len(lens))]
    shuffled = np.random.default_rng((seed, parts)).permutation(len(lens))
    order = shuffled[np.argsort(-lens[shuffled], kind="stable")]
    turns = np.arange(len(order)) % (2 * parts)
    dealt = np.where(
        turns < parts, turns, 2 * parts - 1 - turns
    )  # there and back, so that no part gets the longest each time
    return [np.sort(order[dealt == part]) for part in range(parts)]


class Ledger:
    """Items are dealt epoch by epoch; an epoch is complete when all its items, and all epochs before it, are finished.

    Attributes:
        complete: epochs completed.
        lost: items that were taken back from lost replicas.
    """

    def __init__(self, plan: Plan, parts: int, epochs: int, helping: bool = True) -> None:
        """Args:
        plan: (epoch, part) -> utterances of each batch; equal arguments give equal plans.
        helping: whether a replica without work takes over that of others at the end of the training.
        """
        self.plan, self.parts, self.epochs, self.helping = plan, parts, epochs, helping
        self.alive = set(range(parts))
        self.complete, self.lost = 0, 0
        self._opened = 0
        self._left: dict[int, set[Key]] = {}
        self._queues: dict[int, deque[Key]] = {part: deque() for part in range(parts)}
        self._given: dict[int, set[Key]] = {part: set() for part in range(parts)}
        self._plans: dict[tuple[int, int], list[list[int]]] = {}

    def take(self, replica: int) -> Key | Wait | None:
        """The next batch for a replica; None when all is done or the replica has been given up."""
        if replica not in self.alive or self.complete == self.epochs:
            return None
        queue = self._queues[replica]
        while not queue and self._opened < self.epochs and self._opened - self.complete <= LEAD:
            self._open()
        if not queue and self.helping and self._opened == self.epochs:
            queue = max((self._queues[other] for other in sorted(self.alive)), key=len)
        if not queue:
            return Wait()
        key = queue.popleft()
        self._given[replica].add(key)
        return key

    def item(self, key: Key, rate: Callable[[float], float]) -> Item:
        """The batch of a name."""
        steps = self._plans[key.epoch, key.part]
        done = (key.epoch + key.step / len(steps)) / self.epochs
        return Item(key, steps[key.step], done, rate(done), len(steps))

    def finish(self, replica: int, keys: Iterable[Key]) -> list[int]:
        """Notes finished batches; returns the epochs that are complete now and were not before."""
        if replica not in self.alive:
            return []
        for key in keys:
            key = Key(*key)
            assert key in self._given[replica], (replica, key)
            self._given[replica].remove(key)
            self._left[key.epoch].remove(key)
        before = self.complete
        while self.complete < self._opened and not self._left[self.complete]:
            del self._left[self.complete]
            self._plans = {(e, p): steps for (e, p), steps in self._plans.items() if e != self.complete}
            self.complete += 1
        return list(range(before, self.complete))

    def give_up(self, replica: int) -> int:
        """Takes everything from a replica and deals it to the others; returns the number of batches."""
        if replica not in self.alive:
            return 0
        self.alive.remove(replica)
        orphans = sorted(self._given.pop(replica) | set(self._queues.pop(replica)))
        self.lost += len(orphans)
        self._deal(orphans, front=True)
        return len(orphans)

    def _open(self) -> None:
        epoch = self._opened
        self._opened += 1
        self._left[epoch] = set()
        for part in range(self.parts):
            self._plans[epoch, part] = [[int(i) for i in indices] for indices in self.plan(epoch, part)]
            keys = [Key(epoch, part, step) for step in range(len(self._plans[epoch, part]))]
            self._left[epoch].update(keys)
            if part in self.alive:
                self._queues[part].extend(keys)
            else:
                self._deal(keys)

    def _deal(self, keys: list[Key], front: bool = False) -> None:
        others = sorted(self.alive)
        for number, other in enumerate(others):
            mine = keys[number :: len(others)]
            if front:
                self._queues[other].extendleft(reversed(mine))
            else:
                self._queues[other].extend(mine)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs: batches that are being worked on count as not begun."""
        finished = [
            [*Key(epoch, part, step)]
            for epoch in self._left
            for part in range(self.parts)
            for step in range(len(self._plans[epoch, part]))
            if Key(epoch, part, step) not in self._left[epoch]
        ]
        return {"complete": self.complete, "opened": self._opened, "finished": finished, "lost": self.lost}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint, with all replicas alive."""
        assert self._opened == 0, self._opened
        self.complete = self._opened = int(state["complete"])
        self.lost = int(state["lost"])
        finished = {Key(*key) for key in state["finished"]}
        while self._opened < int(state["opened"]):
            self._open()
        for epoch in self._left:
            self._left[epoch] -= finished
        for part, queue in self._queues.items():
            self._queues[part] = deque(key for key in queue if key not in finished)
