"""RESULTS.md and results.json of a recipe, collected from the experiment directories and never written by hand.

A step that measures something writes DIR/results.json, a list of rows with the keys of ROW_KEYS, of which only id,
part, metric and value are needed: command, commit and device come from DIR/stamp.json.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_json, read_jsonl, read_yaml, write_json
from pipeline.base.log import duration

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# What a step leaves for this module: a list of rows.
ROWS = "results.json"
# Marks the directory of a cell of a sweep: {"table": name, "cell": {axis: value}, "seeds": [seed]}.
CELL = "cell.json"

NEEDED = ("id", "part", "metric", "value")
# Sums by speaker, speaker -> [numerator, denominator], whose ratio is the value; the recipe's results.json lacks them.
GROUPS = "groups"
ROW_KEYS = (
    *NEEDED,
    GROUPS,
    "low",
    "high",
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

# Title and metrics of each table of RESULTS.md: metric -> (column, decimals). What is not listed comes last.
FAMILIES: dict[str, dict[str, tuple[str, int]]] = {
    "Error rates": {
        "wer": ("WER %", 2),
        "ser": ("sentence errors %", 2),
        "per": ("PER %", 2),
        "cer": ("CER %", 2),
        "frame_error": ("frame errors %", 2),
    },
    "Alignments against reference times": {
        "tse_ms": ("TSE ms", 1),
        "boundary_mae_ms": ("phone boundaries ms", 1),
        "word_boundary_mae_ms": ("word boundaries ms", 1),
        "within_10ms": ("within 10 ms %", 1),
        "within_20ms": ("within 20 ms %", 1),
        "within_50ms": ("within 50 ms %", 1),
        "silence_share": ("silence %", 1),
    },
    "Phone starts against reference times": {
        "start_mae_ms": ("phone starts ms", 1),
        "start_within_20ms": ("starts within 20 ms %", 1),
    },
    "Speed": {"seconds": ("seconds", 1), "rtf": ("real-time factor", 3)},
}
# What a reader has to know of a table.
NOTES = {
    "Alignments against reference times": (
        "Reference: exact or hand-made times where the corpus has them (egs/tiny, egs/timit), else the alignment "
        "of the GMM. TSE is over "
        "the utterances whose phones agree in number with the reference (scored), boundaries over all phones "
        "that match."
    ),
}
# Variants of the alignment metrics that would hide the table they stand in; results.json has them.
DETAILS = re.compile(r"(word_)?(start|end)_\w+|word_within_\w+")
# Their intervals follow from the others' and would make the lines too long to read.
NO_INTERVAL = re.compile(r"within_\w+|silence_share|word_boundary_mae_ms")
MANY_COMMITS = 10
SYSTEMS = ("mono", "tri1", "tri2", "tri3", "nhmm", "hybrid", "mmi", "e2e")
PARTS = ("train", "dev", "test")


def collect(recipe: Path, edited: bool = False) -> list[Row]:
    """Returns the rows of all results.json below RECIPE/exp, in a fixed order, with what the stamps add.

    Rows of a directory whose inputs have been remade since are left out with a warning: they describe what is no
    longer there. So are rows that were made by edited code, which no commit holds and nobody can repeat.

    Args:
      edited: take the rows of edited code too; RESULTS.md marks their commits.
    Raises:
      DataError: a broken row, or no results at all.
    """
    rows: list[Row] = []
    refused = 0
    for path in sorted((recipe / "exp").rglob(ROWS)):
        if any(part.endswith((".tmp", ".old")) for part in path.relative_to(recipe).parts):
            continue
        changed = changed_inputs(path.parent)
        if changed:
            logger.warning("%s: left out, made from another %s than there is now", path.parent, ", ".join(changed))
            continue
        cell = cell_of(path.parent, recipe)
        for row in read_rows(path, recipe):
            if not edited and str(row.get("commit", "")).endswith("+"):
                refused += 1
                continue
            if cell:
                row.pop("config", None)  # its table and command say the same, and there are many of them
            rows.append({**row, **cell})
    if refused:
        way = "commit the changes and make them again, or look at them with utils/results.py --edited"
        said = f"{recipe}: {refused} rows were made by code with uncommitted changes and are left out; {way}"
        if not rows:
            raise DataError(said)
        logger.warning(said)
    if not rows:
        raise DataError(f"{recipe}: no {ROWS} below {recipe / 'exp'}; run the stages that score first")
    return sorted(rows, key=_order)


def cell_of(directory: Path, recipe: Path) -> Row:
    """Returns table, cell and seeds of a directory below a cell of a sweep, see pipeline.experiments.tables; else
    nothing.
    """
    for above in (directory, *directory.parents):
        if (above / CELL).is_file():
            return read_json(above / CELL)
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
    for key in ("id", "part", "metric"):
        if not isinstance(row[key], str) or not row[key]:
            raise DataError(f"{where}: {key} is {row[key]!r}, needed is a word")
    for key in ("value", "low", "high"):
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
        if path.exists() and stamp.artifact_id(path, digests) != entry["id"]:
            changed.append(f"{name} ({os.path.normpath(path)})")
    return changed


def read_references(path: Path) -> list[Row]:
    """Reads figures of others to stand beside ours: a YAML list of {id, part, metric, value, source}."""
    if not path.is_file():
        return []
    loaded = read_yaml(path) or []
    if not isinstance(loaded, list):
        raise DataError(f"{path}: not a list of {{id, part, metric, value, source}}")
    for number, row in enumerate(loaded, start=1):
        where = f"{path}: entry {number}"
        if not isinstance(row, dict) or not isinstance(row.get("source"), str):
            raise DataError(f"{where}: needs id, part, metric, value and source")
        check_row({key: value for key, value in row.items() if key != "source"}, where)
    return loaded


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
        if not isinstance(entry, dict) or not {"stage", "title", "seconds", "made", "ok"} <= set(entry):
            raise DataError(f"{path}:{number}: needs stage, title, seconds, made, ok")
        before = best.get(entry["stage"])
        if entry["ok"] and (before is None or entry["made"] >= before["made"]):
            best[entry["stage"]] = entry
    return [best[stage] for stage in sorted(best) if best[stage]["made"]]


def write_report(
    recipe: Path,
    title: str | None = None,
    extra: Callable[[Path, list[Row]], Sequence[str]] | None = None,
    keep: Callable[[Row], bool] | None = None,
    edited: bool = False,
) -> list[Row]:
    """Writes RECIPE/results.json and RECIPE/RESULTS.md and returns the rows.

    Args:
      recipe: directory of the recipe, with exp/ and, optionally, conf/references.yaml.
      title: heading; the name of the directory when not given.
      extra: makes further sections (Markdown) of the recipe and its rows, such as table_report.sections.
      keep: which rows are of interest, such as table_report.shown; all when not given.
      edited: take rows of edited code too, see collect.
    """
    rows = [row for row in collect(recipe, edited) if keep is None or keep(row)]
    references = read_references(recipe / "conf" / "references.yaml")
    times = stage_times(recipe / "exp" / "stage_times.jsonl")
    device = next((row["device"] for row in rows if row.get("device")), stamp.cpu_name())
    measured = [
        {"id": f"stage_{t['stage']}", "part": "all", "metric": "seconds", "value": t["seconds"], "device": device}
        for t in times
    ]
    kept = [{key: value for key, value in row.items() if key != GROUPS} for row in rows]
    write_json(recipe / "results.json", kept + measured)
    single = [row for row in rows if "table" not in row]
    name = title or recipe.resolve().name
    sections = [_head(name, rows), *result_tables(single, references)]
    sections += extra(recipe, rows) if extra else []
    sections += [_times_table(times)] if times else []
    with atomic_write(recipe / "RESULTS.md") as out:
        out.write("\n".join(sections))
    return rows


def result_tables(rows: Sequence[Row], references: Sequence[Row] = ()) -> list[str]:
    """Returns one Markdown section per family of metrics, one line per system and part, one column per metric."""
    listed = {metric for family in FAMILIES.values() for metric in family}
    others = sorted(m for m in {row["metric"] for row in rows} - listed if not DETAILS.fullmatch(m))
    families = {**FAMILIES, "Other measurements": {metric: (metric.replace("_", " "), 3) for metric in others}}
    sections = []
    for title, metrics in families.items():
        mine = [row for row in rows if row["metric"] in metrics]
        theirs = [row for row in references if row["metric"] in metrics]
        if mine:
            sections.append(_family_table(title, metrics, mine, theirs))
    return sections


def _family_table(title: str, metrics: Mapping[str, tuple[str, int]], rows: list[Row], theirs: list[Row]) -> str:
    present = [metric for metric in metrics if any(r["metric"] == metric for r in [*rows, *theirs])]
    lines: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((*_order(row)[:2], row["id"], row["part"], row.get("dir", "")), {})[row["metric"]] = row
    known = {(key[2], key[3]) for key in lines}
    for row in theirs:
        if (row["id"], row["part"]) not in known:
            lines.setdefault((*_order(row)[:2], row["id"], row["part"], ""), {})
    sources = list(dict.fromkeys(row["source"] for row in theirs))
    with_counts = any(row.get("counts") is not None for row in rows)
    head = ["system", "part", *(metrics[m][0] for m in present)]
    head += ["counts"] if with_counts else []
    head += [f"reference {_letter(i)}" for i in range(len(sources))] + ["directory"]
    table = []
    for key in sorted(lines, key=lambda k: (*k[:2], k[4])):
        cells = [key[2], key[3]]
        for metric in present:
            measured = lines[key].get(metric)
            cells.append(value_text(measured, metrics[metric][1]) if measured else "")
        if with_counts:
            counts = [counts_text(lines[key][m].get("counts", {})) for m in present if m in lines[key]]
            cells.append("; ".join(list(dict.fromkeys(filter(None, counts)))[:2]))
        for source in sources:
            match = [r for r in theirs if r["source"] == source and (r["id"], r["part"]) == (key[2], key[3])]
            several = len(present) > 1
            text = [
                f"{metrics[r['metric']][0]} " * several + f"{r['value']:.{metrics[r['metric']][1]}f}" for r in match
            ]
            cells.append(", ".join(text))
        table.append([*cells, f"`{key[4]}`" if key[4] else ""])
    notes = [f"\nReference {_letter(i)}: {source}." for i, source in enumerate(sources)]
    intervals = "\nIn brackets: 95 % interval." if any("low" in row for row in rows) else ""
    about = f"\n{NOTES[title]}" if title in NOTES else ""
    return f"## {title}\n\n{markdown_table(head, table)}{intervals}{about}{''.join(notes)}\n"


def value_text(row: Row, decimals: int) -> str:
    """ "5.95 [4.31, 7.80]", the interval where there is one."""
    text = f"{row['value']:.{decimals}f}"
    if NO_INTERVAL.fullmatch(row["metric"]):
        return text
    if row.get("low") is not None and row.get("high") is not None:
        text += f" [{row['low']:.{decimals}f}, {row['high']:.{decimals}f}]"
    return text


def counts_text(counts: Any) -> str:
    """Counts for people: "46 / 773, 3 ins, 3 dels, 40 subs" for error counts, "name number" for others."""
    if not isinstance(counts, Mapping):
        return str(counts)
    rest = {key: value for key, value in counts.items() if value or key in ("ins", "dels", "subs", "errors")}
    texts = []
    whole = next((key for key in ("words", "phones", "ref", "total") if key in rest), None)
    if "errors" in rest and whole:
        texts.append(f"{rest.pop('errors'):,} / {rest.pop(whole):,}")
    for key, value in rest.items():
        number = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
        texts.append(f"{number} {key}")
    return ", ".join(texts)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table with columns of equal width, so that it reads well as text too."""
    body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, len(name), *(len(row[i]) for row in body)) if body else len(name) for i, name in enumerate(head)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([line(list(head)), rule, *map(line, body)]) + "\n"


