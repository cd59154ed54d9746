"""The page of the papers' claims, of papers.yaml and claims.json, made up and the project's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.experiments.claims import Claim, Compared, judge, write_claims
from pipeline.experiments.paper_claims import load_papers, page
from pipeline.experiments.statistics import Effect

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
title: T
axes: {a: [x, y]}
commands: [steps/score.py]
columns: [{metric: wer, part: test}]
claims:
  - {text: X is better, column: wer/test, better: {a: x}, than: {a: y}}
  - {text: X is not worse, column: wer/test, better: {a: x}, than: {a: y}}
"""
PAPERS = """
- paper: "P: a paper"
  rows:
    - {row: X wins, theirs: 1 to 2 %, claims: {corpus/t: [X is better, X is not]}, differs: of another size}
    - {row: Y costs, theirs: much, not_run: 3 hours}
    - {row: Z, theirs: little, seen: nothing}
    - {row: V, theirs: more, claims: {corpus/t: [X is not]}, not_run: 4 hours}
    - {row: U, theirs: less, claims: {corpus/t: [X is better]}, not_run: 5 hours}
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "egs/corpus/conf/tables").mkdir(parents=True)
    (tmp_path / "egs/corpus/conf/tables/t.yaml").write_text(TABLE)
    (tmp_path / "papers.yaml").write_text(PAPERS)
    claim = Claim("X is better", "wer/test", {"a": "x"}, {"a": "y"})
    write_claims(tmp_path / "egs/corpus", judge([Compared("t", claim, Effect(-1.0, 0.1, 4.0, 5, 20, 20.0, 0.05))]))
    return tmp_path


def test_page(recipes):
    text = page(load_papers(recipes / "papers.yaml"), recipes / "egs")
    assert "5 rows, 2 of them not run; 4 comparisons: 2 supported, 2 not measured." in text
    assert "**X wins.** Paper: 1 to 2 %." in text and "Not the paper's setting: of another size." in text
    assert "[corpus/t](../egs/corpus/RESULTS.md), X is better: **supported**; difference -1.00" in text
    assert "X is not worse: not measured" in text and "- Not run: 3 hours." in text
    assert (
        "- Not run: 4 hours." in text and "5 hours" not in text
    )  # U has been measured since and "- Seen: nothing." in text


@pytest.mark.parametrize(
    "change, message",
    [
        (("[X is better", "[W is better"), "0 claims begin with 'W is better'"),
        (("[X is better", "[X is"), "2 claims begin with 'X is'"),
        (("corpus/t", "corpus/u"), "u.yaml"),
        (("not_run: 3 hours", "costs: 3 hours"), "costs"),
        ((", not_run: 3 hours", ""), "needs claims, seen or not_run"),
    ],
)
def test_broken_papers(recipes, change, message):
    path = recipes / "papers.yaml"
    path.write_text(PAPERS.replace(*change))
    with pytest.raises(DataError, match=message):
        page(load_papers(path), recipes / "egs")


def test_command(recipes, run_script):
    command = (ROOT / "utils" / "claims.py", "page.md", "--papers", "papers.yaml", "--recipes", "egs")
    result = run_script(*command, cwd=recipes)
    assert result.returncode == 0, result.stderr
    assert "2 supported" in (recipes / "page.md").read_text()
    rows = [
        {"id": "i", "part": "test", "metric": "wer", "value": 10.0 + seed / 10 + 5 * (a == "x"), "table": "t",
         "cell": {"a": a}, "seeds": [seed], "commit": "c+"}
        for a in "xy" for seed in (1, 2, 3)
    ]  # fmt: skip
    write_json(recipes / "egs/corpus/results.json", rows)
    result = run_script(*command, "--judge", "corpus", cwd=recipes)
    assert result.returncode == 0, result.stderr
    text = (recipes / "page.md").read_text()
    assert "4 contradicted" in text and "made in part by code with uncommitted changes" in text


def test_the_page_in_the_repository_is_up_to_date():
    assert (ROOT / "docs/claims.md").read_text() == page(load_papers(ROOT / "docs/papers.yaml"), ROOT / "egs")
