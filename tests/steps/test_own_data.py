"""The README's commands for one's own data, run as they stand there, and what egs/own_data leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.steps.small_recipe import ROOT, environment
from tests.steps.test_train_aligner import folder


def commands() -> list[str]:
    """Lines of the first block of the README's section."""
    section = (ROOT / "README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.S)[0].strip().splitlines()


def shell(command: str, where: Path) -> subprocess.CompletedProcess:
    """Runs a command where `fullsum` is this checkout's and egs/ is at hand."""
    env = environment()
    env.update(PATH=f"{where / 'bin'}:{env['PATH']}", FULLSUM_ENV=sys.prefix, OMP_NUM_THREADS="1")
    return subprocess.run(["bash", "-c", command], cwd=where, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def place(recipe, tmp_path_factory) -> Path:
    """Two folders of recordings with a lexicon, and the programs."""
    top = tmp_path_factory.mktemp("place")
    folder(recipe, top / "my_corpus", "train")
    folder(recipe, top / "other_corpus", "test")
    (top / "my_lexicon.txt").write_bytes((recipe / "data/local/lexicon.txt").read_bytes())
    (top / "egs").symlink_to(ROOT / "egs")
    (top / "bin").mkdir()
    (top / "bin/fullsum").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/steps" "$@"\n')
    os.chmod(top / "bin/fullsum", 0o755)
    return top


@pytest.fixture(scope="module")
def done(place) -> Path:
    """The place after all commands of the README."""
    assert len(commands()) == 3
    for command in commands():
        ran = shell(command, place)
        assert ran.returncode == 0, (command, ran.stdout[-1000:], ran.stderr[-3000:])
    return place


@pytest.mark.slow
def test_the_commands_of_the_readme(done):
    for out in ("my_model", "other_alignment", "my_recogniser/exp/aligner"):
        assert any((done / out / "textgrids").iterdir()) and (done / out / "quality.csv").stat().st_size
    rows = json.loads((done / "my_recogniser/results.json").read_text())
    assert {(r["id"], r["part"]) for r in rows if r["metric"] == "wer"} == {("mono", "dev"), ("mono", "test")}
    assert (done / "my_recogniser/RESULTS.md").read_text().startswith("# Results: my_recogniser")


@pytest.mark.slow
def test_again_makes_nothing_and_further_models_are_added(done):
    """Everything is up to date; then a neural HMM and networks of given sizes come in addition, from stage 3 on."""
    recipe = commands()[2]
    before = {p: p.stat().st_mtime_ns for p in (done / "my_recogniser").rglob("stamp.json")}
    ran = shell(recipe, done)
    assert ran.returncode == 0 and {p: p.stat().st_mtime_ns for p in before} == before, ran.stderr[-2000:]
    sizes = done / "my_sizes"
    sizes.mkdir()
    for path in (done / "my_recogniser/data/sizes").glob("*.yaml"):
        (sizes / path.name).write_bytes(path.read_bytes())
    net = "encoder: tdnn\ndim: 24\nlayers: 2\nepochs: 3\n"
    for name in ("nhmm", "viterbi"):
        (sizes / f"{name}.yaml").write_text(net)
    more = ' --stage 3 --ali both --models "mono hybrid" --sizes my_sizes'
    ran = shell(recipe + more, done)
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = json.loads((done / "my_recogniser/results.json").read_text())
    assert {r["id"] for r in rows if r["metric"] == "wer"} == {"mono", "hybrid_gmm", "hybrid_nhmm"}
    assert any((done / "my_recogniser/exp/nhmm_aligned/textgrids").iterdir())


def test_the_log_stands_where_the_recipe_was_called(tmp_path):
    """As all other paths count from there."""
    (tmp_path / "egs").symlink_to(ROOT / "egs")
    ran = shell("egs/own_data/run.sh --data nowhere --work w --log-json said.jsonl", tmp_path)
    assert ran.returncode == 2 and "nowhere is not there" in ran.stderr
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [line["level"] for line in said] == ["info", "error"]


def test_a_folder_that_is_not_there(place):
    ran = shell("egs/own_data/run.sh --data nowhere --work w", place)
    assert ran.returncode == 2 and "nowhere is not there" in ran.stderr
    ran = shell("egs/own_data/run.sh --data my_corpus --models 'mono tri4'", place)
    assert ran.returncode == 2 and "not 'mono tri4'" in ran.stderr
    ran = shell("egs/own_data/run.sh --work w", place)
    assert ran.returncode == 2 and "--data names the recordings" in ran.stderr
