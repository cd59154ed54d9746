"""Where the frames of utterances come from: files, memory, pieces of other utterances, transforms of other frames.

All of them answer the same two questions, the features of some utterances as a list or side by side, so a data set
(``pipeline.feats.dataset``) reads what a batch needs and no more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.index import UtteranceIndex
from pipeline.base.errors import DataError
from pipeline.feats.cmvn import CmvnStats, mean_std
from pipeline.feats.transforms import add_deltas, splice

PIECE_FRAMES = 300_000  # that statistics are taken of, and that memory is filled with, at a time
_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


class Frames(Protocol):
    """Features of M utterances.

    Attributes:
        lens: (M,) int64 frames of each.
        dim: features per frame, F.
    """

    @property
    def lens(self) -> np.ndarray: ...

    @property
    def dim(self) -> int: ...

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """(sum T, F) float32 features of some utterances, side by side in the order asked for."""

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """(T, F) float32 features of some utterances; perhaps views of memory that others see."""


def offsets_of(lens: np.ndarray) -> np.ndarray:
    """(N,) lengths -> (N + 1,) int64 bounds."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lens, dtype=np.int64)])


def pieces(lens: np.ndarray, max_frames: int) -> Iterator[np.ndarray]:
    """Positions of utterances in order, those of at most `max_frames` frames at a time; a longer one is a piece of its
    own.
    """
    start, total = 0, 0
    for i, length in enumerate(lens.tolist()):
        if i > start and total + length > max_frames:
            yield np.arange(start, i)
            start, total = i, 0
        total += length
    if start < len(lens):
        yield np.arange(start, len(lens))


class TensorFrames:
    """Frames in memory, utterance behind utterance."""

    def __init__(self, feats: torch.Tensor, offsets: np.ndarray) -> None:
        """Args:
        feats: (sum T, F) float32. offsets: (M + 1,) int64.
        """
        assert len(feats) == offsets[-1], (feats.shape, offsets[-1])
        self.feats, self.offsets = feats, np.asarray(offsets, dtype=np.int64)
        self.lens, self.dim = np.diff(self.offsets), feats.shape[1]

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``; a view where the utterances follow each other."""
        if len(rows) and (np.diff(rows) == 1).all():
            return self.feats[self.offsets[rows[0]] : self.offsets[rows[-1] + 1]]
        parts = self.each(rows)
        return torch.cat(parts) if parts else self.feats[:0]

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``Frames``; views."""
        return [self.feats[self.offsets[i] : self.offsets[i + 1]] for i in rows.tolist()]


