"""Digests of files: each read once, and read again after whatever may have changed it."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.base import digests
from pipeline.base.digests import UNREADABLE, Digests, tree_digest
from pipeline.base.errors import DataError


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, and tables of small files are kept."""
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    monkeypatch.setattr(digests, "KEEP_FROM", 0)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "a.flac"
    path.write_bytes(b"one")
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def second_run(table: Path, *paths: Path) -> tuple[list[str], int]:
    """Digests with a table, and how many files were read for them."""
    found = Digests(table)
    return found.of(paths), found.num_read


def rewrite(path: Path, content: bytes) -> None:
    """Other content in the same file, at another tick of the file system's clock."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(content)
        time.sleep(0.001)


def test_each_file_is_read_once(settled, tmp_path, file):
    other = tmp_path / "b.flac"
    other.write_bytes(b"two")
    first, table = Digests(), tmp_path / "table.tsv.gz"
    assert first.of([file, other, file]) == [sha(b"one"), sha(b"two"), sha(b"one")]
    assert first.of([file]) == [sha(b"one")] and first.num_read == 2
    first.save(table)
    assert second_run(table, other, file) == ([sha(b"two"), sha(b"one")], 0)
    rewrite(other, b"three")
    assert second_run(table, other, file) == ([sha(b"three"), sha(b"one")], 1)


def kept(file: Path) -> Path:
    table = file.with_name("table.tsv.gz")
    found = Digests()
    found.of([file])
    found.save(table)
    assert second_run(table, file)[1] == 0
    return table


def test_equal_size_and_time_of_content_but_other_content(settled, file):
    table, stat = kept(file), file.stat()
    rewrite(file, b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns and file.stat().st_size == stat.st_size
    assert second_run(table, file) == ([sha(b"two")], 1)


def test_another_file_in_its_place(settled, file):
    table, stat = kept(file), file.stat()
    new = file.with_name("new")
    new.write_bytes(b"two")
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(new, file)
    assert second_run(table, file) == ([sha(b"two")], 1)


@pytest.mark.parametrize("seconds", [10**9, -(10**9)])
def test_times_that_are_wrong(settled, file, seconds):
    """A clock that was far ahead or behind when the file was written: kept like others, and noticed like others."""
    now = time.time_ns() + seconds * 10**9
    os.utime(file, ns=(now, now))
    table = kept(file)
    rewrite(file, b"two")
    os.utime(file, ns=(now, now))
    assert second_run(table, file) == ([sha(b"two")], 1)


def test_clock_set_back(settled, file, monkeypatch):
    """The file is newer than now: nothing is kept of it, since it may change within the same tick when now is then."""
    monkeypatch.setattr(digests.time, "time_ns", lambda: file.stat().st_ctime_ns - 10**9)
    found, table = Digests(), file.with_name("table.tsv.gz")
    found.of([file])
    found.save(table)
    assert second_run(table, file) == ([sha(b"one")], 1)


def test_what_has_just_changed_is_read_again(monkeypatch, file):
    monkeypatch.setattr(digests, "KEEP_FROM", 0)
    table = file.with_name("table.tsv.gz")
    found = Digests()
    found.of([file])
    found.save(table)
    assert second_run(table, file) == ([sha(b"one")], 1)


def test_changed_while_it_is_read(file, monkeypatch):
    def slow(stream) -> str:
        with open(file, "ab") as writer:
            writer.write(b"more")
        return sha(stream.read())

    monkeypatch.setattr(digests, "sha256_stream", slow)
    with pytest.raises(DataError, match=r"a\.flac: was changed while it was read"):
        Digests().of([file])
    with pytest.raises(DataError, match="was changed while it was read"):
        Digests().of([file], lenient=True)


def test_what_cannot_be_read(settled, file, tmp_path):
    missing, directory = tmp_path / "missing", tmp_path / "directory"
    directory.mkdir()
    with pytest.raises(DataError, match="missing: no such file"):
        Digests().of([file, missing])
    with pytest.raises(DataError, match="directory: is a directory, not a file"):
        Digests().of([directory])
    found, table = Digests(), tmp_path / "table.tsv.gz"
    assert found.of([missing, file, directory], lenient=True) == [UNREADABLE, sha(b"one"), UNREADABLE]
    found.save(table)
    missing.write_bytes(b"here now")
    assert second_run(table, missing, file) == ([sha(b"here now"), sha(b"one")], 1)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"rubbish", lambda b: b""])
def test_damaged_table(settled, file, damage):
    table = kept(file)
    table.write_bytes(damage(table.read_bytes()))
    assert second_run(table, file) == ([sha(b"one")], 1)


@pytest.mark.parametrize("name", ["tab\t.flac", "line\nend.flac", os.fsdecode(b"not\xffutf8.flac")])
def test_names_that_a_table_cannot_hold(settled, tmp_path, file, name):
    odd = tmp_path / name
    odd.write_bytes(b"odd")
    found, table = Digests(), tmp_path / "table.tsv.gz"
    assert found.of([odd, file]) == [sha(b"odd"), sha(b"one")]
    found.save(table)
    assert second_run(table, odd, file) == ([sha(b"odd"), sha(b"one")], 1)


def test_no_table_for_what_is_read_in_no_time(file, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    found, table = Digests(), file.with_name("table.tsv.gz")
    found.of([file])
    found.save(table)
    assert not table.exists()


def test_tree(tmp_path):
    """The formula, which ids in existing stamps rest on; the place of the tree does not count, links are not followed."""
    tree = tmp_path / "tree"
    for name, content in {"b/c": b"1", "b.d": b"2", "b/a/x": b"3", "skipped": b"4"}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (tree / "lost").symlink_to("nowhere")
    (tree / "around").symlink_to(tree)

    def skip(parts) -> bool:
        return parts == ["skipped"]

    lines = [f"{name}\0{sha(content)}" for name, content in (("b/a/x", b"3"), ("b/c", b"1"), ("b.d", b"2"))]
    assert tree_digest(tree, Digests(), skip) == sha("\n".join(lines).encode())[:32]
    shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy" / "skipped").write_bytes(b"other")
    assert tree_digest(tmp_path / "copy", Digests(), skip) == tree_digest(tree, Digests(), skip)
    (tmp_path / "copy" / "b.d").write_bytes(b"3")
    assert tree_digest(tmp_path / "copy", Digests(), skip) != tree_digest(tree, Digests(), skip)
    (tmp_path / "empty").mkdir()
    assert tree_digest(tmp_path / "empty", Digests(), skip) is None
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        tree_digest(tmp_path / "nowhere", Digests(), skip)
