"""Cuts that wait in a temporary file, so that memory holds no more of them than their ids."""

from __future__ import annotations

import heapq
import json
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast


class CutSpool:
    """Cuts as dicts in a temporary file, for use in another order than they come in.

    Use as a context manager; the file goes with it.
    """

    def __init__(self, directory: Path) -> None:
        """Args:
        directory: where the temporary file is made.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  closed by __exit__
        self._ids: list[str] = []
        self._offsets = array("q", [0])
        # Recordings of other names than their cuts' and the first cut of each.
        self._recordings: dict[str, int] = {}

    def add(self, entry: dict[str, Any]) -> None:
        """Append a cut."""
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode()
        self._file.write(line)
        recording = entry.get("recording")
        if recording and recording["id"] != entry["id"]:
            self._recordings.setdefault(recording["id"], len(self._ids))
        self._ids.append(entry["id"])
        self._offsets.append(self._offsets[-1] + len(line))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Cut number i, in the order of ``add``."""
        self._file.flush()
        size = self._offsets[i + 1] - self._offsets[i]
        return cast("dict[str, Any]", json.loads(os.pread(self._file.fileno(), size, self._offsets[i])))

    def order(self) -> list[int]:
        """Numbers of the cuts, sorted by id."""
        return sorted(range(len(self)), key=self._ids.__getitem__)

    def recordings(self) -> Iterator[dict[str, Any]]:
        """Each recording once, sorted by id."""
        named = sorted(self._recordings.items())
        own = ((self._ids[i], i) for i in self.order())
        last = None
        for name, i in heapq.merge(named, own):
            recording = self[i].get("recording")
            if recording and recording["id"] == name != last:
                last = name
                yield recording

    def __enter__(self) -> CutSpool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
