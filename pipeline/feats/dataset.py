"""The one data set of all trainings, alignments and decodings: ids, speakers, texts, lengths, features by the batch.

Memory holds the index of the data directory (about 80 bytes per utterance) and, where all features fit into the cache,
these; otherwise the frames of a batch are read when it is made.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import torch

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.feats.cmvn import CmvnStats
from pipeline.feats.frames import (
    PIECE_FRAMES,
    ChosenFrames,
    ChunkFrames,
    Frames,
    MappedFrames,
    StoredFrames,
    TensorFrames,
    cached,
    offsets_of,
    pieces,
)

CACHE_MIB = 2048  # of features that stay in memory, by default
MOMENT_FRAMES = 50_000  # whose float64 copies fit beside everything else
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

    def take(self, keep: np.ndarray) -> Batch:
        """The utterances of a mask (N,) bool, some at least, with as much padding as they need."""
        if keep.all():
            return self
        rows = torch.from_numpy(np.flatnonzero(keep)).to(self.lens.device)
        lens = self.lens[rows]
        return Batch(self.indices[keep], self.feats[rows, : int(lens.max())], lens)


class Names(Protocol):
    """What is known of M utterances beside their frames."""

    def id(self, i: int) -> str:
        """Utterance id."""

    def speaker_of(self, i: int) -> str:
        """Name of the speaker."""

    def text(self, i: int) -> str:
        """Transcript."""

    def where(self, i: int) -> str:
        """Place of an utterance for messages."""


class Dataset:
    """N utterances.

    Attributes:
        names, frames: of all utterances there, of which the data set has some.
        rows: (N,) int64 their positions there.
        lens: (N,) int64 frames.
    """

    def __init__(self, names: Names, frames: Frames, rows: np.ndarray | None = None) -> None:
        self.names, self.frames = names, frames
        self.rows = np.arange(len(frames.lens)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.lens: np.ndarray = frames.lens[self.rows]

    @classmethod
    def open(
        cls,
        data_dir: str | Path,
        options: FeatLoadOptions,
        cut_ids: Sequence[str] | None = None,
        global_stats: CmvnStats | None = None,
        cache_mib: int = CACHE_MIB,
    ) -> Dataset:
        """The utterances of a data directory with features.

        Args:
            data_dir: a directory made by steps/compute_feats.py.
            options: normalisation, deltas, context.
            cut_ids: these only, in this order; by default all in the order of the directory.
            global_stats: statistics for cmvn "global"; by default those of this directory. Give those of the training
                data at test time.
            cache_mib: features stay in memory if all of them fit into so many MiB.
        Raises:
            DataError: no features, or a missing utterance; later, numbers that are not finite.
        """
        directory = Path(data_dir)
        facts, index = FeatureFacts.load(directory), load_index(directory)
        stats = None
        if options.cmvn in ("speaker", "global"):
            use_given = options.cmvn == "global" and global_stats is not None
            stats = global_stats if use_given else CmvnStats.load(directory)
        frames: Frames = StoredFrames(index, facts.dim, options, stats)
        if cut_ids is None:
            return cls(index, cached(frames, cache_mib))
        rows = index.positions(cut_ids)
        names, frames = _Chosen(index, rows), cached(ChosenFrames(frames, rows), cache_mib)
        return cls(names, frames)

    @classmethod
    def of(
        cls,
        feats: Sequence[torch.Tensor],
        ids: Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
    ) -> Dataset:
        """Utterances in memory.

        Args:
            feats: (T, F) float32 of each.
            ids: 0, 1, .. by default. speakers: one for all by default.
        """
        names = [str(i) for i in range(len(feats))] if ids is None else list(ids)
        who = ["speaker"] * len(feats) if speakers is None else list(speakers)
        said = [""] * len(feats) if texts is None else list(texts)
        assert len(names) == len(who) == len(said) == len(feats), (len(names), len(who), len(said), len(feats))
        offsets = offsets_of(np.array([len(f) for f in feats], dtype=np.int64))
        return cls(_Known(names, who, said), TensorFrames(torch.cat(list(feats)), offsets))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Features per frame, F."""
        return self.frames.dim

    @property
    def num_frames(self) -> int:
        return int(self.lens.sum())

    @property
    def ids(self) -> list[str]:
        """All utterance ids; costs memory, ``id`` gives one."""
        return [self.names.id(i) for i in self.rows.tolist()]

    def id(self, i: int) -> str:
        """Utterance id."""
        return self.names.id(int(self.rows[i]))

    def speaker(self, i: int) -> str:
        """Name of an utterance's speaker."""
        return self.names.speaker_of(int(self.rows[i]))

    def text(self, i: int) -> str:
        """Transcript of an utterance."""
        return self.names.text(int(self.rows[i]))

    def where(self, i: int) -> str:
        """Place of an utterance for messages: file, line and id."""
        return self.names.where(int(self.rows[i]))

    def select(self, keep: np.ndarray | Sequence[int]) -> Dataset:
        """Some of the utterances, by position or by a mask (N,) bool; they share the cache."""
        return Dataset(self.names, self.frames, self.rows[np.asarray(keep)])

    def chunks(self, size: int) -> Dataset:
        """The same frames in pieces of `size`, each an utterance of its own; the last of one may be shorter."""
        source = self._own_frames()
        frames = ChunkFrames(source, size)
        return Dataset(_ChunkNames(self, frames), frames)

    def mapped(
        self, function: Callable[[torch.Tensor, np.ndarray], torch.Tensor], dim: int, cache_mib: int = CACHE_MIB
    ) -> Dataset:
        """The same utterances with transformed features.

        Args:
            function: (sum T, F) features and (M,) positions in this data set of the utterances they are of -> (sum T,
                F'). It is asked again in each pass over data that do not fit into the cache, so it must not change.
            dim: F'.
        """
        frames = cached(MappedFrames(self._own_frames(), function, dim), cache_mib)
        return Dataset(_Chosen(self.names, self.rows), frames)

    def _own_frames(self) -> Frames:
        everything = len(self.rows) == len(self.frames.lens) and (self.rows == np.arange(len(self.rows))).all()
        return self.frames if everything else ChosenFrames(self.frames, self.rows)

    def flat(self, indices: np.ndarray) -> torch.Tensor:
        """(sum T, F) float32 features of some utterances side by side; not to be changed in place."""
        return self.frames.flat(self.rows[indices])

    def each(self, indices: np.ndarray) -> list[torch.Tensor]:
        """(T, F) float32 features of some utterances; not to be changed in place."""
        return self.frames.each(self.rows[indices])

    def batch(self, indices: np.ndarray, device: str | torch.device = "cpu") -> Batch:
        """The padded batch of the given utterances."""
        feats = torch.nn.utils.rnn.pad_sequence(self.each(indices), batch_first=True)
        return Batch(indices, feats.to(device), torch.from_numpy(self.lens[indices]).to(device))

    def batches(self, max_frames: int, max_batch: int, device: str | torch.device = "cpu") -> Iterator[Batch]:
        """All utterances once, shortest first."""
        for indices in plan(self.lens, max_frames, max_batch):
            yield self.batch(indices, device)

    def pieces(self, max_frames: int = PIECE_FRAMES) -> Iterator[np.ndarray]:
        """Positions of all utterances in order, those of at most `max_frames` frames at a time (a longer utterance is a
        piece), for ``flat``.
        """
        return pieces(self.lens, max_frames)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (F,) float64 over all frames, merged piece by piece (Chan et al. 1983)."""
        count, mean, square = 0, torch.zeros(self.dim, dtype=torch.float64), torch.zeros(self.dim, dtype=torch.float64)
        for indices in self.pieces(MOMENT_FRAMES):
            wide = self.flat(indices).double()
            own = wide.mean(0)
            total = count + len(wide)
            square += ((wide - own) ** 2).sum(0) + (own - mean) ** 2 * (count * len(wide) / max(total, 1))
            mean += (own - mean) * (len(wide) / max(total, 1))
            count = total
        return mean, square / max(count, 1)


class _Known:
    """Names in memory."""

    def __init__(self, ids: Sequence[str], speakers: Sequence[str], texts: Sequence[str]) -> None:
        self._ids, self._speakers, self._texts = ids, speakers, texts

    def id(self, i: int) -> str:
        return self._ids[i]

    def speaker_of(self, i: int) -> str:
        return self._speakers[i]

    def text(self, i: int) -> str:
        return self._texts[i]

    def where(self, i: int) -> str:
        return f"utterance {self._ids[i]!r}"


class _Chosen:
    """Names of some utterances of others."""

    def __init__(self, source: Names, rows: np.ndarray) -> None:
        self._source, self._rows = source, rows

    def id(self, i: int) -> str:
        return self._source.id(int(self._rows[i]))

    def speaker_of(self, i: int) -> str:
        return self._source.speaker_of(int(self._rows[i]))

    def text(self, i: int) -> str:
        return self._source.text(int(self._rows[i]))

    def where(self, i: int) -> str:
        return self._source.where(int(self._rows[i]))


class _ChunkNames:
    """Names of pieces: that of the utterance and the first frame; they have no transcripts."""

    def __init__(self, data: Dataset, frames: ChunkFrames) -> None:
        self._data, self._frames = data, frames

    def id(self, i: int) -> str:
        return f"{self._data.id(int(self._frames.parent[i]))}-{self._frames.begin[i]}"

    def speaker_of(self, i: int) -> str:
        return self._data.speaker(int(self._frames.parent[i]))

    def text(self, i: int) -> str:
        raise AssertionError("pieces of utterances have no transcripts")

    def where(self, i: int) -> str:
        return self._data.where(int(self._frames.parent[i]))


def validate_feats(data_dir: str | Path) -> FeatureFacts:
    """Check that the features of a data directory are complete, finite, as many as features.json says and as long as
    the audio.
    """
    data_dir = Path(data_dir)
    facts, index = FeatureFacts.load(data_dir), load_index(data_dir)
    data = Dataset.open(data_dir, FeatLoadOptions(cmvn="speaker"), cache_mib=0)
    for indices in data.pieces(MOMENT_FRAMES):
        data.flat(indices)
    apart = np.abs(data.lens * facts.frame_shift - index.durations) > facts.frame_shift
    if apart.any():
        i = int(np.argmax(apart))
        raise DataError(
            f"{data_dir}: utterance {index.id(i)!r} lasts {index.durations[i]} s, its {data.lens[i]} frames do not"
        )
    for what, stated, found in (
        ("utterances", facts.num_utterances, len(data)),
        ("frames", facts.num_frames, data.num_frames),
    ):
        if stated != found:
            raise DataError(f"{data_dir / 'features.json'}: states {stated} {what}, there are {found}")
    return facts


class Batches(Sequence[np.ndarray]):
    """The utterances of each batch, in order; two arrays hold them, since an epoch has as many batches as there are
    some utterances in one, and a list of arrays would take 300 bytes a batch.
    """

    def __init__(self, order: np.ndarray, bounds: np.ndarray, chosen: np.ndarray) -> None:
        """Args:
        order: (N,) utterance numbers. bounds: (B + 1,) where each batch begins there. chosen: the batches, in order.
        """
        self._order, self._bounds, self._chosen = order, bounds, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, i: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, i: slice) -> Batches: ...

    def __getitem__(self, i: int | slice) -> np.ndarray | Batches:
        if isinstance(i, slice):
            return Batches(self._order, self._bounds, self._chosen[i])
        batch = int(self._chosen[i])
        return self._order[self._bounds[batch] : self._bounds[batch + 1]]


def plan(lens: np.ndarray, max_frames: int, max_batch: int, seed: tuple[int, ...] | None = None) -> Batches:
    """Divides utterances into batches of similar length.

    What lhotse's DynamicBucketingSampler does for streams; here lengths lie in memory, and a plan that is a function of
    its arguments lets an interrupted training, and each of several processes, find its batches without walking through
    others.

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
    bounds = array("q", [0])
    longest = 0
    order = np.argsort(key, kind="stable")
    for i, row in enumerate(order):
        grown, size = max(longest, int(lens[row])), i - bounds[-1]
        if size and (grown * (size + 1) > max_frames or size == max_batch):
            bounds.append(i)
            grown = int(lens[row])
        longest = grown
    if len(order):
        bounds.append(len(order))
    count = len(bounds) - 1
    chosen = np.arange(count) if rng is None else rng.permutation(count)
    return Batches(order, np.array(bounds, dtype=np.int64), chosen)
