"""Soft labels of utterances: which pdfs a frame may belong to, and with what probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import DataError

POSTERIORS = "posteriors.safetensors"
LEAST_SHARE = 1e-3  # shares below this cost time and change nothing measurable


@dataclass(frozen=True, eq=False)
class Occupancies:
    """The pdfs that an utterance visits: M triples, ordered by frame.

    Attributes:
        frame, pdf: (M,) int32.
        share: (M,) float32; those of a frame sum to 1, up to what was too small to be kept.
    """

    frame: npt.NDArray[Any]
    pdf: npt.NDArray[Any]
    share: npt.NDArray[Any]

    @classmethod
    def summed(cls, frame: npt.NDArray[Any], pdf: npt.NDArray[Any], share: npt.NDArray[Any]) -> Occupancies:
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


def save_occupancies(
    directory: str | Path, found: Mapping[str, Occupancies], tree_id: str, transforms_id: str = ""
) -> None:
    """Writes posteriors.safetensors.

    Args:
        found: cut id -> occupancies.
        tree_id: of the tree that the pdf-ids belong to.
        transforms_id: of the speaker transforms that the scores were made with; empty for none.
    """
    import torch

    from pipeline.artifacts.checkpoint import save_tensors

    tensors = {
        f"{c}/{name}": torch.from_numpy(getattr(o, name))
        for c, o in found.items()
        for name in ("frame", "pdf", "share")
    }
    save_tensors(Path(directory) / POSTERIORS, tensors, {"tree_id": tree_id, "transforms_id": transforms_id})


def load_occupancies(directory: str | Path) -> tuple[dict[str, Occupancies], dict[str, str]]:
    """Reads what save_occupancies wrote.

    Returns:
        Cut id -> occupancies, and the ids of tree and transforms.
    Raises:
        DataError: a missing or damaged file, or numbers that make no sense.
    """
    from safetensors import safe_open

    from pipeline.artifacts.checkpoint import load_tensors

    path = Path(directory) / POSTERIORS
    tensors = {k: v.numpy() for k, v in load_tensors(path).items()}
    with safe_open(str(path), framework="numpy") as f:
        ids = f.metadata() or {}
    out = {}
    for cut_id in sorted({k.rpartition("/")[0] for k in tensors}):
        try:
            found = Occupancies(*(tensors[f"{cut_id}/{name}"] for name in ("frame", "pdf", "share")))
        except KeyError as e:
            raise DataError(f"{path}: utterance {cut_id!r} lacks {e}") from None
        sizes = {len(found.frame), len(found.pdf), len(found.share)}
        low = min(found.frame.min(initial=0), found.pdf.min(initial=0))
        if len(sizes) > 1 or low < 0 or not (np.isfinite(found.share).all() and found.share.min(initial=0.0) >= 0.0):
            raise DataError(f"{path}: damaged posteriors of utterance {cut_id!r}")
        out[cut_id] = found
    if "tree_id" not in ids:
        raise DataError(f"{path}: names no tree")
    return out, ids
