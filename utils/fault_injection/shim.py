"""The library of shim.c: compiled at run time, loaded before all others, and told what to do by a file in memory."""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
STATE = "FAULTS_STATE"
_PATH = 4096
_NUMBERS = struct.Struct("9q")  # as in shim.c: struct state
_SIZE = _NUMBERS.size + 2 * _PATH


class Action(enum.IntEnum):
    """What happens at the call that is chosen."""

    COUNT = 0  # nothing
    FAIL = 1  # it fails
    SHORT = 2  # it writes half of what it should, which the system may always do
    TORN = 3  # it writes half, and the process is killed
    KILL = 4  # the process is killed before it


class Calls(enum.IntFlag):
    """Kinds of calls that are counted."""

    SPACE = 1  # those that a full disk may refuse: open for writing, write, sync, rename, mkdir
    WRITE = 2  # bytes
    CHANGE = 4  # those that only remove
    ALL = 7


class Shim:
    """What the library of this process and of its children does; needs ``loaded``."""

    def __init__(self) -> None:
        with open(os.environ[STATE], "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)

    @contextlib.contextmanager
    def armed(
        self,
        below: Path,
        action: Action = Action.COUNT,
        at: int = 0,
        forever: bool = False,
        error: int = 0,
        calls: Calls = Calls.ALL,
        clock_shift: float = 0.0,
        log: Path | None = None,
    ) -> Iterator[None]:
        """Within the context, calls that change files below a folder are counted, and those chosen go wrong.

        Args:
            below: absolute path, without links.
            at: number of the call, from 0. forever: all later ones as well.
            error: what a call fails with, of the module errno.
            calls: which calls count.
            clock_shift: seconds by which the clock is wrong; it counts at once.
            log: file that gets a line for each write and sync, see ``unsynced``.
        """
        numbers = [1, action, at, forever, error, calls, 0, 0, round(clock_shift * 1e9)]
        paths = b"".join(os.fsencode(path or "").ljust(_PATH, b"\0") for path in (below, log))
        self._memory[_NUMBERS.size :] = paths
        self._memory[: _NUMBERS.size] = _NUMBERS.pack(*numbers)
        try:
            yield
        finally:
            self._memory[:8] = struct.pack("q", 0)

    @property
    def count(self) -> int:
        """Calls counted since it was armed."""
        return int(_NUMBERS.unpack(self._memory[: _NUMBERS.size])[6])

    @property
    def done(self) -> int:
        """Calls that went wrong since it was armed."""
        return int(_NUMBERS.unpack(self._memory[: _NUMBERS.size])[7])


def loaded(directory: Path) -> bool:
    """Whether this process has the library; if not, ``load`` replaces it by one that has."""
    return os.environ.get(STATE) == str(directory / "state")


def load(directory: Path) -> None:
    """Compiles the library and starts this Python program again with it; does not return."""
    library = directory / "shim.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    (directory / "state").write_bytes(bytes(_SIZE))
    environment = {**os.environ, "LD_PRELOAD": str(library), STATE: str(directory / "state")}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def unsynced(log: Path) -> set[tuple[int, int]]:
    """(device, inode) of the files whose last write no sync has followed: what a loss of power may take."""
    found: dict[tuple[int, int], bool] = {}
    for line in log.read_text(encoding="ascii").splitlines() if log.exists() else []:
        what, device, inode = line.split()
        if what == "a":
            found.clear()
        else:
            found[int(device), int(inode)] = what == "w"
    return {file for file, written in found.items() if written}
