"""Batches of frames under a frozen outer gradient (the auxiliary function of Heigold et al. 2014).

Utterances are decoded when they are begun: their outer gradient is computed with the parameters of that moment and kept
while their frames are walked through. Frames without a gradient (numerator and denominator cancel) are left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.nn.asynchronous.job import Built
from pipeline.nn.asynchronous.ledger import Item, Key
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.asynchronous.shuffle import consecutive, in_order, on_the_fly, shuffled
from pipeline.nn.sequence import FrameCrossEntropy, Outer
from pipeline.nn.step import Loss

logger = logging.getLogger(__name__)

GROUP = 16  # utterances that are decoded together at most
WAIT_SECONDS = 0.05

Ask = Callable[[], Item | None]
Prepare = Callable[[Sequence[Item]], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass
class Held:
    """An utterance that is being walked through.

    Attributes:
        feats: (left + T + right, F), zeros at both ends.
        frames: (K,) int64 frames that have a gradient.
        gradient: (K, P) theirs.
    """

    item: Item
    feats: torch.Tensor
    frames: torch.Tensor
    gradient: torch.Tensor

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(t.numel() * t.element_size() for t in (self.feats, self.frames, self.gradient))


@dataclass
class Work:
    """A batch of frames.

    Attributes:
        frames: (B, 2) int64, number of a held utterance and place among its frames with a gradient.
        share: utterances that so many frames make up on average.
        fetch: number of the parameters that it is to be computed with, see ``Item``.
        rate: learning rate.
        where: place in the training, for messages.
    """

    frames: np.ndarray
    share: float
    fetch: int
    rate: float
    where: str


class FrameTargets:
    """Cross-entropy as an ``OuterGradient`` that stays exact: the 1 of the label, and nothing for the others.

    The gradient with respect to scores before the softmax, 1 minus posteriors, would be another choice
    (``pipeline.nn.sequence.FrameCrossEntropy``); frozen for long it pushes the scores of wrong labels down without end,
    while here the softmax in the log posterior is always that of the current parameters.
    """

    def __init__(self, labels: Sequence[np.ndarray]) -> None:
        """Args:
        labels: (T_n,) int pdf-ids at the label frame rate, by utterance index.
        """
        self.labels, self._scores = labels, FrameCrossEntropy(labels)

    def outer(self, log_posteriors: torch.Tensor, lens: torch.Tensor, indices: np.ndarray) -> Outer:
        """See ``OuterGradient``."""
        gradient = torch.zeros_like(log_posteriors)
        for row, index in enumerate(indices):
            frames = torch.arange(int(lens[row]))
            gradient[row, frames, torch.from_numpy(np.asarray(self.labels[index], dtype=np.int64))] = 1.0
        return replace(self._scores.outer(log_posteriors, lens, indices), gradient=gradient)


def check_frames(built: Built, options: AsyncTraining) -> None:
    """ConfigError unless batches of frames can be made, where they are asked for."""
    if options.shuffle == "utterances":
        return
    encoder = built.model.encoder
    plain = encoder.subsampling == 1 and encoder.spread is None and encoder.levels is None
    if not (hasattr(encoder.network, "window") and plain):
        raise ConfigError(
            f"--shuffle {options.shuffle} makes batches of frames, for a network that sees a window at the full "
            f"frame rate: --encoder dnn, --subsampling 1, --frames-per-step 1, --levels 0"
        )
    if built.objective is None:
        raise ConfigError(f"--shuffle {options.shuffle}: this criterion has no outer gradient per frame")


class FrameBatches:
    """Makes batches of frames out of items of one utterance each."""

    def __init__(self, built: Built, options: AsyncTraining, prepare: Prepare, done: Callable[[Key], None]) -> None:
        """Args:
        prepare: items -> features (N, T, F), lengths (N,), outer gradients (N, T, P).
        done: is told the items that have been walked through.
        """
        check_frames(built, options)
        self.model, self.options, self.prepare, self.done = built.model, options, prepare, done
        self.left, self.right = built.model.encoder.network.window
        self.mean_frames = float(built.data.lens.mean())
        self.held: dict[int, Held] = {}
        self._count, self._bytes = 0, 0
        self._last: Item | None = None

    def batches(self, ask: Ask) -> Iterator[Work]:
        """Yields work until `ask` raises StopIteration and all has been walked through."""
        walks = {"none": in_order, "on_the_fly": on_the_fly}
        if self.options.shuffle in walks:
            for frames, ended in walks[self.options.shuffle](self._source(ask), self.options.frame_batch):
                yield self._work(frames)
                self._end(ended)
            return
        over = False
        while not over:
            pool, over = self._pool(ask)
            numbers = np.array(pool, dtype=np.int64)
            lens = [len(self.held[n].frames) for n in pool]
            left = np.array(lens, dtype=np.int64)
            for frames in self._order(lens):
                yield self._work(np.stack([numbers[frames[:, 0]], frames[:, 1]], 1))
                left -= np.bincount(frames[:, 0], minlength=len(left))
                self._end(pool[i] for i in np.unique(frames[:, 0]).tolist() if left[i] == 0)

    def loss(self, work: Work) -> Loss:
        """Minus the auxiliary function of a batch; its mean counts a full batch, so that the last, small one weighs
        less.
        """
        rows, grads = [], []
        width = self.left + 1 + self.right
        for number, place in work.frames.tolist():
            held = self.held[number]
            first = int(held.frames[place])
            rows.append(held.feats[first : first + width])
            grads.append(held.gradient[place])
        log_post = self.model.log_posteriors(self.model.encoder.network.windows(torch.stack(rows)))  # (B, P)
        gradient = torch.stack(grads)
        total = -(gradient * log_post.masked_fill(gradient == 0.0, 0.0)).sum()
        return Loss(total, self.options.frame_batch)

    def _order(self, lens: Sequence[int]) -> Iterator[np.ndarray]:
        if self._last is None:
            return consecutive(lens, self.options.frame_batch)
        return shuffled(lens, self.options.frame_batch, np.random.default_rng((self.options.seed, *self._last.key, 1)))

    def _work(self, frames: np.ndarray) -> Work:
        item = self._last
        assert item is not None
        share = len(frames) / self.mean_frames
        return Work(frames, share, item.fetch, item.rate, f"epoch {item.key.epoch + 1}")

    def _end(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            held = self.held.pop(number)
            self._bytes -= held.size
            self.done(held.item.key)

    @property
    def _full(self) -> bool:
        """Whether no more fits; a single utterance always does."""
        return bool(self.held) and self._bytes > self.options.held_megabytes << 20

    def _source(self, ask: Ask) -> Iterator[tuple[int, int] | None]:
        """Utterances to be walked through, decoded in groups of `refresh`."""
        over = False
        while not over:
            if self._full:
                yield None
                continue
            group, over = self._group(ask, max(self.options.refresh, 1))
            if not group and not over:
                if not self.held:
                    time.sleep(WAIT_SECONDS)
                yield None
            for number in group:
                if number in self.held:
                    yield number, len(self.held[number].frames)

    def _pool(self, ask: Ask) -> tuple[list[int], bool]:
        """Utterances whose frames are shuffled together, and whether there will be no more: those of an epoch, or of
        `refresh`, or what fits."""
        wanted = self.options.refresh
        pool: list[int] = []
        begun, over = 0, False
        while not over and (not wanted or begun < wanted):
            group, over = self._group(ask, min(wanted - begun, GROUP) if wanted else 1)
            if not group and not over:
                if begun:
                    break
                time.sleep(WAIT_SECONDS)
            begun += len(group)
            pool += [n for n in group if n in self.held]
            if self._last is not None and not wanted:
                wanted = self._last.of
            if self._full:
                logger.warning(
                    "outer gradients of %d utterances fill --held-megabytes %d; no more are shuffled together",
                    len(pool),
                    self.options.held_megabytes,
                )
                break
        return pool, over

    def _group(self, ask: Ask, count: int) -> tuple[list[int], bool]:
        """Begins up to `count` utterances; their numbers, and whether there will be no more.

        Those without any gradient are done with at once and not held.
        """
        items: list[Item] = []
        over = False
        while len(items) < count and not over:
            try:
                item = ask()
            except StopIteration:
                over = True
                break
            if item is None:
                break
            items.append(item)
        numbers = []
        for start in range(0, len(items), GROUP):
            numbers += self._begin(items[start : start + GROUP])
        return numbers, over

    def _begin(self, items: Sequence[Item]) -> list[int]:
        assert all(len(item.indices) == 1 for item in items), items
        feats, lens, gradient = self.prepare(items)
        self._last = items[-1]
        numbers = []
        for row, item in enumerate(items):
            length = int(lens[row])
            used = gradient[row, :length].ne(0).any(1).nonzero()[:, 0]  # (K,)
            self._count += 1
            numbers.append(self._count)
            held = Held(
                item, F.pad(feats[row, :length], (0, 0, self.left, self.right)), used, gradient[row, used].clone()
            )
            self.held[self._count] = held
            self._bytes += held.size
            if not len(used):
                self._end([self._count])
        return numbers
