"""The rows of a recipe's results.json, collected from its experiment directories and never written by hand.

A step that measures something writes DIR/results.json, a list of rows with the keys of ROW_KEYS, of which only id,
part, metric and value are needed: command, commit and device come from DIR/stamp.json. The recipe's results.json has
all of them and the times of its stages, so that RESULTS.md can be written again where the experiments are gone.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.base.files import read_json, read_jsonl, read_yaml
from pipeline.base.records import OPEN, from_json

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Facts = Mapping[str, Sequence[tuple[str, str]]]  # table -> (metric, DIRECTORY:NAME) of its columns

# What a step leaves for this module: a list of rows.
ROWS = "results.json"
# Marks the directory of a cell of a sweep: {"table": name, "cell": {axis: value}, "seeds": [seed]}.
CELL = "cell.json"

NEEDED = ("id", "part", "metric", "value")
# Sums by speaker, speaker -> [numerator, denominator], whose ratio is the value; the recipe's results.json lacks them.
GROUPS = "groups"
WORDS = ("command", "commit", "device", "dir", "table")
ROW_KEYS = (
    *NEEDED,
    GROUPS,
    "low",
    "high",
    "spread",  # standard deviation, in a row that stands for several seeds
    "counts",
    "seeds",
    "config",
    "command",
    "commit",
    "device",
    "table",
    "cell",
    "dir",
)

SYSTEMS = ("mono", "tri1", "tri2", "tri3", "nhmm", "hybrid", "mmi", "e2e")
PARTS = ("train", "dev", "cv", "test")


def collect(recipe: Path, edited: bool = False, facts: Facts | None = None, keep: bool = False) -> list[Row]:
    """Returns the rows of all results.json below RECIPE/exp, in a fixed order, with what the stamps add.

    Rows of a directory whose inputs have been remade since are left out with a warning: they describe what is no
    longer there. So are rows that were made by edited code, which no commit holds and nobody can repeat.

    Args:
      edited: take the rows of edited code too; RESULTS.md marks their commits.
      facts: table -> the facts of stamps that its columns show, which become rows as well.
      keep: take the rows of RECIPE/results.json too whose directories are not here, see ``stored_rows``.
    Raises:
      DataError: a broken row, or no results at all.
    """
    rows: list[Row] = []
    for path in sorted((recipe / "exp").rglob(ROWS)):
        if any(part.endswith((".tmp", ".old")) for part in path.relative_to(recipe).parts):
            continue
        changed = changed_inputs(path.parent)
        if changed:
            logger.warning("%s: left out, made from another %s than there is now", path.parent, ", ".join(changed))
            continue
        cell = cell_of(path.parent, recipe)
        for row in read_rows(path, recipe):
            if cell:
                row.pop("config", None)  # its table and command say the same, and there are many of them
            rows.append({**row, **cell})
    rows += _fact_rows(recipe, facts or {})
    if keep:
        rows += stored_rows(recipe, {_key(row) for row in rows})
    taken = [row for row in rows if edited or not by_edited_code(row)]
    if len(taken) < len(rows):
        way = "commit the changes and make them again, or look at them with utils/results.py --edited"
        count = len(rows) - len(taken)
        said = f"{recipe}: {count} rows were made by code with uncommitted changes and are left out; {way}"
        if not taken:
            raise DataError(said)
        logger.warning(said)
    if not taken:
        raise DataError(f"{recipe}: no {ROWS} below {recipe / 'exp'}; run the stages that score first")
    return sorted(taken, key=row_order)


def by_edited_code(row: Row) -> bool:
    """Whether a row was made by code with uncommitted changes."""
    return str(row.get("commit", "")).endswith("+")


def stored_rows(recipe: Path, measured: Set[tuple]) -> list[Row]:
    """Returns the rows of RECIPE/results.json whose directories are not here, such as those of another machine.

    Args:
      measured: keys of rows that take the place of stored ones.
    """
    path = recipe / ROWS
    loaded = read_json(path) if path.is_file() else []
    if not isinstance(loaded, list):
        raise DataError(f"{path}: not a list of rows")
    for number, row in enumerate(loaded, start=1):
        check_row(row, f"{path}: row {number}")
    there = {str(row.get("dir")): (recipe / str(row.get("dir"))).is_dir() for row in loaded}
    return [row for row in loaded if "dir" in row and not there[str(row["dir"])] and _key(row) not in measured]


def _key(row: Row) -> tuple:
    """What a row is about."""
    cell = sorted((axis, str(value)) for axis, value in (row.get("cell") or {}).items())
    where = row.get("table") or row.get("dir")
    return (where, tuple(cell), tuple(row.get("seeds") or ()), row["id"], row["part"], row["metric"])


def _fact_rows(recipe: Path, facts: Facts) -> list[Row]:
    """Facts of stamps below the cells of sweeps as rows, whose id is DIRECTORY:NAME."""
    rows = []
    for path in sorted((recipe / "exp").rglob(CELL)):
        cell = read_json(path)
        for metric, fact in facts.get(cell["table"], ()):
            below, _, name = fact.partition(":")
            directory = path.parent / below
            made = stamp.read_stamp(directory) if (directory / stamp.STAMP).is_file() else {}
            value = made.get("facts", {}).get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            row = {"id": fact, "part": "all", "metric": metric, "value": value, **cell}
            more = (made["facts"].get("command_line"), made.get("code", {}).get("revision"), made.get("device"))
            row.update({key: found for key, found in zip(("command", "commit", "device"), more) if found})
            rows.append({**row, "dir": os.path.relpath(directory, recipe)})
    return rows


def cell_of(directory: Path, recipe: Path) -> Row:
    """Returns table, cell and seeds of a directory below a cell of a sweep, see pipeline.experiments.tables; else
    nothing.
    """
    for above in (directory, *directory.parents):
        if (above / CELL).is_file():
            cell = read_json(above / CELL)
            if not isinstance(cell, dict):
                raise DataError(f"{above / CELL}: not an object")
            return cell
        if above == recipe:
            break
    return {}


def read_rows(path: Path, recipe: Path) -> list[Row]:
    """Reads and checks the rows of one results.json; missing keys are filled in from the stamp beside it."""
    loaded = read_json(path)
    if not isinstance(loaded, list):
        raise DataError(f"{path}: not a list of rows")
    made: Mapping[str, Any] = {}
    if (path.parent / stamp.STAMP).is_file():
        made = stamp.read_stamp(path.parent)
    rows = []
    for number, row in enumerate(loaded, start=1):
        check_row(row, f"{path}: row {number}")
        filled = {
            "command": made.get("facts", {}).get("command_line"),
            "commit": made.get("code", {}).get("revision"),
            "device": made.get("device"),
            "config": made.get("options"),
            "dir": os.path.relpath(path.parent, recipe),
            **{key: value for key, value in row.items() if value is not None},
        }
        rows.append({key: filled.get(key) for key in ROW_KEYS if key in NEEDED or filled.get(key) is not None})
        check_row(rows[-1], f"{path.parent / stamp.STAMP}: for row {number}")
    return rows


def check_row(row: Any, where: str) -> None:
    """Raises DataError unless `row` has the needed keys, no unknown ones, and finite numbers."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: not an object")
    missing = [key for key in NEEDED if key not in row]
    unknown = [key for key in row if key not in ROW_KEYS]
    if missing or unknown:
        what = f"no {', '.join(missing)}" if missing else f"unknown {', '.join(unknown)}"
        raise DataError(f"{where}: {what}; a row has {', '.join(ROW_KEYS)}")
    for key in ("id", "part", "metric", *(key for key in WORDS if row.get(key) is not None)):
        if not isinstance(row[key], str) or not row[key]:
            raise DataError(f"{where}: {key} is {row[key]!r}, needed is a word")
    for key in ("value", "low", "high", "spread"):
        number = row.get(key)
        if number is None and key != "value":
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise DataError(f"{where}: {key} is {number!r}, needed is a number")
    if row.get("low") is not None and row.get("high") is not None and row["low"] > row["high"]:
        raise DataError(f"{where}: low {row['low']} is above high {row['high']}")


