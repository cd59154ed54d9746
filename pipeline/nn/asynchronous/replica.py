"""A replica: fetches parameters, computes gradients on its utterances, and sends them to the servers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from pipeline.base.errors import PipelineError
from pipeline.feats.dataset import plan
from pipeline.nn.asynchronous.coordinator import Sums
from pipeline.nn.asynchronous.frames import FrameBatches
from pipeline.nn.asynchronous.job import Built
from pipeline.nn.asynchronous.ledger import Interval, Item, Key, Plan, Wait
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.asynchronous.service import Link
from pipeline.nn.asynchronous.shard import REFUSED
from pipeline.nn.step import DivergenceError, Loss, add_sums, backward, pick_device, prepare, seed_step, training_loss
from pipeline.nn.train import MAX_BAD_STEPS

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.05  # before asking again when there is nothing to do for now


class GivenUpError(PipelineError):
    """The servers have given this replica up, and the others do its work."""


def make_plan(lens: np.ndarray, parts: Sequence[np.ndarray], options: AsyncTraining) -> Plan:
    """The batches of each replica's share in each epoch; of frames: its utterances one by one, in random order.

    With one replica these are the batches of ``pipeline.nn.train``.
    """

    def batches(epoch: int, part: int) -> list[np.ndarray]:
        seed = (options.seed, epoch) if len(parts) == 1 else (options.seed, epoch, part)
        mine = parts[part]
        if options.shuffle == "utterances":
            return [mine[rows] for rows in plan(lens[mine], options.batch_frames, options.max_batch, seed)]
        return list(np.random.default_rng(seed).permutation(mine)[:, None])

    return batches


class Replica:
    """One replica; ``run`` works until there is nothing left."""

    def __init__(
        self,
        number: int,
        built: Built,
        parameters: Mapping[str, torch.nn.Parameter],
        names: Sequence[Sequence[str]],
        options: AsyncTraining,
        link: Link,
    ) -> None:
        """Args:
        parameters: what is trained, by name.
        names: parameters of each shard.
        """
        self.number, self.built, self.options, self.link = number, built, options, link
        self.device = pick_device(options.device)
        self.model = built.model.to(self.device)
        self.shards = [[parameters[name] for name in shard] for shard in names]
        self.fetched: list[int] | None = None
        self.bad_steps = 0
        self._interval, self._fetch_number = Interval(options.fetch_utterances, options.fetch_seconds), 0
        self._finished: list[Key] = []
        self._sums: Sums = {}

    def run(self) -> None:
        """Works until the servers have nothing more to do; GivenUpError when they have given this replica up."""
        self.model.train()
        if self.options.shuffle == "utterances":
            for item in self._items():
                self._whole(item)
                self._finished.append(item.key)
            return
        frames = FrameBatches(self.built, self.options, self._prepare_frames, self._finished_now)
        for work in frames.batches(self._ask):
            self._fetch(work.share, work.fetch)
            self.model.zero_grad(set_to_none=True)
            self._update(frames.loss(work), work.rate, work.where)

    def _finished_now(self, key: Key) -> None:
        self._finished.append(key)

    def _ask(self) -> Item | None:
        """The next item; None when there is none for now, StopIteration when there will be none."""
        finished, sums = self._finished, self._sums
        self._finished, self._sums = [], {}
        got = self.link.next(finished, sums)
        if got is None:
            raise StopIteration
        return None if isinstance(got, Wait) else got

    def _items(self) -> Iterator[Item]:
        while True:
            try:
                item = self._ask()
            except StopIteration:
                return
            if item is None:
                time.sleep(WAIT_SECONDS)
            else:
                yield item

    def _whole(self, item: Item) -> None:
        """A batch of whole utterances; with one replica, each step is that of ``pipeline.nn.train``."""
        options, key = self.options, item.key
        self._fetch(len(item.indices), item.fetch)
        self._seed(key)
        indices = np.asarray(item.indices, dtype=np.int64)
        batch = prepare(self.model, self.built.data, indices, options, item.done, self.built.frame_shift, self.device)
        self.model.zero_grad(set_to_none=True)
        loss = training_loss(self.built.task.criterion, self.model, batch, item.done)
        self._decode(batch.num_frames)
        add_sums(self._sums.setdefault(key.epoch, {}), loss)
        if loss.frames:
            self._update(loss, item.rate, f"epoch {key.epoch + 1}, replica {self.number}, batch {key.step + 1}")

    def _prepare_frames(self, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, lengths and outer gradients of the utterances of some items, by the parameters that are here now.

        Returns:
            (N, T, F) normalised, (N,), (N, T, P).
        """
        if self.fetched is None or self.options.fetch_by == "all":
            self._fetch(0.0, items[-1].fetch)  # of an interval over all the outer gradients know, too
        self._seed(items[0].key)
        indices = np.concatenate([np.asarray(item.indices, dtype=np.int64) for item in items])
        batch = prepare(
            self.model, self.built.data, indices, self.options, items[-1].done, self.built.frame_shift, self.device
        )
        self.model.eval()
        with torch.no_grad():
            log_post, lens = self.model(batch.feats, batch.lens, normalised=True)
        self.model.train()
        assert self.built.objective is not None
        outer = self.built.objective.outer(log_post, lens, indices)
        self._decode(batch.num_frames)
        sums = {"cancelled": float(outer.skipped_frames), "rejected": float(outer.rejected_frames), **outer.sums}
        add_sums(
            self._sums.setdefault(items[-1].key.epoch, {}),
            Loss(torch.tensor(-outer.objective, dtype=torch.float64), outer.frames, len(outer.failed), sums),
        )
        return batch.feats, lens, outer.gradient

    def _seed(self, key: Key) -> None:
        """Random numbers as in the training loop; those of several replicas must differ."""
        options = self.options
        seed_step(options.seed, key.epoch, key.step, *([key.part] if options.replicas > 1 else []))

    def _decode(self, frames: int) -> None:
        if self.options.simulate_decode_rtf:
            time.sleep(self.options.simulate_decode_rtf * frames * self.built.frame_shift)

    def _fetch(self, utterances: float, number: int) -> None:
        """Takes the servers' parameters if the interval has passed.

        Args:
            utterances: about to be worked on.
            number: of the parameters wanted, as all replicas together count.
        """
        if self.options.fetch_by == "all":
            due, self._fetch_number = number != self._fetch_number, number
        else:
            due = self._interval.passes(utterances)
        if self.fetched is not None and not due:
            return
        self.fetched = []
        with torch.no_grad():
            for parameters, (version, tensors) in zip(self.shards, self.link.pull()):
                self.fetched.append(version)
                for parameter, tensor in zip(parameters, tensors):
                    parameter.copy_(tensor)

    def _update(self, loss: Loss, rate: float, where: str) -> None:
        """Sends the gradient of a loss, unless it is not finite."""
        if not backward(self.model, loss, self.options.clip, where):
            self.bad_steps += 1
            if self.bad_steps > MAX_BAD_STEPS:
                raise DivergenceError(
                    f"{where}: NaN in the gradient of more than {MAX_BAD_STEPS} batches. "
                    f"Usual cures: a lower --learning-rate, a lower --clip"
                )
            return
        gradients = [[None if p.grad is None else p.grad.cpu() for p in shard] for shard in self.shards]
        assert self.fetched is not None
        ages = self.link.push(gradients, rate, self.fetched)
        if REFUSED in ages:
            raise GivenUpError(
                f"replica {self.number} has been given up by the server, since it was silent for too long; "
                f"a longer --heartbeat-seconds helps"
            )
