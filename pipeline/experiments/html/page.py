"""The page of an utterance: its data, its sound and pictures, and the HTML that shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.corpus import as_cut, load_samples
from pipeline.base.errors import DataError
from pipeline.base.log import duration
from pipeline.experiments.html import sound
from pipeline.experiments.html.markup import asset, file_name, filled, inline_json, text, write_text
from pipeline.experiments.html.options import ReportOptions
from pipeline.experiments.html.utterances import Utterances, compared, differences, word_errors

SCRIPTS = ("theme.js", "scale.js", "textgrid.js", "draw.js", "viewer.js")
STYLE = "style.css"


class Neighbours(NamedTuple):
    """Ids of the pages before and after; None at the ends."""

    before: str | None
    after: str | None


def page_data(utterances: Utterances, name: str, threshold_ms: float) -> dict[str, Any]:
    """All that a page shows but sound and pictures, as JSON; times in seconds, differences in milliseconds."""
    cut = utterances.cut(name)
    supervision = cut["supervisions"][0]
    tiers: list[dict[str, Any]] = []
    systems = list(utterances.aligned(name))
    for number, system in enumerate(systems):
        for kind, own, reference in (
            ("word", system.tiers.words, systems[0].tiers.words),
            ("phone", system.tiers.phones, systems[0].tiers.phones),
        ):
            if own:
                tiers.append(_tier(system.name, kind, own, reference if number else None))
        if system.states:
            rows = [Segment(label, start, end - start) for label, start, end in system.states]
            tiers.append(_tier(system.name, "state", rows, None))
    spoken = next((s.tiers.words for s in systems if s.tiers.words), [])
    recognised = []
    for decoding, hyp in utterances.recognised(name):
        words = compared(hyp, spoken)
        recognised.append(
            {
                "system": decoding,
                "errors": word_errors(words),
                "words": [[w.ref, w.hyp, _short(w.start), _short(w.end), _short(w.confidence)] for w in words],
            }
        )
    return {
        "id": name,
        "text": str(supervision.get("text", "")),
        "speaker": str(supervision.get("speaker", "")),
        "duration": float(cut["duration"]),
        "threshold": threshold_ms,
        "tiers": tiers,
        "recognised": recognised,
    }


def _tier(system: str, kind: str, own: Sequence[Segment], reference: Sequence[Segment] | None) -> dict[str, Any]:
    tier: dict[str, Any] = {
        "system": system,
        "kind": kind,
        "label": [s.symbol for s in own],
        "start": [_short(s.start) for s in own],
    }
    ends = [_short(s.end) for s in own]
    if ends[:-1] == tier["start"][1:]:
        tier["last"] = ends[-1]  # the others are the next one's start
    else:
        tier["end"] = ends
    if any(s.confidence is not None for s in own):
        tier["confidence"] = [_short(s.confidence) for s in own]
    if reference:
        found = differences(own, reference)
        tier["startDiff"] = [None if x is None else round(x) for x in found.starts]
        tier["endDiff"] = [None if x is None else round(x) for x in found.ends]
    return tier


def _short(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


class Media(NamedTuple):
    """Files of an utterance by the names under which its page finds them, and what the page says about them."""

    files: dict[str, bytes]
    data: dict[str, Any]


def media_of(utterances: Utterances, name: str, form: str, embed: bool) -> Media:
    """Sound and pictures of an utterance; where its audio cannot be read, why, and neither.

    Args:
        form: format of the sound.
        embed: put everything into the data as data: URLs, and nothing into files.
    """
    try:
        cut = as_cut(utterances.cut(name))
        samples, rate = load_samples(cut), int(cut.sampling_rate)
    except DataError as err:
        return Media({}, {"audio": None, "problem": str(err)})
    files: dict[str, bytes] = {}

    def place(tail: str, content: bytes, media: str) -> str:
        if embed:
            return f"data:{media};base64,{base64.b64encode(content).decode()}"
        files[f"media/{file_name(name)}{tail}"] = content
        return f"../media/{file_name(name)}{tail}"

    content, media = sound.encoded(samples, rate, form)
    pairs, step = sound.outline(samples, rate)
    suffix = {"audio/ogg": ".opus"}.get(media, f".{media.split('/')[1]}")
    pictures = [
        [place(f".{number}.png", tile.png, "image/png"), round(tile.start, 4), round(tile.end, 4)]
        for number, tile in enumerate(sound.tiles(samples, rate))
    ]
    return Media(
        files,
        {
            "audio": place(suffix, content, media),
            "outline": pairs,
            "step": step,
            "tiles": pictures,
            "top": rate / 2,
        },
    )


def write_page(
    out_dir: Path,
    utterances: Utterances,
    name: str,
    options: ReportOptions,
    neighbours: Neighbours = Neighbours(None, None),
) -> Path:
    """Writes utterances/NAME.html and its media below a report; returns the page."""
    media = media_of(utterances, name, options.audio, embed=False)
    for relative, content in media.files.items():
        (out_dir / relative).write_bytes(content)
    links = [
        f'<a id="{key}" rel="{rel}" href="{file_name(other)}.html">{label}</a>' if other is not None else ""
        for key, rel, other, label in (
            ("before", "prev", neighbours.before, "&larr; previous"),
            ("after", "next", neighbours.after, "next &rarr;"),
        )
    ]
    head = f'<link rel="stylesheet" href="../assets/{STYLE}">'
    scripts = "\n".join(f'<script src="../assets/{s}"></script>' for s in SCRIPTS)
    nav = f'<a id="up" href="../index.html#utterances">&uarr; all utterances</a> {" ".join(links)}'
    path = out_dir / "utterances" / f"{file_name(name)}.html"
    _write(path, utterances, name, options, media, {"head": head, "scripts": scripts, "nav": nav})
    return path


def write_single(path: Path, utterances: Utterances, name: str, options: ReportOptions) -> None:
    """Writes one utterance with everything it needs into one HTML file."""
    media = media_of(utterances, name, options.audio, embed=True)
    head = f"<style>\n{asset(STYLE)}</style>"
    scripts = "\n".join(f"<script>\n{asset(s)}</script>" for s in SCRIPTS)
    _write(path, utterances, name, options, media, {"head": head, "scripts": scripts, "nav": ""})


def _write(
    path: Path, utterances: Utterances, name: str, options: ReportOptions, media: Media, slots: dict[str, str]
) -> None:
    data = {**page_data(utterances, name, options.threshold_ms), **media.data}
    more = {
        "title": text(name),
        "threshold": f"{options.threshold_ms:g}",
        "text": text(data["text"]),
        "about": text(_about(utterances, name, data)),
        "data": inline_json(data),
        "notes": "".join(f"<p>{text(note)}</p>" for note in _notes(utterances, name, data)),
    }
    write_text(path, filled("utterance.html", {**slots, **more}))


def _about(utterances: Utterances, name: str, data: dict[str, Any]) -> str:
    """Whose utterance it is, of which part, and how long."""
    speaker = [f"speaker {data['speaker']}"] if data["speaker"] else []
    return ", ".join([*speaker, f"part {utterances.part(name)}", duration(data["duration"])])


def _notes(utterances: Utterances, name: str, data: dict[str, Any]) -> list[str]:
    notes = [f"{system}: an alignment of other audio, left out here." for system in utterances.left_out(name)]
    if data.get("problem"):
        notes.append(f"No sound: {data['problem']}")
    if not data["tiers"]:
        notes.append("No system has aligned this utterance.")
    return notes
