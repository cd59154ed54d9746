"""Passes over training data that processes share, started by torchrun, and sums whose order depends on the data alone.

Utterances are divided into blocks by their frames. Each process has a run of blocks, keeps their features, and sums
them one by one; the sums of blocks are then added up in pairs, those of pairs in pairs, and so on. Which sums meet is
thus the same for any number of processes, and so is each bit of the total.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.base.errors import ConfigError
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import pieces
from pipeline.gmm.diag import DiagGmms
from pipeline.nn.distributed import World
from pipeline.parallel.parts import Part

BLOCK_FRAMES = 30_000  # of a block at least: five minutes of speech
MOST = 64  # blocks, about
PROCESS = "process"  # begin of the names of their directories

Arrays = tuple[np.ndarray, ...]
Merge = Callable[[Arrays, Arrays], Arrays]
T = TypeVar("T")


def added(a: Arrays, b: Arrays) -> Arrays:
    """Element by element."""
    return tuple(x + y for x, y in zip(a, b))


def added_by_key(a: Arrays, b: Arrays) -> Arrays:
    """Rows with equal keys added up.

    Args:
        a, b: (K,) or (K, C) int64 keys, ascending, and arrays with K rows that belong to them.
    """
    keys, place = np.unique(np.concatenate([a[0], b[0]]), axis=0, return_inverse=True)
    first, second = np.split(place.reshape(-1), [len(a[0])])
    out = []
    for x, y in zip(a[1:], b[1:]):
        total = np.zeros((len(keys), *x.shape[1:]), dtype=x.dtype)
        total[first] = x
        total[second] += y
        out.append(total)
    return (keys, *out)


class Pairs:
    """Adds up sums of blocks as the leaves of a binary tree: two neighbours as soon as both are there."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self.nodes: list[tuple[int, int, Arrays]] = []  # level, number at that level, sums

    def push(self, level: int, number: int, sums: Arrays) -> None:
        """Takes the next node, on the right of those that are there; level 0 is a block."""
        while self.nodes and number % 2 and self.nodes[-1][:2] == (level, number - 1):
            sums = self._merge(self.nodes.pop()[2], sums)
            level, number = level + 1, number // 2
        self.nodes.append((level, number, sums))

    def total(self) -> Arrays:
        """All nodes together."""
        total = self.nodes[-1][2]
        for _, _, sums in reversed(self.nodes[:-1]):
            total = self._merge(sums, total)
        return total


