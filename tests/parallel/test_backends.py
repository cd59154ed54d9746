"""What is asked of Slurm and of dask-jobqueue, and when a job counts as lost; no queue is needed."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.base.errors import ConfigError, PipelineError
from pipeline.parallel import slurm
from pipeline.parallel.dask_cluster import _PROGRAMS, _QUEUES, _queued, _start
from pipeline.parallel.options import ClusterOptions

# Parameters of JobQueueCluster, and those that the class of a queue has beside them, in dask-jobqueue 0.9.
SHARED = {"cores", "memory", "processes", "job_script_prologue", "job_extra_directives", "log_directory"}
OWN = {
    "SLURMCluster": {"queue", "account", "walltime", "job_cpu", "job_mem"},
    "SGECluster": {"queue", "project", "walltime", "resource_spec"},
    "PBSCluster": {"queue", "account", "walltime", "resource_spec"},
    "LSFCluster": {"queue", "project", "walltime", "ncpus", "mem", "lsf_units", "use_stdin"},
}
ASKED = {
    "sge": ["#$ -q long", "#$ -P speech", "#$ -l h_rt=01:30:00", "#$ -pe smp 3"],
    "pbs": ["#PBS -q long", "#PBS -A speech", "#PBS -l walltime=01:30:00", "#PBS -l select=1:ncpus=3:mem=2560mb", "#PBS -pe smp 3"],
    "lsf": ["#BSUB -q long", '#BSUB -P "speech"', "#BSUB -W 01:30", "#BSUB -n 3", "#BSUB -pe smp 3"],
    "slurm": ["#SBATCH -p long", "#SBATCH -A speech", "#SBATCH -t 01:30:00", "#SBATCH --cpus-per-task=3", "#SBATCH -pe smp 3", "#SBATCH --ntasks-per-core=1"],
}  # fmt: skip


def cluster_of(queue: str) -> ClusterOptions:
    return ClusterOptions(
        queue=queue, threads=3, memory_gib=2.5, minutes=90, partition="long", account="speech",
        setup=("module load gcc",), directives=("-pe smp 3",), slurm={"ntasks_per_core": 1},
    )  # fmt: skip


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A directory of programs on the PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    return put


@pytest.mark.parametrize("queue", list(ASKED))
def test_queues_are_asked_by_the_names_of_their_classes(queue, programs, tmp_path, monkeypatch):
    """A name that the class lacks ends the step."""
    asked = {}

    async def nothing() -> None: ...

    def cluster(name):
        made = SimpleNamespace(worker_spec={}, sync=lambda f: asyncio.run(f()), _correct_state=nothing)
        made.new_worker_spec = lambda: {len(made.worker_spec): {}}
        return lambda **options: asked.update({name: options}) or made

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(**{name: cluster(name) for name in OWN}))
    programs(_PROGRAMS[queue], "")
    _queued(cluster_of(queue), 2, tmp_path)
    (name, options), = asked.items()  # fmt: skip
    assert name == _QUEUES[queue] and not options.keys() - SHARED - OWN[name]
    assert options["job_script_prologue"][:2] == ["module load gcc", "export OMP_NUM_THREADS='3'"]


@pytest.mark.parametrize("queue", list(ASKED))
def test_heads_of_jobs(queue, programs, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr("pipeline.parallel.dask_cluster._start", lambda *_: None)
    programs(_PROGRAMS[queue], "")
    with _queued(cluster_of(queue), 2, tmp_path) as made:
        rows = made.job_script().splitlines()
    assert not set(ASKED[queue]) - set(rows), rows
    assert "module load gcc" in rows


def test_a_queue_that_takes_no_worker_says_why(programs, tmp_path):
    """dask-jobqueue goes on without workers, and the step would wait for ever."""
    pytest.importorskip("dask_jobqueue")
    programs("qsub", 'echo "no queue long" >&2\nexit 1')
    with pytest.raises(ConfigError, match="queue sge refuses workers: no queue long"):
        _queued(cluster_of("sge"), 2, tmp_path / "log")


def test_a_queue_that_takes_some_workers(caplog):
    pytest.importorskip("distributed")

    def sync(start):
        raise RuntimeError("Exit code: 1\nstderr:\nlimit of jobs\n\n")

    workers = {name: SimpleNamespace(job_id=job, status=None) for name, job in (("a", "7"), ("b", None))}
    _start(SimpleNamespace(sync=sync, workers=workers), 2, "sge")
    assert "queue sge takes only some of 2 workers: limit of jobs" in caplog.text


class FakeSubmitit:
    """Jobs whose results come `after` seconds, if ever."""

    def __init__(self, folder: Path, after: list[float | None]) -> None:
        self.folder, self.after, self.jobs = folder, after, []

    def batch(self):
        return self

    __enter__ = __exit__ = lambda self, *_: None

    def submit(self, function, *arguments):
        number, ready = len(self.jobs), self.after[len(self.jobs)]
        due = None if ready is None else time.monotonic() + ready
        there = SimpleNamespace(is_file=lambda: due is not None and time.monotonic() >= due, parent=self.folder)
        paths = SimpleNamespace(stderr=f"{number}.err", result_pickle=there)
        job = SimpleNamespace(
            job_id=number, paths=paths, cancel=lambda check: None, result=lambda: function(*arguments)
        )
        self.jobs.append(job)
        return job


@pytest.fixture
def faster(programs, monkeypatch):
    """Time of the back-end, a hundred times as fast; no job is known to squeue any more."""
    programs("squeue", "exit 0")
    clock = SimpleNamespace(monotonic=lambda: 100 * time.monotonic(), sleep=lambda seconds: time.sleep(seconds / 100))
    monkeypatch.setattr(slurm, "time", clock)


@pytest.mark.parametrize("arrival, jobs", [(300, 1), (20, 2)])
def test_a_result_that_a_shared_disk_shows_late(arrival, jobs, faster, tmp_path):
    """Clients of network file systems may believe for half a minute that a file is not there."""
    inner = FakeSubmitit(tmp_path, [1.5, 0.0])
    with slurm._SlurmExecutor(inner, 1, arrival) as executor:
        assert executor.submit(abs, -3).result(timeout=30) == 3
    assert len(inner.jobs) == jobs


def test_a_job_without_a_result_is_lost(faster, tmp_path):
    inner = FakeSubmitit(tmp_path, [None, None])
    with slurm._SlurmExecutor(inner, 1, 20) as executor:
        with pytest.raises(PipelineError, match="job 1 of Slurm has ended without a result; its log is 1.err"):
            executor.submit(abs, -3).result(timeout=30)
    assert len(inner.jobs) == 2
