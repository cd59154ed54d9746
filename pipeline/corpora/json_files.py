"""JSON and JSON-lines files of others: object by object, with fields of the types that are asked for."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.files import parse_json
from pipeline.corpora.source import LeftOut
from pipeline.corpora.text_files import text_lines, whole_text

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson")


def objects(path: Path, out: LeftOut, encoding: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a file with one in each line, or (file:number) of a file with one list of them.

    What is no object is left out.
    """
    if ".json" in (path.suffix, path.with_suffix("").suffix) and _starts_with_list(path, encoding):
        yield from _of_list(path, out, encoding)
        return
    for line_no, line in text_lines(path, encoding):
        where = f"{path}:{line_no}"
        if not line:
            continue
        with out.refusing(where, "line that is no JSON object"):
            yield where, parse(line, where)


def parse(line: str, where: str) -> dict[str, Any]:
    """A JSON object; DataError for anything else."""
    found = parse_json(line, where)
    if not isinstance(found, dict):
        raise DataError(f"{where}: not a JSON object")
    return found


def _starts_with_list(path: Path, encoding: str | None) -> bool:
    return next((line.startswith("[") for _, line in text_lines(path, encoding) if line), False)


def _of_list(path: Path, out: LeftOut, encoding: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = parse_json(whole_text(path, encoding), path, lines=True)
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        where = f"{path}, entry {number}"
        if isinstance(entry, dict):
            yield where, entry
        else:
            out.add(where, "line that is no JSON object", f"{where}: not a JSON object")


def first_object(path: Path) -> dict[str, Any]:
    """The first object of a file, empty if there is none or it cannot be read."""
    try:
        return next((entry for _, entry in objects(path, LeftOut())), {})
    except (DataError, OSError):
        return {}


class Fields:
    """Fields of a JSON object by type; what is missing or of another type is a DataError with place and field."""

    def __init__(self, entry: dict[str, Any], where: str) -> None:
        self.entry, self.where = entry, where

    def fail(self, name: str, wanted: str) -> DataError:
        """The error of a field."""
        found = json.dumps(self.entry.get(name), default=str)
        shown = found if len(found) <= 60 else f"{found[:57]}..."
        return DataError(f"{self.where}: field {name!r} should be {wanted}, and is {shown}")

    def text(self, name: str, default: str | None = None) -> str:
        """A text; ``default`` where the field is missing or null, if there is one. Numbers count as ids."""
        value = self.entry.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise self.fail(name, "a text")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.entry.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool) and isinstance(value, (int, float)):
            # Whole numbers of JSON may be too large for floating point.
            with contextlib.suppress(OverflowError):
                if math.isfinite(value):
                    return float(value)
        raise self.fail(name, "a number")

    def integer(self, name: str) -> int:
        """A whole number."""
        value = self.number(name)
        if value != int(value):
            raise self.fail(name, "a whole number")
        return int(value)

    def objects(self, name: str, default: bool = False) -> list[Fields]:
        """A list of objects; empty where the field is missing or null, if that is allowed."""
        value = self.entry.get(name)
        if value is None and default:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.fail(name, "a list of objects")
        return [Fields(item, self.where) for item in value]

    def object(self, name: str) -> Fields:
        """An object."""
        value = self.entry.get(name)
        if not isinstance(value, dict):
            raise self.fail(name, "an object")
        return Fields(value, self.where)

    def channel(self, name: str) -> int | None:
        """A channel, or the only one of a list; None for several, or where the field is missing."""
        value = self.entry.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value is None or (isinstance(value, list) and all(type(c) is int for c in value)):
            return None
        if type(value) is not int or value < 0:
            raise self.fail(name, "a channel from 0 on")
        return value
