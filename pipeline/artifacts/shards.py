"""Records by id in shard files: written one after the other, read one at a time, whatever their number.

A shard is a safetensors file with the records' columns end to end, the lengths of each record, and the ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.arrays import ArrayFile, NameTable
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, parse_json, read_json, write_json
from pipeline.base.records import FileName

Record = dict[str, npt.NDArray[Any]]
ShardNames = tuple[FileName, ...]  # in a header

MOST_RECORDS = 10_000
MOST_BYTES = 32 << 20  # of a shard, which waits in memory until it is written
MOST_OPEN = 64  # shards that stay open


@dataclass(frozen=True)
class Layout:
    """What records of one kind are made of.

    Attributes:
        kind: for messages, for example "alignment".
        columns: name of an array of int32 lengths -> columns (their first axis) that are so long in each record, each
            with its dtype, and with the numbers per row where these are not one: ("i4", 2).
        values: columns with one number per record, and their dtypes.
        optional: columns that all records of a shard lack or none.
    """

    kind: str
    columns: Mapping[str, Mapping[str, str | tuple[str, int]]]
    values: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()


class Run(NamedTuple):
    """Records that follow each other in a shard.

    Attributes:
        ids: of K records.
        arrays: their columns end to end, their values, and their lengths (K,) under the names of the layout.
    """

    ids: list[str]
    arrays: Record


class ShardWriter:
    """Writes DIRECTORY/STEM.0.safetensors and so on; memory holds one shard."""

    def __init__(
        self,
        directory: Path,
        stem: str,
        layout: Layout,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._directory, self._stem, self._layout = directory, stem, layout
        self._most_records, self._most_bytes = most_records, most_bytes
        self._ids: list[str] = []
        self._pending: list[Record] = []
        self._bytes = 0
        self._names: list[str] = []

    def write(self, record_id: str, record: Record) -> None:
        """Takes a record, whose arrays must not change afterwards."""
        self._ids.append(record_id)
        self._pending.append(record)
        self._bytes += sum(a.nbytes for a in record.values())
        if len(self._ids) >= self._most_records or self._bytes >= self._most_bytes:
            self._flush()

    def write_run(self, run: Run) -> None:
        """Takes records at once; the shards are those that they would make one by one."""
        sizes = np.zeros(len(run.ids), dtype=np.int64)
        for name, array in run.arrays.items():
            row = array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
            lengths = next((n for n, columns in self._layout.columns.items() if name in columns), None)
            if lengths is not None:
                sizes += row * run.arrays[lengths].astype(np.int64)
            elif name in self._layout.values:
                sizes += row
        ends = {name: offsets(run.arrays[name]) for name in self._layout.columns}
        begin = 0
        while begin < len(run.ids):
            total = self._bytes + np.cumsum(sizes[begin:])
            full = total >= self._most_bytes
            full[self._most_records - len(self._ids) - 1 :] = True
            end = begin + (int(np.argmax(full)) + 1 if full.any() else len(full))
            piece = {name: run.arrays[name][begin:end] for name in (*self._layout.columns, *self._layout.values)}
            for lengths, columns in self._layout.columns.items():
                rows = slice(int(ends[lengths][begin]), int(ends[lengths][end]))
                piece |= {name: run.arrays[name][rows] for name in columns if name in run.arrays}
            self._ids += run.ids[begin:end]
            self._pending.append(piece)
            self._bytes = int(total[end - begin - 1])
            if full.any():
                self._flush()
            begin = end

    def close(self) -> list[str]:
        """Writes what is left; the names of all shards."""
        if self._pending:
            self._flush()
        return self._names

    def _flush(self) -> None:
        from safetensors.numpy import save

        arrays: Record = {}
        for lengths, columns in self._layout.columns.items():
            first = next(iter(columns))
            own = (r[lengths] if lengths in r else [len(r[first])] for r in self._pending)
            arrays[lengths] = np.concatenate([np.asarray(n, dtype=np.int32) for n in own])
            for column in columns:
                given = [column in r for r in self._pending]
                assert all(given) or (column in self._layout.optional and not any(given)), column
                if all(given):
                    arrays[column] = np.concatenate([r[column] for r in self._pending])
        for value in self._layout.values:
            arrays[value] = np.concatenate([r[value] for r in self._pending])
        self._names.append(f"{self._stem}.{len(self._names)}.safetensors")
        with atomic_write(self._directory / self._names[-1], "wb") as f:
            f.write(save(arrays, metadata={"cut_ids": json.dumps(self._ids)}))
        self._ids, self._pending, self._bytes = [], [], 0


def join(
    places: Sequence[Path], out: Path, header: str, stem: str, layout: Layout, ids: Iterable[str] | None = None
) -> None:
    """Writes the records of several directories as those of one, in shards as a ``ShardWriter`` that had got them all.

    Args:
        places: directories with a header each.
        out: made if it is missing; its header is that of the first one, with the names of its own shards.
        header: name of the JSON file that lists the shards.
        ids: order of the records, among which there may be ids without one; by default that of the directories.
    """
    out.mkdir(exist_ok=True)
    facts = [read_json(place / header) for place in places]
    shards = Shards([place / name for place, own in zip(places, facts) for name in own["shards"]], layout)
    writer = ShardWriter(out, stem, layout)
    for run in shards.runs(ids):
        writer.write_run(run)
    write_json(out / header, {**facts[0], "shards": writer.close()})


class Shards:
    """Records of shard files; memory holds some 60 bytes for each and its id."""

    def __init__(self, paths: Sequence[Path], layout: Layout) -> None:
        """Raises:
        DataError: a file that is missing or damaged, or an id that stands twice.
        """
        self._shards = [_Shard(path, layout, len(paths) <= MOST_OPEN) for path in paths]
        self._names = NameTable.of([record_id for shard in self._shards for record_id in shard.take_ids()])
        self._first = np.cumsum([0, *(len(shard) for shard in self._shards)])
        twice = self._names.repeated()
        if twice is not None:
            raise DataError(f"{paths[0].parent}: there are two {layout.kind}s of utterance {twice!r}")

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        """Ids in the order in which they were written."""
        return (self._names[i] for i in range(len(self._names)))

    def __contains__(self, record_id: object) -> bool:
        return isinstance(record_id, str) and self._names.find(record_id) is not None

    def find(self, record_id: str) -> tuple[Record, Path] | None:
        """A record and the file it was read from; None if there is none."""
        place = self._place(record_id)
        return None if place is None else (place[0].read(place[1]), place[0].path)

    def length(self, record_id: str, lengths: str) -> int:
        """One of the lengths of a record that is there, without reading it."""
        place = self._place(record_id)
        assert place is not None, record_id
        return place[0].length(place[1], lengths)

    def runs(self, ids: Iterable[str] | None = None) -> Iterator[Run]:
        """Records, as many at once as follow each other here.

        Args:
            ids: which ones and in which order; those that are not here are passed over. By default all.
        """
        found = range(len(self)) if ids is None else [i for i in map(self._names.find, ids) if i is not None]
        rows = np.array(found, dtype=np.int64)
        shard = np.searchsorted(self._first, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shard) != 0)) + 1
        for some in np.split(rows, breaks) if len(rows) else []:
            number = int(np.searchsorted(self._first, some[0], side="right")) - 1
            begin, end = (int(i) - int(self._first[number]) for i in (some[0], some[-1] + 1))
            yield Run([self._names[i] for i in some.tolist()], self._shards[number].read_many(begin, end))

    def _place(self, record_id: str) -> tuple[_Shard, int] | None:
        i = self._names.find(record_id)
        if i is None:
            return None
        number = int(np.searchsorted(self._first, i, side="right")) - 1
        return self._shards[number], i - int(self._first[number])


class _Shard:
    """One file."""

    def __init__(self, path: Path, layout: Layout, keep_open: bool) -> None:
        self.path, self._layout, self._file = path, layout, ArrayFile(path, keep_open)
        try:
            self._ids: list[str] = [str(c) for c in parse_json(self._file.metadata["cut_ids"], path)]
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}: damaged {layout.kind} shard ({e!r})") from None
        for lengths, every in layout.columns.items():
            self._file.check(lengths, "i4")
            for column, kind in every.items():
                if column not in layout.optional or column in self._file:
                    self._file.check(column, *(kind if isinstance(kind, tuple) else (kind,)))
        for name, kind in layout.values.items():
            self._file.check(name, kind)
        self._bounds = {name: offsets(self._file.array(name)) for name in layout.columns}
        self._values = {name: self._file.array(name) for name in layout.values}
        sizes = {len(self._ids), *(len(b) - 1 for b in self._bounds.values()), *map(len, self._values.values())}
        self._columns = {
            name: columns
            for name, every in layout.columns.items()
            if (columns := [c for c in every if c not in layout.optional or c in self._file])
        }
        ends = {self._file.shape(c)[0] - self._bounds[name][-1] for name, every in self._columns.items() for c in every}
        falling = any((np.diff(bounds) < 0).any() for bounds in self._bounds.values())
        if len(sizes) > 1 or ends != {0} or falling:
            raise DataError(f"{path}: damaged {layout.kind} shard (the lengths do not add up)")
        self._count = len(self._ids)
        self._file.metadata = {}

    def __len__(self) -> int:
        return self._count

    def take_ids(self) -> list[str]:
        """The ids, which this object does not keep."""
        ids, self._ids = self._ids, []
        return ids

    def length(self, i: int, lengths: str) -> int:
        bounds = self._bounds[lengths]
        return int(bounds[i + 1] - bounds[i])

    def read(self, i: int) -> Record:
        return self._read(i, i + 1)

    def read_many(self, begin: int, end: int) -> Record:
        """Of records begin:end the columns end to end, the values and the lengths."""
        return self._read(begin, end) | {n: np.diff(b[begin : end + 1]) for n, b in self._bounds.items()}

    def _read(self, begin: int, end: int) -> Record:
        out = {name: values[begin:end] for name, values in self._values.items()}
        for name, columns in self._columns.items():
            first, last = int(self._bounds[name][begin]), int(self._bounds[name][end])
            out |= {column: self._file.part(column, first, last) for column in columns}
        return out


def offsets(sizes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N,) sizes -> (N + 1,) int64 bounds."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])
