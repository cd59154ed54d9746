"""Sweeps: cells and commands of a table file, missing cells, means, claims and pictures."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json
from pipeline.experiments import table_report, tables
from pipeline.experiments.claims import Claim, read_claims
from pipeline.experiments.table_report import Measured

ROOT = Path(__file__).resolve().parents[2]

TABLE = """
title: Transition models
about: As in the paper.
seeds: [1, 2, 3]
axes:
  transition: [fixed, learned]
  ali:
    gmm: {source: exp/mono_ali, offset: 0}
    nhmm: {source: exp/nhmm ali, offset: 5}
commands:
  - local/measure.py {dir}/score {transition} {offset} {seed} --source {source}
columns:
  - {metric: wer, part: test}
  - {metric: tse_ms, part: test, id: "model_{transition}", label: time error}
known:
  - {cell: {transition: fixed, ali: gmm}, column: wer/test, value: 12.5}
claims:
  - {text: Learned transitions lower the time error, column: tse_ms/test, better: {transition: learned}, than: {transition: fixed}}
  - {text: GMM alignments are better, column: wer/test, better: {ali: gmm}, than: {ali: nhmm}}
  - {text: Learned transitions raise the word error, column: wer/test, better: {transition: learned}, than: {transition: fixed}, lower: false}
plots:
  - {column: tse_ms/test, x: transition, series: ali}
  - {column: wer/test, x: transition, y: ali}
"""

# A step of its own: wer = 10 + offset, time error 30 or 20 with a little of the seed; fails while FAIL names the seed.
MEASURE = """#!/usr/bin/env -S python3 -S -E
import json, os, sys
from pathlib import Path
out, transition, offset, seed = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
assert sys.argv[5:] == ["--source", {0.0: "exp/mono_ali", 5.0: "exp/nhmm ali"}[offset]]
if Path("fail").exists() and Path("fail").read_text() == str(seed) and transition == "learned":
    sys.exit(2)
out.mkdir(parents=True, exist_ok=True)
with open("trace", "a") as trace:
    print(out, file=trace)
tse = (20 if transition == "learned" else 30) + 0.1 * seed
row = {"id": f"model_{transition}", "part": "test"}
json.dump([{**row, "metric": "wer", "value": 10 + offset}, {**row, "metric": "tse_ms", "value": tse},
           {**row, "id": "other", "metric": "tse_ms", "value": 99.0}], open(out / "results.json", "w"))
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "conf" / "tables").mkdir(parents=True)
    (tmp_path / "local").mkdir()
    (tmp_path / "conf" / "tables" / "transitions.yaml").write_text(TABLE)
    script = tmp_path / "local" / "measure.py"
    script.write_text(MEASURE)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return tmp_path


def test_cells_and_commands(recipe):
    table = tables.load_tables(recipe)["transitions"]
    cells = list(table.cells())
    assert cells[:2] == [{"transition": "fixed", "ali": "gmm"}, {"transition": "fixed", "ali": "nhmm"}]
    assert len(cells) == 4
    directory = tables.cell_dir("transitions", cells[1], 2)
    assert directory == Path("exp/tables/transitions/transition=fixed_ali=nhmm_seed2")
    assert tables.cell_commands(table, cells[1], 2, directory) == [
        f"local/measure.py {directory}/score fixed 5 2 --source 'exp/nhmm ali'"
    ]


def test_commands_of_some_cells_and_variables_with_the_seed(recipe):
    path = recipe / "conf" / "tables" / "transitions.yaml"
    changed = TABLE.replace("source: exp/mono_ali,", 'source: "exp/mono {seed}/ali",')
    path.write_text(changed.replace("columns:\n", "  - {run: 'local/more.py {dir}', when: {ali: nhmm}}\ncolumns:\n", 1))
    table = tables.load_table(path)
    gmm, nhmm = list(table.cells())[:2]
    assert tables.cell_commands(table, gmm, 2, Path("d")) == [
        "local/measure.py d/score fixed 0 2 --source 'exp/mono 2/ali'"
    ]
    assert tables.cell_commands(table, nhmm, 2, Path("d"))[1:] == ["local/more.py d"]
    text = path.read_text()
    path.write_text(text.replace("when: {ali: nhmm}", "when: {ali: [nhmm, gmm], transition: [learned]}"))
    both = [len(tables.cell_commands(tables.load_table(path), cell, 2, Path("d"))) for cell in table.cells()]
    assert both == [1, 1, 2, 2]
    for wrong in ("ctc", "[nhmm, ctc]"):
        path.write_text(text.replace("when: {ali: nhmm}", f"when: {{ali: {wrong}}}"))
        with pytest.raises(DataError, match=r"\{ali: ctc\} is no value"):
            tables.load_table(path)


