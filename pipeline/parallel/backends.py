"""Where parts run: every back-end is a ``concurrent.futures.Executor``, made here and nowhere else.

A new back-end is a module with a function like those of ``slurm`` and ``dask_cluster``, a name in
``ParallelOptions.backend`` and a line here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

from pipeline.parallel.options import ClusterOptions, ParallelOptions


@contextlib.contextmanager
def open_executor(
    parallel: ParallelOptions, cluster: ClusterOptions, jobs: int, log_dir: Path, module: str
) -> Iterator[Executor]:
    """The executor of a back-end; an exception inside ends what it is still running.

    Args:
        jobs: how many calls at a time.
        log_dir: where the back-end may write.
        module: of the work, see ``pipeline.parallel.parts.Work``.
    Raises:
        ConfigError: a package or program that the back-end needs is not installed.
    """
    executor = _executor(parallel, cluster, jobs, log_dir, module)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown()


def _executor(parallel: ParallelOptions, cluster: ClusterOptions, jobs: int, log_dir: Path, module: str) -> Executor:
    if parallel.backend == "slurm":
        from pipeline.parallel.slurm import slurm_executor

        return slurm_executor(cluster, jobs, log_dir)
    if parallel.backend == "dask":
        from pipeline.parallel.dask_cluster import dask_executor

        return dask_executor(cluster, jobs, log_dir)
    from pipeline.parallel import parts
    from pipeline.parallel.local import LocalExecutor

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = min(jobs, max(cores // cluster.threads, 1))
    return LocalExecutor(number, cluster.threads, log_dir / "workers.log", [parts.__name__, module])
