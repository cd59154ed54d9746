"""Who works on an output directory: a lock beside it, and what may be left beside it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.base.files import no_link

logger = logging.getLogger(__name__)


def beside(path: Path, suffix: str) -> Path:
    """Returns the path with `suffix` added to its last part, the place for temporary neighbours."""
    path = Path(os.path.normpath(path))
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Holds OUT.lock; another process that works on the same `out` is waited for. A killed process holds none."""
    path = beside(out, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        fd = no_link(path, os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: waiting for another process that is working on it", out)
                fcntl.flock(fd, fcntl.LOCK_EX)
            # The former holder may have removed the file between our open and our lock: then take the new one.
            if not (path.exists() and os.stat(path).st_ino == os.fstat(fd).st_ino):
                continue
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
            return
        finally:
            os.close(fd)


def leftovers(out: Path) -> bool:
    """Whether something stands beside a complete output that only a process at work on it needs: it is there, or was
    killed after the output had got its name.
    """
    return beside(out, ".lock").exists() or beside(out, ".old").exists()


def tidy(out: Path) -> None:
    """Removes leftovers of a complete output, unless a process is at work on it or nothing may be written there."""
    path = beside(out, ".lock")
    with contextlib.suppress(OSError, DataError):
        fd = no_link(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino != os.fstat(fd).st_ino:
                return  # its holder has gone, and another process has made a new one
            shutil.rmtree(beside(out, ".old"), ignore_errors=True)
            path.unlink()
        finally:
            os.close(fd)
