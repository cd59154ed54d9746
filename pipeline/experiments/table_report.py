"""What the cells of a sweep came to: values by seed, claims, and the section of RESULTS.md."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.experiments.claims import NOT_MEASURED, Claim, Compared, Verdict, judge, write_claims
from pipeline.experiments.report import FAMILIES, GROUPS, Row, markdown_table
from pipeline.experiments.statistics import crossed, paired
from pipeline.experiments.tables import Cell, Column, Table, cell_dir, load_tables, matches


@dataclasses.dataclass
class Measured:
    """Values of one column in one cell: seed -> value, and where the rows have them, seed -> sums by speaker."""

    values: dict[int, float]
    sums: dict[int, dict[str, list[float]]] = dataclasses.field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.values.values()) / len(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation between the seeds; None for a single one."""
        if len(self.values) < 2:
            return None
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.values.values()) / (len(self.values) - 1))


def measure(recipe: Path, name: str, table: Table, rows: Sequence[Row], cell: Cell, column: Column) -> Measured:
    """Returns what was measured for a column in a cell, seeds that are missing left out."""
    measured = Measured({})
    wanted = re.sub(r"\{(\w+)\}", lambda m: str(table.variables(cell).get(m[1], m[0])), column.id or "")
    for seed in table.all_seeds:
        directory = recipe / cell_dir(name, cell, seed)
        if column.fact is not None:
            below, _, fact = column.fact.partition(":")
            if (directory / below / stamp.STAMP).is_file():
                value = stamp.read_stamp(directory / below).get("facts", {}).get(fact)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    measured.values[seed] = float(value)
            continue
        found = [
            row
            for row in rows
            if row.get("table") == name and row.get("cell") == cell and row.get("seeds") == [seed]
            if row["metric"] == column.metric and column.part in (None, row["part"]) and wanted in ("", row["id"])
        ]
        if len(found) > 1:
            raise DataError(f"{directory}: {len(found)} rows for column {column.key}; give its part or id")
        if found:
            measured.values[seed] = found[0]["value"]
            if found[0].get(GROUPS):
                measured.sums[seed] = found[0][GROUPS]
    return measured


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
    return [
        table_section(recipe, name, table, grid, [v for v in said if v.table == name])
        for name, (table, grid) in grids.items()
    ]


Grid = Mapping[str, Sequence["Measured"]]  # key of a column -> what was measured in each cell


def measured_tables(recipe: Path, rows: Sequence[Row]) -> dict[str, tuple[Table, Grid]]:
    """Returns the tables of the recipe of which something has been measured, by name."""
    found: dict[str, tuple[Table, Grid]] = {}
    for name, table in load_tables(recipe).items():
        if any(row.get("table") == name for row in rows) or (recipe / "exp" / "tables" / name).is_dir():
            cells = list(table.cells())
            found[name] = (
                table,
                {c.key: [measure(recipe, name, table, rows, x, c) for x in cells] for c in table.columns},
            )
    return found


def verdicts(recipe: Path, rows: Sequence[Row], grids: Mapping[str, tuple[Table, Grid]] | None = None) -> list[Verdict]:
    """Returns a verdict on each claim of the measured tables of a recipe."""
    grids = measured_tables(recipe, rows) if grids is None else grids
    edited = {row["table"] for row in rows if row.get("table") and str(row.get("commit", "")).endswith("+")}
    return judge(
        [
            compare(name, table, claim, grid[claim.column], name in edited)
            for name, (table, grid) in grids.items()
            for claim in table.claims
        ]
    )


def table_section(
    recipe: Path, name: str, table: Table, grid: Mapping[str, Sequence[Measured]], verdicts: Sequence[Verdict]
) -> str:
    """Returns the Markdown of one table: cells, what of the claims holds, pictures."""
    cells = list(table.cells())
    head = list(table.axes)
    for column in table.columns:
        head.append(heading(column))
        if any(k.column == column.key for k in table.known):
            head.append("known")
    lines = []
    for i, cell in enumerate(cells):
        if not any(column[i].values for column in grid.values()):
            continue
        line = [str(value) for value in cell.values()]
        for column in table.columns:
            line.append(_text(grid[column.key][i], decimals_of(column), len(table.all_seeds)))
            figures = [k for k in table.known if k.column == column.key]
            if figures:
                line.append(", ".join(f"{k.value:g}" for k in figures if matches(cell, k.cell)))
        lines.append(line)
    text = f"## {table.title}\n\n" + (f"{table.about.strip()}\n\n" if table.about else "")
    text += markdown_table(head, lines)
    counts = [len(m.values) for column in grid.values() for m in column]
    missing = len(cells) - len(lines)
    seeds = ", ".join(map(str, table.seeds))
    if table.added_seeds:
        seeds += f" and {', '.join(map(str, table.added_seeds))}, which were added after the first figures,"
    text += f"\nMean ± standard deviation over seeds {seeds}" if len(table.all_seeds) > 1 else f"\nSeed {seeds} only"
    text += "." if min(counts) == len(table.all_seeds) else "; (n): only n of them measured, –: none."
    text += f" {missing} of {len(cells)} cells are not measured yet." if missing else ""
    text += f" Described by `conf/tables/{name}.yaml`.\n"
    text += f"Measured with earlier settings: {table.measured_with}.\n" if table.measured_with else ""
    said = [v for v in verdicts if v.outcome != NOT_MEASURED]
    decimals = {column.key: decimals_of(column) for column in table.columns}
    text += "".join(f"\n- {v.claim.text}: {v.text(decimals[v.claim.column])}" for v in said)
    text += "\n" if said else ""
    if table.plots and any(counts):
        from pipeline.experiments.table_plots import draw

        for number, plot in enumerate(table.plots, start=1):
            column = next(c for c in table.columns if c.key == plot.column)
            path = Path("plots") / f"{name}{number if len(table.plots) > 1 else ''}.svg"
            if draw(recipe / path, plot, heading(column), cells, grid[plot.column]):
                text += f"\n![{table.title}: {heading(column)}]({path.as_posix()})\n"
    return text


def compare(name: str, table: Table, claim: Claim, measured: Sequence[Measured], edited: bool = False) -> Compared:
    """Returns the difference that a claim speaks of, better minus than; no effect where nothing of it was measured.

    Pairs are cells that differ only in the axes of the claim. Where rows have sums by speaker, seeds and speakers are
    taken as random, else seeds alone.

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
        effect = crossed([(first.sums, second.sums) for first, second in pairs])
    if effect is None:
        effect = paired([(first.values, second.values) for first, second in pairs])
    return Compared(name, claim, effect, len(seeds & set(table.added_seeds)), edited)


def heading(column: Column) -> str:
    """Heading of a column: its label, or metric and part."""
    if column.label:
        return column.label
    names = {metric: name for family in FAMILIES.values() for metric, (name, _) in family.items()}
    return " ".join(filter(None, (names.get(column.metric, column.metric.replace("_", " ")), column.part)))


def decimals_of(column: Column) -> int:
    """Digits after the point that a column is shown with."""
    if column.decimals is not None:
        return column.decimals
    return next((family[column.metric][1] for family in FAMILIES.values() if column.metric in family), 3)


def _text(measured: Measured, decimals: int, seeds: int) -> str:
    if not measured.values:
        return "–"
    text = f"{measured.mean:.{decimals}f}"
    if measured.spread is not None:
        text += f" ± {measured.spread:.{decimals}f}"
    return text if len(measured.values) == seeds else f"{text} ({len(measured.values)})"
