"""Reads and writes that the system does in pieces."""

from __future__ import annotations

import os

from pipeline.base.places import read_at, write_at


def test_pieces_are_put_together(tmp_path, monkeypatch):
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, place: write(fd, data[:3], place))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, place: read(fd, [buffers[0][:2]], place))
    with open(tmp_path / "f", "w+b") as file:
        write_at(file.fileno(), b"0123456789", 5)
        out = bytearray(8)
        assert read_at(file.fileno(), out, 7) == 8 and out == b"23456789"
        assert read_at(file.fileno(), out, 12) == 3 and out[:3] == b"789"
        assert read_at(file.fileno(), out, 100) == 0
