"""Jobs of Slurm behind the interface of ``concurrent.futures``, by submitit.

submitit writes the scripts, submits one array for all calls, brings results back over the shared disk, and has Slurm
start a job again that was preempted. What it does not do is tell of jobs that vanish on clusters without accounting:
those that squeue no longer knows and that have left no result count as lost here, and are submitted again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base import cli
from pipeline.base.errors import ConfigError, PipelineError
from pipeline.parallel.options import ClusterOptions

logger = logging.getLogger(__name__)

COLLECT_SECONDS = 0.2  # how long calls are collected into one array
POLL_SECONDS = 1.0  # between looks for results
ASK_SECONDS = 5.0  # between questions to the controller


def slurm_executor(cluster: ClusterOptions, jobs: int, log_dir: Path) -> Executor:
    """An executor whose calls are jobs; ConfigError without submitit or the programs of Slurm."""
    try:
        import submitit
    except ImportError:
        raise ConfigError("--backend slurm needs the package submitit: pip install 'fullsum[slurm]'") from None
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise ConfigError(f"--backend slurm: no program {program} here; is this machine part of a Slurm cluster?")
    inner = submitit.SlurmExecutor(folder=log_dir / "slurm")
    where = {"partition": cluster.partition, "account": cluster.account}
    environment = cli.environment(cluster.threads, own=False)
    inner.update_parameters(
        job_name="fullsum",
        time=cluster.minutes,
        mem=f"{round(cluster.memory_gib * 1024)}MB",
        cpus_per_task=cluster.threads,
        array_parallelism=jobs,
        setup=[*cluster.setup, *(f"export {name}='{value}'" for name, value in environment.items())],
        additional_parameters=dict(cluster.slurm),
        **{name: value for name, value in where.items() if value is not None},
    )
    return _SlurmExecutor(inner, cluster.retries, cluster.arrival_seconds)


@dataclass
class _Call:
    """A call and what has become of it."""

    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    tries_left: int
    job: Any = None
    gone: float | None = None  # when squeue first did not know the job


class _SlurmExecutor(Executor):
    """Submits in a thread of its own, which then looks for results."""

    def __init__(self, inner: Any, retries: int, arrival_seconds: float) -> None:
        self._inner, self._retries, self._arrival = inner, retries, arrival_seconds
        self._new: list[_Call] = []
        self._running: list[_Call] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A job; its arguments and its result are pickled by submitit, so they had better be JSON values."""
        assert not kwargs, kwargs
        call = _Call(Future(), fn, args, self._retries)
        with self._lock:
            self._new.append(call)
            if self._server is None:
                self._server = threading.Thread(target=self._serve, daemon=True)
                self._server.start()
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for all jobs, or, with `cancel_futures`, cancels them."""
        self._stop.set()
        if cancel_futures:
            with self._lock:
                for call in [*self._new, *self._running]:
                    if call.job is not None:
                        call.job.cancel(check=False)
                    call.future.cancel()
                self._new, self._running = [], []
        if wait and self._server is not None:
            self._server.join()

    def _serve(self) -> None:
        asked = 0.0
        while True:
            time.sleep(COLLECT_SECONDS)
            with self._lock:
                new, self._new = self._new, []
                if new:
                    self._submit(new)
                self._running += new
                running = list(self._running)
            if not running:
                if self._stop.is_set():
                    return
                continue
            if time.monotonic() - asked >= ASK_SECONDS:
                asked = time.monotonic()
                self._note_gone(running)
            for call in running:
                self._look(call)
            with self._lock:
                self._running = [c for c in self._running if not c.future.done() and c not in self._new]
            time.sleep(POLL_SECONDS)

    def _submit(self, calls: list[_Call]) -> None:
        try:
            with self._inner.batch():
                jobs = [self._inner.submit(call.function, *call.arguments) for call in calls]
        except Exception as err:  # submitit raises what sbatch says in classes of its own
            reason = str(err).strip().splitlines()
            said = reason[-1].strip("'\" ").removeprefix("sbatch: error: ") if reason else repr(err)
            for call in calls:
                call.future.set_exception(ConfigError(f"sbatch refuses: {said}"))
            return
        for call, job in zip(calls, jobs):
            call.job, call.gone = job, None
            logger.debug("job %s of Slurm, log %s", job.job_id, job.paths.stderr)

    def _look(self, call: _Call) -> None:
        """Takes a result if there is one, or submits a job that is lost again."""
        if call.future.done():
            return
        result = call.job.paths.result_pickle
        if call.gone is not None:
            with contextlib.suppress(OSError):
                os.listdir(result.parent)  # makes clients of network file systems ask their server again
        if result.is_file():
            try:
                call.future.set_result(call.job.result())
            except Exception as err:  # what submitit makes of a failure: a time limit, an exception in the job
                lines = [line for line in str(err).strip().splitlines() if line.strip()]
                said = next((line for line in lines if "timed-out" in line), lines[-1] if lines else repr(err))
                over = " (over its time limit; see minutes in the file of --cluster)" if "timed-out" in said else ""
                call.future.set_exception(PipelineError(f"job {call.job.job_id} of Slurm: {said.strip()}{over}"))
        elif call.gone is not None and time.monotonic() - call.gone > self._arrival:
            said = f"job {call.job.job_id} of Slurm has ended without a result; its log is {call.job.paths.stderr}"
            if call.tries_left:
                call.tries_left -= 1
                logger.warning("%s; it is submitted again", said)
                with self._lock:
                    self._new.append(call)
            else:
                call.future.set_exception(PipelineError(said))

    def _note_gone(self, calls: list[_Call]) -> None:
        """Asks squeue which jobs are still waiting or running; without an answer all count as there."""
        arrays = sorted({str(call.job.job_id).split("_")[0] for call in calls if call.job is not None})
        command = ["squeue", "--noheader", "--array", "--format=%i %T", "--jobs", ",".join(arrays)]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.SubprocessError):
            return
        if found.returncode and "Invalid job id" not in found.stderr:
            return
        rows = [line.split() for line in found.stdout.splitlines()]
        there = {row[0] for row in rows if len(row) == 2 and row[1] not in _ENDED}
        for call in calls:
            if call.job is not None and str(call.job.job_id) not in there:
                call.gone = call.gone or time.monotonic()
            else:
                call.gone = None


_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
