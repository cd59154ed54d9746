"""The share of a gap that a system closes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.artifacts.hyp import Hypothesis, save_hypotheses
from pipeline.base.errors import MismatchError
from pipeline.base.files import read_json
from pipeline.tasks.gap import gap_row

ROOT = Path(__file__).resolve().parents[2]


def system(wrong: int, speakers: int = 8) -> list[Hypothesis]:
    """Utterances of ten words, of which so many are wrong, more of later speakers."""
    ref = tuple("abcdefghij")
    return [
        Hypothesis(
            f"{s}-{u}", f"s{s}", ref, ("x",) * (wrong + (s > 4 and wrong > 0)) + ref[wrong + (s > 4 and wrong > 0) :]
        )
        for s in range(speakers)
        for u in range(3)
    ]


def test_share_and_interval():
    row = gap_row("ema", "test", system(8), system(2), system(5))
    assert row["value"] == pytest.approx(50.0) and row["low"] == pytest.approx(50.0) == row["high"]
    assert row["counts"]["errors_first"] == 8 * 24 + 9 and row["metric"] == "gap_closed"
    assert sum(n for n, _ in row["groups"].values()) / sum(d for _, d in row["groups"].values()) == pytest.approx(50.0)
    assert gap_row("b", "test", system(8), system(2), system(2))["value"] == pytest.approx(100.0)
    assert gap_row("b", "test", system(8), system(2), system(8))["value"] == 0.0
    spread = gap_row("b", "test", system(8), system(0), system(5))
    assert spread["low"] < spread["value"] < spread["high"]


def test_an_interval_needs_a_gap_that_stays():
    """One speaker alone is better with the best system: some draws leave him out."""
    first, best = system(3), system(3)
    best = [h if h.speaker != "s0" else Hypothesis(h.cut_id, h.speaker, h.ref, h.ref) for h in best]
    row = gap_row("b", "test", first, best, first)
    assert row["value"] == 0.0 and "low" not in row


def test_what_does_not_fit_is_named(caplog):
    assert gap_row("b", "test", system(2), system(2), system(1)) is None
    assert "b on test: there is no gap, 57 errors and 57" in caplog.text
    with pytest.raises(MismatchError, match="not scored on the same utterances"):
        gap_row("b", "test", system(3), system(2, speakers=7), system(1))


def test_the_step(tmp_path, run_script):
    for name, wrong in (("first", 8), ("best", 2), ("own", 4)):
        (tmp_path / name).mkdir()
        save_hypotheses(tmp_path / name / "recogs.jsonl.gz", system(wrong))
    arguments = [tmp_path / name for name in ("first", "best", "own", "out")]
    done = run_script(sys.executable, ROOT / "steps" / "score_gap.py", *arguments, "--id", "ema")
    assert done.returncode == 0, done.stderr
    (row,) = read_json(tmp_path / "out" / "results.json")
    assert row["id"] == "ema" and row["value"] == pytest.approx(200 / 3)
