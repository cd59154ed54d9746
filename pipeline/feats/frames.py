"""Where the frames of utterances come from: files, memory, pieces of other utterances, transforms of other frames.

All of them answer the same questions, the features of some utterances as a list or side by side and those of parts of
utterances, so a data set (``pipeline.feats.dataset``) reads what a batch needs and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.index import UtteranceIndex
from pipeline.base.errors import DataError, naming
from pipeline.feats.cmvn import CmvnStats, mean_std
from pipeline.feats.frame_file import FrameFile
from pipeline.feats.transforms import add_deltas, splice

PIECE_FRAMES = 300_000  # that statistics are taken of, and that memory is filled with, at a time
MOST_OPEN = 400  # files; a process may usually have 1,024


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

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """Some of the frames of some utterances, the same numbers as in ``each``, and perhaps views, too."""


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


class Spans(NamedTuple):
    """Parts of K utterances, of which the same one may stand there several times.

    Attributes:
        rows: (K,) int64 utterances.
        begins, ends: (K,) int64 first frame and the one behind the last.
    """

    rows: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @property
    def lens(self) -> np.ndarray:
        """(K,) frames of each."""
        return self.ends - self.begins

    def wider(self, left: int, right: int, lens: np.ndarray) -> Spans:
        """The same with neighbouring frames, as far as there are any in utterances of (K,) `lens`."""
        return Spans(self.rows, np.maximum(self.begins - left, 0), np.minimum(self.ends + right, lens))

    def of(self, whole: Sequence[torch.Tensor], place: np.ndarray) -> list[torch.Tensor]:
        """The parts, from features of utterances (T, F) and the (K,) places of the utterances among these."""
        return [whole[p][b:e] for p, b, e in zip(place.tolist(), self.begins.tolist(), self.ends.tolist())]


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

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``Frames``; views."""
        return spans.of(self.each(spans.rows), np.arange(len(spans.rows)))


class _Read:
    """Frames that have to be fetched: ``each`` by way of ``flat``."""

    lens: np.ndarray

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        raise NotImplementedError

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``Frames``."""
        return list(self.flat(rows).split(self.lens[rows].tolist())) if len(rows) else []

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``Frames``; each utterance is read once and as a whole."""
        needed, place = np.unique(spans.rows, return_inverse=True)
        return spans.of(self.each(needed), place.reshape(-1))


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
        keep_open = len(index.files) <= MOST_OPEN
        with naming(index.directory):
            self._files = [FrameFile(Path(path), width, kind, keep_open) for path, width, kind in index.files]
        other = np.flatnonzero(np.array([file.dim for file in self._files])[index.file] != dim)
        if len(other):
            i, width = int(other[0]), self._files[index.file[other[0]]].dim
            raise DataError(f"{index.where(i)} has {self.lens[i]} frames of {width} features, features.json says {dim}")
        self._frame_bytes = np.array([file.frame_bytes for file in self._files], dtype=np.int64)
        ends = index.first_byte + self.lens * self._frame_bytes[index.file]
        late = np.flatnonzero(ends > np.array([file.size for file in self._files], dtype=np.int64)[index.file])
        if len(late):
            file = self._files[index.file[late[0]]]
            raise DataError(
                f"{file.path}: ends after {file.size} bytes, before the features of utterance "
                f"{index.id(int(late[0]))!r} do; compute the features again"
            )

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``Frames``; DataError for numbers that are not finite."""
        return self._loaded(Spans(rows, np.zeros(len(rows), dtype=np.int64), self.lens[rows]))

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``Frames``; reads these frames and the neighbours that derivatives and context look at, but all of an
        utterance that is normalised over itself.
        """
        if self.options.cmvn == "utterance" or not len(spans.rows):
            return super().spans(spans)
        reach = self.options.deltas * self.options.delta_window
        read = spans.wider(reach + self.options.splice_left, reach + self.options.splice_right, self.lens[spans.rows])
        parts = self._loaded(read).split(read.lens.tolist())
        inner = Spans(spans.rows, spans.begins - read.begins, spans.ends - read.begins)
        return inner.of(parts, np.arange(len(parts)))

    def _loaded(self, spans: Spans) -> torch.Tensor:
        """(sum T, F) features of parts side by side, each as if it were an utterance but for the normalisation."""
        rows, offsets = spans.rows, offsets_of(spans.lens)
        feats = torch.from_numpy(self._raw(spans, offsets))
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

    def _raw(self, spans: Spans, offsets: np.ndarray) -> np.ndarray:
        """(sum T, F) float32 as stored; neighbours in a file are read together."""
        rows = spans.rows
        out = np.empty((int(offsets[-1]), self._files[0].dim), dtype=np.float32)
        file = self.index.file[rows]
        first, ends = (self.index.first_byte[rows] + n * self._frame_bytes[file] for n in (spans.begins, spans.ends))
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

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``Frames``."""
        return self.memory.spans(spans)


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

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``Frames``."""
        return self.source.spans(spans._replace(rows=self.rows[spans.rows]))


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
        """See ``Frames``; pieces that follow each other are read together."""
        if not len(rows):
            return []
        order = np.unique(rows)  # so that neighbours stand side by side
        parent, begin, end = self.parent[order], self.begin[order], self.begin[order] + self.lens[order]
        starts = np.flatnonzero(np.append(True, (parent[1:] != parent[:-1]) | (begin[1:] != end[:-1])))
        lasts = np.append(starts[1:], len(order)) - 1
        runs = self.source.spans(Spans(parent[starts], begin[starts], end[lasts]))
        which = np.searchsorted(order, rows)  # (K,) place of each piece among those in order
        run = np.searchsorted(starts, which, side="right") - 1
        begins = begin[which] - begin[starts[run]]
        return Spans(self.parent[rows], begins, begins + self.lens[rows]).of(runs, run)

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``Frames``."""
        first = self.begin[spans.rows]
        return self.source.spans(Spans(self.parent[spans.rows], first + spans.begins, first + spans.ends))


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
        feats, offsets = self.source.flat(rows), offsets_of(self.lens[rows])
        out = feats.new_empty((len(feats), self.dim))
        # One by one: the last bits of a matrix product depend on the number of its rows.
        for i, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
            out[begin:end] = self.function(feats[begin:end].clone(), rows[i : i + 1])
        return out
