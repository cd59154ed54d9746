"""The recipes of Jiang et al. 2023, TED-LIUM 2 and Babel Tagalog, on clones of their corpora."""

from __future__ import annotations

import pytest

from pipeline.base.files import read_json
from tests.clones import babel_tagalog, tedlium2
from tests.clones.speech import recipe_copy, run, run_cell

CORPORA = {  # recipe -> (clone, alignment, what is smaller)
    "tedlium2": (tedlium2.make, "gmm", {"lm_sentences": 50}),
    "babel_tagalog": (babel_tagalog.make, "nhmm", {"dev_utterances": 40}),
}


@pytest.mark.clone
@pytest.mark.parametrize("name", CORPORA)
def test_recipe(name, tmp_path):
    """All stages, the second run, and a cell of each table."""
    make, ali, small = CORPORA[name]
    corpus = make(tmp_path)
    recipe = recipe_copy(name, tmp_path / "work", {"data": small})
    command = ["./run.sh", "--corpus-root", corpus, "--ali", ali]
    run(recipe, *command)
    rows = {(row["id"], row["part"]): row for row in read_json(recipe / "results.json") if row["metric"] == "wer"}
    e2e = [f"e2e_attention_{ali}{kind}" for kind in ("", "_lm", "_ctc_lm")]
    models = ("tri1", "tri3", f"hybrid_{ali}", f"mmi_{ali}", *e2e)
    assert set(rows) == {(model, part) for model in models for part in ("dev", "test")}
    assert rows["tri1", "test"]["value"] < 35
    again = run(recipe, *command)
    assert ": done in" not in again and "up to date" in again
    for table in ("weak_supervision", "weak_supervision_ways"):
        run_cell(recipe, table)
    report = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    assert "Weak supervision" in report and "not measured" not in report