@dataclass(frozen=True)
class Blocks:
    """The blocks of a data set that this process has.

    Attributes:
        count: utterances of all processes.
        rows: of them those of this process, which are its data set.
        first: number of its first block.
        own: (M,) positions in its data set of the utterances of each of its blocks.
        world: the processes.
        idle: whether there are processes without any block.
    """

    count: int
    rows: slice
    first: int
    own: list[np.ndarray]
    world: World
    idle: bool

    @classmethod
    def of(cls, lens: np.ndarray, world: World = World()) -> Blocks:
        """Those of one process.

        Args:
            lens: (N,) frames of all utterances.
        """
        planned = list(pieces(lens, max(BLOCK_FRAMES, -(-int(lens.sum()) // MOST))))
        costs = [lens[rows].sum() for rows in planned]
        shares = [Part(rank, world.size).of_costs(costs) for rank in range(world.size)]
        chosen = shares[world.rank]
        own = planned[chosen]
        start = int(own[0][0]) if own else 0
        rows = slice(start, int(own[-1][-1]) + 1 if own else start)
        return cls(
            len(lens),
            rows,
            chosen.start,
            [block - start for block in own],
            world,
            any(x.start == x.stop for x in shares),
        )

    def check(self, data_dir: str | Path) -> None:
        """ConfigError in all processes when one of them has no block."""
        if self.idle and self.world.size > 1:
            raise ConfigError(
                f"{data_dir}: its frames are too few to be shared by {self.world.size} processes, which take "
                f"{BLOCK_FRAMES:,} each"
            )

    def total(self, sums: Callable[[np.ndarray], Arrays], merge: Merge = added) -> Arrays:
        """Sums over the utterances of all processes; the same in each process.

        Args:
            sums: positions of the utterances of a block -> its sums; called for each block of this process.
            merge: sums of two neighbours -> sums of both.
        """
        pairs = self.nodes(sums, merge)
        if self.world.size > 1:
            pairs = self._joined(pairs, merge)
        return pairs.total()

    def nodes(self, sums: Callable[[np.ndarray], Arrays], merge: Merge = added) -> Pairs:
        """The sums of the utterances of this process; see ``total``."""
        pairs = Pairs(merge)
        for number, rows in enumerate(self.own, self.first):
            pairs.push(0, number, sums(rows))
        return pairs

    def _joined(self, mine: Pairs, merge: Merge) -> Pairs:
        """The nodes of all processes, one after the other."""
        out = Pairs(merge)
        for rank in range(self.world.size):
            for level, number, shapes in self.from_rank(rank, lambda: _described(mine)):
                found = mine.nodes.pop(0)[2] if rank == self.world.rank else None
                arrays = []
                for i, (shape, kind) in enumerate(shapes):
                    array = np.empty(shape, dtype=kind) if found is None else np.ascontiguousarray(found[i])
                    distributed.broadcast(torch.from_numpy(array), src=rank)
                    arrays.append(array)
                out.push(level, number, tuple(arrays))
        return out

    def from_rank(self, rank: int, value: Callable[[], T]) -> T:
        """What `value` returns in the process of that rank, in all of them."""
        if self.world.size == 1:
            return value()
        found: list[Any] = [value() if rank == self.world.rank else None]
        distributed.broadcast_object_list(found, src=rank)
        result: T = found[0]
        return result

    def same(self, gmms: DiagGmms) -> DiagGmms:
        """The mixtures of the first process in all of them: others may have processors that round another way."""
        if self.world.size == 1:
            return gmms
        found = self.from_rank(0, lambda: {name: x.cpu().numpy() for name, x in gmms.tensors().items()})
        return DiagGmms.from_tensors({name: torch.from_numpy(x) for name, x in found.items()}, "").to(gmms.device)

    def summed(self, counts: np.ndarray) -> np.ndarray:
        """Sums over all processes of whole numbers, whose order does not matter."""
        assert counts.dtype == np.int64, counts.dtype
        out = torch.from_numpy(counts.copy())
        if self.world.size > 1:
            distributed.all_reduce(out)
        return out.numpy()

    def of_all(self, value: T) -> list[T]:
        """The values of all processes."""
        return self.world.of_all(value)

    @contextlib.contextmanager
    def in_turn(self, rng: np.random.Generator) -> Iterator[None]:
        """Lets one process after the other draw its random numbers, as if all were one.

        Within the context it is this one's turn.
        """
        for rank in range(self.world.rank):
            rng.bit_generator.state = self.from_rank(rank, dict)
        yield
        for rank in range(self.world.rank, self.world.size):
            rng.bit_generator.state = self.from_rank(rank, lambda: dict(rng.bit_generator.state))

    def others(self) -> bool:
        """Waits until all processes are here; whether this one has no files to write."""
        self.of_all(None)
        return self.world.rank > 0

    def directory(self, work: Path) -> Path:
        """Where this process keeps files that do not stay."""
        return work if self.world.size == 1 else work / f"{PROCESS}.{self.world.rank + 1}-of-{self.world.size}"


def _described(pairs: Pairs) -> list[tuple[int, int, list[tuple[tuple[int, ...], str]]]]:
    return [(level, number, [(x.shape, x.dtype.str) for x in sums]) for level, number, sums in pairs.nodes]


def open_shared(data_dir: str | Path, options: FeatLoadOptions, cache_mib: int, world: World) -> tuple[Dataset, Blocks]:
    """The utterances of a data directory that this process has; see ``Dataset.open``."""
    data = Dataset.open(data_dir, options, cache_mib=cache_mib)
    blocks = Blocks.of(data.lens, world)
    if world.size > 1:
        own = [data.id(n) for n in range(blocks.rows.start, blocks.rows.stop)]
        data = Dataset.open(data_dir, options, own, cache_mib=cache_mib)
    return data, blocks


def moments(data: Dataset, blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (F,) float64 over the frames of all processes, see ``Dataset.moments``."""

    def sums(rows: np.ndarray) -> Arrays:
        mean, variance = data.select(rows).moments()
        count = float(data.lens[rows].sum())
        return np.array([count]), mean.numpy(), variance.numpy() * count

    def merge(a: Arrays, b: Arrays) -> Arrays:
        count, apart = a[0] + b[0], b[1] - a[1]
        share = b[0] / np.maximum(count, 1.0)
        return count, a[1] + apart * share, a[2] + b[2] + apart**2 * (a[0] * share)

    count, mean, square = blocks.total(sums, merge)
    return torch.from_numpy(mean), torch.from_numpy(square / np.maximum(count, 1.0))