def changed_inputs(directory: Path) -> list[str]:
    """Returns the names of the inputs of a step's output that are there but are no longer what the step read."""
    if not (directory / stamp.STAMP).is_file():
        return []
    changed, digests = [], stamp.digests_of(directory)
    for name, entry in stamp.read_stamp(directory).get("inputs", {}).items():
        path = directory / entry["path"]
        if os.path.exists(path) and stamp.artifact_id(path, digests) != entry["id"]:
            changed.append(f"{name} ({os.path.normpath(path)})")
    return changed


def read_references(path: Path) -> list[Row]:
    """Reads figures of others to stand beside ours: a YAML list of {id, part, metric, value, source}, and optionally
    a label, a few words that head their column.
    """
    if not path.is_file():
        return []
    loaded = read_yaml(path) or []
    if not isinstance(loaded, list):
        raise DataError(f"{path}: not a list of {{id, part, metric, value, source}}")
    for number, row in enumerate(loaded, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(row, dict) or not isinstance(row.get("source"), str):
            raise DataError(f"{where}: needs id, part, metric, value and source")
        check_row({key: value for key, value in row.items() if key not in ("source", "label")}, where)
    return loaded


@dataclass(frozen=True, config=OPEN)
class _StageTime:
    """A line of stage_times.jsonl."""

    stage: int
    title: str
    seconds: float
    made: int
    ok: bool


def stage_times(path: Path) -> list[dict[str, Any]]:
    """Returns one entry per stage: the latest successful run among those that made the most outputs.

    A run that found everything up to date says nothing about the cost of a stage.

    Args:
      path: stage_times.jsonl as utils/stage.sh writes it.
    Returns:
      dicts with stage, title, seconds, made, in the order of the stages, those that made nothing left out; empty
      without the file.
    """
    best: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(read_jsonl(path) if path.is_file() else (), start=1):
        from_json(_StageTime, entry, Path(f"{path}:{number}"))
        before = best.get(entry["stage"])
        if entry["ok"] and (before is None or entry["made"] >= before["made"]):
            best[entry["stage"]] = entry
    return [best[stage] for stage in sorted(best) if best[stage]["made"]]


def time_rows(times: Sequence[Mapping[str, Any]], device: str) -> list[Row]:
    """Returns the times of stages as rows of results.json."""
    return [
        {
            "id": f"stage_{t['stage']}",
            "part": "all",
            "metric": "seconds",
            "value": t["seconds"],
            "counts": {"made": t["made"]},
            "config": {"title": t["title"]},
            "device": device,
        }
        for t in times
    ]


def stored_times(recipe: Path) -> list[dict[str, Any]]:
    """Returns the times of stages that RECIPE/results.json has, as ``stage_times`` does."""
    path = recipe / ROWS
    found = []
    for row in read_json(path) if path.is_file() else []:
        if re.fullmatch(r"stage_\d+", row["id"]) and row.get("config") and row.get("counts"):
            time = {"title": row["config"]["title"], "seconds": row["value"], "made": row["counts"]["made"]}
            found.append({"stage": int(row["id"].partition("_")[2]), **time})
    return found


def row_order(row: Row) -> tuple:
    """Systems in the order in which they build on each other, parts from train to test, then by name."""
    system = next((i for i, name in enumerate(SYSTEMS) if row["id"].startswith(name)), len(SYSTEMS))
    part = PARTS.index(row["part"]) if row["part"] in PARTS else len(PARTS)
    rest = (row["metric"], str(row.get("table", "")), str(row.get("cell", "")), row.get("dir", ""))
    return ((system, row["id"]), (part, row["part"]), *rest)
