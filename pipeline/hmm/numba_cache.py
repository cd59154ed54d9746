"""numba's cache of compiled loops: one process at a time writes to it, and code that is out of date leaves it.

numba finds a loop's code by the types of its arguments. Two processes that compile one loop for different types at once
may give both the same file, so compiling takes a lock. It lies beside the cache, which belongs to one checkout, and an
empty mark for every version that is there lets later processes load the code without waiting for anyone.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numba

_ready: set[tuple[object, ...]] = set()


@contextlib.contextmanager
def compiling(where: str | Path, stem: str, key: tuple[object, ...]) -> Iterator[None]:
    """Surrounds the first call of a version of a loop; other processes that compile wait, those that load do not.

    Args:
        where: directory of the cache, the loop's ``stats.cache_path``.
        stem: name of the loop's module, which ``drop_stale_code`` drops the mark with.
        key: what tells the version apart: the loop's name and its arguments' types.
    """
    mark = Path(where) / f"{stem}.{hashlib.sha256(repr((key, _machine())).encode()).hexdigest()[:16]}.nbm"
    if key in _ready or mark.exists():
        yield
    else:
        mark.parent.mkdir(parents=True, exist_ok=True)
        with open(mark.parent / "compiling.lock", "w") as lock:  # closing the file gives the lock back
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
            mark.touch()
    _ready.add(key)


def is_ready(key: tuple[object, ...]) -> bool:
    """Whether this process has called that version before."""
    return key in _ready


@functools.cache
def _machine() -> tuple[str, str, str]:
    """What numba's cache tells apart beside types: its version and the processor, which share one home directory."""
    from llvmlite import binding

    return numba.__version__, binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()


def drop_stale_code(where: str | Path, stems: Iterable[str], sources: Iterable[str | Path]) -> None:
    """Drop compiled code of some modules that is older than any of the sources.

    numba looks at the file of a loop alone, not at those of the functions that the loop calls.

    Args:
        where: directory of the cache.
        stems: names of the modules whose code goes.
        sources: files that it is made of.
    """
    newest = max(Path(source).stat().st_mtime for source in sources)
    for stem in stems:
        for cached in Path(where).glob(f"{stem}.*.nb?"):
            with contextlib.suppress(OSError):  # another process was quicker
                if cached.stat().st_mtime < newest:
                    cached.unlink()
