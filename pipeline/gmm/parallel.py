"""Many small tensor operations on all cores: one thread per core, each computing alone.

Thousands of small matrix products gain little from threads inside each of them, and when another process uses the
cores as well, the threads' waiting for each other makes them many times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from pipeline.hmm.threads import thread_count

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Sequence[T], device: torch.device) -> None:
    """Calls work(item) for all items; results must not depend on the order.

    Args:
        items: the costly ones first, so that all threads end together.
        device: on CUDA the calls follow each other, since the device itself is parallel.
    """
    threads, before = thread_count(), torch.get_num_threads()
    if device.type != "cpu" or threads < 2 or len(items) < 2:
        for item in items:
            work(item)
        return
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, items):
                pass
    finally:
        torch.set_num_threads(before)


def share_out(work: Callable[[np.ndarray], None], tasks: np.ndarray, costs: np.ndarray) -> None:
    """Calls work(part of the tasks) once per thread, the parts being about equally costly; for compiled loops on the
    CPU.

    Args:
        tasks, costs: (n,) each.
    """
    threads = min(thread_count(), len(tasks))
    order = tasks[np.argsort(-costs, kind="stable")]
    if threads < 2:
        work(order)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, order[i::threads]) for i in range(1, threads)]
        work(order[::threads])
        for other in others:
            other.result()
