"""Digests of the content of many files, of which each is read once as long as it stays as it is.

Whether a file is as it was is told by its size, its number and both its times (of the content and of the last change of
any kind): the second of these cannot be set by programs, so that a file of equal size whose old time was restored is
read again. Not noticed is what leaves even that time alone: changes below the file system, and file systems that keep
no such time. A table of digests that is removed makes everything be read again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.base import log
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, open_read, read_lines, sha256_stream, unopened

# Tables are kept for inputs from this size on, in bytes, where opening a file counts like reading OPENING bytes.
KEEP_FROM = 16 << 20
OPENING = 8 << 10
# A file may change twice within one tick of the file system's clock; who has changed that recently is read next time.
SETTLED_NS = 2_000_000_000
# Many small files wait for the disk rather than for the processor.
_THREADS = 8
_PART = 256
UNREADABLE = "unreadable"


class Digests:
    """SHA-256 of files, by hexadecimal digits, taken from tables where these are still right.

    Attributes:
      num_read: files that had to be read so far.
    """

    def __init__(self, *tables: Path) -> None:
        """Args:
        tables: what `save` wrote in earlier runs; missing or damaged ones count as empty.
        """
        self._known: dict[str, tuple[str, str]] = {}  # path -> state, digest
        self._used: dict[str, tuple[str, str]] = {}
        self._cost = 0
        self.num_read = 0
        for table in tables:
            self._known.update(_load(table))

    def of(self, paths: Iterable[str | Path], lenient: bool = False) -> list[str]:
        """The digest of each file.

        Args:
          paths: files.
          lenient: a file that cannot be read counts as UNREADABLE instead of raising a DataError.
        """
        names = [os.path.abspath(path) for path in paths]
        found: dict[str, str] = {}
        unknown: dict[str, None] = {}
        for name in names:
            try:
                state = _state(os.stat(name))
            except (OSError, ValueError):  # the latter for names that no file has, such as those with a NUL
                unknown[name] = None
                continue
            entry = self._known.get(name)
            if entry is None or entry[0] != state:
                unknown[name] = None
            else:
                found[name] = entry[1]
                self._use(name, entry)
        self._read(list(unknown), found, lenient)
        return [found[name] for name in names]

    @property
    def worth_keeping(self) -> bool:
        """Whether reading again what has been asked for would take noticeable time."""
        return self._cost >= KEEP_FROM

    def save(self, table: Path) -> None:
        """Writes what has been asked for, if it is worth keeping."""
        if not self.worth_keeping:
            return
        with atomic_write(table) as out:
            for name in sorted(self._used):
                state, digest = self._used[name]
                out.write(f"{digest}\t{state}\t{name}\n")

    def _read(self, names: Sequence[str], found: dict[str, str], lenient: bool) -> None:
        def read(part: Sequence[str]) -> list[tuple[str, str, str | None]]:
            return [(name, *_digest(name, lenient)) for name in part]

        if not names:
            return
        parts = [names[i : i + _PART] for i in range(0, len(names), _PART)]
        with ThreadPoolExecutor(_THREADS) as pool:
            results = itertools.chain.from_iterable(pool.map(read, parts))
            for name, digest, state in log.progress(results, len(names), "files read for their digests"):
                found[name] = digest
                self.num_read += digest != UNREADABLE
                if state is not None:
                    self._known[name] = (state, digest)
                    self._use(name, self._known[name])

    def _use(self, name: str, entry: tuple[str, str]) -> None:
        # A name with tabs, line ends or bytes that are no text has no place in a table.
        if name not in self._used and name.isprintable():
            self._used[name] = entry
            self._cost += int(entry[0].split(",", 1)[0]) + OPENING


def _digest(name: str, lenient: bool) -> tuple[str, str | None]:
    """Digest of a file and its state, None where it has changed too recently to be trusted next time."""
    began = time.time_ns()
    try:
        with open(name, "rb") as file:
            before = os.fstat(file.fileno())
            digest = sha256_stream(file)
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as err:
        if lenient:
            return UNREADABLE, None
        raise unopened(name, err) from None
    if _state(before) != _state(after):
        raise DataError(f"{name}: was changed while it was read; run the command again when it is complete")
    return digest, _state(after) if after.st_ctime_ns + SETTLED_NS <= began else None


def _digest_without(left_out: re.Pattern[bytes], name: str) -> str:
    with open_read(name) as file:
        return hashlib.sha256(left_out.sub(b"", file.read())).hexdigest()


def _state(stat: os.stat_result) -> str:
    return f"{stat.st_size},{stat.st_mtime_ns},{stat.st_ctime_ns},{stat.st_ino}"


def _load(table: Path) -> dict[str, tuple[str, str]]:
    """path -> (state, digest) of a table; nothing of one that is missing or damaged: all of it can be made anew."""
    known: dict[str, tuple[str, str]] = {}
    try:
        for _, line in read_lines(table):
            digest, state, name = line.split("\t")
            known[name] = (state, digest)
    except (DataError, OSError, ValueError):
        return {}
    return known


def tree_digest(
    root: Path, digests: Digests, skip: Callable[[Sequence[str]], bool], left_out: re.Pattern[bytes] | None = None
) -> str | None:
    """Hash over names and content of the files below a directory; None if there are none.

    Args:
      root: the directory; symbolic links to directories inside are not followed.
      digests: where the digests of the files come from.
      skip: tells from the parts of a file's name below `root` whether it counts as no part of the content.
      left_out: what counts as no part of the content of .json files.
    Returns:
      32 hexadecimal digits, which do not depend on where the directory is.
    """

    def refuse(err: OSError) -> None:
        raise DataError(f"{err.filename}: cannot be read ({err.strerror})")

    top = os.fspath(root)
    found: list[list[str]] = []
    for directory, _, names in os.walk(top, onerror=refuse):
        inside = [] if directory == top else os.path.relpath(directory, top).split(os.sep)
        found += [[*inside, name] for name in names if not skip([*inside, name])]
    found = [parts for parts in sorted(found) if os.path.isfile(os.path.join(top, *parts))]
    if not found:
        return None
    names = [os.path.join(top, *parts) for parts in found]
    if left_out is None:
        content = digests.of(names)
    else:
        whole = iter(digests.of(name for name in names if not name.endswith(".json")))
        content = [_digest_without(left_out, name) if name.endswith(".json") else next(whole) for name in names]
    text = "\n".join(f"{'/'.join(parts)}\0{digest}" for parts, digest in zip(found, content))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
