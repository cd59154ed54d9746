"""RESULTS.md of a recipe: one table for each question, with names and units that need no knowledge of the code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base import stamp
from pipeline.base.files import atomic_write, write_json
from pipeline.base.log import duration
from pipeline.experiments.report import (
    GROUPS,
    PARTS,
    ROWS,
    Facts,
    Row,
    collect,
    read_references,
    row_order,
    stage_times,
    stored_times,
    time_rows,
)
from pipeline.experiments.system_names import system_name


class Metric(NamedTuple):
    """How a metric is shown: its name, unit and digits after the point."""

    name: str
    unit: str
    decimals: int

    @property
    def heading(self) -> str:
        """Name and unit: "WER (%)"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


# Metrics of which each has a table of its own, with a column for each part of the data: metric -> title, metric.
SINGLE: dict[str, tuple[str, Metric]] = {
    "wer": ("Word error rates", Metric("WER", "%", 2)),
    "ser": ("Sentence error rates", Metric("sentences with errors", "%", 2)),
    "per": ("Phone error rates", Metric("PER", "%", 2)),
    "cer": ("Character error rates", Metric("CER", "%", 2)),
    "frame_error": ("Frame error rates", Metric("frame errors", "%", 2)),
    "gap_closed": ("Gaps closed by pseudo-labels", Metric("gap closed", "%", 1)),
    "rtf": ("Decoding speed", Metric("real-time factor", "", 3)),
}
# Metrics that share a table, with a line for each part.
TOGETHER: dict[str, dict[str, Metric]] = {
    "Distance of alignments from the reference times": {
        "tse_ms": Metric("TSE", "ms", 1),
        "boundary_mae_ms": Metric("phone boundaries", "ms", 1),
        "word_boundary_mae_ms": Metric("word boundaries", "ms", 1),
        "within_10ms": Metric("within 10 ms", "%", 1),
        "within_20ms": Metric("within 20 ms", "%", 1),
        "within_50ms": Metric("within 50 ms", "%", 1),
        "silence_share": Metric("silence", "%", 1),
    },
    "Distance of phone starts from the reference times": {
        "start_mae_ms": Metric("phone starts", "ms", 1),
        "start_within_20ms": Metric("within 20 ms", "%", 1),
    },
    "Times": {"seconds": Metric("time", "s", 1)},
}
FAMILIES: dict[str, dict[str, Metric]] = {title: {name: about} for name, (title, about) in SINGLE.items()} | TOGETHER
METRICS: dict[str, Metric] = {name: about for family in FAMILIES.values() for name, about in family.items()}
# What a reader has to know of a table.
NOTES = {
    "Decoding speed": "Seconds of computation for a second of speech.",
    "Gaps closed by pseudo-labels": (
        "How many of the word errors that all transcripts save against the transcripts of some speakers are saved by "
        "pseudo-labels of the others as well (stage 11, docs/semisupervised.md)."
    ),
    "Distance of alignments from the reference times": (
        "Mean absolute distances. TSE, the time stamp error of Mann et al. 2023: starts and ends of phones, over the "
        "utterances whose phones agree in number with the reference. Boundaries and shares within 10, 20 and 50 ms: "
        "over all phones that match. The reference times are exact or made by hand where the corpus has them (tiny, "
        "timit); elsewhere they are the alignment of the GMM."
    ),
}
# Variants of the alignment metrics that would hide the table they stand in; results.json has them.
DETAILS = re.compile(r"(word_)?(start|end)_\w+|word_within_\w+")
# Their intervals follow from the others' and would make the lines too long to read.
NO_INTERVAL = re.compile(r"(start_)?within_\w+|silence_share|word_boundary_mae_ms")
PARTS_SAY = {
    "cv": "cv: the training speakers, one group after the other by models that did not see it",
    "sample": "sample: all speakers",
    "tuned": "tuned: the half of the speakers on whom settings were chosen",
    "unseen": "unseen: the other half",
    "test_new": "test_new: those utterances of test whose text is not in the training data",
}
MANY_COMMITS = 4
Sections = Callable[[Path, list[Row]], Sequence[str]]


def write_report(
    recipe: Path,
    title: str | None = None,
    extra: Sections | None = None,
    take: Callable[[Row], bool] | None = None,
    edited: bool = False,
    facts: Facts | None = None,
    keep: bool = False,
) -> list[Row]:
    """Writes RECIPE/results.json and RECIPE/RESULTS.md and returns the rows.

    Args:
      recipe: directory of the recipe, with exp/ and, optionally, conf/references.yaml.
      title: heading; the name of the directory when not given.
      extra: makes further sections (Markdown) of the recipe and its rows, such as table_report.sections.
      take: which rows are of interest, such as table_report.shown; all when not given.
      edited, facts, keep: see ``report.collect``.
    """
    rows = [row for row in collect(recipe, edited, facts, keep) if take is None or take(row)]
    references = read_references(recipe / "conf" / "references.yaml")
    times = stage_times(recipe / "exp" / "stage_times.jsonl") or (stored_times(recipe) if keep else [])
    device = next((row["device"] for row in rows if row.get("device")), stamp.cpu_name())
    kept = [{key: value for key, value in row.items() if key != GROUPS} for row in rows]
    sections = result_tables([row for row in rows if "table" not in row], references)
    sections += extra(recipe, rows) if extra else []
    sections += [_times_table(times)] if times else []
    write_json(recipe / ROWS, kept + time_rows(times, device))
    with atomic_write(recipe / "RESULTS.md") as out:
        out.write("\n".join([_head(title or recipe.resolve().name, rows, sections), *sections]))
    return rows


