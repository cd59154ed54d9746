"""JSON values by name that wait in a temporary file, for what is too much for memory."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterator, MutableMapping
from typing import Any

from pipeline.base.places import write_at


class JsonSpool(MutableMapping[str, Any]):
    """Name -> JSON value; memory holds about 150 bytes for each name. Values that are replaced leave their old bytes in
    the file, which goes with the object; nothing can be deleted.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with the object
        self._rows: dict[str, int] = {}
        self._places, self._sizes, self._end = array("q"), array("q"), 0

    def __setitem__(self, name: str, value: Any) -> None:
        raw = json.dumps(value).encode()
        row = self._rows.setdefault(name, len(self._rows))
        if row == len(self._places):
            self._places.append(0)
            self._sizes.append(0)
        self._places[row], self._sizes[row] = self._end, len(raw)
        write_at(self._file.fileno(), raw, self._end)
        self._end += len(raw)

    def __getitem__(self, name: str) -> Any:
        row = self._rows[name]
        return json.loads(os.pread(self._file.fileno(), self._sizes[row], self._places[row]))

    def __delitem__(self, name: str) -> None:
        raise TypeError("a spool keeps what it has")

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
