"""What the header of an audio file promises, against what the file has: libsndfile reads cut files without a word."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Programs that write into a pipe cannot know the length: they put 0, or about the largest number that there is.
_UNKNOWN = 0x7FFFF000
_SPHERE = b"NIST_1A\n"
_OGG, _OGG_PAGE = b"OggS", 27 + 255 + 255 * 255  # the largest page
_W64_RIFF, _W64_DATA = bytes.fromhex("726966662e91cf11a5d628db04c10000"), b"data"


def shortage(path: Path) -> str | None:
    """Says that a file ends before its header says it does; None where it does not, or says nothing."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        found = _promise(file, size)
    if found is None:
        return None
    promised, available = found
    if available >= promised:
        return None
    return f"its header promises {promised:,} bytes of samples, the file has {available:,}"


def sphere_coding(path: Path) -> str | None:
    """How the samples of a SPHERE file are coded, such as ``pcm,embedded-shorten-v2.00``; None for other files."""
    with open(path, "rb") as file:
        fields = _sphere_fields(file.read(4096))
    return None if fields is None else fields.get("sample_coding", "pcm")


def _promise(file: IO[bytes], size: int) -> tuple[int, int] | None:
    """(bytes promised, bytes there) of the samples; None if unknown."""
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff(file, size, "big" if head[:4] == b"RIFX" else "little")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return next((_there(b, n, size) for name, b, n in _chunks(file, size, "big") if name == b"SSND"), None)
    if head[:4] == b".snd":
        begin, length = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        return None if length >= _UNKNOWN else _there(begin, length, size)
    if head[:16] == _W64_RIFF:
        return _w64(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    if head.startswith(_SPHERE):
        return _sphere(file, size)
    if head[:4] == _OGG:
        return _ogg(file, size)
    return _mp3(file, size) if head[:3] == b"ID3" or head[:1] == b"\xff" else None


def _there(begin: int, length: int, size: int) -> tuple[int, int]:
    return length, max(size - begin, 0)


def _chunks(file: IO[bytes], size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, length) of the chunks of a RIFF or AIFF file."""
    place = 12
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[4:], "big" if order == "big" else "little")
        yield head[:4], place + 8, length
        place += 8 + length + length % 2


def _riff(file: IO[bytes], size: int, order: str) -> tuple[int, int] | None:
    large = None
    for name, begin, length in _chunks(file, size, order):
        if name == b"ds64":
            file.seek(begin + 8)
            large = int.from_bytes(file.read(8), "little")
        elif name == b"data":
            if length == 0xFFFFFFFF and large is not None:
                return _there(begin, large, size)
            return None if length >= _UNKNOWN else _there(begin, length, size)
    return None


def _w64(file: IO[bytes], size: int) -> tuple[int, int] | None:
    place = 40
    while place + 24 <= size:
        file.seek(place)
        head = file.read(24)
        length = int.from_bytes(head[16:], "little")  # with its 24 bytes of header
        if head[:4] == _W64_DATA:
            return _there(place + 24, length - 24, size)
        if length < 24:
            return None
        place += (length + 7) // 8 * 8
    return None


def _caf(file: IO[bytes], size: int) -> tuple[int, int] | None:
    place = 8
    while place + 12 <= size:
        file.seek(place)
        head = file.read(12)
        length = int.from_bytes(head[4:], "big", signed=True)  # -1: to the end of the file
        if head[:4] == b"data" or length < 0:
            return None if length < 0 else _there(place + 12, length, size)
        place += 12 + length
    return None


def _sphere_fields(head: bytes) -> dict[str, str] | None:
    if not head.startswith(_SPHERE):
        return None
    lines = re.finditer(rb"^(\w+) -(?:i|r|s\d+) ([^\n]*)", head.partition(b"\nend_head")[0], re.MULTILINE)
    return {line[1].decode("ascii"): line[2].decode("latin-1").strip() for line in lines}


def _sphere(file: IO[bytes], size: int) -> tuple[int, int] | None:
    file.seek(0)
    fields = _sphere_fields(file.read(4096)) or {}
    file.seek(len(_SPHERE))
    try:
        begin = int(file.read(8))
        each = int(fields["channel_count"]) * int(fields["sample_n_bytes"])
        promised = int(fields["sample_count"]) * each
    except (KeyError, ValueError):
        return None
    return None if "," in fields.get("sample_coding", "") else _there(begin, promised, size)


def _ogg(file: IO[bytes], size: int) -> tuple[int, int] | None:
    """By the last page, whose header says how long it is; a cut between two pages cannot be told from a short file."""
    start = max(size - _OGG_PAGE, 0)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(_OGG)
    page = tail[place:]
    if place < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return size + 1, size
    return start + place + 27 + page[26] + sum(page[27 : 27 + page[26]]), size


def _mp3(file: IO[bytes], size: int) -> tuple[int, int] | None:
    """By the Xing header, which encoders put into the first frame."""
    file.seek(0)
    head = file.read(10)
    begin = 0
    if head[:3] == b"ID3":
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
    file.seek(begin)
    frame = file.read(256)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or place < 0 or not frame[place + 7] & 2:
        return None
    after = place + 8 + 4 * (frame[place + 7] & 1)
    promised = int.from_bytes(frame[after : after + 4], "big")
    # Taggers add to the end; some encoders leave their own frame out of the count.
    return promised, size - begin + len(frame)
