"""utils/current.py by utils/recipe.sh: steps that are up to date do not start Python; all others run as ever."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.feats.test_feats import make_data

UTILS = Path(__file__).resolve().parents[2] / "utils"

HEAD = f"""#!/usr/bin/env bash
set -euo pipefail
overwrite=false
. {UTILS}/parse_options.sh
options=("$@")
set -- # a recipe takes no arguments
. {UTILS}/recipe.sh
command() {{
  echo "started ${{2##*/}}" >>started
  builtin command "$@"
}}
"""
STEP = 'python "$steps/compute_feats.py" data out "${options[@]}" "${force[@]}"\n'


@pytest.fixture
def recipe(write_script, tmp_path):
    """Runs a script of steps; what it did and which scripts were started."""
    make_data(tmp_path)

    def run(text, *args):
        (tmp_path / "started").write_text("")
        done = write_script(HEAD + text)(*args)
        return done, (tmp_path / "started").read_text().split("\n")[:-1]

    return run


def test_only_what_is_not_up_to_date_starts_python(recipe, tmp_path):
    done, started = recipe(STEP + STEP)
    assert done.returncode == 0, done.stderr
    assert started == ["started compute_feats.py"]  # the second one was up to date
    assert re.findall(r"out: (done|up to date)", done.stderr) == ["done", "up to date"]
    done, started = recipe(STEP)
    assert (done.returncode, started) == (0, []) and done.stderr.count("out: up to date") == 1
    (tmp_path / "audio" / "b-1.flac").unlink()
    done, started = recipe(STEP)
    assert done.returncode == 2 and started and "made from another 'audio'" in done.stderr


def test_other_options_are_for_the_step_to_refuse_or_remake(recipe):
    recipe(STEP)
    done, started = recipe(STEP, "--", "--dim", "12")
    assert done.returncode == 2 and len(started) == 1 and "made with dim" in done.stderr
    assert done.stderr.count("made with dim") == 1
    done, started = recipe(STEP, "--overwrite", "--", "--dim", "12")
    assert done.returncode == 0 and len(started) == 1 and "out: done" in done.stderr


def test_wrong_options_and_other_scripts(recipe):
    done, started = recipe('python "$steps/compute_feats.py" data out --nonsense\n')
    assert done.returncode == 2 and len(started) == 1 and done.stderr.count("No such option") == 1
    done, started = recipe("python -c 'import sys; sys.exit(7)'\n")
    assert done.returncode == 7
    done, started = recipe('echo "$(python "$steps/compute_feats.py" data out)"\n')
    assert done.returncode == 0 and len(started) == 1


def test_arguments_may_hold_anything(recipe, tmp_path):
    (tmp_path / "data").rename(tmp_path / 'my "data"\n*')
    step = 'python "$steps/compute_feats.py" $\'my "data"\\n*\' out\n'
    done, started = recipe(step + step)
    assert done.returncode == 0 and len(started) == 1, done.stderr


def test_a_process_that_dies_answers_nothing_and_the_step_runs(recipe):
    done, started = recipe(STEP + "pkill -9 -P $_current_PID; sleep 0.3\n" + STEP)
    assert done.returncode == 0 and len(started) == 2, done.stderr
