"""The lattices of a decoding, in a directory of shards that is written and read one utterance at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic.dataclasses import dataclass

from pipeline.artifacts.features import Positive, Seconds
from pipeline.artifacts.lattice import ARCS, FLOATS, Lattice
from pipeline.artifacts.shards import MOST_BYTES, Layout, Record, ShardNames, Shards, ShardWriter
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record

HEADER, STEM = "lattices.json", "lattices"
LATTICES = "lattices"  # their directory within a decoding directory
_ARCS = {name: "f4" if name in FLOATS else "i4" for name in ARCS}
LAYOUT = Layout("lattice", {"num_states": {"frame": "i4"}, "num_arcs": _ARCS}, values={"partial": "u1"})


@dataclass(frozen=True, config=STRICT)
class LatticeHeader:
    """What lattices are about; ids are content hashes.

    Attributes:
        frame_shift, frame_offset: seconds; frame i stands for [i * shift + offset, (i + 1) * shift + offset).
        acoustic_scale, lattice_beam: of the search; every path within the beam in that scale is there.
        sequences: words of the labels that stand for several, as ids.
    """

    lang_id: str
    tree_id: str
    frame_shift: Seconds
    frame_offset: float
    acoustic_scale: float
    lattice_beam: float
    sequences: tuple[tuple[Positive, ...], ...] = ()


@dataclass(frozen=True, config=STRICT)
class _Facts:
    """What lattices.json holds."""

    header: LatticeHeader
    shards: ShardNames


class LatticeSet(Mapping[str, Lattice]):
    """Lattices by utterance, read when they are asked for; those of failed searches are empty or partial.

    Attributes:
        directory: where they are. header: see there. words: word of each id.
    """

    def __init__(self, directory: str | Path) -> None:
        """Raises:
        DataError: a missing or damaged file.
        """
        self.directory = d = Path(directory)
        if not (d / HEADER).is_file():
            raise DataError(f"{d}: holds no lattices (steps/decode.py --lattices writes some)")
        facts = read_record(d / HEADER, _Facts)
        self.header = facts.header
        self.words = SymbolTable.load(d / "words.txt")
        if any(word >= len(self.words) for words in self.header.sequences for word in words):
            raise DataError(f"{d / HEADER}: a label stands for words that words.txt lacks")
        self._shards = Shards([d / name for name in facts.shards], LAYOUT)

    def __getitem__(self, cut_id: str) -> Lattice:
        found = self._shards.find(cut_id)
        if found is None:
            raise DataError(f"{self.directory}: no lattice of utterance {cut_id!r}")
        record, path = found
        columns = [record[name] for name in ("frame", *ARCS)]
        partial = bool(record["partial"][0])
        lattice = Lattice.of(columns, len(self.words), self.header.sequences, partial)
        lattice.validate(f"{path}: utterance {cut_id!r}")
        return lattice

    def __contains__(self, cut_id: object) -> bool:
        return cut_id in self._shards

    def __iter__(self) -> Iterator[str]:
        """Utterances in the order in which they were written."""
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


class LatticeWriter:
    """Writes the directory of a ``LatticeSet``; it is readable once the context has closed without an exception."""

    def __init__(
        self, directory: str | Path, header: LatticeHeader, words: SymbolTable, shard_bytes: int = MOST_BYTES
    ) -> None:
        self.directory, self._header, self._words = Path(directory), header, words
        self.directory.mkdir(parents=True, exist_ok=True)
        words.save(self.directory / "words.txt")
        self._shards = ShardWriter(self.directory, STEM, LAYOUT, most_bytes=shard_bytes)

    def write(self, cut_id: str, lattice: Lattice) -> None:
        """Takes the lattice of an utterance, with the labels of the header."""
        labels = lattice.num_words, lattice.sequences
        assert labels == (len(self._words), self._header.sequences), (cut_id, lattice.num_words)
        record: Record = {name: getattr(lattice, name) for name in ("frame", *ARCS)}
        record["partial"] = np.array([lattice.partial], dtype=np.uint8)
        self._shards.write(cut_id, record)

    def __enter__(self) -> LatticeWriter:
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        if exc_type is None:
            shards = self._shards.close()
            write_json(self.directory / HEADER, {"header": asdict(self._header), "shards": shards})
