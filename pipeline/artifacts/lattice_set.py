"""The lattices of a decoding, in a directory of shards that is written and read one utterance at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts.lattice import ARCS, Lattice
from pipeline.artifacts.shards import MOST_BYTES, Layout, Record, Shards, ShardWriter
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json

HEADER, STEM = "lattices.json", "lattices"
LATTICES = "lattices"  # their directory within a decoding directory
LAYOUT = Layout("lattice", {"num_states": ("frame",), "num_arcs": ARCS}, values=("partial",))


@dataclass(frozen=True)
class LatticeHeader:
    """What lattices are about; ids are content hashes.

    Attributes:
        frame_shift, frame_offset: seconds; frame i stands for [i * shift + offset, (i + 1) * shift + offset).
        acoustic_scale, lattice_beam: of the search; every path within the beam in that scale is there.
        sequences: words of the labels that stand for several, as ids.
    """

    lang_id: str
    tree_id: str
    frame_shift: float
    frame_offset: float
    acoustic_scale: float
    lattice_beam: float
    sequences: tuple[tuple[int, ...], ...] = ()


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
        data = read_json(d / HEADER)
        try:
            facts = dict(data["header"])
            facts["sequences"] = tuple(tuple(int(w) for w in s) for s in facts["sequences"])
            self.header = LatticeHeader(**facts)
            shards = [d / str(name) for name in data["shards"]]
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{d / HEADER}: not a header of lattices ({e!r})") from None
        self.words = SymbolTable.load(d / "words.txt")
        self._shards = Shards(shards, LAYOUT)

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
