"""Compiled code: equal results with and without a cache, the lock and the marks beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.hmm.numba_cache import LOCK, drop_stale_code

ROOT = Path(__file__).parents[2]
GRADIENTS = """
import hashlib, sys, numpy as np, torch
torch.set_num_threads(1)
from pipeline.hmm import numba_kernels, numba_occupancy, numba_plan, numba_viterbi
from pipeline.hmm import full_sum
from pipeline.hmm.compile import compile_graphs
from tests.hmm.test_graph_source import MODEL, WORDS
rng = np.random.RandomState(0)
graphs = compile_graphs(*MODEL, [[WORDS[i][0] for i in rng.randint(0, 6, n)] for n in (3, 9, 20)]).graphs
torch.manual_seed(0)
scores = (3 * torch.randn(3, 300, MODEL[1].num_pdfs)).log_softmax(-1).requires_grad_()
moves = torch.randn(MODEL[2].num_tids).sigmoid().log().requires_grad_()
if "all" in sys.argv:
    for module in (numba_occupancy, numba_kernels, numba_viterbi, numba_plan):
        for loop in [value for value in vars(module).values() if hasattr(value, "_cache")]:
            for version in list(loop._cache._cache_file._load_index()):
                loop.compile(version[0])
full_sum(graphs, scores, torch.tensor([100, 200, 300]), moves, backend="numba").sum().backward()
print(hashlib.sha256(scores.grad.numpy().tobytes() + moves.grad.numpy().tobytes()).hexdigest())
"""
LOOPS = """
import os, sys
import numpy as np
from pipeline.hmm.numba_cache import cached_njit

@cached_njit()
def outer(x):
    return inner(x) + 1

@cached_njit()
def inner(x):
    if x.sum() < 0:
        raise ValueError("negative")
    return x.sum()

kind = sys.argv[1]
print(outer(np.ones(3, kind)), sum(outer.stats.cache_misses.values()))
"""


def run(code: str, cache: Path, *arguments: str, timeout: float | None = None) -> list[str]:
    """Words that code prints with its compiled loops in a directory."""
    script = cache / "loops.py"
    script.parent.mkdir(exist_ok=True)
    if not script.exists():
        script.write_text(code)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=timeout, env=environment
    ).stdout.split()


@pytest.mark.slow
def test_the_run_that_compiles_has_the_results_of_those_that_load(tmp_path):
    """Its code was another one once: the same gradients but for their last bits, and other models in the end."""
    assert run(GRADIENTS, tmp_path) == run(GRADIENTS, tmp_path)


@pytest.mark.slow
def test_what_a_process_has_loaded_before_changes_no_bit(tmp_path):
    """Loops share functions, of which each has a copy that was optimised in its surroundings."""
    assert run(GRADIENTS, tmp_path) == run(GRADIENTS, tmp_path, "all")


def test_a_version_is_compiled_once_and_never_by_the_process_that_runs_it(tmp_path):
    for _ in range(2):
        assert run(LOOPS, tmp_path, "f4") == ["4.0", "0"]
        assert len(list(tmp_path.rglob("*.nbm"))) == 1
    assert run(LOOPS, tmp_path, "i8") == ["4", "0"]
    assert len(list(tmp_path.rglob("*.nbm"))) == 2


def test_a_changed_source_is_compiled_in_a_fork_again(tmp_path):
    assert run(LOOPS, tmp_path, "f4") == ["4.0", "0"]
    script = tmp_path / "loops.py"
    script.write_text(LOOPS.replace("inner(x) + 1", "inner(x) + 10"))
    assert run(LOOPS, tmp_path, "f4") == ["13.0", "0"]  # no miss: the process itself has only loaded


def test_what_cannot_be_compiled_fails_as_ever_and_leaves_no_mark(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(LOOPS, tmp_path, "U3")  # strings have no sum
    assert "TypingError" in error.value.stderr and not list(tmp_path.rglob("*.nbm"))
    assert run(LOOPS, tmp_path, "f4") == ["4.0", "0"]


def test_code_that_is_there_waits_for_nobody_and_missing_code_for_the_lock(tmp_path):
    run(LOOPS, tmp_path, "f4")
    (lock,) = tmp_path.rglob(LOCK)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "1\n"
        assert run(LOOPS, tmp_path, "f4", timeout=60) == ["4.0", "0"]
        with pytest.raises(subprocess.TimeoutExpired):
            run(LOOPS, tmp_path, "i4", timeout=10)
    finally:
        other.communicate("\n")
    assert run(LOOPS, tmp_path, "i4", timeout=60) == ["4", "0"]


def test_stale_code_goes_with_its_marks(tmp_path):
    source = tmp_path / "source.py"
    old, mark, new = (tmp_path / f"loops.f-1.{end}" for end in ("py310.nbi", "nbm", "py310.1.nbc"))
    others = tmp_path / "more.g.nbi"
    for file in (source, old, mark, new, others):
        file.touch()
    now = source.stat().st_mtime
    for file in (old, mark, others):
        os.utime(file, (now - 10, now - 10))
    os.utime(new, (now + 10, now + 10))
    drop_stale_code(tmp_path, ["loops"], [source])
    assert not old.exists() and not mark.exists() and new.exists() and others.exists()
    drop_stale_code(tmp_path, ["loops"], [source])
    assert new.exists()


def test_code_of_other_sources_goes_whatever_the_times_say(tmp_path):
    """The clock was set back, or a copy of a checkout kept the times of an older state."""
    source, code = tmp_path / "source.py", tmp_path / "loops.f-1.py310.nbi"
    source.write_text("x = 1")
    drop_stale_code(tmp_path, ["loops"], [source])
    code.touch()
    source.write_text("x = 2")
    now = code.stat().st_mtime
    os.utime(source, (now - 1000, now - 1000))
    drop_stale_code(tmp_path, ["loops"], [source])
    assert not code.exists()
    code.touch()
    os.utime(source, (now + 1000, now + 1000))  # touched, or checked out again
    drop_stale_code(tmp_path, ["loops"], [source])
    assert code.exists()
