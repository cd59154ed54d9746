"""Soft labels of utterances: which pdfs a frame may belong to, and with what probability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass as record

from pipeline.artifacts.shards import Layout, ShardNames, Shards, ShardWriter
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record

POSTERIORS, STEM = "posteriors.json", "posteriors"
LAYOUT = Layout("posteriors", {"num_shares": {"frame": "i4", "pdf": "i4", "share": "f4"}})
LEAST_SHARE = 1e-3  # shares below this cost time and change nothing measurable


@dataclass(frozen=True, eq=False)
class Posteriors:
    """The pdfs that an utterance visits: M triples, ordered by frame.

    Attributes:
        frame, pdf: (M,) int32.
        share: (M,) float32; those of a frame sum to 1, up to what was too small to be kept.
    """

    frame: npt.NDArray[Any]
    pdf: npt.NDArray[Any]
    share: npt.NDArray[Any]

    @classmethod
    def summed(cls, frame: npt.NDArray[Any], pdf: npt.NDArray[Any], share: npt.NDArray[Any]) -> Posteriors:
        """Adds up triples with the same frame and pdf; negative pdfs and sums below LEAST_SHARE are left out."""
        emits = pdf >= 0
        width = int(pdf.max(initial=0)) + 1
        keys, index = np.unique(frame[emits].astype(np.int64) * width + pdf[emits], return_inverse=True)
        total = np.bincount(index.reshape(-1), weights=share[emits], minlength=len(keys))
        kept = total >= LEAST_SHARE
        return cls(
            (keys[kept] // width).astype(np.int32),
            (keys[kept] % width).astype(np.int32),
            total[kept].astype(np.float32),
        )

    @classmethod
    def of_frames(cls, shares: npt.NDArray[Any]) -> Posteriors:
        """From (T, P) shares; those below LEAST_SHARE are left out."""
        frame, pdf = np.nonzero(shares >= LEAST_SHARE)
        return cls(frame.astype(np.int32), pdf.astype(np.int32), shares[frame, pdf].astype(np.float32))

    def at(self, source: npt.NDArray[Any]) -> Posteriors:
        """Frames `source`, (T,) int, ascending, in place of 0, 1, 2, .."""
        bounds = np.searchsorted(self.frame, np.arange(int(source.max(initial=0)) + 2))
        begin, sizes = bounds[source], bounds[source + 1] - bounds[source]
        rows = np.repeat(begin - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        frame = np.repeat(np.arange(len(source), dtype=np.int32), sizes)
        return Posteriors(frame, self.pdf[rows], self.share[rows])

    def by_label(self, count: int, factor: int, num_pdfs: int) -> npt.NDArray[Any]:
        """(count, num_pdfs) float32 mean shares of every `factor` frames, which sum to 1 in each row.

        Args:
            count: rows wanted. Frames behind them are left out; rows behind the last frame are like the last one.
        """
        out = np.zeros((int(self.frame.max(initial=0)) // factor + 1, num_pdfs), dtype=np.float32)
        np.add.at(out, (self.frame // factor, self.pdf), self.share)
        out /= np.maximum(out.sum(1, keepdims=True), np.finfo(np.float32).tiny)  # a frame may have small shares only
        return np.pad(out, ((0, max(count - len(out), 0)), (0, 0)), mode="edge")[:count]


@record(frozen=True, config=STRICT)
class _Header:
    """What posteriors.json holds."""

    tree_id: str
    transforms_id: str
    shards: ShardNames


class PosteriorWriter:
    """Writes posteriors.json and its shards; readable once the context has closed without an exception."""

    def __init__(self, directory: str | Path, tree_id: str, transforms_id: str = "") -> None:
        """Args:
        tree_id: of the tree that the pdf-ids belong to.
        transforms_id: of the speaker transforms that the scores were made with; empty for none.
        """
        self.directory = Path(directory)
        self._ids = {"tree_id": tree_id, "transforms_id": transforms_id}
        self._shards = ShardWriter(self.directory, STEM, LAYOUT)

    def write(self, cut_id: str, found: Posteriors) -> None:
        """Takes what was found of an utterance."""
        self._shards.write(cut_id, {"frame": found.frame, "pdf": found.pdf, "share": found.share})

    def __enter__(self) -> PosteriorWriter:
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        if exc_type is None:
            write_json(self.directory / POSTERIORS, {**self._ids, "shards": self._shards.close()})


class PosteriorSet(Mapping[str, Posteriors]):
    """What an PosteriorWriter wrote, read one utterance at a time.

    Attributes:
        tree_id, transforms_id: see there.
    """

    def __init__(self, directory: str | Path) -> None:
        """Raises:
        DataError: a missing or damaged file.
        """
        path = Path(directory) / POSTERIORS
        facts = read_record(path, _Header)
        self.tree_id, self.transforms_id = facts.tree_id, facts.transforms_id
        self._shards = Shards([path.parent / name for name in facts.shards], LAYOUT)

    def __getitem__(self, cut_id: str) -> Posteriors:
        place = self._shards.find(cut_id)
        if place is None:
            raise KeyError(cut_id)
        record, path = place
        found = Posteriors(**record)
        low = min(found.frame.min(initial=0), found.pdf.min(initial=0))
        if low < 0 or not (np.isfinite(found.share).all() and found.share.min(initial=0.0) >= 0.0):
            raise DataError(f"{path}: damaged posteriors of utterance {cut_id!r}")
        return found

    def __contains__(self, cut_id: object) -> bool:
        return cut_id in self._shards

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)
