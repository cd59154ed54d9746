"""The sum of the times in stamps."""

from __future__ import annotations

import json
import sys

import pytest

from pipeline.base.files import read_json, write_json
from pipeline.experiments.report import check_row
from tests.conftest import ROOT


def test_seconds_and_speed_come_from_the_stamps(run_script, tmp_path):
    for name, seconds, facts in (("a", 2.5, {"frames": 1000}), ("b", 1.5, {})):
        (tmp_path / name).mkdir()
        write_json(
            tmp_path / name / "stamp.json",
            {
                "identity": name * 32,
                "id": name * 32,
                "command": f"make_{name}",
                "seconds": seconds,
                "peak_rss_mib": 1234,
                "facts": facts,
            },
        )
    command = (sys.executable, ROOT / "steps" / "sum_times.py", "times", "a", "b", "--id", "chain")
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    (row,) = read_json(tmp_path / "times" / "results.json")
    check_row(row, "row")
    assert (row["id"], row["part"], row["metric"], row["value"], row["counts"]) == (
        "chain",
        "train",
        "seconds",
        pytest.approx(4.0),
        {"a": 2.5, "b": 1.5},
    )
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (tmp_path / "times" / "times.md").read_text().splitlines()
    ]
    assert lines[2:] == [
        ["a", "make_a", "2.5", "400", "1,234"],
        ["b", "make_b", "1.5", "", "1,234"],
        ["all", "", "4.0", "", ""],
    ]
    assert "up to date" in run_script(*command).stderr


def test_a_directory_that_no_step_made_is_refused(run_script, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stamp.json").write_text(json.dumps({"seconds": 1}))
    done = run_script(sys.executable, ROOT / "steps" / "sum_times.py", "times", "a")
    assert done.returncode == 2 and "stamp" in done.stderr, done.stderr
