"""Utterances in memory, and batches of similar length whose order depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.feats.load import PackedFeats

JITTER = 0.1  # lengths vary by this factor before utterances are sorted, so that batches differ between epochs


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        indices: (N,) positions of the utterances in their data set.
        feats: (N, T, F) float32, zero behind each end.
        lens: (N,) int64.
    """

    indices: np.ndarray
    feats: torch.Tensor
    lens: torch.Tensor

    @property
    def num_frames(self) -> int:
        return int(self.lens.sum())


class UtteranceSet:
    """Some utterances of packed features; everything that a criterion knows of them is indexed in the same order."""

    def __init__(self, packed: PackedFeats, indices: Sequence[int] | None = None) -> None:
        """Args:
        indices: the utterances to keep, in this order; all by default.
        """
        self.packed = packed
        self.rows = np.arange(len(packed)) if indices is None else np.asarray(indices, dtype=np.int64)
        self.lens = packed.lengths().numpy()[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [self.packed.cut_ids[i] for i in self.rows]

    @property
    def num_frames(self) -> int:
        return int(self.lens.sum())

    def batch(self, indices: np.ndarray, device: str = "cpu") -> Batch:
        """The padded batch of the given utterances."""
        feats = [self.packed[int(self.rows[i])] for i in indices]
        return Batch(
            indices,
            torch.nn.utils.rnn.pad_sequence(feats, batch_first=True).to(device),
            torch.from_numpy(self.lens[indices]).to(device),
        )

    def chunks(self, size: int) -> UtteranceSet:
        """The same frames in pieces of `size`, each an utterance of its own; the last one of an utterance may be
        shorter.
        """
        offsets = self.packed.offsets.numpy()
        parts, ids, speakers, lens = [], [], [], []
        for row in self.rows:
            first, last = int(offsets[row]), int(offsets[row + 1])
            parts.append(self.packed.feats[first:last])
            pieces = range(0, last - first, size)
            ids += [f"{self.packed.cut_ids[row]}-{i}" for i in pieces]
            speakers += [self.packed.speakers[row]] * len(pieces)
            lens += [min(size, last - first - i) for i in pieces]
        return UtteranceSet(
            PackedFeats(
                tuple(ids), tuple(speakers), torch.cat(parts), torch.from_numpy(np.concatenate([[0], np.cumsum(lens)]))
            )
        )

    def batches(self, max_frames: int, max_batch: int, device: str = "cpu") -> Iterator[Batch]:
        """All utterances once, shortest first."""
        for indices in plan(self.lens, max_frames, max_batch):
            yield self.batch(indices, device)


def plan(lens: np.ndarray, max_frames: int, max_batch: int, seed: tuple[int, ...] | None = None) -> list[np.ndarray]:
    """Divides utterances into batches of similar length.

    What lhotse's DynamicBucketingSampler does for streams; here features lie in memory, and a plan that is a function
    of its arguments lets an interrupted training, and each of several processes, find its batches without walking
    through others.

    Args:
        lens: (M,) frames of each utterance.
        max_frames: frames per batch with padding; a longer utterance is a batch of its own.
        max_batch: utterances per batch.
        seed: for a shuffled plan: lengths are jittered before sorting and the batches come in random order.
            None: by length.
    Returns:
        (N,) int64 utterance numbers of each batch; equal arguments give equal plans.
    """
    assert max_frames > 0 and max_batch > 0, (max_frames, max_batch)
    rng = None if seed is None else np.random.default_rng(seed)
    key = lens.astype(np.float64)
    if rng is not None:
        key = key * rng.uniform(1.0 - JITTER, 1.0 + JITTER, len(lens))
    out: list[np.ndarray] = []
    start, longest = 0, 0
    order = np.argsort(key, kind="stable")
    for i, row in enumerate(order):
        grown = max(longest, int(lens[row]))
        if i > start and (grown * (i - start + 1) > max_frames or i - start == max_batch):
            out.append(order[start:i])
            start, grown = i, int(lens[row])
        longest = grown
    if start < len(order):
        out.append(order[start:])
    return out if rng is None else [out[i] for i in rng.permutation(len(out))]
