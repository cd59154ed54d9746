"""The page of the papers' claims, of papers.yaml and claims.json, made up and the project's own."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
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
about: "Four networks. ![A picture](plots/x.svg)"
minutes: 15
axes: {a: [x, y]}
commands: [steps/score.py]
columns: [{metric: wer, part: test}]
claims:
  - {text: X is better, column: wer/test, better: {a: x}, than: {a: y}}
  - {text: X is not worse, column: wer/test, better: {a: x}, than: {a: y}}
"""
PAPERS = """
- paper: "P: a paper"
  setting: Theirs is large.
  rows:
    - {row: X wins, theirs: 1 to 2 %, claims: {corpus/t: [X is better, X is not]}, differs: of another size}
    - {row: X loses, theirs: rarely, against: {corpus/t: [X is better]}}
    - {row: X is open, theirs: not tried, claims: {corpus/t: [X is better]}}
    - {row: Y costs, theirs: much, not_run: 3 hours}
    - {row: Z, theirs: little, seen: nothing}
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
    row = {"table": "t", "metric": "wer", "part": "test", "counts": {"words": 1234}, "cell": {"a": "x"}}
    rows = [row, {"metric": "wer"}]
    write_json(recipes / "egs/corpus/results.json", rows)
    text = page(load_papers(recipes / "papers.yaml"), recipes / "egs")
    assert "5 rows, 1 of them not run; 2 comparisons: 1 supported, 1 not measured." in text
    assert "T: Four networks. Seeds" in text and "plots/" not in text  # which stand in RESULTS.md
    assert "## P: a paper\n\nTheirs is large.\n" in text
    assert "**X wins.** Paper: 1 to 2 %. Here: as in the paper (1 of 1 comparison decided)." in text
    assert "**X loses.** Paper: rarely. Here: not as in the paper (1 of 1 comparison decided)." in text
    assert "**X is open.** Paper: not tried. Here: 1 supported (1 of 1 comparison decided)." in text
    assert "- Not the paper's setting: of another size." in text
    line = "- [corpus/t](../egs/corpus/RESULTS.md), X is better: **supported**; difference -1.00"
    assert text.count(line) == 3 and text.count("; would speak against the paper\n") == 1
    place = "[corpus/t](../egs/corpus/RESULTS.md) (6 runs of about 15 minutes, 90 minutes of one core; "
    place += "1 of 2 cells have figures)"
    assert f"- Not measured, {place}: X is not worse." in text and "- Not run: 3 hours." in text
    assert "- Seen, without a test: nothing." in text
    assert "- **corpus/t**, T: Four networks. Seeds 1, 2, 3. Scored on test (1,234 words)." in text


def test_what_decides_a_row(recipes):
    """Not what was written down afterwards or is on dev, which is told where it disagrees."""
    table = recipes / "egs/corpus/conf/tables/t.yaml"
    dev = "columns: [{metric: wer, part: dev}, {metric: wer, part: test}]\nclaims:\n"
    dev += "  - {text: X is better on dev, column: wer/dev, better: {a: x}, than: {a: y}}\n"
    late = TABLE.replace("than: {a: y}}\n", "than: {a: y}, afterwards: true}\n", 1)
    table.write_text(late.replace("columns: [{metric: wer, part: test}]\nclaims:\n", dev))
    papers = recipes / "papers.yaml"
    papers.write_text("""
- paper: "P: a paper"
  setting: Theirs is large.
  rows:
    - {row: Alone, theirs: 1 %, claims: {corpus/t: [X is better, X is better on dev]}}
    - {row: Beside, theirs: 1 %, claims: {corpus/t: [X is better, X is not worse]}}
    - {row: Against, theirs: 1 %, claims: {corpus/t: [X is not worse]}, against: {corpus/t: [X is better]}}
    - {row: Nothing, theirs: 1 %, claims: {corpus/t: [X is not worse]}}
