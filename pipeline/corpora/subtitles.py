"""Subtitles, .srt and .vtt: each cue is an utterance."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.corpora.annotated import Annotation, Span, read_annotated
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import LeftOut, SourceUtterance
from pipeline.corpora.text_files import whole_text

SUFFIXES = (".srt", ".vtt")
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")  # <v Mary>: who speaks
_TAG = re.compile(r"</?(?:[bicuv]|lang|ruby|rt|font|\d\d:[\d:.]+)(?:[.\s][^>]*)?>|\{\\[^}]*\}", re.IGNORECASE)


def read_subtitles(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of .srt and .vtt files with audio or video of the same name beside them."""
    yield from read_annotated(source, root, options, out, SUFFIXES, parse_subtitles)


def parse_subtitles(path: Path, options: ImportOptions) -> Annotation:
    """The cues of a file; styles, notes and marks of layout are left out."""
    rows = whole_text(path, options.encoding).split("\n")
    spans: list[Span] = []
    for i, row in enumerate(rows):
        found = _TIMES.fullmatch(row)
        if found is None:
            if "-->" in row:
                raise DataError(f"{path}:{i + 1}: not the times of a cue: {row.strip()!r}")
            continue
        text = []
        for below in rows[i + 1 :]:
            if not below.strip():
                break
            text.append(below.strip())
        spans += _cues(" ".join(text), _seconds(found.groups()[:4]), _seconds(found.groups()[4:]), f"{path}:{i + 1}")
    return Annotation(spans)


def _seconds(groups: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (group or "0" for group in groups)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def _cues(text: str, start: float, end: float, where: str) -> Iterator[Span]:
    """The cue; one with several voices says who speaks but not when, and belongs to nobody in particular."""
    voices = [voice.strip() for voice in _VOICE.findall(text)]
    words = html.unescape(_TAG.sub(" ", text)).strip()
    if words:
        yield Span(start, end, words, voices[0] if len(set(voices)) == 1 else "", where)