def result_tables(rows: Sequence[Row], references: Sequence[Row] = ()) -> list[str]:
    """Returns one Markdown section for each question that the rows answer."""
    others = sorted(m for m in {row["metric"] for row in rows} - METRICS.keys() if not DETAILS.fullmatch(m))
    further = {metric: Metric(metric.replace("_", " "), "", 3) for metric in others}
    sections = []
    for metric, (title, about) in SINGLE.items():
        mine = [row for row in rows if row["metric"] == metric]
        if mine:
            theirs = [row for row in references if row["metric"] == metric]
            sections.append(_by_part(title, about, mine, theirs))
    for title, metrics in {**TOGETHER, "Other measurements": further}.items():
        mine = [row for row in rows if row["metric"] in metrics]
        if mine:
            theirs = [row for row in references if row["metric"] in metrics]
            sections.append(_by_metric(title, metrics, mine, theirs))
    order = ["Word error rates", "Phone error rates", *TOGETHER]  # what is most asked comes first
    return sorted(
        sections, key=lambda s: next((i for i, t in enumerate(order) if s.startswith(f"## {t}\n")), len(order))
    )


def _by_part(title: str, metric: Metric, rows: list[Row], theirs: list[Row]) -> str:
    """A table of one metric: a line for each system, a column for each part, figures of others beside."""
    parts = sorted({row["part"] for row in rows}, key=_part_order)
    names, lines = _names([*rows, *theirs]), dict[tuple[str, str], dict[str, Row]]()
    for row in sorted(rows, key=row_order):
        # A system that was decoded in two ways under one id has a line for each.
        place = 0
        while row["part"] in lines.get((row["id"], str(place)), {}):
            place += 1
        lines.setdefault((row["id"], str(place)), {})[row["part"]] = row
    for row in theirs:
        lines.setdefault((row["id"], "0"), {})
    keys = sorted(lines, key=lambda k: row_order({"id": k[0], "part": "", "metric": "", "dir": k[1]}))
    counted = [part for part in parts if any(_errors(line[part]) for line in lines.values() if part in line)]
    last = next((part for part in ("test", *reversed(counted)) if part in counted), None)
    sources = list(dict.fromkeys((row["source"], row["part"]) for row in theirs))
    head = ["system", *(f"{part} ({metric.unit})" if metric.unit else part for part in parts)]
    head += [f"errors on {last}: inserted + deleted + substituted"] if last else []
    head += [_reference_heading(theirs, source, part, len(parts) > 1) for source, part in sources]
    table = []
    for key in keys:
        line = lines[key]
        cells = [names[key[0]], *(value_text(line[p], metric.decimals) if p in line else "" for p in parts)]
        cells += [_errors(line[last]) if last in line else ""] if last else []
        for source, part in sources:
            found = [r for r in theirs if (r["source"], r["part"], r["id"]) == (source, part, key[0])]
            cells.append(", ".join(f"{r['value']:.{metric.decimals}f}" for r in found))
        table.append(cells)
    return _section(title, markdown_table(head, table), [_sizes(rows), _sources(theirs)], rows, parts)


def _by_metric(title: str, metrics: Mapping[str, Metric], rows: list[Row], theirs: list[Row]) -> str:
    """A table of several metrics: a line for each system and part, figures of others beside."""
    present = [name for name in metrics if any(row["metric"] == name for row in rows)]
    names, lines = _names([*rows, *theirs]), dict[tuple, dict[str, Row]]()
    for row in sorted(rows, key=row_order):
        lines.setdefault((row["id"], row["part"], row.get("dir", "")), {})[row["metric"]] = row
    parts = sorted({row["part"] for row in rows}, key=_part_order)
    sources = list(dict.fromkeys(row["source"] for row in theirs))
    head = ["system", *(["part"] if len(parts) > 1 else []), *(metrics[name].heading for name in present)]
    head += [_reference_heading(theirs, source, "", False) for source in sources]
    table = []
    for (system, part, _), line in lines.items():
        cells = [names[system], *([part] if len(parts) > 1 else [])]
        cells += [value_text(line[name], metrics[name].decimals) if name in line else "" for name in present]
        for source in sources:
            found = [r for r in theirs if (r["source"], r["id"], r["part"]) == (source, system, part)]
            several = len(present) > 1
            said = [
                f"{metrics[r['metric']].name} " * several + f"{r['value']:.{metrics[r['metric']].decimals}f}"
                for r in found
            ]
            cells.append(", ".join(said))
        table.append(cells)
    only = f"Part: {parts[0]}." if len(parts) == 1 and parts != ["all"] else ""
    return _section(title, markdown_table(head, table), [only, _sources(theirs)], rows, parts)


