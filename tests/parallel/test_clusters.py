"""Slurm and dask for real: a Slurm of one node, which the test starts, and two workers of dask.

Where they are not installed the tests are skipped: pip install 'fullsum[slurm,dask]', apt-get install slurm-wlm munge.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError, DataError, PipelineError
from pipeline.parallel.options import ParallelOptions
from tests.parallel.divided import STEPS, build
from tests.parallel.inline import content
from tests.parallel.test_parts import ran, run

ROOT = Path(__file__).resolve().parents[2]
SQUARES = [n * n for n in range(10)]
BACKENDS = ["slurm", "dask"]


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A Slurm of one node; its configuration."""
    pytest.importorskip("submitit")
    for program in ("slurmctld", "slurmd", "munged", "sbatch"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm of one node needs root")
    directory = tmp_path_factory.mktemp("slurm")
    script = ROOT / "utils" / "slurm_node.sh"
    # Daemons keep what they are given open, so pipes would never end.
    with open(directory / "started", "w") as told:
        subprocess.run([script, "start", directory], check=True, stdout=told, stderr=subprocess.STDOUT, timeout=120)
    yield directory / "slurm.conf"
    subprocess.run([script, "stop", directory], check=True, timeout=60)


@pytest.fixture
def cluster(request, tmp_path, monkeypatch):
    """Options of a back-end that is there."""
    if request.param == "slurm":
        monkeypatch.setenv("SLURM_CONF", str(request.getfixturevalue("node")))
    else:
        pytest.importorskip("distributed")
    path = tmp_path / "cluster.yaml"
    path.write_text("memory_gib: 0.5\nminutes: 10\nretries: 1\n")
    return {"backend": request.param, "cluster": path}


@pytest.mark.slow
@pytest.mark.parametrize("cluster", BACKENDS, indirect=True)
def test_parts_together_are_the_whole(tmp_path, cluster):
    numbers, done = run(tmp_path, 3, **cluster)
    assert numbers == SQUARES and {d.facts["threads"] for d in done} == {"1"}
    assert ran(tmp_path) == ["1-of-3", "2-of-3", "3-of-3"]


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("material"))


@pytest.mark.slow
@pytest.mark.parametrize("cluster", BACKENDS, indirect=True)
def test_steps_write_the_bytes_of_one_process(material, tmp_path, cluster):
    """All that work in parts; features by more parts than there are utterances."""
    for name, step in STEPS.items():
        found = []
        for parallel in (ParallelOptions(), ParallelOptions(jobs=5 if name == "compute_feats" else 2, **cluster)):
            out = tmp_path / name
            out.mkdir()
            step(material, out, parallel)
            found.append({file: bytes for file, bytes in content(out).items() if file != "results.json"})  # has times
            shutil.rmtree(out)
        assert found[0] and found[0] == found[1], name


@pytest.mark.slow
@pytest.mark.parametrize("cluster", BACKENDS, indirect=True)
def test_a_failed_part_is_repeated_alone(tmp_path, cluster):
    with pytest.raises(DataError, match=r"(?s)line 1: broken.*1 of 3 parts failed \(number 2\)"):
        run(tmp_path, 3, {"1": "data"}, **cluster)
    (tmp_path / "mended").touch()
    assert run(tmp_path, 3, **cluster)[0] == SQUARES
    assert ran(tmp_path) == ["1-of-3", "2-of-3", "3-of-3"]


@pytest.mark.slow
@pytest.mark.parametrize("cluster", BACKENDS, indirect=True)
def test_a_worker_killed_in_the_middle_costs_its_part_alone(tmp_path, cluster):
    assert run(tmp_path, 2, {"1": "killed once"}, **cluster)[0] == SQUARES
    assert (tmp_path / "killed1").exists() and ran(tmp_path) == ["1-of-2", "2-of-2"]


@pytest.mark.slow
@pytest.mark.parametrize("cluster", BACKENDS, indirect=True)
def test_a_part_that_kills_every_worker_is_an_error(tmp_path, cluster):
    with pytest.raises(PipelineError, match=r"(?s)part 2-of-2.*1 of 2 parts failed \(number 2\)"):
        run(tmp_path, 2, {"1": "killed"}, **cluster)
    assert ran(tmp_path) == ["1-of-2"]


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_a_job_over_its_time_limit(tmp_path, cluster):
    cluster["cluster"].write_text("memory_gib: 0.5\nminutes: 1\n")
    with pytest.raises(PipelineError, match=r"(?s)part 1-of-2: job .* time limit.*1 of 2 parts failed"):
        run(tmp_path, 2, {"0": "slow"}, **cluster)
    assert ran(tmp_path) == ["2-of-2"]


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_a_drained_node_is_waited_for(tmp_path, cluster):
    name = subprocess.run(["sinfo", "-h", "-o", "%n"], capture_output=True, text=True, check=True).stdout.strip()
    change = ["scontrol", "update", f"nodename={name}"]
    subprocess.run([*change, "state=drain", "reason=test"], check=True)
    threading.Timer(4, subprocess.run, [[*change, "state=resume"]]).start()
    start = time.monotonic()
    assert run(tmp_path, 2, **cluster)[0] == SQUARES
    assert time.monotonic() - start > 4


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_what_sbatch_says_is_passed_on(tmp_path, cluster):
    cluster["cluster"].write_text("partition: nowhere\nmemory_gib: 0.5\n")
    with pytest.raises(PipelineError, match="sbatch refuses: Batch job submission failed: Invalid partition"):
        run(tmp_path, 2, **cluster)


@pytest.mark.parametrize("queue, program", [("sge", "qsub"), ("pbs", "qsub"), ("lsf", "bsub")])
def test_queues_that_are_not_here(tmp_path, queue, program):
    pytest.importorskip("dask_jobqueue")
    if shutil.which(program):
        pytest.skip(f"{program} is here")
    (tmp_path / "cluster.yaml").write_text(f"queue: {queue}\n")
    with pytest.raises(ConfigError, match=f"no program {program} here"):
        run(tmp_path, 2, backend="dask", cluster=tmp_path / "cluster.yaml")