def test_excluded_cells(recipe):
    path = recipe / "conf" / "tables" / "transitions.yaml"
    path.write_text(TABLE + "exclude:\n  - {transition: fixed, ali: nhmm}\n")
    assert len(list(tables.load_table(path).cells())) == 3


def test_run_and_report(recipe):
    table = tables.load_tables(recipe)["transitions"]
    (recipe / "fail").write_text("3")
    failed = tables.run_table(recipe, "transitions", table, parallel=2)
    assert failed == ["transition=learned_ali=gmm_seed3", "transition=learned_ali=nhmm_seed3"]
    rows = table_report.write_results(recipe)
    text = " ".join((recipe / "RESULTS.md").read_text().split())
    assert "| fixed | gmm | 10.00 | 12.5 | 30.2 ± 0.1 |" in text
    assert "| learned | nhmm | 15.00 (2) | | 20.1 ± 0.1 (2) |" in text
    assert "| **too few seeds** | -10.0 [-10.0, -10.0] | | 2 of 3 planned | |" in text
    assert {row["table"] for row in rows} == {"transitions"}

    (recipe / "fail").unlink()
    assert tables.run_table(recipe, "transitions", table, parallel=2) == []
    rows = table_report.write_results(recipe)
    text = " ".join((recipe / "RESULTS.md").read_text().split())
    assert "| learned | nhmm | 15.00 | | 20.2 ± 0.1 |" in text
    assert "lower the time error | **supported** | -10.0 [-10.0, -10.0] | < 0.001 | 3 | |" in text
    assert "GMM alignments are better | **supported** | -5.00" in text
    assert "raise the word error | **undecided** | +0.00" in text
    row = next(r for r in rows if r["seeds"] == [2] and r["cell"] == {"transition": "learned", "ali": "nhmm"})
    assert row["table"] == "transitions" and row["dir"].endswith("seed2/score")
    assert "## Error rates" not in text  # rows of a sweep stand in its table only
    for name in ("transitions1.svg", "transitions2.svg"):
        assert f"plots/{name}" in text
        assert "</svg>" in (recipe / "plots" / name).read_text()


def test_some_cells(recipe):
    """Those with the values that are named; of no axis or value, the message says what there is."""
    table = tables.load_table(recipe / "conf/tables/transitions.yaml")
    only = tables.chosen(table, ["transition=learned", "ali=gmm", "ali=nhmm"])
    assert only == [cell for cell in table.cells() if cell["transition"] == "learned"] and len(only) == 2
    assert tables.run_table(recipe, "transitions", table, only=["transition=learned", "ali=nhmm"]) == []
    assert {line.split("_seed")[0] for line in (recipe / "trace").read_text().splitlines()} == {
        "exp/tables/transitions/transition=learned_ali=nhmm"
    }
    for wrong in ("ali=sat", "lexicon=none", "ali"):
        with pytest.raises(
            DataError, match=f"no cells with {wrong}; there are transition=fixed, learned; ali=gmm, nhmm"
        ):
            tables.chosen(table, [wrong])


def test_all_cells_of_a_seed_come_before_the_next_seed(recipe, monkeypatch):
    """What is there when a run is stopped are pairs of runs with the same seed."""
    names: list[str] = []
    monkeypatch.setattr(tables, "run_jobs", lambda jobs, *args: names.extend(job.name for job in jobs) or [])
    tables.run_table(recipe, "transitions", tables.load_tables(recipe)["transitions"], only=["ali=gmm"])
    assert [name.removeprefix("transition=") for name in names] == [
        f"{transition}_ali=gmm_seed{seed}" for seed in (1, 2, 3) for transition in ("fixed", "learned")
    ]


def test_rows_of_a_sweep_that_no_column_shows_are_left_out(recipe):
    keep = table_report.shown(recipe)
    cell = {"table": "transitions", "cell": {"transition": "fixed", "ali": "gmm"}, "seeds": [1]}
    row = {"id": "x", "part": "test", "metric": "wer", "value": 1.0}
    assert keep({**row, **cell}) and keep(row) and keep({**row, "metric": "rtf"})
    assert not keep({**row, **cell, "metric": "rtf"}) and not keep({**row, **cell, "part": "dev"})
    assert not keep({**row, **cell, "table": "gone"})


def test_pictures_are_equal_for_equal_data(recipe):
    table = tables.load_tables(recipe)["transitions"]
    tables.run_table(recipe, "transitions", table, parallel=2)
    drawn = []
    for _ in range(2):
        table_report.write_results(recipe)
        drawn.append([path.read_bytes() for path in sorted((recipe / "plots").iterdir())])
    assert drawn[0] == drawn[1]


