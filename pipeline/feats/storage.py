"""One plain file of frames per data directory, known to lhotse as storage type ``packed_frames``.

The file holds the frames of all utterances one after the other, little-endian float32 or float16, without a header; a
storage key is ``first_frame,num_frames,dim,dtype``. Chosen over lhotse's own types because it is lossless (lilcom is
not), one file instead of one per utterance, needs no further package, and a whole corpus is read in one go.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lhotse.features.io import FeaturesReader, FeaturesWriter, register_reader, register_writer

from pipeline.base.errors import DataError
from pipeline.feats.frame_file import DTYPES


@register_writer
class PackedFramesWriter(FeaturesWriter):
    """Appends feature matrices to one file.

    Args:
        storage_path: the file; a file that exists is replaced.
        precision: ``float32`` or ``float16``.
    """

    name = "packed_frames"

    def __init__(self, storage_path: str | Path, precision: str = "float32") -> None:
        self._path = str(storage_path)
        self._precision = precision
        self._num_frames = 0
        self._file = open(storage_path, "wb")  # noqa: SIM115  closed by close()

    @property
    def storage_path(self) -> str:
        return self._path

    def write(self, key: str, value: np.ndarray) -> str:
        """Append a (T, F) matrix and return its storage key; ``key``, the utterance id, is not needed."""
        num_frames, dim = value.shape
        self._file.write(np.ascontiguousarray(value, dtype=DTYPES[self._precision]).tobytes())
        self._num_frames += num_frames
        return f"{self._num_frames - num_frames},{num_frames},{dim},{self._precision}"

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> PackedFramesWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@register_reader
class PackedFramesReader(FeaturesReader):
    """Reads matrices, or a range of their frames, as float32 (T, F)."""

    name = "packed_frames"

    def __init__(self, storage_path: str | Path, *args: object, **kwargs: object) -> None:
        self._path = Path(storage_path)

    def read(self, key: str, left_offset_frames: int = 0, right_offset_frames: int | None = None) -> np.ndarray:
        """Read the matrix that was stored under ``key``; DataError if the file is missing or too short."""
        first, num_frames, dim, dtype = parse_key(key)
        left, right, _ = slice(left_offset_frames, right_offset_frames).indices(num_frames)
        return read_frames(self._path, first + left, max(right - left, 0), dim, dtype)


def parse_key(key: str) -> tuple[int, int, int, str]:
    """Split a storage key into first frame, number of frames, features per frame, precision."""
    first, num_frames, dim, dtype = key.split(",")
    return int(first), int(num_frames), int(dim), dtype


def read_frames(path: Path, first: int, num_frames: int, dim: int, dtype: str) -> np.ndarray:
    """Read consecutive frames of a file as float32 (num_frames, dim); DataError if it is missing or too short."""
    kind = DTYPES[dtype]
    try:
        with open(path, "rb") as file:
            file.seek(first * dim * kind.itemsize)
            values = np.fromfile(file, dtype=kind, count=num_frames * dim)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; compute the features again") from None
    if len(values) != num_frames * dim:
        raise DataError(f"{path}: ends before frame {first + num_frames}; compute the features again")
    return values.astype(np.float32, copy=False).reshape(num_frames, dim)
