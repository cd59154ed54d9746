"""utils/stage.sh: which stages run, what is listed, what is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "utils"

RECIPE = f"""#!/usr/bin/env bash
# A recipe.
set -euo pipefail
. {UTILS}/stage.sh
. {UTILS}/parse_options.sh
if stage 0 "data"; then
  echo run 0
fi
if stage 1 "a \\"quoted\\" one"; then
  mkdir -p exp/mono exp/old
  sleep 0.05  # file times are coarse
  echo '{{}}' >exp/mono/stamp.json
  touch -d 2001-01-01 exp/old/stamp.json
  [[ ! -e fail ]]
  echo run 1
fi
if stage 5 "last"; then
  echo run 5
fi
"""


@pytest.fixture
def recipe(write_script):
    """Runs the recipe with the arguments given."""
    return write_script(RECIPE)


def ran(result) -> list[int]:
    return [int(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("run ")]


@pytest.mark.parametrize(
    "args, stages",
    [
        ([], [0, 1, 5]),
        (["--stage", "1"], [1, 5]),
        (["--stop-stage", "1"], [0, 1]),
        (["--stage", "1", "--stop-stage", "4"], [1]),
        (["--stage", "01", "--stop-stage", "08"], [1, 5]),
        (["--list"], []),
    ],
)
def test_choice(recipe, args, stages):
    result = recipe(*args)
    assert result.returncode == 0 and ran(result) == stages


def test_list_runs_nothing(recipe, tmp_path):
    assert recipe("--list").stdout == '  0  data\n  1  a "quoted" one\n  5  last\n'
    assert not (tmp_path / "exp").exists()


def test_times_are_recorded(recipe, tmp_path):
    recipe()
    entries = [json.loads(line) for line in (tmp_path / "exp" / "stage_times.jsonl").read_text().splitlines()]
    assert [(e["stage"], e["title"], e["ok"], e["made"]) for e in entries] == [
        (0, "data", True, 0),
        (1, "a quoted one", True, 1),
        (5, "last", True, 0),
    ]
    assert all(0 <= e["seconds"] < 60 for e in entries)
    assert [p.name for p in (tmp_path / "exp").iterdir() if p.name.startswith(".stage")] == []


def test_failure_stops_and_is_recorded(recipe, tmp_path):
    (tmp_path / "fail").touch()
    result = recipe()
    assert result.returncode == 1 and ran(result) == [0]
    assert 'stage 1 (a "quoted" one) failed' in result.stderr
    last = json.loads((tmp_path / "exp" / "stage_times.jsonl").read_text().splitlines()[-1])
    assert last["stage"] == 1 and last["ok"] is False


@pytest.mark.parametrize("args", [["--stage", "6"], ["--stage", "2", "--stop-stage", "4"], ["--stage", "first"]])
def test_no_such_stage(recipe, args):
    result = recipe(*args)
    assert result.returncode == 2 and result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_recipe_that_is_ended_has_not_done_its_stage(tmp_path, number):
    path = tmp_path / "run.sh"
    path.write_text(f"set -euo pipefail\n. {UTILS}/stage.sh\nif stage 3 endless; then\n  touch begun\n  sleep 60\nfi\n")
    # A session of its own: the signal reaches the step as well, as from a terminal or from timeout.
    process = subprocess.Popen(["bash", str(path)], cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    os.killpg(process.pid, number)
    assert process.wait(20) == 128 + number
    (line,) = (tmp_path / "exp" / "stage_times.jsonl").read_text().splitlines()
    assert json.loads(line)["stage"] == 3 and json.loads(line)["ok"] is False


def test_quiet_and_json(recipe, tmp_path):
    result = recipe("--quiet")
    assert result.returncode == 0 and "==" not in result.stdout + result.stderr and ran(result) == [0, 1, 5]
    result = recipe("--log-json", "log.jsonl", "--stage", "1", "--stop-stage", "1")
    assert "== stage 1: a" in result.stdout
    (path,) = tmp_path.rglob("log.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["level"], line["stage"]) for line in lines] == [("info", 1), ("info", 1), ("info", 0)]
    assert lines[0]["message"] == "stage 1: a quoted one"
    result = recipe("--log-json", "-", "--stop-stage", "0")
    assert "==" not in result.stdout and json.loads(result.stderr.splitlines()[0])["message"] == "stage 0: data"
    assert "--log-json FILE" in recipe("--help").stdout
