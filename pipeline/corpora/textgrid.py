"""Praat TextGrids, long and short, as utterances: each interval with a text is one, each tier a speaker.

Read as Praat reads them: numbers that stand free and texts in quotes count, everything else is decoration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.corpora.annotated import Annotation, Span, chosen_tiers, read_annotated, speaker_of_tier
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import LeftOut, SourceUtterance
from pipeline.corpora.text_files import whole_text

SUFFIX = ".textgrid"
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)|(<exists>|<absent>)')


def read_textgrids(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of TextGrids with audio of the same name beside them."""
    yield from read_annotated(source, root, options, out, (SUFFIX,), parse_textgrid)


def parse_textgrid(path: Path, options: ImportOptions) -> Annotation:
    """The intervals with a text of a TextGrid's tiers of utterances."""
    with open(path, "rb") as file:
        if file.read(12) == b"ooBinaryFile":
            raise DataError(f"{path}: a binary TextGrid; save it as text in Praat")
    tiers = interval_tiers(whole_text(path, options.encoding), path)
    # Praat lets several tiers have one name.
    chosen = chosen_tiers(list(dict.fromkeys(name for name, _ in tiers)), options.tiers, path)
    used = [(name, intervals) for name, intervals in tiers if name in chosen]
    spans = [
        Span(start, end, text, speaker_of_tier(name, len(used)), f"{path}:{line}")
        for name, intervals in used
        for start, end, text, line in intervals
        if text.strip()
    ]
    return Annotation(spans)


class _Tokens:
    """Texts and numbers of a TextGrid, one after the other, with the line of the last one."""

    def __init__(self, text: str, path: Path) -> None:
        self._found = _TOKEN.finditer(text)
        self._text, self._path = text, path
        self.line, self._seen = 1, 0

    def _next(self) -> re.Match[str]:
        found = next(self._found, None)
        if found is None:
            raise DataError(f"{self._path}: the TextGrid ends too early")
        self.line += self._text.count("\n", self._seen, found.start())
        self._seen = found.start()
        return found

    def text(self) -> str:
        """The next token, a text."""
        found = self._next()
        if found[1] is None:
            raise DataError(f"{self._path}:{self.line}: {found[0]} where the TextGrid should have a text in quotes")
        return found[1].replace('""', '"')

    def number(self) -> float:
        """The next token, a number."""
        found = self._next()
        value = math.nan if found[2] is None else float(found[2])
        if not math.isfinite(value):
            raise DataError(f"{self._path}:{self.line}: {found[0]} where the TextGrid should have a number")
        return value

    def flag(self) -> bool:
        """The next token, whether something follows."""
        return self._next()[3] == "<exists>"


def interval_tiers(text: str, path: Path) -> list[tuple[str, list[tuple[float, float, str, int]]]]:
    """(name, [(start, end, text, line)]) of the interval tiers of a TextGrid; tiers of points are left out.

    Raises:
        DataError: with file and line where the text is none.
    """
    tokens = _Tokens(text, path)
    if "ooTextFile" not in text[:200] or tokens.text() not in ("ooTextFile", "ooTextFile short"):
        raise DataError(f"{path}:1: not a TextGrid (no ooTextFile)")
    if tokens.text() != "TextGrid":
        raise DataError(f"{path}:{tokens.line}: an object of Praat, but not a TextGrid")
    tokens.number(), tokens.number()
    tiers: list[tuple[str, list[tuple[float, float, str, int]]]] = []
    for _ in range(int(tokens.number()) if tokens.flag() else 0):
        kind, name = tokens.text(), tokens.text()
        tokens.number(), tokens.number()
        count = int(tokens.number())
        if kind == "IntervalTier":
            tiers.append((name, [(tokens.number(), tokens.number(), tokens.text(), tokens.line) for _ in range(count)]))
        else:
            for _ in range(count):
                tokens.number(), tokens.text()
    return tiers
