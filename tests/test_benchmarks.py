"""The benchmark of the engine: its help is quick and its JSON lines hold what they promise."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"shape", "backend", "forward_s", "backward_s", "peak_mib", "ratio_to_k2", "ratio_to_torch_ctc"}


@pytest.mark.parametrize(
    "name", ["full_sum.py", "corpus_epoch.py", "rnnt_loss.py", "auxiliary_heads.py", "denominators.py"]
)
def test_help_is_quick(run_script, name):
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        assert run_script(sys.executable, ROOT / "benchmarks" / name, "--help").returncode == 0
        times.append(time.perf_counter() - begin)
    assert min(times) < 1, times


def test_json_lines(run_script):
    options = ["--json", "--repeats", "1", "--no-memory", "--shape", "1x50x10x50"]
    backends = ["--backend", "torch", "--backend", "torch ctc_loss"]
    done = run_script(sys.executable, ROOT / "benchmarks" / "full_sum.py", *options, *backends)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["shape"], r["backend"]) for r in rows] == [
        ("hmm 1x50x10x50", "torch"), ("ctc 1x50x10x50", "torch"), ("ctc 1x50x10x50", "torch ctc_loss")
    ]  # fmt: skip
    assert all(set(r) >= KEYS for r in rows) and rows[1]["score"] == pytest.approx(rows[2]["score"], rel=1e-4)
    assert rows[2]["ratio_to_torch_ctc"] == 1 and rows[0]["ratio_to_k2"] is None


@pytest.mark.slow
def test_rnnt_losses(run_script):
    """All on one problem: ours is k2's; a pruned one, with a second loss added, is larger. Whole losses hold the logits
    of all (frame, label) pairs at least, a pruned one only some of them.
    """
    pytest.importorskip("k2")
    done = run_script(
        sys.executable, ROOT / "benchmarks" / "rnnt_loss.py", "--json", "--repeats", "1", "--shape", "8x200x40x200"
    )
    assert done.returncode == 0, done.stderr
    ours, theirs, pruned = (json.loads(line) for line in done.stdout.splitlines())
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4) and pruned["loss"] > ours["loss"]
    assert theirs["ratio_to_k2"] == 1 and all(row["seconds"] > 0 for row in (ours, theirs, pruned))
    logits_mib = 8 * 200 * (40 + 1) * 200 * 4 / 2**20
    assert min(ours["peak_mib"], theirs["peak_mib"]) > logits_mib
    assert 0 < pruned["peak_mib"] < 0.6 * ours["peak_mib"]


def test_auxiliary_heads(run_script):
    """Each network gets a row with the times of both steps."""
    options = ["--repeats", "1", "--num", "2", "--seconds", "1", "--labels", "20", "--vocab", "20"]
    done = run_script(sys.executable, ROOT / "benchmarks" / "auxiliary_heads.py", *options)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 7 and all(float(without) > 0 and float(both) > 0 for _, without, both, _ in rows)
