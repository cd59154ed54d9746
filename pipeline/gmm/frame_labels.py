"""Labels of frames: grouped by pdf for a piece of the data, and stored in files for all of it."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.base.places import read_at, write_at
from pipeline.feats.frames import offsets_of

# Frames of one pdf that are taken at once: bounds memory and keeps float32 sums short, the totals are float64.
CHUNK = 8192


@dataclasses.dataclass(frozen=True, eq=False)
class FrameLabels:
    """Which frames belong to which pdf, grouped by pdf.

    Args:
        frames: (M,) int64 rows of a feature matrix, ordered by pdf.
        splits: (P + 1,) int64, frames[splits[p]:splits[p + 1]] belong to pdf p.
        weights: (M,) float32 occupancies, None when all are 1.
    """

    frames: torch.Tensor
    splits: np.ndarray
    weights: torch.Tensor | None = None

    @staticmethod
    def from_pdfs(
        pdfs: np.ndarray, num_pdfs: int, frames: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> FrameLabels:
        """Labels from one pdf-id per frame.

        Args:
            pdfs: (M,) int pdf-ids; negative ones (frames of utterances that failed) are left out.
            frames: (M,) rows that they label; None: row i for pdfs[i].
            weights: (M,) occupancies.
        """
        order = np.argsort(pdfs, kind="stable")
        order = order[np.searchsorted(pdfs[order], 0) :]
        splits = np.searchsorted(pdfs[order], np.arange(num_pdfs + 1))
        rows = order if frames is None else frames[order]
        return FrameLabels(
            torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)),
            splits,
            None if weights is None else torch.from_numpy(weights[order].astype(np.float32)),
        )

    @property
    def num_pdfs(self) -> int:
        return len(self.splits) - 1

    def occupancies(self) -> np.ndarray:
        """(P,) float64 frames (or their weights) of each pdf."""
        if self.weights is None:
            return np.diff(self.splits).astype(np.float64)
        total = np.concatenate([[0.0], np.cumsum(self.weights.double().numpy())])
        return total[self.splits[1:]] - total[self.splits[:-1]]

    def weighted(self, pdfs: Sequence[int], weight: float) -> FrameLabels:
        """The labels with the frames of some pdfs counting `weight` times as much, cf. Kaldi weight-silence-post."""
        if weight == 1.0:
            return self
        chosen = np.repeat(np.isin(np.arange(self.num_pdfs), list(pdfs)), np.diff(self.splits))
        if weight == 0.0:
            kept = np.concatenate([[0], np.cumsum(~chosen)])
            keep = torch.from_numpy(~chosen)
            return FrameLabels(
                self.frames[keep], kept[self.splits], None if self.weights is None else self.weights[keep]
            )
        own = torch.ones(len(self.frames)) if self.weights is None else self.weights
        return FrameLabels(self.frames, self.splits, torch.where(torch.from_numpy(chosen), own * weight, own))

    def used(self) -> list[int]:
        """The pdfs that have frames, those with the most first."""
        sizes = np.diff(self.splits)
        order = np.argsort(-sizes, kind="stable")
        return order[: int((sizes > 0).sum())].tolist()

    def chunks(self, pdf: int, feats: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yields (rows (n,), features (n, F), weights (n,) or None) of a pdf, at most CHUNK frames at a time."""
        begin, end = int(self.splits[pdf]), int(self.splits[pdf + 1])
        for first in range(begin, end, CHUNK):
            span = slice(first, min(first + CHUNK, end))
            rows = self.frames[span].to(feats.device)
            yield rows, feats[rows], None if self.weights is None else self.weights[span].to(feats.device)


class Piece(NamedTuple):
    """Some utterances side by side with the labels of their frames, for statistics.

    Attributes:
        feats: (T, F) float32 features that the mixtures score.
        labels: of these rows.
        target: (T, F') features to take sums of, when these differ.
        speaker: (T,) int speaker of each frame, where it matters.
    """

    feats: torch.Tensor
    labels: FrameLabels
    target: torch.Tensor | None = None
    speaker: np.ndarray | None = None


