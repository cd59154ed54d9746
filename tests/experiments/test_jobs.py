"""Shell commands side by side, with logs."""

from __future__ import annotations

import time

from pipeline.experiments.jobs import Job, run_jobs


def test_outcomes_in_order_with_logs(tmp_path):
    jobs = [Job("slow", "sleep 0.2; echo one"), Job("bad", "echo two >&2; exit 3"), Job("quick", "echo three")]
    outcomes = run_jobs(jobs, tmp_path / "log", parallel=3)
    assert [(o.job.name, o.code) for o in outcomes] == [("slow", 0), ("bad", 3), ("quick", 0)]
    assert "two" in (tmp_path / "log" / "bad.log").read_text()


def test_parallel(tmp_path):
    jobs = [Job(str(i), "sleep 0.5") for i in range(4)]
    start = time.monotonic()
    run_jobs(jobs, tmp_path / "log", parallel=4)
    assert time.monotonic() - start < 1.6


def test_threads(tmp_path):
    run_jobs([Job("a", "echo threads=$OMP_NUM_THREADS")], tmp_path / "log", threads=3)
    assert "threads=3" in (tmp_path / "log" / "a.log").read_text()
