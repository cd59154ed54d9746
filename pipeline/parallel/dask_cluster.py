"""Workers of dask behind the interface of ``concurrent.futures``: of this machine, of a scheduler that is running, or
started by dask-jobqueue as jobs of SGE, PBS, LSF or Slurm.

Parts of a worker that is lost go to another one, by dask's own rules.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from pipeline.base import cli
from pipeline.base.errors import ConfigError
from pipeline.parallel.options import ClusterOptions

logger = logging.getLogger(__name__)

_QUEUES = {"sge": "SGECluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "slurm": "SLURMCluster"}
_PROGRAMS = {"sge": "qsub", "pbs": "qsub", "lsf": "bsub", "slurm": "sbatch"}


def dask_executor(cluster: ClusterOptions, jobs: int, log_dir: Path) -> Executor:
    """An executor whose calls are tasks of dask; ConfigError for a missing package, program or scheduler."""
    try:
        import dask
        import distributed
    except ImportError:
        raise ConfigError("--backend dask needs the package distributed: pip install 'fullsum[dask]'") from None
    dask.config.set({"distributed.scheduler.allowed-failures": cluster.retries})
    logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every worker that comes and goes
    own = None
    if cluster.scheduler is None:
        own = _local(cluster, jobs) if cluster.queue == "local" else _queued(cluster, jobs, log_dir)
    try:
        client = distributed.Client(own or cluster.scheduler, set_as_default=False, timeout=30)
    except (OSError, ValueError) as err:
        raise ConfigError(f"no scheduler of dask answers at {cluster.scheduler} ({err})") from None
    logger.info("dashboard of dask: %s", client.dashboard_link)
    return _DaskExecutor(client, own)


def _local(cluster: ClusterOptions, jobs: int) -> Any:
    import dask
    from distributed import LocalCluster

    dask.config.set({"distributed.nanny.pre-spawn-environ": cli.environment(cluster.threads, own=False)})
    return LocalCluster(
        n_workers=jobs,
        threads_per_worker=1,  # of dask: calls at a time
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.ERROR,
    )


def _queued(cluster: ClusterOptions, jobs: int, log_dir: Path) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise ConfigError(
            f"queue {cluster.queue} needs the package dask-jobqueue: pip install 'fullsum[dask]'"
        ) from None
    program = _PROGRAMS[cluster.queue]
    if shutil.which(program) is None:
        raise ConfigError(f"queue {cluster.queue}: there is no program {program} here")
    environment = [f"export {k}='{v}'" for k, v in cli.environment(cluster.threads, own=False).items()]
    hours, minutes = divmod(cluster.minutes, 60)
    more = _cores(cluster)
    directives = [*cluster.directives]
    if cluster.queue == "slurm":
        directives += [f"--{name.replace('_', '-')}={value}" for name, value in cluster.slurm.items()]
    if cluster.account is not None:
        more["account" if cluster.queue in ("slurm", "pbs") else "project"] = cluster.account
    if cluster.partition is not None:
        more["queue"] = cluster.partition
    made = getattr(dask_jobqueue, _QUEUES[cluster.queue])(
        cores=1,
        processes=1,
        memory=f"{cluster.memory_gib}GiB",
        walltime=f"{hours:02d}:{minutes:02d}" if cluster.queue == "lsf" else f"{hours:02d}:{minutes:02d}:00",
        job_script_prologue=[*cluster.setup, *environment],
        job_extra_directives=directives,
        log_directory=str(log_dir / "dask"),
        **more,
    )
    _start(made, jobs, cluster.queue)
    return made


def _start(made: Any, jobs: int, queue: str) -> None:
    """Submits workers; ConfigError with the queue's own words where it takes none of them."""

    async def start() -> None:  # as made.scale does in the background, where nobody hears of a refusal
        while len(made.worker_spec) < jobs:
            made.worker_spec.update(made.new_worker_spec())
        await made._correct_state()

    try:
        made.sync(start)
    except RuntimeError as err:  # dask-jobqueue's, of the program that submits
        from distributed.core import Status

        lines = [line for line in str(err).strip().splitlines() if line.strip()]
        said = lines[-1].strip() if lines else repr(err)
        refused = [job for job in made.workers.values() if not job.job_id]
        for job in refused:
            job.status = Status.failed  # else nothing could be closed
        if len(refused) < len(made.workers):
            logger.warning("queue %s takes only some of %d workers: %s", queue, jobs, said)
            return
        made.close()
        raise ConfigError(f"queue {queue} refuses workers: {said}") from None


def _cores(cluster: ClusterOptions) -> dict[str, Any]:
    """What the classes of dask-jobqueue call the cores of a job; a worker has one part at a time, whose threads they
    are. SGE has no word for cores, nor for memory, that all sites share.
    """
    if cluster.queue == "slurm":
        return {"job_cpu": cluster.threads}
    if cluster.queue == "pbs":
        return {"resource_spec": f"select=1:ncpus={cluster.threads}:mem={round(cluster.memory_gib * 1024)}mb"}
    return {"ncpus": cluster.threads} if cluster.queue == "lsf" else {}


class _DaskExecutor(Executor):
    """The executor of a client, which goes with it."""

    def __init__(self, client: Any, cluster: Any) -> None:
        """Args:
        cluster: ends with this object; None: a cluster of others.
        """
        self._client, self._cluster = client, cluster
        self._inner = client.get_executor(pure=False)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A task of dask."""
        future: Future[Any] = self._inner.submit(fn, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for all tasks, or, with `cancel_futures`, ends the workers with what they are doing."""
        self._inner.shutdown(wait=wait and not cancel_futures)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
