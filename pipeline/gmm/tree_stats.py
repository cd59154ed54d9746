"""Statistics for decision trees: one Gaussian per phone in context and pdf-class, cf. Kaldi acc-tree-stats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import torch

from pipeline.artifacts.topo import Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import BOUNDARY
from pipeline.feats.frames import offsets_of
from pipeline.gmm.blocks import Arrays

# Floor for variances in the likelihood of a cluster; keeps clusters of few or equal frames from looking perfect.
VAR_FLOOR = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class TreeStats:
    """Sums over all frames of each (window of phones, pdf-class).

    Args:
        windows: (K, left + 1 + right) int64 phone ids, BOUNDARY outside the utterance.
        pdf_classes: (K,) int64.
        sums: (K, 1 + 2F) float64: frames, sum of x, sum of x^2.
        left: context phones on the left.
    """

    windows: np.ndarray
    pdf_classes: np.ndarray
    sums: np.ndarray
    left: int

    @property
    def right(self) -> int:
        return self.windows.shape[1] - 1 - self.left

    def arrays(self) -> Arrays:
        """Keys (window and pdf-class), ascending, and their sums, for ``added_by_key``."""
        return np.concatenate([self.windows, self.pdf_classes[:, None]], axis=1), self.sums

    @classmethod
    def of(cls, arrays: Arrays, left: int) -> TreeStats:
        """The same from arrays."""
        keys, sums = arrays
        return cls(keys[:, :-1], keys[:, -1], sums, left)


def objective(sums: np.ndarray) -> np.ndarray:
    """Log-likelihood of frames under the one Gaussian that they estimate; the last axis of `sums` is (n, sum x, sum
    x^2).

    -n/2 sum_f (log 2 pi + log v_f + s_f / v_f), s the variance of the frames and v = max(s, VAR_FLOOR); 0 without
    frames. s / v makes it the likelihood also where the floor acts, so that no split can lose. cf. Kaldi
    GaussClusterable.
    """
    dim = (sums.shape[-1] - 1) // 2
    count = sums[..., 0]
    safe = np.maximum(count, 1e-10)[..., None]
    mean = sums[..., 1 : 1 + dim] / safe
    spread = np.maximum(sums[..., 1 + dim :] / safe - mean * mean, 0.0)
    var = np.maximum(spread, VAR_FLOOR)
    return -0.5 * count * (dim * math.log(2 * math.pi) + (np.log(var) + spread / var).sum(-1))


def phone_windows(
    tids: np.ndarray, offsets: np.ndarray, transitions: TransitionModel, left: int, right: int
) -> tuple[np.ndarray, np.ndarray]:
    """The phones around every frame.

    Args:
        tids: (sum of T,) int32 transition-ids, -1 in utterances without an alignment.
        offsets: (N + 1,) bounds of the utterances.
    Returns:
        windows (M, left + 1 + right) of the M phone instances, and (sum of T,) the instance of each frame, -1 where
        tids is.
    """
    valid = tids >= 0
    safe = np.maximum(tids, 0)
    phone = transitions.tid_phone()[safe].astype(np.int64)
    begins = np.zeros(len(tids) + 1, dtype=bool)
    begins[1:] = transitions.tid_ends_phone()[safe]
    begins[offsets] = True
    begins = begins[:-1]
    if len(phone) > 1:
        begins[1:] |= phone[1:] != phone[:-1]
    instance = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    utterance = np.searchsorted(offsets, first, side="right") - 1
    phones = phone[first]
    columns = []
    for shift in range(-left, right + 1):
        at = np.arange(len(first)) + shift
        inside = (at >= 0) & (at < len(first))
        at = np.clip(at, 0, max(len(first) - 1, 0))
        columns.append(np.where(inside & (utterance[at] == utterance), phones[at], BOUNDARY))
    return np.stack(columns, axis=1), np.where(valid, instance, -1)


def frame_classes(tids: np.ndarray, transitions: TransitionModel, topo: Topo) -> np.ndarray:
    """(sum of T,) int64 pdf-class of each frame, -1 where there is no transition-id."""
    ts_class = np.array(
        [
            topo[transitions.phones.name(int(p))].pdf_classes[int(s)]
            for p, s in zip(transitions.phone, transitions.state)
        ]
    )
    return np.where(tids >= 0, ts_class[np.maximum(tids, 0) // 2], -1)


def accumulate_tree(
    pieces: Iterable[tuple[torch.Tensor, np.ndarray, np.ndarray]],
    transitions: TransitionModel,
    topo: Topo,
    left: int,
    right: int,
) -> TreeStats:
    """Statistics of aligned utterances; the pieces in which they come change no bit.

    Args:
        pieces: (sum of T, F) float32 features, (sum of T,) transition-ids, -1 in utterances without an alignment, and
            (M,) frames of each utterance.
        left, right: context phones of the tree to be built.
    """
    rows: dict[bytes, int] = {}
    keys: list[np.ndarray] = []  # (left + 1 + right + 1,): a window of phones and a pdf-class
    sums = torch.zeros((0, 1), dtype=torch.float64)
    for feats, tids, lens in pieces:
        windows, instance = phone_windows(tids, offsets_of(lens), transitions, left, right)
        classes = frame_classes(tids, transitions, topo)
        used = np.flatnonzero(instance >= 0)
        if not len(sums):
            sums = torch.zeros((0, 1 + 2 * feats.shape[1]), dtype=torch.float64)
        # Windows first, then (window, class): both have far fewer rows than there are frames.
        unique, of_instance = np.unique(windows, axis=0, return_inverse=True)
        width = int(classes.max(initial=0)) + 1
        pairs, row = np.unique(of_instance.reshape(-1)[instance[used]] * width + classes[used], return_inverse=True)
        own = np.concatenate([unique[pairs // width], (pairs % width)[:, None]], axis=1).astype(np.int64)
        place = np.array([rows.setdefault(key.tobytes(), len(rows)) for key in own], dtype=np.int64)
        keys += [own[i] for i in np.flatnonzero(place >= len(keys))]
        sums = torch.cat([sums, sums.new_zeros((len(keys) - len(sums), sums.shape[1]))])
        index = torch.from_numpy(place[row.reshape(-1)])
        for begin in range(0, len(used), 100_000):
            span = slice(begin, begin + 100_000)
            x = feats[torch.from_numpy(used[span])].double().cpu()
            sums.index_add_(0, index[span], torch.cat([torch.ones(len(x), 1, dtype=torch.float64), x, x * x], dim=1))
    table = np.stack(keys) if keys else np.zeros((0, left + right + 2), dtype=np.int64)
    order = np.lexsort(table.T[::-1])
    return TreeStats(table[order, :-1], table[order, -1], sums.numpy()[order], left)


def convert_tids(
    tids: np.ndarray, offsets: np.ndarray, old: TransitionModel, new: TransitionModel, topo: Topo, tree
) -> np.ndarray:
    """The same state sequences named by another tree over the same phones and topology, cf. Kaldi convert-ali.

    Args:
        tids: (sum of T,) int32 under `old`, -1 without an alignment.
        tree: the tree of `new`.
    Returns:
        (sum of T,) int32 under `new`.
    """
    windows, instance = phone_windows(tids, offsets, old, tree.left, tree.right)
    classes = frame_classes(tids, old, topo)
    used = np.flatnonzero(tids >= 0)
    pdf = tree.lookup(windows[instance[used]], classes[used])
    ts = tids[used] // 2
    new_ts = new.transition_states(old.phone[ts], old.state[ts], pdf)
    out = np.full(len(tids), -1, dtype=np.int32)
    out[used] = 2 * new_ts + tids[used] % 2
    return out