def test_facts_of_a_stamp(recipe):
    path = recipe / "conf" / "tables" / "transitions.yaml"
    text = TABLE.replace(
        "  - {metric: wer, part: test}\n", "  - {metric: wer, part: test}\n  - {metric: p, fact: 'm:p'}\n"
    )
    path.write_text(text)
    table = tables.load_table(path)
    tables.run_table(recipe, "transitions", table, parallel=2)
    cell = next(table.cells())
    for seed, value in ((1, 0.5), (2, 0.7), (3, None)):
        directory = recipe / tables.cell_dir("transitions", cell, seed) / "m"
        write_json(directory / "stamp.json", {"identity": "x", "id": "y", "facts": {"p": value}})
    rows = table_report.write_results(recipe)
    measured = table_report.measure(recipe, "transitions", table, rows, cell, table.columns[1])
    assert measured.values == {1: 0.5, 2: 0.7}
    assert measured.mean == pytest.approx(0.6) and measured.spread == pytest.approx(0.02**0.5)
    page = (recipe / "RESULTS.md").read_text()
    assert "0.600 ± 0.141 (2)" in page
    shutil.rmtree(recipe / "exp")
    table_report.write_results(recipe, keep=True)
    assert (recipe / "RESULTS.md").read_text() == page


def test_values_that_are_known_by_mean_and_deviation_alone(recipe):
    """They are shown and drawn; nothing is concluded from them."""
    table = tables.load_tables(recipe)["transitions"]
    cells = list(table.cells())
    row = {"id": "x", "part": "test", "metric": "wer", "dir": "exp/gone", "table": "transitions"}
    two = [
        {**row, "value": v, "spread": 0.5, "seeds": [1, 2, 3], "cell": c} for v, c in ((9.0, cells[0]), (8.0, cells[1]))
    ]
    write_json(recipe / "results.json", two)
    table_report.write_results(recipe, keep=True)
    text = " ".join((recipe / "RESULTS.md").read_text().split())
    assert "| fixed | gmm | 9.00 ± 0.50 | 12.5 |" in text and "| claim |" not in text
    assert "time error" not in text.split("## Experiments")[1].split("![")[0]  # a column without values is left out
    assert (recipe / "plots" / "transitions2.svg").is_file() and not (recipe / "plots" / "transitions1.svg").exists()


def test_speakers_count_after_their_sums_are_gone(recipe):
    """The stored comparison stays as it was made, with speakers as random."""
    table = tables.load_tables(recipe)["transitions"]
    tables.run_table(recipe, "transitions", table, parallel=2)
    for path in (recipe / "exp").rglob("score/results.json"):
        rows = read_json(path)
        sums = {f"k{k}": [rows[0]["value"] * (9 + k) + 0.1 * k, 9.0 + k] for k in range(5)}
        write_json(path, [{**r, "groups": sums} if r["metric"] == "wer" else r for r in rows])
    table_report.write_results(recipe)
    before = {v.claim.text: v for v in read_claims(recipe)}
    assert before["GMM alignments are better"].effect.speakers == 5
    shutil.rmtree(next(path.parent for path in sorted((recipe / "exp").rglob("score"))))  # one cell is gone, or all
    table_report.write_results(recipe, keep=True)
    assert {v.claim.text: v for v in read_claims(recipe)} == before
    shutil.rmtree(recipe / "exp")
    table_report.write_results(recipe, keep=True)
    assert {v.claim.text: v for v in read_claims(recipe)} == before
    # Rows of other values: the stored comparison is not theirs.
    rows = read_json(recipe / "results.json")
    first = next(r for r in rows if r["metric"] == "wer" and r.get("table"))
    first["value"] += 1.0
    write_json(recipe / "results.json", rows)
    table_report.write_results(recipe, keep=True)
    assert any(v.effect and not v.effect.speakers for v in read_claims(recipe))


def test_ambiguous_column(recipe):
    path = recipe / "conf" / "tables" / "transitions.yaml"
    path.write_text(TABLE.replace(', id: "model_{transition}"', ""))
    table = tables.load_table(path)
    tables.run_table(recipe, "transitions", table)
    with pytest.raises(DataError, match="2 rows for column tse_ms/test; give its part or id"):
        table_report.write_results(recipe)


def test_unmeasured_table_is_not_shown(recipe):
    write_json(recipe / "exp" / "a" / "results.json", [{"id": "a", "part": "test", "metric": "wer", "value": 1.0}])
    table_report.write_results(recipe)
    assert "Transition models" not in (recipe / "RESULTS.md").read_text()


CLAIM = Claim("x is better", "wer", {"a": "x"}, {"a": "y"})


def compared(*columns: dict | Measured):
    """The claim's effect in a table of one axis, or of two with four columns."""
    axes = {"a": ["x", "y"], "b": [1, 2]} if len(columns) == 4 else {"a": ["x", "y"]}
    table = tables.Table(title="", axes=axes, commands=("c",), columns=(tables.Column("wer"),))
    measured = [column if isinstance(column, Measured) else Measured(column) for column in columns]
    return table_report.compare("t", table, CLAIM, measured).effect


