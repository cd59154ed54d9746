"""Reading of files of frames, see ``pipeline.feats.storage`` and ``pipeline.artifacts.shar``, without lhotse."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import DataError
from pipeline.base.files import unopened
from pipeline.base.places import read_at

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


class FrameFile:
    """A file with frames, each (F,) numbers; open from the first reading on.

    Attributes:
        size: of the file, in bytes.
        frame_bytes: of one frame.
    """

    def __init__(self, path: Path, dim: int, precision: str, keep_open: bool = True) -> None:
        """Args:
            keep_open: False opens the file for each reading: a process may not have thousands of them open.
        Raises:
            DataError: no such file.
        """
        self._fd: int | None = None
        self.path, self.dim, self.dtype, self._keep_open = path, dim, DTYPES[precision], keep_open
        self.frame_bytes = dim * self.dtype.itemsize
        try:
            self.size = path.stat().st_size
        except (OSError, ValueError) as err:
            raise DataError(f"{unopened(path, err)}; compute the features again") from None
        self._lock = threading.Lock()

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (T, F) float32, contiguous, with the frames from byte `first` on; DataError if the file ends
        before.
        """
        raw = out if self.dtype == np.float32 else np.empty(out.shape, dtype=self.dtype)
        if self._fill(raw.data, first) < raw.nbytes:
            raise DataError(f"{self.path}: ends before byte {first + raw.nbytes}; compute the features again")
        if raw is not out:
            out[...] = raw

    def _fill(self, out: memoryview, first: int) -> int:
        """Bytes that there were to fill `out` with."""
        if not self._keep_open:
            with open(self.path, "rb") as file:
                return read_at(file.fileno(), out, first)
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY)
        return read_at(self._fd, out, first)

    def __getstate__(self) -> tuple[Path, int, str, bool]:
        return self.path, self.dim, self.dtype.name, self._keep_open

    def __setstate__(self, state: tuple[Path, int, str, bool]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # an open file does not travel to other processes

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
