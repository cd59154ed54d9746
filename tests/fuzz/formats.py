"""The formats that are damaged: how a small example of each is made, and what reads it as steps do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: of the format.
        make: writes an example below a directory.
        files: patterns of the files below it that are damaged, one at a time.
        read: reads the example and works with it; the second directory is empty and for what that writes.
    """

    name: str
    make: Callable[[Path], object]
    files: tuple[str, ...]
    read: Callable[[Path, Path], object]


FORMATS: dict[str, Format] = {}


def add(name: str, make: Callable[[Path], object], files: str, read: Callable[[Path, Path], object]) -> None:
    """Takes a format; `files` are patterns with blanks between them."""
    assert name not in FORMATS, name
    FORMATS[name] = Format(name, make, tuple(files.split()), read)


def all_formats() -> dict[str, Format]:
    """All of them, by name."""
    from tests.fuzz import of_artifacts, of_corpora, of_experiments, of_models, of_options  # noqa: F401  they call `add`

    return FORMATS
