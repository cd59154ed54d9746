"""Sweeps: a grid of settings and seeds described by a YAML file, run where cells are missing, shown as a table.

A file RECIPE/conf/tables/NAME.yaml has the fields of Table. Each cell, that is each combination of the values of the
axes, is run with each seed in RECIPE/exp/tables/NAME/<cell>_seed<N>, which stands as {dir} in the commands.
"""

from __future__ import annotations

import itertools
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

import pipeline
from pipeline.base.errors import DataError
from pipeline.base.files import read_yaml, write_json
from pipeline.experiments.claims import Claim
from pipeline.experiments.jobs import Job, run_jobs
from pipeline.experiments.report import CELL

logger = logging.getLogger(__name__)

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
    when: dict[str, Scalar | list[Scalar]] = Field(description="Axis -> value, or values, of the cells that need it.")


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
    measured_with: str = Field(
        default="",
        description="Earlier settings that the figures in results.json still have; to be taken out when remade.",
    )
    minutes: float | None = Field(
        default=None, gt=0, description="Processor time of a cell and seed, about, for those who think of running it."
    )
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1, description="Planned seeds of each cell.")
    added_seeds: tuple[int, ...] = Field(
        default=(), description="Further seeds that were decided on after figures had been seen; results say so."
    )
    exclude: tuple[dict[str, Scalar], ...] = Field(
        default=(), description="Cells to leave out, by some of their values."
    )
    known: tuple[Known, ...] = Field(default=(), description="Figures of others.")
    claims: tuple[Claim, ...] = Field(default=(), description="Directions to test.")
    plots: tuple[Plot, ...] = Field(default=(), description="Pictures.")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Planned and added."""
        return self.seeds + self.added_seeds

    def __post_init__(self) -> None:
        if len(set(self.all_seeds)) < len(self.all_seeds):
            raise ValueError("a seed stands twice among seeds and added_seeds")
        keys = [column.key for column in self.columns]
        shown = [item.column for items in (self.known, self.claims, self.plots) for item in items]
        for name in shown:
            if name not in keys:
                raise ValueError(f"no column {name!r}; there are {', '.join(keys)}")
        cells: list[Mapping[str, Any]] = [*(k.cell for k in self.known), *self.exclude]
        cells += [command.when for command in self.commands if isinstance(command, Command)]
        cells += [cell for claim in self.claims for cell in (claim.better, claim.than)]
        for cell in cells:
            for axis, wanted in cell.items():
                for value in _listed(wanted):
                    if axis not in self.axes or value not in list(self.axes[axis]):
                        raise ValueError(f"{{{axis}: {value}}} is no value of an axis")
        variables = [v for axis in self.axes.values() if isinstance(axis, dict) for v in axis.values()]
        for name, value in (item for found in variables for item in found.items()):
            if isinstance(value, str) and re.match(r"--\S+\s", value):
                raise ValueError(f"{name}: {value!r} would be one word; options need variables of their own")
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
    """True when the cell has all the values of `wanted`; of a list, one of them."""
    return all(cell.get(axis) in _listed(value) for axis, value in wanted.items())


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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


def chosen(table: Table, only: Sequence[str]) -> list[Cell]:
    """Returns the cells that have one of the values given for each axis that is named; all cells where none is.

    Args:
      only: AXIS=VALUE, any number of each axis.
    Raises:
      DataError: no axis or value of that name.
    """
    wanted: dict[str, set[str]] = {}
    for text in only:
        axis, _, value = text.partition("=")
        if axis not in table.axes or value not in map(str, table.axes[axis]):
            there = "; ".join(f"{name}={', '.join(map(str, values))}" for name, values in table.axes.items())
            raise DataError(f"no cells with {text}; there are {there}")
        wanted.setdefault(axis, set()).add(value)
    return [cell for cell in table.cells() if all(str(cell[axis]) in values for axis, values in wanted.items())]


def run_table(
    recipe: Path,
    name: str,
    table: Table,
    parallel: int = 1,
    threads: int = 1,
    overwrite: bool = False,
    only: Sequence[str] = (),
) -> list[str]:
    """Runs the cells of a table, `parallel` at a time; steps that are up to date cost next to nothing. Seeds come one
    after the other, each in all cells: pairs of runs, which the claims compare, are there before all has been run.

    Args:
      only: see ``chosen``.
    Returns:
      names of the cells that failed; their logs are RECIPE/exp/tables/NAME/log/CELL.log.
    """
    jobs = []
    for seed, cell in itertools.product(table.all_seeds, chosen(table, only)):
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
