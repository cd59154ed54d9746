"""Cepstral mean and variance normalisation: statistics per speaker, stored beside the features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from pipeline.artifacts.features import Positive
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record

if TYPE_CHECKING:
    import torch

CMVN_JSON = "cmvn.json"
_MIN_VARIANCE = 1e-10


@dataclass(frozen=True, config=STRICT)
class _Facts:
    """What cmvn.json holds."""

    dim: Positive
    rows: list[str]
    speakers: dict[str, tuple[list[float], list[float], list[float]]]


class CmvnStats:
    """Number of frames, sums and sums of squares per speaker; cf. Kaldi compute-cmvn-stats.

    Args:
        dim: features per frame. where: names them in messages.
    """

    def __init__(self, dim: int, where: str | Path = "normalisation") -> None:
        self._dim, self._where = dim, where
        self._sums: dict[str, npt.NDArray[np.float64]] = {}  # (3, F)

    def add(self, speaker: str, feats: torch.Tensor) -> None:
        """Add the frames (T, F) of a speaker."""
        self.add_sums(speaker, frame_sums(feats))

    def add_sums(self, speaker: str, sums: npt.NDArray[np.float64]) -> None:
        """Add the ``frame_sums`` (3, F) of some frames of a speaker; the order of additions decides the last bits."""
        assert sums.shape == (3, self._dim), (sums.shape, self._dim)
        self._sums[speaker] = self._sums[speaker] + sums if speaker in self._sums else sums

    def speakers(self) -> list[str]:
        """The speakers, sorted."""
        return sorted(self._sums)

    def mean_std(self, speaker: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, float32 (F,) each, of a speaker or of all data; DataError for an unknown
        speaker.
        """
        import torch

        if speaker is None:
            total = torch.from_numpy(np.stack([self._sums[name] for name in self.speakers()])).sum(0)
        elif speaker in self._sums:
            total = torch.from_numpy(self._sums[speaker])
        else:
            raise DataError(f"{self._where}: nothing of speaker {speaker!r}; compute the features again")
        return mean_std(total)

    def save(self, data_dir: Path) -> None:
        """Write cmvn.json."""
        speakers = {name: self._sums[name].tolist() for name in self.speakers()}
        write_json(
            Path(data_dir) / CMVN_JSON,
            {"dim": self._dim, "rows": ["count", "sum", "sum_of_squares"], "speakers": speakers},
        )

    @staticmethod
    def load(data_dir: Path) -> CmvnStats:
        """Read cmvn.json; DataError if it is missing or damaged."""
        path = Path(data_dir) / CMVN_JSON
        entry = read_record(path, _Facts)
        stats = CmvnStats(entry.dim, path)
        for speaker, rows in entry.speakers.items():
            if any(len(row) != entry.dim for row in rows) or not rows[0][0] > 0 or min(rows[2]) < 0:
                raise DataError(f"{path}: the sums of speaker {speaker!r} are not those of {entry.dim} features")
            stats._sums[speaker] = np.array(rows, dtype=np.float64)
        if not stats._sums:
            raise DataError(f"{path}: holds no speaker")
        return stats


def frame_sums(feats: torch.Tensor) -> npt.NDArray[np.float64]:
    """Count, sum and sum of squares, float64 (3, F), of frames (T, F)."""
    import torch

    feats = feats.double()
    count = torch.full((feats.shape[1],), float(len(feats)), dtype=torch.float64)
    return torch.stack([count, feats.sum(0), (feats**2).sum(0)]).numpy()


def mean_std(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, float32 (F,) each, from (count, sum, sum of squares), float64 (3, F)."""
    mean = sums[1] / sums[0]
    variance = (sums[2] / sums[0] - mean**2).clamp(min=_MIN_VARIANCE)
    return mean.float(), variance.sqrt().float()
