"""Sweeps: a grid of settings and seeds described by a YAML file, run where cells are missing, shown as a table.

A file RECIPE/conf/tables/NAME.yaml has the fields of Table. Each cell, that is each combination of the values of the
axes, is run with each seed in RECIPE/exp/tables/NAME/<cell>_seed<N>, which stands as {dir} in the commands.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

import pipeline
from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.base.files import read_yaml, write_json
from pipeline.experiments.jobs import Job, run_jobs
from pipeline.experiments.report import CELL, FAMILIES, Row, markdown_table

logger = logging.getLogger(__name__)

NOT_MEASURED = "not measured"
ROOT = Path(pipeline.__file__).resolve().parent.parent
Scalar = bool | int | float | str | None
Cell = dict[str, Scalar]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Column:
    """A measured quantity: a metric of a part, or a fact from the stamp of a directory below that of the cell."""

    metric: str = Field(description="Metric of a result row, or a free name together with `fact`.")
    part: str | None = Field(default=None, description="Part of the data; None takes any.")
    id: str | None = Field(default=None, description="Id of the rows, with {axis} filled in; None takes any.")
    fact: str | None = Field(default=None, description="DIRECTORY:NAME of a fact in DIRECTORY/stamp.json.")
    label: str | None = Field(default=None, description="Heading of the column.")
    decimals: int | None = Field(default=None, ge=0, description="Digits after the point.")

    @property
    def key(self) -> str:
        """How claims, plots and figures of others name the column: "wer" or "wer/test"."""
        return f"{self.metric}/{self.part}" if self.part else self.metric


@dataclass(frozen=True, config=STRICT)
class Known:
    """A figure of others for cells that match."""

    cell: dict[str, Scalar] = Field(description="Axis -> value; axes that are not given match any value.")
    column: str = Field(description="Key of the column.")
    value: float = Field(description="The figure.")


@dataclass(frozen=True, config=STRICT)
class Claim:
    """A direction to be tested: the column is better in one set of cells than in another."""

    text: str = Field(description="The claim in words.")
    column: str = Field(description="Key of the column.")
    better: dict[str, Scalar] = Field(description="Axis -> value of the cells that should be better.")
    than: dict[str, Scalar] = Field(description="Axis -> value of the cells to compare with.")
    lower: bool = Field(default=True, description="Whether lower is better.")


@dataclass(frozen=True, config=STRICT)
class Plot:
    """A picture of one column."""

    column: str = Field(description="Key of the column.")
    x: str = Field(description="Axis along x.")
    y: str | None = Field(default=None, description="Axis along y: a map in colours instead of lines.")
    series: str | None = Field(default=None, description="Axis whose values become lines.")
    log_x: bool = Field(default=False, description="Logarithmic x.")


@dataclass(frozen=True, config=STRICT)
class Command:
    """A command of some cells only."""

    run: str = Field(description="The command.")
    when: dict[str, Scalar] = Field(description="Axis -> value of the cells that need it.")


@dataclass(frozen=True, config=STRICT)
class Table:
    """A sweep as the YAML file describes it."""

    title: str = Field(description="Heading.")
    axes: dict[str, list[Scalar] | dict[str, dict[str, Scalar]]] = Field(
        description="Axis -> list of values, or value -> further variables, which may hold {seed} and {dir} themselves."
    )
    commands: tuple[str | Command, ...] = Field(
        min_length=1, description="Commands of a cell, with {axis}, {variable}, {seed}, {dir}."
    )
    columns: tuple[Column, ...] = Field(min_length=1, description="What is shown.")
    about: str = Field(default="", description="Text below the heading: source, setting.")
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1, description="Seeds of each cell.")
    exclude: tuple[dict[str, Scalar], ...] = Field(
        default=(), description="Cells to leave out, by some of their values."
    )
    known: tuple[Known, ...] = Field(default=(), description="Figures of others.")
    claims: tuple[Claim, ...] = Field(default=(), description="Directions to test.")
    plots: tuple[Plot, ...] = Field(default=(), description="Pictures.")

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        shown = [item.column for items in (self.known, self.claims, self.plots) for item in items]
        for name in shown:
            if name not in keys:
                raise ValueError(f"no column {name!r}; there are {', '.join(keys)}")
        cells = [*(k.cell for k in self.known), *self.exclude]
        cells += [command.when for command in self.commands if isinstance(command, Command)]
        cells += [cell for claim in self.claims for cell in (claim.better, claim.than)]
        for cell in cells:
            for axis, value in cell.items():
                if axis not in self.axes or value not in list(self.axes[axis]):
                    raise ValueError(f"{{{axis}: {value}}} is no value of an axis")
        for plot in self.plots:
            for of_plot in (plot.x, plot.y, plot.series):
                if of_plot is not None and of_plot not in self.axes:
                    raise ValueError(f"no axis {of_plot!r}; there are {', '.join(self.axes)}")

    def cells(self) -> Iterator[Cell]:
        """Yields axis -> value for each cell, in the order of the file."""
        for values in itertools.product(*(list(axis) for axis in self.axes.values())):
            cell = dict(zip(self.axes, values))
            if not any(matches(cell, excluded) for excluded in self.exclude):
                yield cell

    def variables(self, cell: Cell) -> dict[str, Scalar]:
        """Returns what may stand in braces in the commands of a cell, without dir and seed."""
        found: dict[str, Scalar] = dict(cell)
        for axis, value in cell.items():
            values = self.axes[axis]
            if isinstance(values, dict):
                found.update(values[str(value)])
        return found


def load_table(path: Path) -> Table:
    """Reads and checks a table file; every mistake is a DataError that names the place."""
    loaded = read_yaml(path)
    try:
        table = pydantic.TypeAdapter(Table).validate_python(loaded)
        for cell in table.cells():
            cell_commands(table, cell, 1, Path("dir"))
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None
    except DataError as err:
        raise DataError(f"{path}: {err}") from None
    return table


def load_tables(recipe: Path, names: Sequence[str] = ()) -> dict[str, Table]:
    """Returns name -> table for RECIPE/conf/tables/*.yaml, or for the names given."""
    folder = recipe / "conf" / "tables"
    paths = [folder / f"{name}.yaml" for name in names] if names else sorted(folder.glob("*.yaml"))
    return {path.stem: load_table(path) for path in paths}


def matches(cell: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """True when the cell has all the values of `wanted`."""
    return all(cell.get(axis) == value for axis, value in wanted.items())


def cell_dir(name: str, cell: Cell, seed: int) -> Path:
    """Directory of a cell and seed, relative to the recipe."""
    parts = [f"{axis}={value}" for axis, value in cell.items()]
    return Path("exp", "tables", name, re.sub(r"[^\w=.+-]", "-", "_".join([*parts, f"seed{seed}"])))


def cell_commands(table: Table, cell: Cell, seed: int, directory: Path) -> list[str]:
    """Returns the commands of a cell with everything in braces filled in; an unknown name is a DataError."""
    own = {"seed": str(seed), "dir": str(directory)}
    known = {**table.variables(cell), **own}

    def fill(match: re.Match) -> str:
        if match[1] not in known:
            raise DataError(f"commands: {{{match[1]}}} is no axis or variable; there are {', '.join(known)}")
        return shlex.quote(re.sub(r"\{(seed|dir)\}", lambda inner: own[inner[1]], str(known[match[1]])))

    chosen = [c for c in table.commands if isinstance(c, str) or matches(cell, c.when)]
    return [re.sub(r"\{(\w+)\}", fill, c if isinstance(c, str) else c.run) for c in chosen]


def run_table(
    recipe: Path, name: str, table: Table, parallel: int = 1, threads: int = 1, overwrite: bool = False
) -> list[str]:
    """Runs the cells of a table, `parallel` at a time; steps that are up to date cost next to nothing.

    Returns:
      names of the cells that failed; their logs are RECIPE/exp/tables/NAME/log/CELL.log.
    """
    jobs = []
    for cell, seed in itertools.product(table.cells(), table.seeds):
        directory = cell_dir(name, cell, seed)
        write_json(recipe / directory / CELL, {"table": name, "cell": cell, "seeds": [seed]})
        lines = ["set -euo pipefail"]
        for command in cell_commands(table, cell, seed, directory):
            lines.append(_locate(command, recipe) + (" --overwrite" if overwrite else ""))
        jobs.append(Job(directory.name, "\n".join(lines)))
    outcomes = run_jobs(jobs, recipe / "exp" / "tables" / name / "log", parallel, threads, recipe)
    return [outcome.job.name for outcome in outcomes if outcome.code]


def _locate(command: str, recipe: Path) -> str:
    """Puts the root of the project before a script that is not the recipe's own."""
    script, _, rest = command.strip().partition(" ")
    if not (recipe / script).exists() and (ROOT / script).exists():
        script = shlex.quote(str(ROOT / script))
    return f"{script} {rest}"


@dataclasses.dataclass
class Measured:
    """Values of one column in one cell: seed -> value."""

    values: dict[int, float]

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
    values: dict[int, float] = {}
    wanted = re.sub(r"\{(\w+)\}", lambda m: str(table.variables(cell).get(m[1], m[0])), column.id or "")
    for seed in table.seeds:
        directory = recipe / cell_dir(name, cell, seed)
        if column.fact is not None:
            below, _, fact = column.fact.partition(":")
            if (directory / below / stamp.STAMP).is_file():
                value = stamp.read_stamp(directory / below).get("facts", {}).get(fact)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    values[seed] = float(value)
            continue
        found = [
            row["value"]
            for row in rows
            if row.get("table") == name and row.get("cell") == cell and row.get("seeds") == [seed]
            if row["metric"] == column.metric and column.part in (None, row["part"]) and wanted in ("", row["id"])
        ]
        if len(found) > 1:
            raise DataError(f"{directory}: {len(found)} rows for column {column.key}; give its part or id")
        if found:
            values[seed] = found[0]
    return Measured(values)


def shown(recipe: Path) -> Callable[[Row], bool]:
    """Returns a test for rows: true for those outside of sweeps and for those that a column of their table shows."""
    columns = {(name, c.metric, c.part) for name, table in load_tables(recipe).items() for c in table.columns}

    def test(row: Row) -> bool:
        table = row.get("table")
        return table is None or any((table, row["metric"], part) in columns for part in (row["part"], None))

    return test


def sections(recipe: Path, rows: Sequence[Row]) -> list[str]:
    """Returns one Markdown section per table of the recipe that has been measured, and draws its pictures."""
    made = []
    for name, table in load_tables(recipe).items():
        if any(row.get("table") == name for row in rows) or (recipe / "exp" / "tables" / name).is_dir():
            made.append(table_section(recipe, name, table, rows))
    return made


def table_section(recipe: Path, name: str, table: Table, rows: Sequence[Row]) -> str:
    """Returns the Markdown of one table: cells, what of the claims holds, pictures."""
    cells = list(table.cells())
    grid = {c.key: [measure(recipe, name, table, rows, cell, c) for cell in cells] for c in table.columns}
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
            line.append(_text(grid[column.key][i], _decimals(column), len(table.seeds)))
            figures = [k for k in table.known if k.column == column.key]
            if figures:
                line.append(", ".join(f"{k.value:g}" for k in figures if matches(cell, k.cell)))
        lines.append(line)
    text = f"## {table.title}\n\n" + (f"{table.about.strip()}\n\n" if table.about else "")
    text += markdown_table(head, lines)
    counts = [len(m.values) for column in grid.values() for m in column]
    missing = len(cells) - len(lines)
    seeds = ", ".join(map(str, table.seeds))
    text += f"\nMean ± standard deviation over seeds {seeds}" if len(table.seeds) > 1 else f"\nSeed {seeds} only"
    text += "." if min(counts) == len(table.seeds) else "; (n): only n of them measured, –: none."
    text += f" {missing} of {len(cells)} cells are not measured yet." if missing else ""
    text += f" Described by `conf/tables/{name}.yaml`.\n"
    verdicts = [(claim.text, verdict(claim, cells, grid[claim.column])) for claim in table.claims]
    text += "".join(f"\n- {claim}: {said}" for claim, said in verdicts if said != NOT_MEASURED)
    text += "\n" if verdicts else ""
    if table.plots and any(counts):
        from pipeline.experiments.table_plots import draw

        for number, plot in enumerate(table.plots, start=1):
            column = next(c for c in table.columns if c.key == plot.column)
            path = Path("plots") / f"{name}{number if len(table.plots) > 1 else ''}.svg"
            if draw(recipe / path, plot, heading(column), cells, grid[plot.column]):
                text += f"\n![{table.title}: {heading(column)}]({path.as_posix()})\n"
    return text


def verdict(claim: Claim, cells: Sequence[Cell], measured: Sequence[Measured]) -> str:
    """Says whether a claim holds, by the mean of paired differences and its 95 % t-interval over the seeds.

    Pairs are cells that differ only in the axes of the claim; for each seed their differences are averaged.
    """
    from scipy.stats import t

    axes = {*claim.better, *claim.than}
    by_seed: dict[int, list[float]] = {}
    for cell, values in zip(cells, measured):
        if not matches(cell, claim.better):
            continue
        for other, reference in zip(cells, measured):
            rest = {axis: value for axis, value in cell.items() if axis not in axes}
            if matches(other, claim.than) and matches(other, rest):
                for seed in sorted(values.values.keys() & reference.values.keys()):
                    by_seed.setdefault(seed, []).append(values.values[seed] - reference.values[seed])
    differences = [sum(d) / len(d) for _, d in sorted(by_seed.items())]
    if not differences:
        return NOT_MEASURED
    number = len(differences)
    mean = sum(differences) / number
    if number < 3:
        return f"difference {mean:+.2f} over {number} seed{'s' * (number > 1)}, too few to say"
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (number - 1))
    half = float(t.ppf(0.975, number - 1)) * spread / math.sqrt(number)
    text = f"difference {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}] over {number} seeds"
    if mean - half <= 0 <= mean + half:
        return f"**not significant**; {text}"
    return f"**{'reproduced' if (mean < 0) == claim.lower else 'the opposite'}**; {text}"


def heading(column: Column) -> str:
    """Heading of a column: its label, or metric and part."""
    if column.label:
        return column.label
    names = {metric: name for family in FAMILIES.values() for metric, (name, _) in family.items()}
    return " ".join(filter(None, (names.get(column.metric, column.metric.replace("_", " ")), column.part)))


def _decimals(column: Column) -> int:
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
