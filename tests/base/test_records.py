"""Records in JSON files: what comes back, what is left out, and how keys and values that do not fit are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, from_json, read_record, to_json


@dataclass(frozen=True, config=STRICT)
class Inner:
    width: float
    dims: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, config=STRICT)
class Record:
    name: str
    inner: Inner
    start: str | None
    note: str | None = None
    sizes: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "record",
    [Record("a", Inner(0.5), None), Record("é", Inner(1e-300, ()), "x", "y", (3,))],
    ids=["defaults", "all given"],
)
def test_round_trip(record, tmp_path):
    write_json(tmp_path / "r.json", to_json(record))
    assert read_record(tmp_path / "r.json", Record) == record


def test_what_is_written():
    """In the order of the fields; None is left out only where that is the default."""
    values = to_json(Record("a", Inner(2.0), None))
    assert list(values) == ["name", "inner", "start", "sizes"] and values["start"] is None
    assert to_json(Record("a", Inner(2.0), None, "n"))["note"] == "n"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"inner": {"width": 1}, "start": None}, "key 'name' is missing"),
        ({"name": "a", "inner": {}, "start": None}, "key 'inner.width' is missing"),
        ({"name": "a", "inner": {"width": 1}}, "key 'start' is missing"),
        ({"name": "a", "inner": {"width": 1, "depth": 2}, "start": None}, "unknown key 'inner.depth'"),
        ({"name": "a", "inner": {"width": "1"}, "start": None}, "inner.width: .*number.*got '1'"),
        ({"name": "a", "inner": {"width": 1, "dims": [1, 2.5]}, "start": None}, "inner.dims.1: .*integer.*got 2.5"),
        ({"name": "a", "inner": {"width": float("nan")}, "start": None}, "inner.width: .*finite"),
        ({"name": None, "inner": {"width": 1}, "start": None}, "name: .*string.*got None"),
        ([1], ": Input should be "),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(DataError, match=f"^dir/r.json: {message}" if message[0] != ":" else f"^dir/r.json{message}"):
        from_json(Record, values, Path("dir/r.json"))


def test_place_in_a_larger_file():
    with pytest.raises(DataError, match="^f.json: key 'config.width' is missing$"):
        from_json(Inner, {}, Path("f.json"), "config.")
    assert from_json(Inner, {"width": 3, "dims": [4]}, Path("f.json")) == Inner(3.0, (4,))
