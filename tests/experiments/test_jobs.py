"""Job lists: parallel runs with logs, resumed by what has succeeded."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from pipeline.base.errors import DataError
from pipeline.experiments.jobs import Job, read_jobs, run_jobs

ROOT = Path(__file__).resolve().parents[2]


def test_outcomes_in_order_with_logs(tmp_path):
    jobs = [Job("slow", "sleep 0.2; echo one"), Job("bad", "echo two >&2; exit 3"), Job("quick", "echo three")]
    outcomes = run_jobs(jobs, tmp_path / "log", parallel=3)
    assert [(o.job.name, o.code, o.skipped) for o in outcomes] == [
        ("slow", 0, False),
        ("bad", 3, False),
        ("quick", 0, False),
    ]
    assert "two" in (tmp_path / "log" / "bad.log").read_text()
    assert not (tmp_path / "log" / "bad.done").exists()


def test_only_what_has_not_succeeded_runs_again(tmp_path):
    trace = tmp_path / "trace"
    jobs = [Job("a", f"echo a >>{trace}"), Job("b", f"echo b >>{trace}; [[ -e {tmp_path}/ok ]]")]
    run_jobs(jobs, tmp_path / "log")
    (tmp_path / "ok").touch()
    assert [o.skipped for o in run_jobs(jobs, tmp_path / "log")] == [True, False]
    assert all(o.skipped for o in run_jobs(jobs, tmp_path / "log"))
    changed = [Job("a", f"echo A >>{trace}"), jobs[1]]
    assert [o.skipped for o in run_jobs(changed, tmp_path / "log")] == [False, True]
    assert trace.read_text().split() == ["a", "b", "b", "A"]


def test_parallel(tmp_path):
    jobs = [Job(str(i), "sleep 0.5") for i in range(4)]
    start = time.monotonic()
    run_jobs(jobs, tmp_path / "log", parallel=4)
    assert time.monotonic() - start < 1.6


def test_threads(tmp_path):
    run_jobs([Job("a", "echo threads=$OMP_NUM_THREADS")], tmp_path / "log", threads=3)
    assert "threads=3" in (tmp_path / "log" / "a.log").read_text()


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: true\nfalse\n", r"jobs:2: needs"),
        ("a b: true\n", r"jobs:1: needs"),
        ("../a: true\n", r"jobs:1: needs"),
        ("a:\n", r"jobs:1: needs"),
        ("a: true\n\n# x\na: false\n", r"jobs:4: job 'a' is listed twice"),
        ("# nothing\n", r"jobs: no jobs"),
    ],
)
def test_broken_lists(tmp_path, text, message):
    (tmp_path / "jobs").write_text(text)
    with pytest.raises(DataError, match=message):
        read_jobs(tmp_path / "jobs")


def test_command(tmp_path, run_script):
    (tmp_path / "jobs").write_text("# two\na: echo x:y\nb: exit 3\n")

    def run() -> subprocess.CompletedProcess:
        return run_script(ROOT / "utils" / "run_jobs.py", "jobs", "log", "--parallel", "2")

    result = run()
    assert result.returncode == 2 and "1 of 2 jobs failed: log/b.log (exit 3)" in result.stderr
    assert "x:y" in (tmp_path / "log" / "a.log").read_text()
    (tmp_path / "jobs").write_text("a: echo x:y\nb: true\n")
    result = run()
    assert result.returncode == 0 and "a: done before" in result.stderr
