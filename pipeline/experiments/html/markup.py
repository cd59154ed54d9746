"""Text of users in pages: nothing that stands in an id or a transcript becomes markup, code or a path."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

_SLOT = re.compile(r"\{\{(\w+)\}\}")


def text(value: object) -> str:
    """A value as text or attribute of a page."""
    # Halves of surrogate pairs, which a JSON file may hold, cannot be written as UTF-8.
    return html.escape(str(value), quote=True).encode("utf-8", "backslashreplace").decode()


def inline_json(value: Any) -> str:
    """A JSON value that can stand in a script element: no `<` or `&`, no line ends that only JavaScript knows.

    Raises:
        ValueError: a number that JSON lacks.
    """
    raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw.encode("utf-8", "backslashreplace").decode()


def file_name(utt_id: str) -> str:
    """A name for the files of an utterance: what can be read of its id, and a hash that no other one has.

    The same on every file system: no `/`, no dots in front, no letters that some systems drop or fold.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", utt_id).strip("_")[:40]
    return f"{plain or 'utterance'}-{hashlib.sha256(utt_id.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def asset(name: str) -> str:
    """Text of a file in assets/."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def filled(template: str, slots: Mapping[str, str]) -> str:
    """A template of assets/ with its {{slots}} replaced; the values are markup already.

    What is filled in is not looked through again, so that text like "{{data}}" stays text.
    """
    return _SLOT.sub(lambda m: slots[m[1]], asset(template))


def write_text(path: Path, content: str) -> None:
    """Writes a file of a report; not one by one onto the disk, for which thousands of them would take minutes."""
    path.write_text(content, encoding="utf-8", newline="\n")
