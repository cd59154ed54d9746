"""ELAN's .eaf: annotations of tiers that have times of their own are utterances; PARTICIPANT is the speaker.

The file is XML; one with a document type, where entities could be declared, is refused.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from pipeline.base.errors import DataError
from pipeline.corpora.annotated import Annotation, Span, chosen_tiers, read_annotated, speaker_of_tier
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import LeftOut, SourceUtterance

SUFFIX = ".eaf"


def read_elan(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of .eaf files, with the audio that they name or that is named like them."""
    yield from read_annotated(source, root, options, out, (SUFFIX,), parse_elan)


def parse_elan(path: Path, options: ImportOptions) -> Annotation:
    """The annotations with times of an .eaf file's tiers of utterances."""
    document = _Document(path)
    tiers = [tier for tier in document.tiers if tier.spans]
    chosen = chosen_tiers([tier.name for tier in tiers], options.tiers, path)
    used = [tier for tier in tiers if tier.name in chosen]
    spans = []
    for tier in used:
        for first, last, text, line in tier.spans:
            where = f"{path}:{line}"
            times = [document.slots.get(slot) for slot in (first, last)]
            if times[0] is None or times[1] is None:
                raise DataError(f"{where}: annotation {text!r} has a time slot without a time, {first} or {last}")
            if text.strip():
                speaker = tier.participant or speaker_of_tier(tier.name, len(used))
                spans.append(Span(times[0] / 1000, times[1] / 1000, text, speaker, where))
    return Annotation(spans, document.media)


class _Tier:
    def __init__(self, name: str, participant: str) -> None:
        self.name, self.participant = name, participant
        self.spans: list[tuple[str, str, str, int]] = []  # first and last time slot, text, line


class _Document:
    """Tiers, times (ms) by slot, and names of media of an .eaf file, with the seconds of each at which annotations
    begin to count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tiers: list[_Tier] = []
        self.slots: dict[str, float] = {}
        self.media: dict[str, float] = {}
        self._open: tuple[str, str, int] | None = None
        self._text: list[str] | None = None
        self._root = ""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        self._parser: Any = parser
        try:
            parser.Parse(path.read_bytes(), True)
        except expat.ExpatError as err:
            raise DataError(f"{path}:{err.lineno}: not XML: {expat.errors.messages[err.code]}") from None
        except KeyError as err:
            raise DataError(f"{path}:{parser.CurrentLineNumber}: an element lacks the attribute {err}") from None
        except LookupError as err:
            raise DataError(f"{path}:1: {err}") from None
        except ValueError as err:
            raise DataError(f"{path}:{parser.CurrentLineNumber}: not a time: {err}") from None
        if self._root != "ANNOTATION_DOCUMENT":
            raise DataError(f"{path}:1: not a file of ELAN (root element {self._root!r})")

    def _refuse(self, *_: object) -> None:
        raise DataError(f"{self.path}:{self._parser.CurrentLineNumber}: a document type with entities is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._root = self._root or name
        if name == "TIME_SLOT" and "TIME_VALUE" in attributes:
            self.slots[attributes["TIME_SLOT_ID"]] = float(attributes["TIME_VALUE"])
        elif name == "TIER":
            self.tiers.append(_Tier(attributes["TIER_ID"], attributes.get("PARTICIPANT", "").strip()))
        elif name == "ALIGNABLE_ANNOTATION":
            line = self._parser.CurrentLineNumber
            self._open = (attributes["TIME_SLOT_REF1"], attributes["TIME_SLOT_REF2"], line)
        elif name == "ANNOTATION_VALUE" and self._open is not None:
            self._text = []
        elif name == "MEDIA_DESCRIPTOR":
            for key in ("RELATIVE_MEDIA_URL", "MEDIA_URL"):
                url = attributes.get(key, "")
                if url:
                    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path if ":" in url else url)
                    self.media[name] = float(attributes.get("TIME_ORIGIN", 0)) / 1000

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if name == "ANNOTATION_VALUE" and self._text is not None and self._open is not None:
            first, last, line = self._open
            if not self.tiers:
                raise DataError(f"{self.path}:{line}: an annotation outside all tiers")
            self.tiers[-1].spans.append((first, last, "".join(self._text), line))
            self._text = None
        elif name == "ALIGNABLE_ANNOTATION":
            self._open = None