def test_comparison_interval():
    """Differences -1, -1.1, -0.9 by hand: mean -1, standard error 0.1 / sqrt(3), t(2; 0.975) = 4.303."""
    effect = compared({1: 1, 2: 2, 3: 3}, {1: 2, 2: 3.1, 3: 3.9})
    assert effect.mean == pytest.approx(-1.0) and effect.interval == pytest.approx((-1.2484, -0.7516), abs=1e-4)


def test_pairs_differ_in_the_claimed_axis_only():
    """Cells (x,1)-(y,1) and (x,2)-(y,2) are compared, and not (x,1)-(y,2), which would hide the effect."""
    columns = [dict.fromkeys(range(3), value) for value in (1.0, 101.0, 2.0, 102.0)]
    assert compared(*columns).interval == pytest.approx((-1.0, -1.0))
    assert compared({}, *columns[1:]).interval == pytest.approx((-1.0, -1.0))
    assert compared({}, {}, {}, {}) is None


def test_speakers_count_where_rows_have_them():
    sums = {s: {f"k{k}": [10.0 * k, 10.0] for k in range(6)} for s in range(3)}
    more = {s: {f"k{k}": [10.0 * k + 5 + k, 10.0] for k in range(6)} for s in range(3)}
    first, second = Measured(dict.fromkeys(range(3), 2.5), sums), Measured(dict.fromkeys(range(3), 3.25), more)
    effect = compared(first, second)
    assert effect.mean == pytest.approx(-0.75) and effect.speakers == 6 and effect.error > 0
    without = compared(first, second.values)
    assert without.speakers == 0 and without.error == 0.0


def test_seeds_that_were_added_later_are_marked(recipe):
    path = recipe / "conf" / "tables" / "transitions.yaml"
    path.write_text(TABLE.replace("seeds: [1, 2, 3]", "seeds: [1, 2, 3]\nadded_seeds: [4]\nmeasured_with: Adam"))
    table = tables.load_table(path)
    assert tables.run_table(recipe, "transitions", table, parallel=2) == []
    table_report.write_results(recipe)
    text = (recipe / "RESULTS.md").read_text()
    assert "Seeds 1, 2, 3, and 4 added after the first figures." in text
    assert "| 4, 1 of them added |" in text
    assert "Measured with earlier settings: Adam." in text
    assert len(read_json(recipe / "claims.json")) == 3 and "groups" not in read_json(recipe / "results.json")[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (("seeds: [1, 2, 3]", "sedes: [1]"), "sedes"),
        (("commands:\n", "commands: []\nx:\n"), "commands|x"),
        (("{transition} {offset}", "{transitoin} {offset}"), r"\{transitoin\} is no axis"),
        (("x: transition, series", "x: transitoin, series"), "no axis 'transitoin'"),
        (("column: tse_ms/test, x", "column: tse/test, x"), "no column 'tse/test'; there are wer/test, tse_ms/test"),
        (("better: {ali: gmm}", "better: {ali: gmn}"), r"\{ali: gmn\} is no value"),
        (("seeds: [1, 2, 3]", "seeds: []"), "seeds"),
        (("seeds: [1, 2, 3]", "seeds: one"), "seeds"),
        (("seeds: [1, 2, 3]", "seeds: [1, 2]\nadded_seeds: [2]"), "a seed stands twice"),
        (("better: {ali: gmm}", "equal: true, better: {ali: gmm}"), "a claim of equality needs a margin"),
        (
            ("source: exp/mono_ali,", 'source: "--source a --seed 1",'),
            "source: '--source a --seed 1' would be one word",
        ),
    ],
)
def test_broken_table(recipe, change, message):
    path = recipe / "conf" / "tables" / "transitions.yaml"
    assert change[0] in TABLE
    path.write_text(TABLE.replace(*change))
    with pytest.raises(DataError, match=rf"transitions\.yaml: .*({message})"):
        tables.load_table(path)


def test_command(recipe, run_script):
    (recipe / "fail").write_text("2")
    result = run_script(ROOT / "utils" / "tables.py", ".", "transitions", "--parallel", "2")
    assert result.returncode == 2 and "2 cells failed" in result.stderr
    assert re.search(r"transitions/log/transition=learned_ali=gmm_seed2\.log", result.stderr)
    (recipe / "fail").unlink()
    result = run_script(ROOT / "utils" / "tables.py", ".")
    assert result.returncode == 0, result.stderr
    assert len([r for r in read_json(recipe / "results.json") if r.get("table")]) == 36
    assert run_script(ROOT / "utils" / "tables.py", ".", "none").returncode == 2
