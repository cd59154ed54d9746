"""Runs shell commands side by side, each with a log: the cells of tables, whose steps know what is up to date."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.log import Meter, duration

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """A command under a name that serves as file name."""

    name: str
    command: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job: exit code (0: done) and seconds."""

    job: Job
    code: int
    seconds: float


def run_jobs(
    jobs: Sequence[Job],
    log_dir: Path,
    parallel: int = 1,
    threads: int | None = None,
    directory: Path | None = None,
) -> list[Outcome]:
    """Runs the jobs, `parallel` at a time, in the order given; a failure does not stop the others.

    LOG_DIR/NAME.log gets the output of a job.

    Args:
      jobs: what to run, with bash.
      log_dir: directory for logs.
      parallel: number of jobs at a time.
      threads: OMP_NUM_THREADS of each job, so that jobs side by side do not fight for cores; None: as inherited.
      directory: where the jobs run; None: the current directory.
    Returns:
      an Outcome for each job, in the order of `jobs`.
    """
    assert parallel >= 1, parallel
    log_dir.mkdir(parents=True, exist_ok=True)
    done = 0
    start = time.monotonic()
    tally = threading.Lock()
    running: set[subprocess.Popen] = set()

    def work(job: Job) -> Outcome:
        nonlocal done
        outcome = _run(job, log_dir, threads, directory, running)
        with tally:
            done += 1
            meter.at(done)
            left = (time.monotonic() - start) / done * (len(jobs) - done)
            said = f"exit {outcome.code}, {duration(outcome.seconds)}"
            level = logging.INFO if outcome.code == 0 else logging.ERROR
            logger.log(level, "%s: %s (%d of %d, %s left)", job.name, said, done, len(jobs), duration(left))
        return outcome

    pool = concurrent.futures.ThreadPoolExecutor(parallel)
    try:
        with Meter("jobs", len(jobs)) as meter:
            return list(pool.map(work, jobs))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _run(job: Job, log_dir: Path, threads: int | None, cwd: Path | None, running: set[subprocess.Popen]) -> Outcome:
    start = time.monotonic()
    command = job.command if threads is None else f"export OMP_NUM_THREADS={threads}\n{job.command}"
    with open(log_dir / f"{job.name}.log", "w", encoding="utf-8") as log:
        log.write(f"# {job.command}\n")
        log.flush()
        process = subprocess.Popen(["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd)
        running.add(process)
        code = process.wait()
        running.discard(process)
        seconds = time.monotonic() - start
        log.write(f"# exit {code} after {duration(seconds)}\n")
    return Outcome(job, code, seconds)
