"""Symbol tables: the bijection between names and the integers that graphs use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.artifacts.characters import WHOLE_NUMBER, named, odd_character, split_fields
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

EPS = "<eps>"


class SymbolTable:
    """Ordered names with ids 0..n-1; id 0 is always ``<eps>``.

    The file format is the one Kaldi, OpenFst and k2 share: ``name id`` per line.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Args:
        names: symbols in id order without ``<eps>``, which is put in front.
        """
        self._names: list[str] = [EPS]
        self._ids: dict[str, int] = {EPS: 0}
        for name in names:
            if not name or any(c.isspace() for c in name):
                raise DataError(f"symbol {name!r} is empty or holds a blank")
            odd = odd_character(name)
            if odd is not None:
                raise DataError(f"symbol {name!r} holds {named(odd)}")
            if name in self._ids:
                raise DataError(f"symbol {name!r} stands twice in the table")
            self._ids[name] = len(self._names)
            self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def __iter__(self) -> Iterator[str]:
        """The names in id order, ``<eps>`` first."""
        return iter(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymbolTable) and self._names == other._names

    def id(self, name: str) -> int:
        """Id of a name; DataError when the table lacks it."""
        try:
            return self._ids[name]
        except KeyError:
            raise DataError(f"symbol {name!r} is not in the table") from None

    def name(self, index: int) -> str:
        """Name of an id; DataError when it is out of range."""
        if not 0 <= index < len(self._names):
            raise DataError(f"symbol id {index} is outside 0..{len(self._names) - 1}")
        return self._names[index]

    def save(self, path: str | Path) -> None:
        with atomic_write(path) as f:
            for i, name in enumerate(self._names):
                f.write(f"{name} {i}\n")

    @classmethod
    def load(cls, path: str | Path) -> SymbolTable:
        """Reads ``name id`` lines; ids must count up from 0 and ``<eps>`` must be 0."""
        names: list[str] = []
        for line_no, line in read_lines(path):
            fields = split_fields(line, f"{path}:{line_no}")
            if len(fields) != 2 or not WHOLE_NUMBER.fullmatch(fields[1]):
                raise DataError(f"{path}:{line_no}: expected 'symbol id', found {line!r}")
            if int(fields[1]) != len(names):
                raise DataError(f"{path}:{line_no}: id {fields[1]} where {len(names)} was due")
            names.append(fields[0])
        if not names or names[0] != EPS:
            raise DataError(f"{path}:1: the first symbol must be {EPS!r}")
        if len(set(names)) != len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise DataError(f"{path}: symbol {twice!r} stands twice")
        return cls(names[1:])
