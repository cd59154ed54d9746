"""All features of a data directory side by side, read both ways a data set can: from memory and by the piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.feats.dataset import Dataset


class Whole(NamedTuple):
    """feats: (sum T, F). offsets: (N + 1,) int64."""

    cut_ids: tuple[str, ...]
    speakers: tuple[str, ...]
    feats: torch.Tensor
    offsets: torch.Tensor

    def of(self, i: int) -> torch.Tensor:
        """(T, F) of an utterance."""
        return self.feats[self.offsets[i] : self.offsets[i + 1]]


def load_whole(data_dir: Path, options: FeatLoadOptions, **given: Any) -> Whole:
    """Arguments as for ``Dataset.open``."""
    kept, read = (Dataset.open(data_dir, options, cache_mib=mib, **given) for mib in (2048, 0))
    everything = np.arange(len(kept))
    feats = kept.flat(everything)
    assert torch.equal(feats, read.flat(everything))
    for i in reversed(everything):  # one by one, against the order of the file
        assert torch.equal(kept.each(np.array([i]))[0], read.each(np.array([i]))[0])
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(kept.lens)]))
    speakers = tuple(kept.speaker(int(i)) for i in everything)
    return Whole(tuple(kept.ids), speakers, feats, offsets)
