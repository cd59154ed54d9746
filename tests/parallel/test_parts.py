"""Parts: how units are divided, what counts as complete, and what happens to parts that go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import ConfigError, DataError, PipelineError
from pipeline.base.files import read_json, write_json
from pipeline.parallel import parts as parts_module
from pipeline.parallel.local import LocalExecutor, WorkerDied
from pipeline.parallel.options import ClusterOptions, ParallelOptions
from pipeline.parallel.parts import PART, Part, arrived, clean, in_process, perform, share_done, task
from pipeline.parallel.run import done_in_parts
from tests.parallel.works import place, squares

ROOT = Path(__file__).resolve().parents[2]


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 40))
def test_parts_hold_each_unit_once_and_in_order(costs, of):
    rows = [np.arange(len(costs))[Part(i, of).of_costs(costs)] for i in range(of)]
    assert np.concatenate(rows).tolist() == list(range(len(costs)))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200), st.integers(1, 10))
def test_parts_are_balanced_within_one_unit(costs, of):
    sums = [sum(costs[Part(i, of).of_costs(costs)]) for i in range(of)]
    assert all(abs(s - sum(costs) / of) <= max(costs) + 1e-6 for s in sums)


def run(out: Path, jobs: int, wrong: dict | None = None, **parallel: Any):
    write_json(out / "wrong.json", wrong or {})  # what goes wrong differs from run to run; the arguments do not
    arguments = {"count": 10, "ran": str(out / "ran"), "wrong": str(out / "wrong.json"), "mended": str(out / "mended")}
    with done_in_parts(squares, arguments, out, ParallelOptions(jobs=jobs, **parallel)) as done:
        numbers = "".join((d.directory / "numbers.txt").read_text() for d in done)
        return [int(n) for n in numbers.split()], done


def ran(out: Path) -> list[str]:
    return sorted((out / "ran").read_text().split())


@pytest.mark.parametrize("jobs", [1, 2, 12])
def test_local_parts_together_are_the_whole(tmp_path, jobs):
    numbers, done = run(tmp_path, jobs)
    assert numbers == [n * n for n in range(10)] and len(done) == jobs
    assert sum(d.facts["sum"] for d in done) == sum(numbers)
    assert {d.facts["threads"] for d in done} == {"1"}
    assert not (tmp_path / "parts").exists() and len(list((tmp_path / "log").glob("squares.*.log"))) == jobs


def test_a_failed_part_is_named_with_its_log_and_repeated_alone(tmp_path):
    with pytest.raises(DataError, match=r"line 1: broken") as err:
        run(tmp_path, 3, {"1": "data"})
    assert "1 of 3 parts failed (number 2)" in str(err.value)
    log = tmp_path / "log" / "squares.2-of-3.log"
    assert str(log) in str(err.value) and "line 1: broken" in log.read_text()
    assert ran(tmp_path) == ["1-of-3", "3-of-3"]
    (tmp_path / "mended").touch()
    assert run(tmp_path, 3)[0] == [n * n for n in range(10)]
    assert ran(tmp_path) == ["1-of-3", "2-of-3", "3-of-3"]


def test_a_process_that_dies_fails_its_part_alone(tmp_path):
    with pytest.raises(PipelineError, match="part 1-of-3: its process was killed"):
        run(tmp_path, 3, {"0": "killed"})
    assert ran(tmp_path) == ["2-of-3", "3-of-3"]
    (tmp_path / "mended").touch()
    assert run(tmp_path, 3)[0] == [n * n for n in range(10)]
    assert ran(tmp_path) == ["1-of-3", "2-of-3", "3-of-3"]


def test_a_failing_disk_is_no_bug(tmp_path):
    with pytest.raises(PipelineError, match="sums.bin: Input/output error"):
        run(tmp_path, 2, {"1": "disk"})


def test_a_bug_is_no_error_of_the_user(tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: bug"):
        run(tmp_path, 2, {"1": "bug"})
    assert "Traceback" in (tmp_path / "log" / "squares.2-of-2.log").read_text()


def test_another_number_of_parts_begins_anew(tmp_path):
    with pytest.raises(DataError):
        run(tmp_path, 3, {"1": "data"})
    assert run(tmp_path, 2)[0] == [n * n for n in range(10)]
    assert ran(tmp_path) == ["1-of-2", "1-of-3", "2-of-2", "3-of-3"]


def described(directory: Path) -> dict:
    arguments = {"count": 3, "ran": str(directory / "ran")}
    return task(squares, Part(0, 1), directory / "parts", arguments)


def test_a_part_whose_machine_died_while_it_renamed_is_made_again(tmp_path):
    """Whatever was left, the directory without part.json or with half of its files is none."""
    call, parts = described(tmp_path), tmp_path / "parts"
    (parts / "1-of-1.other-77-abc.tmp").mkdir(parents=True)
    (parts / "1-of-1.other-77-abc.tmp" / "numbers.txt").write_text("0\n")
    clean(parts, 1, call["arguments"])
    assert list(parts.iterdir()) == []
    assert perform(call) == {} and arrived(parts, Part(0, 1), 0).facts["sum"] == 5
    (parts / "1-of-1" / "numbers.txt").write_text("0")  # lost what the machine had not written to its disk
    clean(parts, 1, call["arguments"])
    assert share_done(parts, Part(0, 1)) == 0
    assert perform(call) == {} and (parts / "1-of-1" / "numbers.txt").read_text() == "0\n1\n4\n"


def test_parts_of_other_arguments_are_made_again(tmp_path):
    """Such as smaller batches, after which another part has some of the units."""
    call, parts = described(tmp_path), tmp_path / "parts"
    assert perform(call) == {}
    clean(parts, 1, {**call["arguments"], "count": 4})
    assert list(parts.iterdir()) == []


def test_parts_of_an_interrupted_run_go_where_nothing_is_divided(tmp_path):
    with pytest.raises(PipelineError):
        run(tmp_path, 3, {"1": "data"})
    assert (tmp_path / "parts" / "1-of-3").is_dir()
    assert not in_process(ParallelOptions(jobs=3), tmp_path) and (tmp_path / "parts").is_dir()
    assert in_process(ParallelOptions(), tmp_path) and not (tmp_path / "parts").exists()


@pytest.mark.parametrize("how", ["dies before it renames", "dies when it has renamed"])
def test_a_machine_that_dies_while_it_renames(tmp_path, how):
    """The part is named either way; what was renamed is complete and not made again."""
    with pytest.raises(PipelineError, match="part 2-of-3: its process was killed"):
        run(tmp_path, 3, {"1": how})
    assert ran(tmp_path) == ["1-of-3", "2-of-3", "3-of-3"]
    renamed = how == "dies when it has renamed"
    assert (tmp_path / "parts" / "2-of-3").is_dir() == renamed
    (tmp_path / "mended").touch()
    assert run(tmp_path, 3)[0] == [n * n for n in range(10)]
    assert ran(tmp_path) == sorted(["1-of-3", "2-of-3", "3-of-3", *([] if renamed else ["2-of-3"])])


def test_two_machines_may_make_the_same_part(tmp_path, monkeypatch):
    """One that was given up may still be alive: the first rename counts."""
    call, rename = described(tmp_path), os.rename

    def other_first(source, target):
        if not Path(target).exists():
            monkeypatch.setattr(os, "rename", rename)
            assert perform(call) == {}
        return rename(source, target)

    monkeypatch.setattr(os, "rename", other_first)
    assert perform(call) == {}
    assert ran(tmp_path) == ["1-of-1", "1-of-1"]
    assert [p.name for p in (tmp_path / "parts").iterdir() if p.is_dir()] == ["1-of-1"]


def test_a_file_that_shows_late_is_waited_for(tmp_path):
    perform(described(tmp_path))
    place = tmp_path / "parts" / "1-of-1"
    content = (place / "numbers.txt").read_text()
    (place / "numbers.txt").unlink()
    with pytest.raises(DataError, match="numbers.txt: part 1-of-1 is said to be done, but this file"):
        arrived(tmp_path / "parts", Part(0, 1), 0.3)
    threading.Timer(0.5, (place / "numbers.txt").write_text, [content]).start()
    assert arrived(tmp_path / "parts", Part(0, 1), 30).facts["sum"] == 5


def test_a_part_that_shows_late_as_a_whole_is_waited_for(tmp_path):
    """Its work says that it is done before the directory is seen here."""
    perform(described(tmp_path))
    place, away = tmp_path / "parts" / "1-of-1", tmp_path / "elsewhere"
    place.rename(away)
    threading.Timer(0.5, away.rename, [place]).start()
    assert arrived(tmp_path / "parts", Part(0, 1), 30).facts["sum"] == 5
    place.rename(away)
    with pytest.raises(DataError, match=r"part\.json: part 1-of-1 is said to be done.*within 0\.3 s"):
        arrived(tmp_path / "parts", Part(0, 1), 0.3)


def test_progress_of_a_part_is_seen_by_others(tmp_path):
    from pipeline.base import log

    (tmp_path / "parts").mkdir()
    with log.listener(parts_module._Reporter(parts_module.progress_file(tmp_path / "parts", Part(0, 2)))):
        for i in log.progress(range(4)):
            pass
    assert share_done(tmp_path / "parts", Part(0, 2)) == 0.25  # the first report; later ones come 2 s apart
    assert share_done(tmp_path / "parts", Part(1, 2)) == 0


def test_ctrl_c_ends_the_processes(tmp_path):
    code = "import sys; from pathlib import Path; from tests.parallel import test_parts as t;"
    code += "t.run(Path(sys.argv[1]), 2, {'0': 'slow', '1': 'slow'})"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env, stderr=subprocess.PIPE)
    for _ in range(600):
        found = [p for p in tmp_path.glob("pid*") if p.read_text()]
        if len(found) >= min(2, os.cpu_count() or 1):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert found and all(gone(int(p.read_text())) for p in found)


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_processes_end_with_the_one_that_started_them(tmp_path):
    with LocalExecutor(1) as executor:
        future = executor.submit(os.getpid)
        pid = future.result()
        assert not gone_now(pid)
    assert gone(pid)


def gone_now(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_executor_replaces_a_process_that_exits():
    with LocalExecutor(1) as executor:
        first = executor.submit(os.getpid).result()
        with pytest.raises(WorkerDied, match="exit code 3"):
            executor.submit(os._exit, 3).result()
        assert executor.submit(os.getpid).result() != first


def test_processes_share_one_import(tmp_path):
    with LocalExecutor(1, modules=["tests.parallel.works"]) as executor:
        first = executor.submit(place).result()
        with pytest.raises(WorkerDied):
            executor.submit(os._exit, 3).result()
        second = executor.submit(place).result()
    assert first["imported"] and first["parent"] == second["parent"] != os.getpid() and first["pid"] != second["pid"]
    assert gone(first["parent"])
    assert not LocalExecutor(1).submit(place).result()["imported"]


def test_the_process_that_starts_others_may_die(tmp_path):
    output = tmp_path / "output"
    with LocalExecutor(2, output=output, modules=["tests.parallel.nowhere"]) as executor:
        futures = [executor.submit(os.getpid) for _ in range(3)]
        for future in futures:
            with pytest.raises(WorkerDied, match="the process that starts all others ended with exit code 1"):
                future.result()
    assert "No module named 'tests.parallel.nowhere'" in output.read_text()
    with LocalExecutor(1) as executor:
        parent = executor.submit(place).result()["parent"]
        os.kill(parent, signal.SIGKILL)
        gone(parent)
        assert executor.submit(os.getpid).result()  # those that are there go on
        with pytest.raises(WorkerDied, match=r"SIGKILL"):
            executor.submit(os._exit, 3).result()


def test_cluster_file(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("partition: long\nminutes: 30\nslurm: {qos: low}\n")
    options = ParallelOptions(backend="slurm", cluster=path).cluster_options()
    assert (options.partition, options.minutes, options.slurm) == ("long", 30, {"qos": "low"})
    path.write_text("partitoin: long\n")
    with pytest.raises(ConfigError, match="unknown option 'partitoin'"):
        ParallelOptions(backend="slurm", cluster=path).cluster_options()
    assert ParallelOptions().cluster_options() == ClusterOptions()


@pytest.mark.parametrize("backend, package", [("slurm", "submitit"), ("dask", "distributed")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, backend, package):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = {"count": 3, "ran": str(tmp_path / "ran")}
    with pytest.raises(ConfigError, match=f"needs the package {package}.*fullsum"):
        with done_in_parts(squares, arguments, tmp_path, ParallelOptions(jobs=2, backend=backend)):
            pass


def test_queues_without_their_package(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    (tmp_path / "cluster.yaml").write_text("queue: sge\n")
    with pytest.raises(ConfigError, match="queue sge needs the package dask-jobqueue.*fullsum"):
        run(tmp_path, 2, backend="dask", cluster=tmp_path / "cluster.yaml")


def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch):
    """dask gives up after half a minute, which is not waited for here."""
    distributed = pytest.importorskip("distributed")

    def client(address, **options):
        raise OSError(f"Timed out trying to connect to {address}")

    monkeypatch.setattr(distributed, "Client", client)
    (tmp_path / "cluster.yaml").write_text("scheduler: tcp://nowhere:8786\n")
    with pytest.raises(ConfigError, match="no scheduler of dask answers at tcp://nowhere:8786"):
        run(tmp_path, 2, backend="dask", cluster=tmp_path / "cluster.yaml")


@pytest.mark.parametrize("missing", ["sbatch", "squeue", "scancel"])
def test_no_cluster_here(tmp_path, monkeypatch, missing):
    pytest.importorskip("submitit")
    for program in {"sbatch", "squeue", "scancel"} - {missing}:
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = {"count": 3, "ran": str(tmp_path / "ran")}
    with pytest.raises(ConfigError, match=f"no program {missing}"):
        with done_in_parts(squares, arguments, tmp_path, ParallelOptions(jobs=2, backend="slurm")):
            pass


def test_part_json_lists_all_files(tmp_path):
    perform(described(tmp_path))
    entry = read_json(tmp_path / "parts" / "1-of-1" / PART)
    assert entry["files"] == {"numbers.txt": 6}
    write_json(tmp_path / "parts" / "1-of-1" / PART, {**entry, "files": {"numbers.txt": 6, "lost.bin": 1}})
    with pytest.raises(DataError, match=r"lost\.bin"):
        arrived(tmp_path / "parts", Part(0, 1), 0)


def test_no_memory_for_a_thread(tmp_path, monkeypatch):
    """What is raised is told, and not that a thread which never began cannot be waited for."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(tmp_path, 2)
