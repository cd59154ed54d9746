"""How many threads share a compiled loop: as many as torch has, unless a step says otherwise.

Loops are divided such that their number changes no bit. That cannot be said of torch's own threads, which divide sums
inside of matrix products; so within ``sharing`` torch has one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

_shared: int | None = None


def thread_count() -> int:
    """Threads of a loop that starts now."""
    return torch.get_num_threads() if _shared is None else _shared


@contextlib.contextmanager
def sharing(threads: int) -> Iterator[None]:
    """Divides loops among so many threads, at most one per core of this process; 1 leaves everything as it is."""
    global _shared
    if threads == 1:
        yield
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = torch.get_num_threads()
    _shared = min(threads, cores)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _shared = None
        torch.set_num_threads(before)
