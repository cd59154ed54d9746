"""Runs a list of shell commands side by side, each with a log, and again only those that have not succeeded yet."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import logging
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines
from pipeline.base.log import duration

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")


@dataclasses.dataclass(frozen=True)
class Job:
    """A command under a name that serves as file name."""

    name: str
    command: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job: exit code (0: done), seconds, and whether it had been done before."""

    job: Job
    code: int
    seconds: float
    skipped: bool


def read_jobs(path: Path) -> list[Job]:
    """Reads a job list: lines `NAME: COMMAND`; empty lines and those that start with # do not count."""
    jobs: dict[str, Job] = {}
    for line_no, line in read_lines(path):
        if not line or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        if not colon or not command.strip() or not _NAME.fullmatch(name.strip()):
            raise DataError(f"{path}:{line_no}: needs 'NAME: COMMAND', NAME of letters, digits and ._+=-")
        if name.strip() in jobs:
            raise DataError(f"{path}:{line_no}: job {name.strip()!r} is listed twice")
        jobs[name.strip()] = Job(name.strip(), command.strip())
    if not jobs:
        raise DataError(f"{path}: no jobs")
    return list(jobs.values())


def run_jobs(
    jobs: Sequence[Job],
    log_dir: Path,
    parallel: int = 1,
    threads: int | None = None,
    directory: Path | None = None,
    remember: bool = True,
) -> list[Outcome]:
    """Runs the jobs, `parallel` at a time, in the order given; a failure does not stop the others.

    DIR/NAME.log gets the output of a job; DIR/NAME.done holds the hash of the command once it has succeeded, so
    that a job whose command is unchanged is not run again.

    Args:
      jobs: what to run, with bash.
      log_dir: directory for logs and marks.
      parallel: number of jobs at a time.
      threads: OMP_NUM_THREADS of each job, so that jobs side by side do not fight for cores; None: as inherited.
      directory: where the jobs run; None: the current directory.
      remember: False runs every job, for commands that find out themselves what is up to date.
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
        outcome = _run(job, log_dir, threads, directory, remember, running)
        with tally:
            done += 1
            left = (time.monotonic() - start) / done * (len(jobs) - done)
            said = "done before" if outcome.skipped else f"exit {outcome.code}, {duration(outcome.seconds)}"
            level = logging.INFO if outcome.code == 0 else logging.ERROR
            logger.log(level, "%s: %s (%d of %d, %s left)", job.name, said, done, len(jobs), duration(left))
        return outcome

    pool = concurrent.futures.ThreadPoolExecutor(parallel)
    try:
        return list(pool.map(work, jobs))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _run(
    job: Job, log_dir: Path, threads: int | None, cwd: Path | None, remember: bool, running: set[subprocess.Popen]
) -> Outcome:
    mark = log_dir / f"{job.name}.done"
    digest = hashlib.sha256(job.command.encode()).hexdigest()
    if remember and mark.is_file() and mark.read_text(encoding="utf-8").strip() == digest:
        return Outcome(job, 0, 0.0, True)
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
    if code == 0:
        with atomic_write(mark) as out:
            out.write(digest + "\n")
    return Outcome(job, code, seconds, False)
