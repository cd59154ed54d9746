#!/usr/bin/env python3
"""Runs the commands of a job list side by side."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.base.errors import PipelineError
from pipeline.experiments.jobs import read_jobs, run_jobs


@click.command()
@click.argument("job_list", type=click.Path(path_type=Path))
@click.argument("log_dir", type=click.Path(path_type=Path))
@click.option("--parallel", type=click.IntRange(1), default=os.cpu_count(), show_default=True, help="Jobs at a time.")
@click.option("--threads", type=click.IntRange(1), default=None, help="OMP_NUM_THREADS of each job.")
@cli.verbose_option
def main(job_list: Path, log_dir: Path, parallel: int, threads: int | None) -> None:
    """Runs the commands of JOB_LIST (lines `NAME: COMMAND`) with logs LOG_DIR/NAME.log.

    Run again, it repeats only what has not succeeded yet. Exit code 2 when a job failed.
    """
    with cli.main_guard():
        outcomes = run_jobs(read_jobs(job_list), log_dir, parallel, threads)
        failed = [o for o in outcomes if o.code]
        if failed:
            logs = ", ".join(f"{log_dir / o.job.name}.log (exit {o.code})" for o in failed)
            raise PipelineError(f"{len(failed)} of {len(outcomes)} jobs failed: {logs}")


if __name__ == "__main__":
    main()
