"""Utterances of a corpus that wait in a temporary file between two passes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from pipeline.corpora.source import SourceUtterance


class UtteranceSpool:
    """Utterances in a temporary file, to be gone through any number of times. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._count = 0

    def write(self, utterances: Iterable[SourceUtterance]) -> None:
        """Replace what is there; ``utterances`` may come from this spool itself."""
        new: IO[bytes] = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  closed by __exit__
        count = 0
        for utt in utterances:
            new.write(json.dumps(utt.to_json(), ensure_ascii=True).encode() + b"\n")
            count += 1
        if self._file is not None:
            self._file.close()
        self._file, self._count = new, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SourceUtterance]:
        assert self._file is not None
        self._file.seek(0)
        for line in self._file:
            yield SourceUtterance.from_json(json.loads(line))

    def __enter__(self) -> UtteranceSpool:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