class _Read:
    """Frames that have to be fetched: ``each`` by way of ``flat``."""

    lens: np.ndarray

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        raise NotImplementedError

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``Frames``."""
        return list(self.flat(rows).split(self.lens[rows].tolist())) if len(rows) else []


class StoredFrames(_Read):
    """Frames of a data directory, read by their place in its files; normalised, with deltas and context."""

    def __init__(
        self, index: UtteranceIndex, dim: int, options: FeatLoadOptions, stats: CmvnStats | None = None
    ) -> None:
        """Args:
            dim: features per frame as features.json states them.
            stats: statistics of the speakers or, for cmvn "global", of all.
        Raises:
            DataError: an utterance without features, or of another dimension; a file that is missing or too short.
        """
        index.check_features()
        self.index, self.options, self.stats = index, options, stats
        self.lens, self.dim = index.num_frames.astype(np.int64), options.output_dim(dim)
        self._files = [_FrameFile(Path(path), width, precision) for path, width, precision in index.files]
        for number, file in enumerate(self._files):
            own = np.flatnonzero(index.file == number)
            if file.dim != dim:
                where = index.where(int(own[0]))
                raise DataError(
                    f"{where} has {self.lens[own[0]]} frames of {file.dim} features, features.json says {dim}"
                )
            ends = index.first_frame[own] + self.lens[own]
            if ends.max() > file.num_frames:
                first = int(own[np.argmax(ends > file.num_frames)])
                raise DataError(
                    f"{file.path}: ends after {file.num_frames} frames, before those of utterance "
                    f"{index.id(first)!r} do; compute the features again"
                )

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``; DataError for numbers that are not finite."""
        offsets = offsets_of(self.lens[rows])
        feats = torch.from_numpy(self._raw(rows, offsets))
        if not bool(torch.isfinite(feats).all()):
            bad = int(np.searchsorted(offsets, int((~torch.isfinite(feats).all(1)).nonzero()[0, 0]), side="right")) - 1
            cut_id = self.index.id(int(rows[bad]))
            raise DataError(f"{self.index.directory}: features of utterance {cut_id!r} are not finite")
        self._normalise(feats, rows, offsets)
        bounds = torch.from_numpy(offsets)
        if self.options.deltas and len(rows):
            feats = add_deltas(feats, bounds, self.options.deltas, self.options.delta_window)
        if (self.options.splice_left or self.options.splice_right) and len(rows):
            feats = splice(feats, bounds, self.options.splice_left, self.options.splice_right)
        return feats

    def _raw(self, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(sum T, F) float32 as stored; neighbours in a file are read together."""
        out = np.empty((int(offsets[-1]), self._files[0].dim), dtype=np.float32)
        first, file = self.index.first_frame[rows], self.index.file[rows]
        ends = first + self.lens[rows]
        breaks = np.flatnonzero((first[1:] != ends[:-1]) | (file[1:] != file[:-1])) + 1
        for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)]):
            if end > begin:
                self._files[file[begin]].read(int(first[begin]), out[offsets[begin] : offsets[end]])
        return out

    def _normalise(self, feats: torch.Tensor, rows: np.ndarray, offsets: np.ndarray) -> None:
        """Normalise means, and variances if asked for, in place."""
        if self.options.cmvn == "none":
            return
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for i, row in enumerate(rows.tolist()):
            own = feats[offsets[i] : offsets[i + 1]]
            if self.options.cmvn == "utterance":
                wide = own.double()
                count = torch.full_like(wide[0], len(wide))
                mean, std = mean_std(torch.stack([count, wide.sum(0), (wide**2).sum(0)]))
            else:
                assert self.stats is not None, self.options
                group = int(self.index.speaker[row]) if self.options.cmvn == "speaker" else -1
                if group not in known:
                    known[group] = self.stats.mean_std(None if group < 0 else self.index.speaker_names[group])
                mean, std = known[group]
            own -= mean
            if self.options.norm_vars:
                own /= std


class _FrameFile:
    """A file of frames without a header, see ``pipeline.feats.storage``; open from the first reading on."""

    def __init__(self, path: Path, dim: int, precision: str) -> None:
        self.path, self.dim, self.dtype = path, dim, _DTYPES[precision]
        try:
            self.num_frames = path.stat().st_size // (dim * self.dtype.itemsize)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; compute the features again") from None
        self._fd: int | None = None
        self._lock = threading.Lock()

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (T, F) float32, contiguous, with the frames from `first` on; DataError if the file ends before."""
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY)
        raw = out if self.dtype == np.float32 else np.empty(out.shape, dtype=self.dtype)
        left, place = memoryview(raw.data).cast("B"), first * self.dim * self.dtype.itemsize
        while len(left):
            count = os.preadv(self._fd, [left], place)
            if count <= 0:
                raise DataError(f"{self.path}: ends before frame {first + len(out)}; compute the features again")
            left, place = left[count:], place + count
        if raw is not out:
            out[...] = raw

    def __getstate__(self) -> tuple[Path, int, str]:
        return self.path, self.dim, self.dtype.name

    def __setstate__(self, state: tuple[Path, int, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # an open file does not travel to other processes

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)  # type: ignore[arg-type]


class CachedFrames:
    """Frames of others, all of them in memory from the first use on."""

    def __init__(self, source: Frames) -> None:
        self.source, self.lens, self.dim = source, source.lens, source.dim
        self._memory: TensorFrames | None = None

    @property
    def memory(self) -> TensorFrames:
        """All frames."""
        if self._memory is None:
            offsets = offsets_of(self.lens)
            feats = torch.empty((int(offsets[-1]), self.dim), dtype=torch.float32)
            for rows in pieces(self.lens, PIECE_FRAMES):
                feats[offsets[rows[0]] : offsets[rows[-1] + 1]] = self.source.flat(rows)
            self._memory = TensorFrames(feats, offsets)
        return self._memory

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``."""
        return self.memory.flat(rows)

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``Frames``."""
        return self.memory.each(rows)


def cached(frames: Frames, cache_mib: int) -> Frames:
    """The frames, kept in memory where all of them fit into so many MiB."""
    size = int(frames.lens.sum()) * frames.dim * 4
    return CachedFrames(frames) if size <= cache_mib << 20 else frames


@dataclass(frozen=True)
class ChosenFrames:
    """Some utterances of others, under new numbers.

    Args:
        rows: (M,) int64 their numbers there.
    """

    source: Frames
    rows: np.ndarray

    @property
    def lens(self) -> np.ndarray:
        return self.source.lens[self.rows]

    @property
    def dim(self) -> int:
        return self.source.dim

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``."""
        return self.source.flat(self.rows[rows])

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``Frames``."""
        return self.source.each(self.rows[rows])


class ChunkFrames(_Read):
    """Pieces of the utterances of others, each an utterance of its own; the last of one may be shorter.

    Attributes:
        parent: (M,) int64 the utterance that a piece is of.
        begin: (M,) int64 its first frame there.
    """

    def __init__(self, source: Frames, size: int) -> None:
        counts = -(-source.lens // size)
        self.source, self.dim = source, source.dim
        self.parent = np.repeat(np.arange(len(counts)), counts)
        self.begin = (np.arange(len(self.parent)) - np.repeat(np.cumsum(counts) - counts, counts)) * size
        self.lens = np.minimum(size, source.lens[self.parent] - self.begin)

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``."""
        parts = self.each(rows)
        return torch.cat(parts) if parts else self.source.flat(rows)

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``Frames``; each utterance is read once, whatever number of its pieces is asked for."""
        needed, which = np.unique(self.parent[rows], return_inverse=True)
        whole = self.source.each(needed)
        begins, lens = self.begin[rows].tolist(), self.lens[rows].tolist()
        return [whole[p][b : b + n] for p, b, n in zip(which.reshape(-1).tolist(), begins, lens)]


class MappedFrames(_Read):
    """Frames of others under a transform that sees whole utterances.

    Args:
        function: (sum T, F) features and (N,) numbers of the utterances that they are of -> (sum T, F').
        dim: F'.
    """

    def __init__(self, source: Frames, function: Callable[[torch.Tensor, np.ndarray], torch.Tensor], dim: int) -> None:
        self.source, self.function, self.lens, self.dim = source, function, source.lens, dim

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``."""
        out = self.function(self.source.flat(rows), rows)
        assert out.shape == (int(self.lens[rows].sum()), self.dim), (out.shape, self.dim)
        return out
