"""Parts of arrays in safetensors files, and tables of names."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pipeline.artifacts import arrays as module
from pipeline.artifacts.arrays import ArrayFile, NameTable
from pipeline.base.errors import DataError

ARRAYS = {
    "rows": np.arange(60, dtype=np.float32).reshape(20, 3),
    "ids": np.arange(7, dtype=np.int64) - 3,
    "bytes": np.frombuffer("größer".encode(), dtype=np.uint8),
    "halves": np.linspace(0, 1, 5).astype(np.float16),
    "none": np.zeros((0, 4), dtype=np.int32),
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(save(ARRAYS, metadata={"made": "here"}))
    return file


def test_parts_are_those_that_were_written(path):
    file = ArrayFile(path)
    assert file.metadata == {"made": "here"} and "rows" in file and "columns" not in file
    for name, array in ARRAYS.items():
        got = file.array(name)
        assert got.dtype == array.dtype and file.shape(name) == array.shape
        np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(file.part("rows", 4, 9), ARRAYS["rows"][4:9])
    assert len(file.part("rows", 20, 20)) == 0


def test_it_can_be_handed_to_another_process(path):
    file = pickle.loads(pickle.dumps(ArrayFile(path)))
    np.testing.assert_array_equal(file.part("ids", 2, 5), ARRAYS["ids"][2:5])


def header(**changes) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    text = json.dumps({"x": entry}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05\0\0\0\0\0\0\0{}",
        (10**15).to_bytes(8, "little") + b"{}",
        b"\x02\0\0\0\0\0\0\0no",
        b"\x02\0\0\0\0\0\0\0[]",
        header() + b"1234567",
        header() + b"123456789",
        header(dtype="PICKLE") + b"12345678",
        header(shape=[3]) + b"12345678",
        header(shape=[-2]) + b"12345678",
        header(data_offsets=[8, 16]) + b"12345678",
    ],
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.safetensors: damaged"):
        ArrayFile(tmp_path / "x.safetensors")


def test_missing_file_and_array(path, tmp_path):
    with pytest.raises(DataError, match="nothing: no such file"):
        ArrayFile(tmp_path / "nothing")
    with pytest.raises(DataError, match="no array 'columns'"):
        ArrayFile(path).array("columns")


def test_a_file_that_is_cut_while_it_is_open(path):
    file = ArrayFile(path)
    with open(path, "r+b") as out:
        out.truncate(300)
    with pytest.raises(DataError, match="was changed while it was read"):
        for name in ARRAYS:
            file.array(name)


@given(st.lists(st.text(max_size=5), max_size=30))
def test_names_are_found_where_they_stand(names):
    table = NameTable.of(names)
    assert len(table) == len(names) and [table[i] for i in range(len(names))] == names
    for name in [*names, "nowhere else"]:
        assert table.find(name) == (names.index(name) if name in names else None)
    twice = table.repeated()
    assert (twice is None) == (len(set(names)) == len(names)) and (twice is None or names.count(twice) > 1)


def test_names_of_one_hash_stay_apart(monkeypatch):
    monkeypatch.setattr(module, "name_hash", lambda name: len(name) % 2)
    names = ["a", "b", "cc", "ddd", "ee"]
    table = NameTable.of(names)
    assert [table.find(name) for name in names] == [0, 1, 2, 3, 4] and table.find("x") is None
    assert table.repeated() is None
    assert NameTable.of([*names, "cc"]).repeated() == "cc"  # with a name of the same hash in between
