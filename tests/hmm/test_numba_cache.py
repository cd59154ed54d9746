"""The lock and the marks beside numba's cache."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.hmm import numba_cache
from pipeline.hmm.numba_cache import compiling, drop_stale_code, is_ready

ROOT = Path(__file__).parents[2]
ONE_SUM = (
    "import numpy as np, torch\n"
    "from pipeline.hmm import Graphs, full_sum\n"
    "from pipeline.hmm.numba_backend import kernels\n"
    "from tests.hmm.oracle import NUM_PDFS, random_graph\n"
    "graphs = Graphs.cat([random_graph(np.random.RandomState(0))])\n"
    "full_sum(graphs, torch.zeros(1, 9, NUM_PDFS), torch.tensor([9]), backend='numba')\n"
    "print(kernels.forward_tasks.stats.cache_path)\n"
)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(numba_cache, "_ready", set())


def held_by_another(directory: Path) -> subprocess.Popen:
    """A process that holds the lock until its input is closed."""
    code = (
        "import fcntl, sys\n"
        "lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    lock = str(directory / "compiling.lock")
    process = subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def enter(directory: Path, key: tuple) -> threading.Thread:
    """A thread that goes through a first call."""

    def call() -> None:
        with compiling(directory, "loops", key):
            pass

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout=0.3)
    return thread


def test_code_that_is_there_waits_for_nobody_and_missing_code_for_the_lock(tmp_path):
    with compiling(tmp_path, "loops", ("known",)):
        assert not is_ready(("known",))
    assert is_ready(("known",))
    numba_cache._ready.clear()  # as in a new process
    other = held_by_another(tmp_path)
    try:
        assert not enter(tmp_path, ("known",)).is_alive()
        waiting = enter(tmp_path, ("new",))
        assert waiting.is_alive()
    finally:
        other.communicate()
    waiting.join(timeout=10)
    assert not waiting.is_alive() and is_ready(("new",))


def test_a_call_that_fails_leaves_no_mark_and_gives_the_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), compiling(tmp_path, "loops", ("k",)):
        raise ZeroDivisionError
    assert not is_ready(("k",)) and not list(tmp_path.glob("*.nbm"))
    assert not enter(tmp_path, ("k",)).is_alive()


def test_stale_code_goes_with_its_marks(tmp_path):
    source = tmp_path / "source.py"
    source.touch()
    old, new, others = tmp_path / "loops.f-1.py310.nbi", tmp_path / "loops.f-1.py310.1.nbc", tmp_path / "more.g.nbi"
    for file in (old, new, others):
        file.touch()
    with compiling(tmp_path, "loops", ("k",)):
        pass
    (mark,) = tmp_path.glob("*.nbm")
    now = source.stat().st_mtime
    for file in (old, mark, others):
        os.utime(file, (now - 10, now - 10))
    os.utime(new, (now + 10, now + 10))
    drop_stale_code(tmp_path, ["loops"], [source])
    assert not old.exists() and not mark.exists() and new.exists() and others.exists()


def test_a_kernel_in_the_cache_runs_while_another_process_compiles():
    def run(timeout: float | None = None) -> Path:
        command = [sys.executable, "-c", ONE_SUM]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=timeout)
        return Path(done.stdout.strip())

    cache = run()
    other = held_by_another(cache)
    try:
        assert run(timeout=120) == cache
    finally:
        other.communicate()
