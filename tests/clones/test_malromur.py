"""Malromur's preparation and recipe on a miniature clone; tests/local/test_malromur.py has its rules one by one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError
from tests.clones.figures import figures
from tests.clones.malromur import SIZES, make_malromur
from tests.clones.speech import ROOT, recipe_copy, run, run_cell

FEW = dict.fromkeys(SIZES, (2, 2))
DNN = {"dim": 64, "layers": 2, "epochs": 3}
SMALL = {"dnn": DNN, "dnn_mmi": {"replicas": 2, "max_active": 500}}


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "egs" / "malromur" / "local"))
    import prepare_malromur

    return prepare_malromur


@pytest.fixture
def corpus(module, tmp_path) -> Path:
    return make_malromur(tmp_path / "malromur", module.part_of, FEW)


def test_parts(corpus, module, tmp_path):
    """Speakers are kept together, prompts keep what stands behind commas, refused and empty ones are left out."""
    out = tmp_path / "out"
    refused = len(list((corpus / "incorrect").iterdir()))
    facts = module.prepare(corpus, out)
    assert refused and sum(facts["utterances"].values()) == 2 * 2 * 3 - refused
    for part in SIZES:
        assert validate_data_dir(out / part).num_speakers == 2
    texts = {cut.supervisions[0].text for part in SIZES for cut in load_cuts(out / part)}
    assert len({len(text.split()) for text in texts}) > 1 and not any(re.search(r"[.,]|\d", text) for text in texts)


def unlisted(root: Path) -> None:
    path = next((root / "correct").iterdir())
    shutil.copy(path, path.with_name("is_is-new_1-2013.wav"))


def doubled(root: Path) -> None:
    lines = (root / "info.txt").read_text().splitlines()
    (root / "info.txt").write_text("\n".join([*lines, lines[1]]) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: sorted((root / "correct").iterdir())[0].unlink(), "no audio file"),
        (unlisted, "is_is-new_1-2013.wav: has no line of class 'correct' in info.txt"),
        (doubled, "stands in "),
        (lambda root: shutil.rmtree(root / "correct"), "has info.txt, but no folder correct/"),
        (lambda root: (root / "info.txt").write_bytes((root / "info.txt").read_bytes()[:-30]), "fields, expected 8"),
    ],
    ids="audio unlisted doubled folder cut-short".split(),
)
def test_broken(corpus, module, tmp_path, damage, message):
    damage(corpus)
    with pytest.raises(DataError, match=re.escape(message)):
        module.prepare(corpus, tmp_path / "out")


@pytest.mark.clone
def test_recipe(tmp_path, module):
    """All stages, then a cell of each table."""
    recipe = recipe_copy("malromur", tmp_path / "work", SMALL, also=("samromur",))
    corpus = make_malromur(tmp_path / "corpus", module.part_of)
    run(recipe, "./run.sh", "--corpus-root", corpus)
    results = (recipe / "RESULTS.md").read_text()
    for name in ("tri2", "hybrid_gmm", "mmi_gmm", "e2e_ctc_gmm"):
        assert f"| {name} " in results, name
    assert figures(recipe)["tri1", "dev", "wer"] < 60
    assert "not found in" in run(recipe, "./run.sh", "--corpus-root", tmp_path / "work", "--overwrite", expect=2)
    run_cell(recipe, "shuffling", shuffle="on_the_fly")
    run_cell(recipe, "replicas", replicas="1")
    run_cell(recipe, "fetch_interval", interval=450, trained="last")
    run_cell(recipe, "sequence_training", criterion="realign")
