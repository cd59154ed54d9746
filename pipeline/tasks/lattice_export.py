"""Lattices of a decoding directory in the formats of other toolkits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import LATTICES, LatticeSet
from pipeline.artifacts.lattice_text import write_kaldi, write_slf
from pipeline.base.errors import DataError
from pipeline.base.log import progress_of
from pipeline.graph.options import ExportLatticesOptions
from pipeline.tasks.weights import read_weights


def export_lattices(decoded: Path, out_dir: Path, options: ExportLatticesOptions) -> dict[str, Any]:
    """Writes lat.txt and words.txt, or ID.slf for each utterance.

    Args:
        decoded: decoding directory with lattices.
    Returns:
        Facts for the stamp.
    Raises:
        DataError: there are no lattices.
    """
    lattices = LatticeSet(decoded / LATTICES)
    found = _Found(lattices)
    if options.format == "kaldi":
        write_kaldi(out_dir / "lat.txt", found)
        lattices.words.save(out_dir / "words.txt")
    else:
        weights = read_weights(decoded)
        names = list(lattices.words)
        write_slf(out_dir, _words(found, weights, options), names, lattices.header.frame_shift, *weights)
    if not found.count:
        raise DataError(f"{lattices.directory}: all of the {len(lattices)} lattices are empty")
    return {"lattices": found.count, "empty": len(lattices) - found.count}


class _Found:
    """The lattices that are not empty, in the order of their ids; counts them."""

    def __init__(self, lattices: LatticeSet) -> None:
        self._lattices, self.count = lattices, 0

    def __iter__(self) -> Iterator[tuple[str, Lattice]]:
        with progress_of(len(self._lattices), "export") as done:
            for cut_id in sorted(self._lattices):
                lattice = self._lattices[cut_id]
                if lattice.num_arcs:
                    self.count += 1
                    yield cut_id, lattice
                done(1)


def _words(
    lattices: _Found, weights: tuple[float, float], options: ExportLatticesOptions
) -> Iterator[tuple[str, Lattice]]:
    from pipeline.graph.determinise import word_lattice

    for cut_id, lattice in lattices:
        yield cut_id, word_lattice(lattice, *weights, options.beam, options.max_states)
