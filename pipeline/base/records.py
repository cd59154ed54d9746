"""Frozen dataclasses that stand in JSON files: validated where they come in, so that nothing behind has to look again.

A record is a frozen pydantic dataclass whose config forbids extra keys. ``from_json`` is the one place that says how
files of other versions are read:

- A key that the record lacks is an error at every level. No version has written a key that a later one does not know,
  so the file comes from a later version, and what the key means for its content cannot be guessed.
- A key that the file lacks takes the field's default. A field that is added later therefore has the default that says
  what files before it meant; a field without a default has always been written.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from pipeline.base.errors import DataError
from pipeline.base.files import read_json

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
OPEN = pydantic.ConfigDict(extra="ignore", allow_inf_nan=False)  # files with further facts, for people
FileName = Annotated[
    str, pydantic.Field(pattern=r"^\w[\w.-]*$", max_length=200)
]  # of a file beside the one that names it
T = TypeVar("T")


def read_record(path: Path, record: type[T]) -> T:
    """The record that a JSON file holds; DataError with file and field for everything else."""
    return from_json(record, read_json(path), path)


def from_json(record: type[T], value: Any, path: Path, within: str = "") -> T:
    """A record from what a JSON file holds. Types are strict: no number in quotes, no fraction for a whole number.

    Args:
        value: as ``read_json`` returns it.
        path: the file, for the message.
        within: place of `value` in the file, with a full stop behind it, for the message.
    Raises:
        DataError: naming file and field.
    """
    try:
        # As JSON, in which a list may become a tuple and an object a record even where types are strict.
        return pydantic.TypeAdapter(record).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as err:
        first = err.errors(include_url=False)[0]
    name = within + ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        raise DataError(f"{path}: unknown key {name!r}; was the file written by a later version?")
    if first["type"] == "missing":
        raise DataError(f"{path}: key {name!r} is missing")
    got = f" (got {first['input']!r})" if isinstance(first["input"], (str, int, float, type(None))) else ""
    raise DataError(f"{path}: {name + ': ' if name else ''}{first['msg'].removeprefix('Value error, ')}{got}")


def to_json(record: Any) -> dict[str, Any]:
    """The JSON object of a record, keys in the order of its fields; a field with the default None is left out where it
    is None.
    """
    values = dataclasses.asdict(record)
    optional = {field.name for field in dataclasses.fields(record) if field.default is None}
    return {name: value for name, value in values.items() if value is not None or name not in optional}