def _section(title: str, table: str, notes: Sequence[str], rows: Sequence[Row], parts: Sequence[str]) -> str:
    said = ["In brackets: 95 % interval."] if any(" [" in line for line in table.splitlines()[2:]) else []
    said += [NOTES[title]] if title in NOTES else []
    said += [f"{PARTS_SAY[part]}." for part in parts if part in PARTS_SAY]
    return f"## {title}\n\n{table}\n" + "\n".join(filter(None, [*said, *notes])) + "\n"


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """Id -> name in words, with the id where two have the same name."""
    names = {row["id"]: system_name(row["id"]) for row in rows}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {key: f"{name} ({key})" if name in twice else name for key, name in names.items()}


def _errors(row: Row) -> str:
    """ "74 = 12 + 5 + 57" of the counts of a row of errors; nothing without them."""
    counts = row.get("counts")
    if not isinstance(counts, Mapping) or not {"errors", "ins", "dels", "subs"} <= counts.keys():
        return ""
    return f"{counts['errors']:,} = {counts['ins']:,} + {counts['dels']:,} + {counts['subs']:,}"


def _sizes(rows: Sequence[Row]) -> str:
    """The size of each part, where all systems have been scored on the same."""
    said = []
    for part in sorted({row["part"] for row in rows}, key=_part_order):
        sizes = set()
        for row in rows:
            counts = row.get("counts") if row["part"] == part else None
            if isinstance(counts, Mapping):
                what = next((key for key in ("words", "phones") if key in counts), None)
                about = [f"{counts[what]:,} {what}"] if what else []
                about += [f"{counts['utterances']:,} utterances"] if "utterances" in counts else []
                sizes.add(" in ".join(about))
        if len(sizes) == 1 and sizes != {""}:
            said.append(f"{part}: {sizes.pop()}")
    return f"{'; '.join(said)}." if said else ""


def _reference_heading(theirs: Sequence[Row], source: str, part: str, with_part: bool) -> str:
    sources = list(dict.fromkeys(row["source"] for row in theirs))
    label = next((row["label"] for row in theirs if row["source"] == source and row.get("label")), "others")
    mark = f" [{_letter(sources.index(source))}]" if len(sources) > 1 else ""
    return f"{label}{mark}" + (f", {part}" if with_part else "")


def _sources(theirs: Sequence[Row]) -> str:
    """Where the figures of others are from."""
    sources = list(dict.fromkeys(row["source"] for row in theirs))
    if not sources:
        return ""
    said = [f"[{_letter(i)}] " * (len(sources) > 1) + source for i, source in enumerate(sources)]
    return f"Not ours: {'; '.join(said)}."


def value_text(row: Row, decimals: int) -> str:
    """ "5.95 [4.31, 7.80]", the interval where there is one."""
    text = f"{row['value']:.{decimals}f}"
    if NO_INTERVAL.fullmatch(row["metric"]):
        return text
    if row.get("low") is not None and row.get("high") is not None:
        text += f" [{row['low']:.{decimals}f}, {row['high']:.{decimals}f}]"
    return text


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table with columns of equal width, so that it reads well as text too."""
    body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, len(name), *(len(row[i]) for row in body)) if body else len(name) for i, name in enumerate(head)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([line(list(head)), rule, *map(line, body)]) + "\n"


def _head(name: str, rows: Sequence[Row], sections: Sequence[str]) -> str:
    devices = sorted({row["device"] for row in rows if row.get("device")})
    commits = sorted({row["commit"] for row in rows if row.get("commit")})
    text = f"# Results: {name}\n\nCollected from the experiments by `utils/results.py`, not written by hand. "
    text += "[results.json](results.json) has each figure with its command, options, commit and machine.\n"
    if devices:
        text += f"\nMachine: {'; '.join(devices)}.\n"
    if len(commits) > MANY_COMMITS:
        text += f"Code: {len(commits)} commits, see results.json.\n"
    elif commits:
        text += f"Code: {', '.join(commits)}.\n"
    if any(commit.endswith("+") for commit in commits):
        text += "A commit with + had uncommitted changes, so its rows cannot be repeated.\n"
    titles = [section.partition("\n")[0].removeprefix("## ") for section in sections]
    if len(titles) > 3:
        text += "\n" + "".join(f"- [{title}](#{_anchor(title)})\n" for title in titles)
    return text


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _times_table(times: Sequence[Mapping[str, Any]]) -> str:
    table = [[str(t["stage"]), t["title"], duration(t["seconds"])] for t in times]
    text = markdown_table(["stage", "what it does", "time"], table)
    about = (
        "Of each stage the successful run that made the most outputs; what was made in parts or by hand is not counted."
    )
    return f"## Times per stage\n\n{text}\n{about}\n"


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index % 26]


def _part_order(part: str) -> tuple:
    return (PARTS.index(part) if part in PARTS else len(PARTS), part)
