"""The head of an asynchronous training, in the first server process: deals work, keeps epochs, checkpoints and
history.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.artifacts.checkpoint import load_tensors, save_tensors
from pipeline.base.errors import DataError, PipelineError
from pipeline.base.files import read_json, write_json
from pipeline.base.log import duration
from pipeline.nn.asynchronous.job import Built
from pipeline.nn.asynchronous.ledger import Interval, Item, Key, Ledger, Plan, Wait
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.schedule import learning_rate
from pipeline.nn.step import DivergenceError, evaluate, per_frame, pick_device
from pipeline.nn.train import EPOCHS
from pipeline.nn.train_state import best_epochs, epoch_file

logger = logging.getLogger(__name__)

STATE = "async.json"
Sums = dict[int, dict[str, float]]  # epoch -> name -> sum over frames


class ShardHandle(Protocol):
    """A shard here or in another process."""

    def pull(self) -> tuple[int, list[torch.Tensor]]: ...

    def give_up(self, replica: int) -> None: ...

    def leave(self, replica: int) -> None: ...

    def save(self, path: Path) -> None: ...

    def load(self, path: Path) -> None: ...

    def facts(self) -> tuple[int, dict[int, int]]: ...


class Coordinator:
    """Calls of replicas come from several threads; ``run`` evaluates and watches in the main one.

    Attributes:
        history: figures of each completed epoch; "seconds" counts from the start of the training.
    """

    def __init__(
        self,
        built: Built,
        options: AsyncTraining,
        out: Path,
        shards: Sequence[ShardHandle],
        names: Sequence[Sequence[str]],
        plan: Plan,
    ) -> None:
        """Args:
        out: a checkpoint found there is resumed from.
        names: parameters of each shard.
        """
        self.options, self.out, self.shards, self.names = options, Path(out), shards, names
        self.dev, self.criterion, self.data = built.dev, built.task.criterion, built.data
        # The parameters of the model itself move with each update.
        self.model = copy.deepcopy(built.model).to(pick_device(options.device))
        self.ledger = Ledger(plan, options.replicas, options.epochs, helping=options.mode == "asynchronous")
        self.history: list[dict[str, float]] = []
        self._sums: Sums = {}
        self._ended: Sums = {}  # of epochs that are not evaluated yet: updates, staleness and seconds at their ends
        self._tag, self._before = 0, 0.0
        self._beats: dict[int, float] = {}
        self._gone: set[int] = set()
        self._failure: str | None = None
        self._lock = threading.RLock()
        self._interval = Interval(options.fetch_utterances, options.fetch_seconds)
        self._restore()
        self._start = self._saved = time.monotonic()

    def next(self, replica: int, finished: Sequence[Key], sums: Sums) -> Item | Wait | None:
        """Notes what a replica has finished and gives it something new; see ``Ledger.take``."""
        with self._lock:
            self._beats[replica] = time.monotonic()
            if replica in self.ledger.alive:
                for epoch, values in sums.items():
                    mine = self._sums.setdefault(epoch, {})
                    for name, value in values.items():
                        mine[name] = mine.get(name, 0.0) + value
            completed = self.ledger.finish(replica, finished)
            for epoch in completed:
                updates, staleness = self._staleness()
                self._ended[epoch] = {"updates": float(updates), "staleness": staleness, "seconds": self._seconds()}
                self._keep_epoch(epoch)
            if completed or time.monotonic() - self._saved > self.options.checkpoint_seconds:
                self._save()
            got = self.ledger.take(replica)
            if self.options.mode == "synchronous" and (got is None or isinstance(got, Wait)):
                for shard in self.shards:
                    shard.leave(replica)
            if got is None or isinstance(got, Wait):
                return got
            item = self.ledger.item(got, lambda done: learning_rate(min(done, 1.0), self.options))
            self._interval.passes(len(item.indices))
            return replace(item, fetch=self._interval.number)

    def beat(self, replica: int) -> None:
        """A sign of life."""
        self._beats[replica] = time.monotonic()

    def fail(self, message: str) -> None:
        """The training cannot go on: a replica has met data or numbers that nobody can train with."""
        self._failure = self._failure or message

    def leave(self, replica: int) -> None:
        """A replica has no more work and ends."""
        self._gone.add(replica)

    def give_up(self, replica: int, why: str) -> None:
        """Gives a replica up; the others take over what it has not finished."""
        with self._lock:
            if replica not in self.ledger.alive or replica in self._gone:
                return
            for shard in self.shards:
                shard.give_up(replica)
            count = self.ledger.give_up(replica)
            left = len(self.ledger.alive)
            logger.warning("replica %d is lost (%s): its %d batches go to the %d others", replica, why, count, left)
            if not left and self.ledger.complete < self.options.epochs:
                self.fail(f"no replica is left; the last one, {replica}, was lost: {why}")

    def watch(self) -> None:
        """Gives up replicas that have been silent for too long; raises what has gone wrong."""
        now = time.monotonic()
        for replica, last in list(self._beats.items()):
            if now - last > self.options.heartbeat_seconds:
                self.give_up(replica, f"no sign of life for {self.options.heartbeat_seconds:g} s")
        if self._failure is not None:
            raise PipelineError(self._failure)

    def expect(self, replicas: Sequence[int]) -> None:
        """From now on these are missed when they are silent."""
        for replica in replicas:
            self._beats[replica] = time.monotonic()

    @property
    def all_left(self) -> bool:
        """Whether every replica has ended or has been given up."""
        return not self.ledger.alive - self._gone

    @property
    def finished(self) -> bool:
        """Whether all epochs are completed and evaluated."""
        return len(self.history) == self.options.epochs

    def evaluate(self) -> dict[str, float] | None:
        """Works out the figures of one completed epoch; None when there is nothing to do."""
        number = len(self.history)
        with self._lock:  # between the end of an epoch and its file there is nothing to read
            if number >= self.ledger.complete:
                return None
        self.model.load_state_dict(load_tensors(epoch_file(self.out / EPOCHS, number + 1)))
        done = (number + 1) / self.options.epochs
        with self._lock:
            figures = per_frame(self._sums.get(number, {}))
        figures["learning_rate"] = learning_rate(done, self.options)
        if self.dev is not None:
            figures.update(evaluate(self.model, self.dev, self.options, str(self.model.mean.device), done))
        trouble = self.criterion.diagnose(self.model, figures, done)
        if trouble is not None:
            raise DivergenceError(f"epoch {number + 1}: {trouble}")
        with self._lock:
            figures.update(self._ended.pop(number))
            self.history.append(figures)
            self._sums.pop(number, None)
            self._save()  # first: a checkpoint that still asks for this epoch needs its file
            self._drop_epochs()
        text = ", ".join(
            f"{k} {v:.3g}" if k == "learning_rate" else f"{k} {v:.3f}"
            for k, v in figures.items()
            if k not in ("seconds", "updates")
        )
        logger.info(
            "epoch %d of %d: %s; ended after %d updates, %s",
            number + 1,
            self.options.epochs,
            text,
            figures["updates"],
            duration(figures["seconds"]),
        )
        return figures

    def facts(self) -> dict[str, Any]:
        """Figures of the whole training."""
        ages: dict[int, int] = {}
        for shard in self.shards:
            for age, count in shard.facts()[1].items():
                ages[age] = ages.get(age, 0) + count
        counted = sum(ages.values())
        ranked = sorted(ages.items())
        return {
            "updates": self._staleness()[0],
            "staleness": sum(a * c for a, c in ranked) / max(counted, 1),
            "staleness_max": ranked[-1][0] if ranked else 0,
            "reassigned_batches": self.ledger.lost,
            "replicas_lost": self.options.replicas - len(self.ledger.alive),
            "train_seconds": self._seconds(),
        }

    def save(self) -> None:
        """Writes a checkpoint."""
        with self._lock:
            self._save()

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def _staleness(self) -> tuple[int, float]:
        """Updates of the first shard, mean staleness of its gradients."""
        version, ages = self.shards[0].facts()
        return version, sum(a * c for a, c in ages.items()) / max(sum(ages.values()), 1)

    def _keep_epoch(self, epoch: int) -> None:
        (self.out / EPOCHS).mkdir(parents=True, exist_ok=True)
        state = dict(self.model.state_dict())
        for shard, names in zip(self.shards, self.names):
            state.update(zip(names, shard.pull()[1]))
        save_tensors(epoch_file(self.out / EPOCHS, epoch + 1), state)

    def _drop_epochs(self) -> None:
        keep = {epoch_file(self.out / EPOCHS, e) for e in best_epochs(self.history, self.options.average)}
        if not self.options.keep_epochs:
            for number in range(1, len(self.history) + 1):
                path = epoch_file(self.out / EPOCHS, number)
                if path not in keep:
                    path.unlink(missing_ok=True)

    def _shard_file(self, tag: int, number: int) -> Path:
        return self.out / f"shard{number}.{tag}.safetensors"

    def _save(self) -> None:
        """Shards first, then the file that names them: an interruption in between leaves the former checkpoint."""
        tag = self._tag + 1
        for number, shard in enumerate(self.shards):
            shard.save(self._shard_file(tag, number))
        write_json(
            self.out / STATE,
            {
                "tag": tag,
                "shards": len(self.shards),
                "ledger": self.ledger.state(),
                "history": self.history,
                "sums": {str(e): s for e, s in self._sums.items()},
                "ended": {str(e): s for e, s in self._ended.items()},
                "seconds": self._seconds(),
            },
        )
        for path in self.out.glob("shard*.safetensors"):
            if int(path.name.split(".")[1]) != tag:
                path.unlink()
        self._tag, self._saved = tag, time.monotonic()

    def _restore(self) -> None:
        path = self.out / STATE
        if not path.is_file():
            return
        state = read_json(path)
        try:
            if state["shards"] != len(self.shards):
                raise PipelineError(f"{path}: was made with --servers {state['shards']}")
            self._tag, self._before = int(state["tag"]), float(state["seconds"])
            self.history = list(state["history"])
            self._sums = {int(e): s for e, s in state["sums"].items()}
            self._ended = {int(e): s for e, s in state["ended"].items()}
            self.ledger.restore(state["ledger"])
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(
                f"{path}: not a checkpoint of this training ({e!r}); remove {self.out} to start anew"
            ) from None
        for number, shard in enumerate(self.shards):
            shard.load(self._shard_file(self._tag, number))
        logger.info("resumed after epoch %d, %d updates", self.ledger.complete, self._staleness()[0])
