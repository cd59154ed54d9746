"""What the cells of a sweep came to: values by seed, claims, and the section of RESULTS.md."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.experiments.claims import (
    NOT_MEASURED,
    UNDECIDED,
    Claim,
    Compared,
    Verdict,
    digits_of,
    judge,
    read_claims,
    write_claims,
)
from pipeline.experiments.report import GROUPS, Facts, Row, by_edited_code
from pipeline.experiments.results_page import METRICS, markdown_table, write_report
from pipeline.experiments.statistics import crossed, paired, pooled
from pipeline.experiments.tables import Cell, Column, Table, cell_dir, load_tables, matches

# What precedes the tables of sweeps in RESULTS.md.
HOW_TO_READ = """## Experiments

Each table below is a grid of settings that was run with several seeds: mean ± standard deviation over the seeds, "(n)"
where only n of them were run. Claims are tested on pairs of runs that share their seed. *Difference* is the first
setting of the claim minus the second, with its 95 % interval; *p* is adjusted for the number of claims on this page,
and doubled where seeds were added after the first figures or planned ones are still to be run; *noticeable* is the
smallest true difference that as many seeds would have shown in four cases of five, adjusted as well (of a claim of
equality: shown to be beyond its margin).
So "undecided" beside a large noticeable difference says little about the claim.
"""


@dataclasses.dataclass
class Measured:
    """Values of one column in one cell.

    Attributes:
        values: seed -> value.
        sums: seed -> sums by speaker, where the rows have them.
        summary: mean, standard deviation and number of seeds, where the values themselves are gone.
    """

    values: dict[int, float]
    sums: dict[int, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    summary: tuple[float, float | None, int] | None = None

    @property
    def count(self) -> int:
        """Number of seeds."""
        return len(self.values) or (self.summary[2] if self.summary else 0)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.values.values()) / len(self.values) if self.values or not self.summary else self.summary[0]

    @property
    def spread(self) -> float | None:
        """Standard deviation between the seeds; None for a single one."""
        if self.summary and not self.values:
            return self.summary[1]
        if len(self.values) < 2:
            return None
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.values.values()) / (len(self.values) - 1))


def measure(recipe: Path, name: str, table: Table, rows: Sequence[Row], cell: Cell, column: Column) -> Measured:
    """Returns what was measured for a column in a cell, seeds that are missing left out."""
    measured = Measured({})
    wanted = re.sub(r"\{(\w+)\}", lambda m: str(table.variables(cell).get(m[1], m[0])), column.id or "")
    wanted = column.fact or wanted
    mine = [
        row
        for row in rows
        if row.get("table") == name and row.get("cell") == cell and row["metric"] == column.metric
        if column.part in (None, row["part"]) and wanted in ("", row["id"])
    ]
    for seed in table.all_seeds:
        found = [row for row in mine if row.get("seeds") == [seed]]
        if len(found) > 1:
            directory = recipe / cell_dir(name, cell, seed)
            raise DataError(f"{directory}: {len(found)} rows for column {column.key}; give its part or id")
        if found:
            measured.values[seed] = found[0]["value"]
            if found[0].get(GROUPS):
                measured.sums[seed] = found[0][GROUPS]
    for row in mine:
        if "spread" in row:
            measured.summary = row["value"], row["spread"], len(row["seeds"])
    return measured


def facts_of(recipe: Path) -> Facts:
    """Table -> the facts of stamps that its columns show."""
    return {
        name: [(c.metric, c.fact) for c in table.columns if c.fact is not None]
        for name, table in load_tables(recipe).items()
    }


def write_results(recipe: Path, title: str | None = None, edited: bool = False, keep: bool = False) -> list[Row]:
    """Writes RESULTS.md, results.json, claims.json and the pictures of a recipe; see ``results_page.write_report``."""
    return write_report(recipe, title, sections, shown(recipe), edited, facts_of(recipe), keep)


def shown(recipe: Path) -> Callable[[Row], bool]:
    """Returns a test for rows: true for those outside of sweeps and for those that a column of their table shows."""
    columns = {(name, c.metric, c.part) for name, table in load_tables(recipe).items() for c in table.columns}

    def test(row: Row) -> bool:
        table = row.get("table")
        return table is None or any((table, row["metric"], part) in columns for part in (row["part"], None))

    return test


def sections(recipe: Path, rows: Sequence[Row]) -> list[str]:
    """Returns one Markdown section per table of the recipe that has been measured, draws its pictures, and writes
    claims.json.
    """
    grids = measured_tables(recipe, rows)
    said = verdicts(recipe, rows, grids)
    if said:
        write_claims(recipe, said)
    made = [
        table_section(recipe, name, table, grid, [v for v in said if v.table == name])
        for name, (table, grid) in grids.items()
    ]
    return [HOW_TO_READ, *made] if made else []


Grid = Mapping[str, Sequence["Measured"]]  # key of a column -> what was measured in each cell


def measured_tables(recipe: Path, rows: Sequence[Row]) -> dict[str, tuple[Table, Grid]]:
    """Returns the tables of the recipe of which something has been measured, by name."""
    found: dict[str, tuple[Table, Grid]] = {}
    for name, table in load_tables(recipe).items():
        if any(row.get("table") == name for row in rows):
            cells = list(table.cells())
            found[name] = (
                table,
                {c.key: [measure(recipe, name, table, rows, x, c) for x in cells] for c in table.columns},
            )
    return found


def verdicts(recipe: Path, rows: Sequence[Row], grids: Mapping[str, tuple[Table, Grid]] | None = None) -> list[Verdict]:
    """Returns a verdict on each claim of the measured tables of a recipe."""
    grids = measured_tables(recipe, rows) if grids is None else grids
    edited = {row["table"] for row in rows if row.get("table") and by_edited_code(row)}
    compared = [
        compare(name, table, claim, grid[claim.column], name in edited)
        for name, (table, grid) in grids.items()
        for claim in table.claims
    ]
    before = read_claims(recipe)
    return judge([_as_it_was(c, before) for c in compared])


def _as_it_was(compared: Compared, before: Sequence[Verdict]) -> Compared:
    """The stored comparison in place of one whose sums by speaker are gone, if it had them and values are the same."""
    now = compared.effect
    if now is None or now.speakers:
        return compared
    for old in before:
        if (
            old.table == compared.table
            and old.claim.same_as(compared.claim)
            and old.effect is not None
            and not old.edited
        ):
            same = math.isclose(old.effect.mean, now.mean, rel_tol=1e-6, abs_tol=1e-6)
            if old.effect.speakers and old.effect.seeds == now.seeds and same:
                return compared._replace(effect=old.effect)
    return compared


def table_section(
    recipe: Path, name: str, table: Table, grid: Mapping[str, Sequence[Measured]], verdicts: Sequence[Verdict]
) -> str:
    """Returns the Markdown of one table: cells, what of the claims holds, pictures."""
    cells = list(table.cells())
    columns = [c for c in table.columns if any(m.count for m in grid[c.key])]
    head = [axis.replace("_", " ") for axis in table.axes]
    for column in columns:
        head.append(heading(column))
        if any(k.column == column.key for k in table.known):
            head.append("known")
    lines = []
    for i, cell in enumerate(cells):
        if not any(grid[column.key][i].count for column in columns):
            continue
        line = [str(value).replace("_", " ") for value in cell.values()]
        for column in columns:
            line.append(_text(grid[column.key][i], decimals_of(column), len(table.all_seeds)))
            figures = [k for k in table.known if k.column == column.key]
            if figures:
                line.append(", ".join(f"{k.value:g}" for k in figures if matches(cell, k.cell)))
        lines.append(line)
    text = f"## {table.title}\n\n" + (f"{table.about.strip()}\n\n" if table.about else "")
    text += markdown_table(head, lines)
    counts = [grid[column.key][i].count for column in columns for i in range(len(cells))]
    text += f"\n{_seeds_text(table)} Described by `conf/tables/{name}.yaml`."
    missing = len(cells) - len(lines)
    text += f" {missing} of {len(cells)} cells are not measured yet." if missing else ""
    text += f"\nMeasured with earlier settings: {table.measured_with}." if table.measured_with else ""
    text += f"\n\n{claims_table(table, verdicts)}" if any(v.outcome != NOT_MEASURED for v in verdicts) else "\n"
    if table.plots and any(counts):
        from pipeline.experiments.table_plots import draw

        for number, plot in enumerate(table.plots, start=1):
            column = next(c for c in table.columns if c.key == plot.column)
            path = Path("plots") / f"{name}{number if len(table.plots) > 1 else ''}.svg"
            if draw(recipe / path, plot, heading(column), cells, grid[plot.column]):
                text += f"\n![{table.title}: {heading(column)}]({path.as_posix()})\n"
    return text


def _seeds_text(table: Table) -> str:
    planned = ", ".join(map(str, table.seeds))
    if len(table.all_seeds) == 1:
        return f"Seed {planned} only."
    added = ", ".join(map(str, table.added_seeds))
    return f"Seeds {planned}" + (f", and {added} added after the first figures." if added else ".")


def claims_table(table: Table, verdicts: Sequence[Verdict]) -> str:
    """Returns a Markdown table of what was measured of the claims."""
    decimals = {column.key: decimals_of(column) for column in table.columns}
    lines = []
    for verdict in verdicts:
        effect, digits = verdict.effect, decimals[verdict.claim.column]
        if effect is None:
            if verdict.outcome != NOT_MEASURED:
                lines.append([verdict.claim.text, verdict.outcome, "", "", "", ""])
            continue
        low, high = effect.interval
        digits = digits_of(verdict, digits)
        about = f"{effect.seeds}" + f", {verdict.added} of them added" * bool(verdict.added)
        about += f" of {effect.seeds + verdict.missing} planned" * bool(verdict.missing)
        lines.append(
            [
                verdict.claim.text
                + " (written down after figures had been seen)" * verdict.claim.afterwards
                + f" (tested on {verdict.claim.looks} parts)" * (verdict.claim.looks > 1),
                f"**{verdict.called(digits)}**" + ", in part by edited code" * verdict.edited,
                f"{effect.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]",
                "" if verdict.p is None else "< 0.001" if verdict.p < 0.001 else f"{verdict.p:.3f}",
                about + f" x {effect.speakers} speakers" * bool(effect.speakers),
                f"{verdict.noticeable:.{digits}f}" if verdict.outcome == UNDECIDED else "",
            ]
        )
    return markdown_table(["claim", "outcome", "difference", "p", "seeds", "noticeable"], lines)


def compare(name: str, table: Table, claim: Claim, measured: Sequence[Measured], edited: bool = False) -> Compared:
    """Returns the difference that a claim speaks of, better minus than; no effect where nothing of it was measured.

    Pairs are cells that differ only in the axes of the claim. Where rows have sums by speaker, seeds and speakers are
    taken as random, else seeds alone. Pairs that share no speaker, as folds of a cross-validation, are one test set.

    Args:
        name, table: of the sweep.
        measured: the claim's column in each cell.
        edited: whether rows of the table were made by edited code.
    """
    axes, cells = {*claim.better, *claim.than}, list(table.cells())
    pairs = []
    for cell, values in zip(cells, measured):
        rest = {axis: value for axis, value in cell.items() if axis not in axes}
        for other, reference in zip(cells, measured):
            if matches(cell, claim.better) and matches(other, claim.than) and matches(other, rest):
                if values.values.keys() & reference.values.keys():
                    pairs.append((values, reference))
    if not pairs:
        return Compared(name, claim, None)
    seeds = set.intersection(*(set(side.values) for pair in pairs for side in pair))
    effect = None
    if all(seeds <= side.sums.keys() for pair in pairs for side in pair):
        effect = crossed(pooled([(first.sums, second.sums) for first, second in pairs]))
    if effect is None:
        effect = paired([(first.values, second.values) for first, second in pairs])
    missing = len(set(table.seeds) - seeds)
    return Compared(name, claim, effect, len(seeds & set(table.added_seeds)), edited, missing)


def heading(column: Column) -> str:
    """Heading of a column: its label, or metric, part and unit: "WER, test (%)"."""
    if column.label:
        return column.label
    metric = METRICS.get(column.metric)
    name = metric.name if metric else column.metric.replace("_", " ")
    text = f"{name}, {column.part}" if column.part else name
    return f"{text} ({metric.unit})" if metric and metric.unit else text


def decimals_of(column: Column) -> int:
    """Digits after the point that a column is shown with."""
    if column.decimals is not None:
        return column.decimals
    return METRICS[column.metric].decimals if column.metric in METRICS else 3


def _text(measured: Measured, decimals: int, seeds: int) -> str:
    if not measured.count:
        return "–"
    text = f"{measured.mean:,.{decimals}f}"
    spread = f"{measured.spread or 0.0:,.{decimals}f}"
    if float(spread.replace(",", "")):  # else it is a number that no seed changes, such as that of parameters
        text += f" ± {spread}"
    return text if measured.count == seeds else f"{text} ({measured.count})"
