"""Reading of files of frames, see ``pipeline.feats.storage``, without lhotse."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import DataError
from pipeline.base.places import read_at

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


class FrameFile:
    """A file of frames without a header, open from the first reading on."""

    def __init__(self, path: Path, dim: int, precision: str) -> None:
        self._fd: int | None = None
        self.path, self.dim, self.dtype = path, dim, DTYPES[precision]
        try:
            self.num_frames = path.stat().st_size // (dim * self.dtype.itemsize)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; compute the features again") from None
        self._lock = threading.Lock()

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (T, F) float32, contiguous, with the frames from `first` on; DataError if the file ends before."""
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY)
        raw = out if self.dtype == np.float32 else np.empty(out.shape, dtype=self.dtype)
        if read_at(self._fd, raw.data, first * self.dim * self.dtype.itemsize) < raw.nbytes:
            raise DataError(f"{self.path}: ends before frame {first + len(out)}; compute the features again")
        if raw is not out:
            out[...] = raw

    def __getstate__(self) -> tuple[Path, int, str]:
        return self.path, self.dim, self.dtype.name

    def __setstate__(self, state: tuple[Path, int, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # an open file does not travel to other processes

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
