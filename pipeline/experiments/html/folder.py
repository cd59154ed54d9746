"""The folder of a report: overview, list and pages."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.log import progress
from pipeline.experiments.html.listing import Found, chosen, entries, list_data
from pipeline.experiments.html.markup import asset, file_name, filled, inline_json, text, write_text
from pipeline.experiments.html.options import ReportOptions
from pipeline.experiments.html.overview import Overview, facts, sections
from pipeline.experiments.html.page import SCRIPTS, STYLE, Neighbours, write_page, write_single
from pipeline.experiments.html.sources import Sources
from pipeline.experiments.html.trees import write_trees
from pipeline.experiments.html.utterances import Utterances

logger = logging.getLogger(__name__)


def write_report(sources: Sources, out_dir: Path, options: ReportOptions) -> dict[str, Any]:
    """Writes index.html and what it links to, or one file with one utterance.

    Args:
        sources: what there is to show.
        out_dir: an empty directory.
    Returns:
        numbers of utterances and pages.
    Raises:
        DataError: the utterance that is asked for is in no data directory.
    """
    utterances = Utterances(sources)
    if options.single is not None:
        if options.single not in utterances:
            raise DataError(f"{sources.exp}: no data directory has an utterance {options.single!r}")
        write_single(out_dir / f"{file_name(options.single)}.html", utterances, options.single, options)
        return {"utterances": 1, "pages": 1}
    for name in ("assets", "data", "media", "utterances"):
        (out_dir / name).mkdir(exist_ok=True)
    for plot in sources.plots:
        (out_dir / "plots").mkdir(exist_ok=True)
        shutil.copyfile(plot, out_dir / "plots" / plot.name)
    for name in {*SCRIPTS, STYLE, "list.js"}:
        write_text(out_dir / "assets" / name, asset(name))
    found = Found()
    rows = list(progress(entries(utterances, found), len(utterances.ids), "comparing utterances"))
    with_page = [e.name for e in chosen(rows, options.pages)]
    around = [None, *with_page, None]
    for number, name in enumerate(progress(with_page, desc="writing pages")):
        write_page(out_dir, utterances, name, options, Neighbours(around[number], around[number + 2]))
    pages = {name: file_name(name) for name in with_page}
    listed = inline_json(list_data(rows, pages, utterances))
    # JSON in a string is parsed faster than the same as JavaScript.
    write_text(out_dir / "data" / "list.js", f"window.FULLSUM_LIST = JSON.parse({inline_json(listed)});\n")
    overview = Overview(sources, utterances, rows, found, pages, write_trees(sources, out_dir))
    made = sections(overview)
    places = [(s.key, s.title) for s in made]
    places.insert(places[:1] == [("systems", "Systems")], ("utterances", "Utterances"))
    links = [f'<a href="#{key}">{text(title)}</a>' for key, title in places]
    first = utterances.systems[0] if utterances.systems else ""
    slots = {
        "title": text(options.title or f"Report of {_recipe_name(sources.exp)}"),
        "links": " ".join(links),
        "facts": facts(overview),
        "notes": "".join(f"<p>{text(note)}</p>" for note in utterances.notes),
        "systems": "\n".join(s.markup for s in made if s.key == "systems"),
        "sections": "\n".join(s.markup for s in made if s.key != "systems"),
        "first": f" (here: {text(first)})" if first else "",
    }
    write_text(out_dir / "index.html", filled("index.html", slots))
    return {"utterances": len(rows), "pages": len(with_page)}


def _recipe_name(exp: Path) -> str:
    place = exp.resolve()
    return place.parent.name if place.name == "exp" else place.name
