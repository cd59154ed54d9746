"""Reading and writing at a place of an open file, whole: the system may do either in pieces."""

from __future__ import annotations

import os


def write_at(fd: int, data: bytes | memoryview, place: int) -> None:
    """Writes all bytes of `data` from byte `place` of a file on; OSError as of ``os.pwrite``."""
    left = memoryview(data).cast("B")
    while len(left):
        count = os.pwrite(fd, left, place)
        left, place = left[count:], place + count


def read_at(fd: int, out: bytearray | memoryview, place: int) -> int:
    """Fills `out` with the bytes of a file from `place` on; returns how many there were before the file ended."""
    whole = left = memoryview(out).cast("B")
    while len(left):
        count = os.preadv(fd, [left], place)
        if count <= 0:
            break
        left, place = left[count:], place + count
    return len(whole) - len(left)