class FrameLabelFile:
    """Labels of all frames of a data set, in a file: transition-ids, or occupancies of pdfs (soft labels).

    Transition-ids are one int32 per frame; soft labels are appended utterance by utterance. Utterances that were never
    written have none.
    """

    def __init__(self, path: Path | None, lens: np.ndarray) -> None:
        """Args:
        path: where it lies, made anew; None: a temporary file.
        lens: (N,) frames of each utterance.
        """
        self.path, self.lens = path, lens
        self._offsets = offsets_of(lens)
        self._file = tempfile.TemporaryFile() if path is None else open(path, "w+b")  # noqa: SIM115  closed by close()
        self._soft: np.ndarray | None = None  # (N, 2) int64 place and number of entries of each utterance
        self._end = 0

    @classmethod
    def reopen(cls, path: Path, lens: np.ndarray, soft_end: int = 0) -> FrameLabelFile:
        """Takes up a file that ``sync`` has put on disk; `soft_end` is what it returned."""
        out = cls.__new__(cls)
        out.path, out.lens, out._offsets, out._soft, out._end = path, lens, offsets_of(lens), None, soft_end
        out._file = open(path, "r+b")  # noqa: SIM115  closed by close()
        if soft_end:
            raw = os.pread(out._file.fileno(), 16 * len(lens), soft_end)
            out._soft = np.frombuffer(raw, dtype=np.int64).reshape(-1, 2).copy()
        return out

    def write(self, n: int, tids: np.ndarray) -> None:
        """Stores the transition-ids of an utterance."""
        assert len(tids) == self.lens[n], (n, len(tids), self.lens[n])
        # 0 means none, so that what was never written reads as -1.
        write_at(self._file.fileno(), (np.asarray(tids, dtype=np.int32) + 1).data, 4 * int(self._offsets[n]))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(sum T,) int32 transition-ids of utterances that follow each other, -1 without one."""
        begin, end = int(self._offsets[rows[0]]), int(self._offsets[rows[-1] + 1])
        out = np.zeros(end - begin, dtype=np.int32)
        read_at(self._file.fileno(), out.data, 4 * begin)  # the file ends with the last utterance that was written
        return out - 1

    def write_soft(self, n: int, frames: np.ndarray, pdfs: np.ndarray, weights: np.ndarray) -> None:
        """Stores occupancies of an utterance: (M,) frames within it, pdfs and weights."""
        if self._soft is None:
            self._soft = np.zeros((len(self.lens), 2), dtype=np.int64)
        table = np.empty(len(frames), dtype=_SOFT)
        table["frame"], table["pdf"], table["weight"] = frames, pdfs, weights
        write_at(self._file.fileno(), table.tobytes(), self._end)
        self._soft[n] = self._end, len(table)
        self._end += table.nbytes

    def read_soft(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (counted over these utterances), pdfs and weights of utterances that follow each other."""
        assert self._soft is not None
        tables = []
        for n in rows.tolist():
            place, count = (int(x) for x in self._soft[n])
            table = np.empty(count, dtype=_SOFT)
            found = read_at(self._file.fileno(), table.view(np.uint8).data, place)
            assert found == table.nbytes, (n, found)
            table["frame"] += np.int32(self._offsets[n] - self._offsets[rows[0]])
            tables.append(table)
        whole = np.concatenate(tables)
        return whole["frame"], whole["pdf"], whole["weight"]

    @property
    def soft(self) -> bool:
        """Whether it holds soft labels."""
        return self._soft is not None

    def sync(self) -> int:
        """Puts everything on disk; returns what ``reopen`` has to know."""
        if self._soft is not None:
            write_at(self._file.fileno(), self._soft.tobytes(), self._end)
        os.fsync(self._file.fileno())
        return self._end

    def remove(self) -> None:
        """Closes the file and removes it."""
        self._file.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


_SOFT = np.dtype([("frame", "<i4"), ("pdf", "<i4"), ("weight", "<f4")])
