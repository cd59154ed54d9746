"""Weights chosen on several folds at once, as a command."""

from __future__ import annotations

import sys

from pipeline.artifacts.hyp import TRIED, Hypothesis, load_hypotheses, save_tried
from pipeline.base.files import read_json
from pipeline.experiments.report import check_row
from pipeline.tasks.weights import read_weights
from tests.conftest import ROOT

COMMAND = (sys.executable, ROOT / "steps" / "pool_weights.py", "all")


def fold(directory, speaker: str, good: float, weights=(8.0, 10.0, 12.0)) -> None:
    """Two utterances, of which the weight `good` recognises both, 10 one and the third weight none."""
    directory.mkdir()
    texts = {
        w: [("A", "B") if w in (good, 10.0) else ("D", "D", "D"), ("C",) if w == good else ("A",)] for w in weights
    }
    save_tried(
        directory / TRIED,
        {
            (w, 1.0): [
                Hypothesis(f"{speaker}{i}", speaker, ref, hyp)
                for i, (ref, hyp) in enumerate(zip((("A", "B"), ("C",)), texts[w]))
            ]
            for w in weights
        },
    )


def test_the_weights_are_the_best_over_all_folds(run_script, tmp_path):
    """Each fold alone would choose 8 or 12, which have 4 errors in the other one; 10 has 1 in each."""
    fold(tmp_path / "x", "s", 8.0)
    fold(tmp_path / "y", "t", 12.0)
    done = run_script(*COMMAND, "x", "y", "--id", "tri")
    assert done.returncode == 0, done.stderr
    assert read_weights(tmp_path / "all") == (10.0, 1.0)
    assert [h.cut_id for h in load_hypotheses(tmp_path / "all")] == ["s0", "s1", "t0", "t1"]
    (row,) = read_json(tmp_path / "all" / "results.json")
    check_row(row, "row")
    assert (row["id"], row["part"], row["metric"]) == ("tri", "cv", "wer") and abs(row["value"] - 100 * 2 / 6) < 0.01
    assert "up to date" in run_script(*COMMAND, "x", "y", "--id", "tri").stderr


def test_folds_that_do_not_fit_are_refused(run_script, tmp_path):
    fold(tmp_path / "x", "s", 8.0)
    fold(tmp_path / "same", "s", 8.0)
    fold(tmp_path / "other", "t", 8.0, (8.0, 10.0))
    (tmp_path / "none").mkdir()
    for second, message in (("same", "is in"), ("other", "different weights"), ("none", "tried.jsonl.gz")):
        done = run_script(*COMMAND, "x", second)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "all").exists(), done.stderr
