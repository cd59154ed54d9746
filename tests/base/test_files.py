"""Atomic writes, and reads that name file and line."""

from __future__ import annotations

import errno
import gzip
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base import files
from pipeline.base.errors import DataError
from tests.fuzz.mutations import BOMB


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_write_read(tmp_path, name):
    path = tmp_path / "new" / name
    with files.atomic_write(path) as out:
        out.write("eins\n  zwei ü\t\n\ndrei")
    assert list(files.read_lines(path)) == [(1, "eins"), (2, "zwei ü"), (3, ""), (4, "drei")]
    assert files.read_text(path) == "eins\n  zwei ü\t\n\ndrei"
    assert os.listdir(path.parent) == [name]


@pytest.mark.parametrize("name", ["a.bin", "a.bin.gz"])
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_failed_write_leaves_the_old_file(tmp_path, name, mode):
    path = tmp_path / name
    with files.atomic_write(path, "wb") as out:
        out.write(b"old")
    before = path.read_bytes()
    with pytest.raises(RuntimeError), files.atomic_write(path, mode) as out:
        out.write("new" if mode == "w" else b"new")
        raise RuntimeError
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, name):
    def full(_fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        files.write_json(tmp_path / name, {"a": 1})
    assert os.listdir(tmp_path) == []


def test_equal_content_equal_gzip_bytes(tmp_path):
    """Neither the time nor the file's name is in the bytes."""
    for name in ("a.gz", "b.gz"):
        with files.atomic_write(tmp_path / name) as out:
            out.write("content")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"content"
    assert files.sha256_file(tmp_path / "a.gz") == files.sha256_file(tmp_path / "b.gz")


def test_permissions_follow_umask(tmp_path):
    old = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(obj=JSON, objs=st.lists(JSON, max_size=4), packed=st.booleans())
def test_json_round_trip(tmp_path_factory, obj, objs, packed):
    path = tmp_path_factory.mktemp("j") / ("a.gz" if packed else "a")
    files.write_json(path, obj)
    assert files.read_json(path) == obj
    assert files.write_jsonl(path, objs) == len(objs)
    assert list(files.read_jsonl(path)) == objs


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(ValueError):
        files.write_jsonl(tmp_path / "a.jsonl", [float("inf")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "reader", [files.read_lines, files.read_json, files.read_jsonl, files.read_yaml, files.read_text, files.sha256_file]
)
def test_missing_file(tmp_path, reader):
    with pytest.raises(DataError, match=r"no-such\.txt: no such file"):
        list(reader(tmp_path / "no-such.txt"))


def _drain(result):
    return list(result) if hasattr(result, "__next__") else result


@pytest.mark.parametrize(
    "reader, content, message",
    [
        (files.read_lines, b"ok\nna\xefve\n", r"a\.txt:2: not UTF-8 \(byte 3"),
        (files.read_text, b"ok\nok\nna\xefve\n", r"a\.txt:3: not UTF-8"),
        (files.read_json, b'{"a": 1,\n "b" 2}', r"a\.txt:2: not JSON"),
        (files.read_jsonl, b'{"a": 1}\n{"a": \n', r"a\.txt:2: not JSON"),
        (files.read_json, b'{"a": [1, {"b": NaN}]}', r"a\.txt: a\.1\.b: NaN is no finite number"),
        (files.read_json, b'{"a": -1e400, "b": ', r"a\.txt: -1e400 is no finite number"),
        (files.read_json, b"9" * 5000, r"a\.txt: JSON with a value that cannot be used: Exceeds the limit"),
        (files.read_json, b"[" * 3000 + b"]" * 3000, r"a\.txt: JSON that is nested too deeply"),
        (
            files.read_jsonl,
            b'{"a": 1}\n{"a": "\\ud800"}',
            r"a\.txt:2: JSON with a value that cannot be used: .*surrogates",
        ),
        (files.read_yaml, b"a: 1\nb: [1, 2\nc: 3\n", r"a\.txt:3: not YAML"),
        (files.read_yaml, b"a: " + b"[" * 3000, r"a\.txt: YAML that is nested too deeply"),
        (files.read_yaml, b"a: 2020-13-45", r"a\.txt: YAML with a value that cannot be used: month must be"),
        (files.read_yaml, BOMB.encode(), r"a\.txt: its aliases stand for more than 1,000,000 values"),
        (files.read_yaml, b"a: 1\nb: 2\na: 3\n", r"a\.txt:3: key 'a' is given twice"),
        (files.read_yaml, b"a: !!python/object/apply:os.getcwd []\n", r"a\.txt:1: not YAML"),
    ],
)
def test_broken_content(tmp_path, reader, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        _drain(reader(path))


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "flipped"])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "a.jsonl.gz"
    rng = random.Random(1)
    files.write_jsonl(path, [rng.random() for _ in range(2000)])
    raw = path.read_bytes()
    middle = len(raw) // 2
    flipped = raw[:middle] + bytes([raw[middle] ^ 255]) + raw[middle + 1 :]
    path.write_bytes({"truncated": raw[:middle], "not gzip": b"plain text\n", "flipped": flipped}[damage])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+: "):
        list(files.read_jsonl(path))
    with pytest.raises(DataError):
        files.read_text(path)


def test_byte_order_mark_is_dropped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfword 1\r\nnext\r\n")
    assert list(files.read_lines(path)) == [(1, "word 1"), (2, "next")]


def test_yaml_merge_keys_work(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\n", encoding="utf-8")
    assert files.read_yaml(path)["more"] == {"x": 1, "y": 3}


def test_what_numbers_may_be_is_read():
    assert files.parse_json('{"a": [1e308, -0.0, 123456789012345678901234567890, "\\ud83d\\ude00"]}', "x") == {
        "a": [1e308, -0.0, 123456789012345678901234567890, "\U0001f600"]
    }


def test_names_of_files_that_cannot_be(tmp_path):
    names = files.FileNames(tmp_path, ".png")
    assert names.of("a/b") == "a_b.png"
    with pytest.raises(DataError, match="two utterances would be written to a_b.png"):
        names.of("a_b")
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(DataError, match="too long for the name of a file, or holds a NUL"):
            names.of(name)
        with pytest.raises(DataError, match="cannot be read"):
            files.read_text(tmp_path / name)


@pytest.mark.parametrize("most", [0, 10])
def test_sync_tree(tmp_path, monkeypatch, most):
    """All files, links aside; very many by one call for all."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    (tmp_path / "d").write_text("y")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    synced: list[str] = []
    monkeypatch.setattr(files, "_MOST_SYNCS", most)
    monkeypatch.setattr(files.os, "sync", lambda: synced.append("all"))
    monkeypatch.setattr(files.os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    files.sync_tree(tmp_path)
    every = [str(tmp_path / name) for name in ("", "a", "a/b", "a/b/c", "d")]
    assert sorted(synced) == (["all"] if most == 0 else sorted(name.rstrip("/") for name in every))