""")
    claims = [
        Claim("X is better on dev", "wer/dev", {"a": "x"}, {"a": "y"}),
        Claim("X is better", "wer/test", {"a": "x"}, {"a": "y"}, afterwards=True),
    ]
    effect = Effect(-1.0, 0.1, 4.0, 5, 20, 20.0, 0.05)
    write_claims(recipes / "egs/corpus", judge([Compared("t", claim, effect) for claim in claims]))
    text = page(load_papers(papers), recipes / "egs")
    assert "**Alone.** Paper: 1 %. Here: compared afterwards or on dev alone." in text
    assert "**Beside.** Paper: 1 %. Here: compared afterwards or on dev alone." in text
    assert "**Nothing.** Paper: 1 %. Here: not run." in text
    write_json(recipes / "egs/corpus/results.json", [{"table": "t", "metric": "wer", "part": "test", "cell": {}}])
    assert "**Nothing.** Paper: 1 %. Here: run in part, not compared." in page(load_papers(papers), recipes / "egs")
    claims.append(Claim("X is not worse", "wer/test", {"a": "x"}, {"a": "y"}))
    write_claims(recipes / "egs/corpus", judge([Compared("t", claim, effect) for claim in claims]))
    text = page(load_papers(papers), recipes / "egs")
    of = "Here: as in the paper (1 of 1 comparison decided"
    assert f"**Beside.** Paper: 1 %. {of})." in text
    assert f"**Against.** Paper: 1 %. {of}; 1 written down afterwards or on dev disagrees)." in text


def test_times_say_how_many_utterances_have_none(recipes):
    table = recipes / "egs/corpus/conf/tables/t.yaml"
    table.write_text(
        TABLE.replace("metric: wer, part", "metric: tse_ms, part").replace("column: wer", "column: tse_ms")
    )
    counts = {"x": (10, 12), "y": (0, 0)}
    rows = [
        {"table": "t", "metric": "tse_ms", "part": "test", "cell": {"a": a}, "counts": {"skipped": n, "missing": 1}}
        for a in counts
        for n in counts[a]
    ]
    write_json(recipes / "egs/corpus/results.json", rows)
    claim = Claim("X is better", "tse_ms/test", {"a": "x"}, {"a": "y"})
    write_claims(recipes / "egs/corpus", judge([Compared("t", claim, Effect(-1.0, 0.1, 4.0, 5, 0, 20.0, 0.05))]))
    text = page(load_papers(recipes / "papers.yaml"), recipes / "egs")
    assert "p < 0.001; utterances left out: 11 to 13 and 1" in text


def test_nothing_that_was_measured_is_left_out(recipes):
    text = page(load_papers(recipes / "papers.yaml"), recipes / "egs")
    assert "## Other comparisons" in text and "\n\nNone.\n" in text
    more = recipes / "papers.yaml"
    more.write_text(PAPERS.replace("X is better, X is not", "X is not").replace("X is better", "X is not"))
    text = page(load_papers(more), recipes / "egs")
    others = text[text.index("## Other comparisons") :]
    assert "- [corpus/t](../egs/corpus/RESULTS.md), X is better: **supported**" in others
    # A table whose claims and columns have changed since it was measured.
    table = recipes / "egs/corpus/conf/tables/t.yaml"
    table.write_text(TABLE.replace("part: test", "part: dev").replace("column: wer/test", "column: wer/dev"))
    assert "\n\nNone.\n" in page(load_papers(more), recipes / "egs")


def test_a_claim_whose_text_begins_another_one(recipes):
    table = recipes / "egs/corpus/conf/tables/t.yaml"
    table.write_text(TABLE.replace("X is not worse", "X is better on dev"))
    (recipes / "papers.yaml").write_text(PAPERS.replace("[X is better, X is not]", "[X is better, X is better on]"))
    text = page(load_papers(recipes / "papers.yaml"), recipes / "egs")
    assert "X is better: **supported**" in text and ": X is better on dev." in text


def test_undecided_rows_say_what_would_have_been_noticed(recipes):
    claim = Claim("X is better", "wer/test", {"a": "x"}, {"a": "y"})
    effect = Effect(-0.1, 0.5, 4.0, 5, 20, 20.0, 1.25)
    write_claims(recipes / "egs/corpus", judge([Compared("t", claim, effect)]))
    text = page(load_papers(recipes / "papers.yaml"), recipes / "egs")
    share = f"{100 * effect.detectable() / 20:.2g} %"
    wins = next(line.split("|") for line in text.splitlines() if "| X wins" in line)
    assert [cell.strip() for cell in wins[4:6]] == ["undecided (1 comparison)", f"WER {share}"]
    write_claims(recipes / "egs/corpus", judge([Compared("t", claim, Effect(-0.1, 0.5, 1.0, 2, 0, 20.0, 0.5))]))
    assert "Here: too few seeds." in page(load_papers(recipes / "papers.yaml"), recipes / "egs")


@pytest.mark.parametrize(
    "change, message",
    [
        (("[X is better", "[W is better"), "0 claims begin with 'W is better'"),
        (("[X is better, X is not]", "[X is]"), "2 claims begin with 'X is'"),
        (("corpus/t", "corpus/u"), "u.yaml"),
        (("not_run: 3 hours", "costs: 3 hours"), "costs"),
        ((", not_run: 3 hours", ""), "needs claims, against, seen or not_run"),
        (("  setting: Theirs is large.\n", ""), "setting"),
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
    assert "1 supported" in (recipes / "page.md").read_text()
    rows = [
        {"id": "i", "part": "test", "metric": "wer", "value": 10.0 + seed / 10 + 5 * (a == "x"), "table": "t",
         "cell": {"a": a}, "seeds": [seed], "commit": "c+"}
        for a in "xy" for seed in (1, 2, 3)
    ]  # fmt: skip
    write_json(recipes / "egs/corpus/results.json", rows)
    result = run_script(*command, "--judge", "corpus", cwd=recipes)
    assert result.returncode == 0, result.stderr
    text = (recipes / "page.md").read_text()
    assert "1 contradicted" in text and "made in part by code with uncommitted changes" in text


def test_the_page_in_the_repository_is_up_to_date(tmp_path):
    """As committed, since a recipe that has run here has written its results again. And the page says of each comparison
    that was not measured what it would cost.
    """
    archive = subprocess.run(["git", "archive", "HEAD", "docs", "egs"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip("not a checkout of git")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(tmp_path)
    text = (tmp_path / "docs/claims.md").read_text(encoding="utf-8")
    assert text == page(load_papers(tmp_path / "docs/papers.yaml"), tmp_path / "egs")
    assert text.count("- Not measured, [") == len(
        re.findall(r" of one core(?:; \d+ of \d+ cells have figures)?\): ", text)
    )
