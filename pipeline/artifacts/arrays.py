"""Arrays in safetensors files, read in parts.

The safetensors package maps a whole file; pages that are touched once count as memory of the process from then on. Here
only what is asked for is read. The format: 8 bytes with the length of a JSON header, the header, the arrays.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import DataError
from pipeline.base.files import parse_json, unopened
from pipeline.base.places import read_at

_DTYPES = {
    "U8": "<u1",
    "I8": "<i1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
MAX_HEADER = 100 << 20  # bytes, as in the safetensors package


class _Place(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int  # byte in the file


class ArrayFile:
    """A safetensors file that is open for reading parts of its arrays.

    Attributes:
        path: the file.
        metadata: strings that were stored with it.
    """

    def __init__(self, path: str | Path, keep_open: bool = True) -> None:
        """Args:
            keep_open: False opens the file for each part anew: a process may not have thousands of them open.
        Raises:
            DataError: no such file, or one that is not whole.
        """
        self.path, self._keep_open = Path(path), keep_open
        self._lock = threading.Lock()
        self._fd: int | None = None
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
        except (OSError, ValueError) as err:
            raise unopened(self.path, err) from None
        try:
            self._places, self.metadata = self._header()
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as err:
            raise DataError(f"{self.path}: damaged ({err or 'no header'})") from None
        if not keep_open:
            os.close(self._fd)
            self._fd = None

    def _header(self) -> tuple[dict[str, _Place], dict[str, str]]:
        assert self._fd is not None
        total = os.fstat(self._fd).st_size
        length = int.from_bytes(os.pread(self._fd, 8, 0), "little")
        if total < 8 or length > min(MAX_HEADER, total - 8):
            raise ValueError("no safetensors header")
        entries = parse_json(os.pread(self._fd, length, 8).decode(), f"{self.path}: damaged")
        metadata = dict(entries.pop("__metadata__", {}))
        places = {}
        end = 8 + length
        for name, entry in entries.items():
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
            first, last = (int(n) for n in entry["data_offsets"])
            if min((0, *shape, first)) < 0 or last - first != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"array {name!r} is not as large as its shape")
            places[name] = _Place(dtype, shape, 8 + length + first)
            end = max(end, 8 + length + last)
        if end != total:
            raise ValueError(f"{total} bytes, its header says {end}")
        return places, metadata

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array; DataError if it is not here."""
        return self._place(name).shape

    def check(self, name: str, dtype: str, *row: int) -> None:
        """DataError unless an array is here, with this dtype and so many numbers in each row."""
        place = self._place(name)
        if place.dtype != np.dtype(dtype) or place.shape[1:] != row or not place.shape:
            raise DataError(f"{self.path}: array {name!r} is {place.dtype} {place.shape}, not {dtype} {('N', *row)}")

    def array(self, name: str) -> npt.NDArray[Any]:
        """A whole array."""
        return self.part(name, 0, self.shape(name)[0])

    def part(self, name: str, begin: int, end: int) -> npt.NDArray[Any]:
        """Rows begin:end of an array, in memory of their own."""
        place = self._place(name)
        assert 0 <= begin <= end <= place.shape[0], (name, begin, end, place.shape)
        out = np.empty((end - begin, *place.shape[1:]), dtype=place.dtype)
        row = place.dtype.itemsize * int(np.prod(place.shape[1:], dtype=np.int64))
        fd = self._file() if self._keep_open else os.open(self.path, os.O_RDONLY)
        try:
            if read_at(fd, out.reshape(-1).view(np.uint8).data, place.begin + begin * row) < out.nbytes:
                raise DataError(f"{self.path}: ends inside of {name!r}; it was changed while it was read")
        finally:
            if not self._keep_open:
                os.close(fd)
        return out

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise DataError(f"{self.path}: damaged (no array {name!r})")
        return self._places[name]

    def _file(self) -> int:
        if self._fd is None:  # in another process than the one that opened it
            with self._lock:
                if self._fd is None:
                    self._fd = os.open(self.path, os.O_RDONLY)
        return self._fd

    def __getstate__(self) -> dict[str, Any]:
        names = ("path", "metadata", "_places", "_keep_open")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _fd=None, _lock=threading.Lock())

    def __del__(self) -> None:
        if self.__dict__.get("_fd") is not None:
            os.close(self.__dict__["_fd"])


class NameTable:
    """Strings and their positions, in about 20 bytes each beside their own bytes."""

    def __init__(
        self,
        block: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
        hashes: npt.NDArray[np.uint64],
        order: npt.NDArray[np.int32],
    ) -> None:
        """Args:
        block: UTF-8 bytes of all N names. offsets: (N + 1,) their bounds.
        hashes: (N,) ``name_hash`` of the names, ascending. order: (N,) which name each belongs to.
        """
        self.block, self.offsets, self.hashes, self.order = block, offsets, hashes, order

    @classmethod
    def of(cls, names: list[str]) -> NameTable:
        """The table of some names."""
        encoded = [name.encode() for name in names]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(e) for e in encoded], dtype=np.int64)])
        hashes = np.array([name_hash(name) for name in names], dtype=np.uint64)
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets, hashes[order], order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> str:
        return bytes(self.block[self.offsets[i] : self.offsets[i + 1]]).decode()

    def find(self, name: str) -> int | None:
        """Position of a name (of the first, where it stands twice), None if it is not here."""
        key = np.uint64(name_hash(name))
        place = int(np.searchsorted(self.hashes, key))
        while place < len(self) and self.hashes[place] == key:
            i = int(self.order[place])
            if self[i] == name:
                return i
            place += 1
        return None

    def repeated(self) -> str | None:
        """A name that stands here twice, None if there is none."""
        for first in np.flatnonzero(self.hashes[1:] == self.hashes[:-1]).tolist():
            place = first + 1  # different names of one hash may stand in between
            while place < len(self) and self.hashes[place] == self.hashes[first]:
                if self[int(self.order[place])] == self[int(self.order[first])]:
                    return self[int(self.order[first])]
                place += 1
        return None


def name_hash(name: str) -> int:
    """64 bits that stand for a name, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
