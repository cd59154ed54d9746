"""The sections of the first page: how the systems compare, what training and search cost, what goes wrong."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from pipeline.artifacts.lang import SILENCE
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.base.files import read_json
from pipeline.base.log import duration
from pipeline.experiments import report
from pipeline.experiments.claims import read_claims
from pipeline.experiments.html import charts
from pipeline.experiments.html.listing import Entry, Found
from pipeline.experiments.html.markup import inline_json, text
from pipeline.experiments.html.sources import MODEL, REFERENCES, Sources
from pipeline.experiments.html.trees import TreePage
from pipeline.experiments.html.utterances import Utterances
from pipeline.experiments.results_page import DETAILS, FAMILIES, METRICS, Metric, value_text
from pipeline.experiments.system_names import system_name
from pipeline.tasks.durations import MIN_COUNT, frame_shift_of, implied_seconds
from pipeline.tasks.score import ratio_interval

CONFUSIONS = 50  # pairs of words that are listed
EXAMPLES = 5  # links to utterances of each


@dataclass(frozen=True)
class Overview:
    """What the sections are made from; `pages` are the names of pages by utterance."""

    sources: Sources
    utterances: Utterances
    rows: Sequence[Entry]
    found: Found
    pages: dict[str, str]
    trees: Sequence[TreePage] = ()


class Section(NamedTuple):
    """A section of the page: anchor, heading, markup."""

    key: str
    title: str
    markup: str


class Cell(NamedTuple):
    """A cell of a table: markup, the number by which it is sorted, and how much of it a bar behind it fills."""

    markup: str
    key: float | None = None
    share: float | None = None


def sections(overview: Overview) -> list[Section]:
    """All sections for which there is something to show."""
    made = [
        ("systems", "Systems", _systems(overview)),
        ("results", "Results", _results(overview)),
        ("claims", "Claims", _claims(overview)),
        ("cost", "Times and sizes", _cost(overview)),
        ("training", "Training", _training(overview)),
        ("durations", "Durations", _durations(overview)),
        ("trees", "Decision trees", _trees(overview)),
        ("confusions", "Confusions", _confusions(overview)),
        ("sweeps", "Sweeps", figures(_plots(overview))),
    ]
    return [
        Section(key, title, f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>{markup}</section>')
        for key, title, markup in made
        if markup
    ]


def facts(o: Overview) -> str:
    """What there is, in a few numbers."""
    seconds, speakers = sum(e.seconds for e in o.rows), {e.speaker for e in o.rows if e.speaker}
    found = [
        ("Utterances", f"{len(o.rows):,}", f"{len(speakers):,} speaker{'s' * (len(speakers) != 1)}" if speakers else "")
    ]
    found += [("Speech", duration(seconds), "")] if seconds else []
    found += [("Alignments", f"{len(o.utterances.systems)}", "")] if o.utterances.systems else []
    found += [("Decodings", f"{len(o.utterances.decodings)}", "")] if o.utterances.decodings else []
    parts = {e.part for e in o.rows if e.errors}
    best = min(_error_rates(o, {"test"} & parts or parts), default=None)
    if best is not None:
        found.append(("Fewest word errors", f"{best[0]:.2f} %", f"{best[1]}, {best[2]}"))
    cells = [f"<div><dt>{a}</dt><dd>{text(b)}<small>{text(c)}</small></dd></div>" for a, b, c in found]
    return f'<dl class="facts">{"".join(cells)}</dl>' if o.rows else ""


def _error_rates(o: Overview, parts: Iterable[str]) -> list[tuple[float, str, str]]:
    """Percent of word errors, decoding and part."""
    rates = []
    for name, part in itertools.product(o.utterances.decodings, parts):
        errors, words = (sum(e.errors[name][i] for e in o.rows if name in e.errors and e.part == part) for i in (0, 1))
        if words:
            rates.append((100 * errors / words, name, part))
    return rates


def figures(markup: str) -> str:
    """Figures side by side; nothing of none."""
    return f'<div class="figures">{markup}</div>' if markup else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], label: str, numbers: int = 1) -> str:
    """A table that can be sorted; from column `numbers` on cells stand to the right."""
    kind = [' class="number"' if i >= numbers else "" for i in range(len(head))]
    heads = "".join(f'<th scope="col"{k}>{text(name)}</th>' for k, name in zip(kind, head))
    lines = []
    for row in rows:
        lines.append(
            "<tr>" + "".join(f"<td{_attributes(c, i >= numbers)}>{c.markup}</td>" for i, c in enumerate(row)) + "</tr>"
        )
    inside = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)} (table)">{inside}</div>'


def _attributes(cell: Cell, number: bool) -> str:
    """Of the element of a cell."""
    names = ["number"] * number + ["bar"] * (cell.share is not None)
    out = f' class="{" ".join(names)}"' if names else ""
    out += "" if cell.key is None else f' data-key="{cell.key:.6g}"'
    return out + ("" if cell.share is None else f' style="--share: {cell.share:.3f}"')


def _named(place: str) -> Cell:
    """A system by its directory, and in words where its first part says what it is."""
    first = place.split("/")[0]
    words = system_name(first)
    return Cell(text(place) + (f"<br><small>{text(words)}</small>" if words != first else ""))


def _number(value: float | None, digits: int) -> Cell:
    return Cell("", None) if value is None else Cell(f"{value:.{digits}f}", value)


def _systems(o: Overview) -> str:
    """What the pages themselves show, over all utterances of the list."""
    out = ""
    rows = []
    parts = list(dict.fromkeys(e.part for e in o.rows))
    most = max((rate for rate, _, _ in _error_rates(o, parts)), default=0.0)
    for name, part in itertools.product(o.utterances.decodings, parts):
        mine = [e for e in o.rows if name in e.errors and e.part == part]
        errors, words = (np.array([e.errors[name][i] for e in mine], dtype=float) for i in (0, 1))
        if not words.sum():
            continue
        low, high = ratio_interval(errors, words, [e.speaker for e in mine], replications=1000)
        value = 100 * float(errors.sum() / words.sum())
        around = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        rate = Cell(f"{value:.2f}{around}", value, value / max(most, 1e-9))
        counts = [_number(float(n), 0) for n in (errors.sum(), words.sum(), len(mine))]
        rows.append([_named(name), Cell(text(part)), rate, *counts])
    if rows:
        head = ["decoding", "part", "word errors % [95 % interval]", "errors", "words", "utterances"]
        out += table(head, rows, "Word errors of the decodings", numbers=2)
    rows = []
    for name, part in itertools.product(o.utterances.systems, parts):
        mine = [e for e in o.rows if e.part == part]
        far = [e.disagreement[name] for e in mine if name in e.disagreement]
        sure = [e.confidence[name] for e in mine if name in e.confidence]
        if far or sure:
            means = [sum(x) / len(x) if x else None for x in (far, sure)]
            counts = [_number(means[0], 1), _number(means[1], 3), _number(len(far or sure), 0)]
            rows.append([Cell(text(name)), Cell(text(part)), *counts])
    if rows:
        head = ["alignment", "part", f"ms from {o.utterances.systems[0]}", "confidence", "utterances"]
        out += table(head, rows, "Alignments", numbers=2) + '<p class="small">Means over utterances.</p>'
    return out


def _results(o: Overview) -> str:
    """The rows that scoring steps have left, as in RESULTS.md."""
    recipe = o.sources.exp.parent
    rows: list[report.Row] = []
    remarked = False
    for directory in o.sources.results:
        old = report.changed_inputs(directory)
        for row in report.read_rows(directory / report.ROWS, recipe):
            rows.append({**row, "old": ", ".join(old)})
            remarked = remarked or bool(old) or report.by_edited_code(row)
    for row in report.read_references(recipe / REFERENCES):
        rows.append({**row, "dir": f"not ours: {row['source']}", "old": ""})
    others = {r["metric"] for r in rows if r["metric"] not in METRICS and not DETAILS.fullmatch(r["metric"])}
    families = {**FAMILIES, "Other measurements": {m: Metric(m.replace("_", " "), "", 3) for m in sorted(others)}}
    out = ""
    for title, metrics in families.items():
        lines: dict[tuple[str, str, str], dict[str, report.Row]] = {}
        for row in rows:
            if row["metric"] in metrics:
                lines.setdefault((row["id"], row["part"], row["dir"]), {})[row["metric"]] = row
        present = [m for m in metrics if any(m in line for line in lines.values())]
        if not present:
            continue
        body = []
        for (name, part, place), line in lines.items():
            some = next(iter(line.values()))
            remarks = ["edited code"] * report.by_edited_code(some)
            remarks += [f"made from another {some['old']} than there is now"] if some["old"] else []
            cells = [Cell(text(system_name(name))), Cell(text(part)), Cell(f"<code>{text(place)}</code>")]
            cells += [Cell(text("; ".join(remarks)))] * remarked
            for m in present:
                shown = value_text(line[m], metrics[m].decimals) if m in line else ""
                cells.append(Cell(text(shown), line[m]["value"] if m in line else None))
            body.append(cells)
        head = ["system", "part", "directory", *["remarks"] * remarked, *(metrics[m].heading for m in present)]
        out += f"<h3>{text(title)}</h3>" + table(head, body, title, numbers=3 + remarked)
    return out


def _claims(o: Overview) -> str:
    rows = []
    for verdict in read_claims(o.sources.exp.parent):
        effect = verdict.effect
        low, high = effect.interval if effect else (0.0, 0.0)
        rows.append(
            [
                Cell(text(verdict.claim.text)),
                Cell(text(verdict.outcome)),
                Cell(text(verdict.table)),
                _number(effect.mean if effect else None, 2),
                Cell(text(f"[{low:.2f}, {high:.2f}]") if effect else ""),
                _number(verdict.p, 4),
                _number(effect.seeds if effect else None, 0),
            ]
        )
    head = ["claim", "outcome", "table", "difference", "95 % interval", "p", "seeds"]
    counts = Counter(verdict.outcome for verdict in read_claims(o.sources.exp.parent))
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    made = table(head, rows, "Claims", numbers=3)
    return f"<details><summary>{text(said)}</summary>{made}</details>" if rows else ""


def _cost(o: Overview) -> str:
    """Times and memory by the stamps, sizes of the files of models, and times of stages."""
    rows = []
    for directory in dict.fromkeys([*o.sources.models, *(d for x in o.sources.alignments.values() for d in x)]):
        if not (directory / stamp.STAMP).is_file():
            continue
        made = stamp.read_stamp(directory)
        size = sum(p.stat().st_size for p in directory.glob("model*.safetensors"))
        rows.append(
            [
                Cell(f"<code>{text(directory.relative_to(o.sources.exp))}</code>"),
                Cell(text(str(made.get("command", "")).replace("_", " "))),
                Cell(text(duration(made["seconds"])), made["seconds"]) if "seconds" in made else Cell(""),
                _number(made.get("peak_rss_mib"), 0),
                _number(size / 2**20 if size else None, 2),
            ]
        )
    head = ["directory", "step", "time", "peak memory MiB", "model MiB"]
    out = table(head, rows, "Times and sizes", numbers=2) if rows else ""
    stages = report.stage_times(o.sources.exp / "stage_times.jsonl")
    if stages:
        lines = [
            [_number(t["stage"], 0), Cell(text(t["title"])), Cell(text(duration(t["seconds"])), t["seconds"])]
            for t in stages
        ]
        out += "<h3>Stages</h3>" + table(["stage", "title", "time"], lines, "Times of stages", numbers=2)
    return out


def _training(o: Overview) -> str:
    """Figures of each epoch or iteration that the models have kept."""
    made = dict[str, str]()  # a model and its export have the same
    for directory in o.sources.models:
        meta = read_json(directory / MODEL)
        if not isinstance(meta, dict):
            raise DataError(f"{directory / MODEL}: not a model's description")
        name = directory.relative_to(o.sources.exp).as_posix()
        kept = meta.get("epochs") or meta.get("history") or []
        series = {}
        for key in ("loss", "dev_loss", "log_like") if isinstance(kept, list) else ():
            points = [
                (float(number), float(row[key]))
                for number, row in enumerate(kept, start=1)
                if isinstance(row, dict) and isinstance(row.get(key), (int, float)) and math.isfinite(row[key])
            ]
            if points:
                series[key.replace("_", " ")] = points
        if series:
            unit = "iteration" if "log like" in series else "epoch"
            made.setdefault(inline_json(series), charts.lines(series, name, unit, next(iter(series))))
    return figures("".join(made.values()))


def _durations(o: Overview) -> str:
    """Mean durations of phones by the transition probabilities of models, against those of the first alignment."""
    measured = {p: (total / n, n) for p, (total, n) in o.found.durations.items() if n >= MIN_COUNT and p != SILENCE}
    made = []
    for directory in o.sources.models:
        try:
            implied = implied_seconds(load_hmm(directory), frame_shift_of(directory))
        except DataError:
            continue  # no HMM, as end-to-end models
        points = {p: (1000 * measured[p][0], 1000 * implied[p]) for p in sorted(measured) if p in implied}
        if points:
            name = directory.relative_to(o.sources.exp).as_posix()
            made.append(charts.scatter(points, name, "measured ms", "by the transition probabilities, ms"))
    if not made:
        return ""
    first = text(o.utterances.systems[0])
    about = f"<p>A state that is left with probability f per frame lasts 1/f frames on average. Measured: {first}.</p>"
    return about + figures("".join(made))


def _confusions(o: Overview) -> str:
    """The errors that most decodings make, and most often, each with utterances in which it occurs."""
    times = o.found.confusions
    systems = {pair: len({decoding for decoding, _ in found}) for pair, found in times.items()}
    most = sorted(times, key=lambda pair: (-systems[pair], -sum(times[pair].values()), pair))[:CONFUSIONS]
    rows = []
    for ref, hyp in most:
        names = sorted({name for _, name in times[ref, hyp]}, key=lambda n: (n not in o.pages, n))[:EXAMPLES]
        links = [
            f'<a href="utterances/{o.pages[n]}.html">{text(n)}</a>'
            if n in o.pages
            else f'<a href="#utterances" data-find="{text(n)}">{text(n)}</a>'
            for n in names
        ]
        what = "inserted" if not ref else "missing" if not hyp else "for another"
        counts = [_number(systems[ref, hyp], 0), _number(sum(times[ref, hyp].values()), 0)]
        rows.append([Cell(text(ref)), Cell(text(hyp)), Cell(what), Cell(", ".join(links)), *counts])
    head = ["said", "recognised", "error", "utterances", "decodings", "count"]
    label = "Most frequent confusions"
    about = f"<p>Those that most of the {len(o.utterances.decodings)} decodings make, and most often.</p>"
    return about + table(head, rows, label, numbers=4) if rows else ""


def _trees(o: Overview) -> str:
    rows = [
        [Cell(f'<a href="{t.link}">{text(t.model)}</a>'), *(_number(n, 0) for n in (t.roots, t.leaves, t.deepest))]
        for t in o.trees
    ]
    head = ["tree", "roots", "leaves", "questions on the longest path"]
    return table(head, rows, "Decision trees") if rows else ""


def _plots(o: Overview) -> str:
    """Pictures of the recipe's sweeps, which stand in plots/ beside the page."""
    return "".join(
        f'<figure><img loading="lazy" src="plots/{text(quote(p.name))}" alt="{text(p.stem.replace("_", " "))}">'
        f"<figcaption>{text(p.stem.replace('_', ' '))}</figcaption></figure>"
        for p in o.sources.plots
    )