def _head(name: str, rows: Sequence[Row]) -> str:
    devices = sorted({row["device"] for row in rows if row.get("device")})
    commits = sorted({row["commit"] for row in rows if row.get("commit")})
    text = f"# Results: {name}\n\nWritten by `utils/results.py` from the experiment directories; not edited by hand.\n"
    text += "Each row with its command, options and commit stands in [results.json](results.json).\n"
    if devices:
        text += f"\nMachine: {'; '.join(devices)}.\n"
    if len(commits) > MANY_COMMITS:
        text += f"Made at {len(commits)} commits; see results.json.\n"
    elif commits:
        text += f"Commit: {', '.join(commits)}.\n"
    if any(commit.endswith("+") for commit in commits):
        text += "A commit with + had uncommitted changes, so its rows cannot be repeated.\n"
    return text


def _times_table(times: Sequence[Mapping[str, Any]]) -> str:
    table = [[str(t["stage"]), t["title"], duration(t["seconds"]), str(t["made"])] for t in times]
    text = markdown_table(["stage", "title", "time", "outputs made"], table)
    about = (
        "Of each stage the successful run that made the most outputs; what was made in parts or by hand is not counted."
    )
    return f"## Times per stage\n\n{text}\n{about}\n"


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index % 26]


def _order(row: Row) -> tuple:
    """Systems in the order in which they build on each other, parts from train to test, then by name."""
    system = next((i for i, name in enumerate(SYSTEMS) if row["id"].startswith(name)), len(SYSTEMS))
    part = PARTS.index(row["part"]) if row["part"] in PARTS else len(PARTS)
    rest = (row["metric"], str(row.get("table", "")), str(row.get("cell", "")), row.get("dir", ""))
    return ((system, row["id"]), (part, row["part"]), *rest)
