"""Data directories whose cuts and features lie in lhotse Shar, and where in the shards the features begin.

DIR/shar holds cuts.000000.jsonl.gz, features.000000.tar and so on. A tar file is not compressed, and each array in it
is an .npy file with its numbers end to end, so frames are read by their place, as from one file of all features.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic.dataclasses import dataclass

from pipeline.artifacts.features import Count, Positive
from pipeline.base.errors import DataError
from pipeline.base.records import STRICT, read_record

SHARDS = "shar"  # directory of the shards, which lhotse reads: CutSet.from_shar(in_dir=..)
FACTS = "shar.json"
_PRECISION_OF = {"<f4": "float32", "<f2": "float16"}


@dataclass(frozen=True, config=STRICT)
class SharFacts:
    """How much there is in a directory of shards.

    Args:
        precision: that the features had before they were written as shards, which hold them as float32.
    """

    utterances: Positive
    frames: Count
    shards: Positive
    precision: Literal["float32", "float16"]


class Place(NamedTuple):
    """An array in a file: its first byte there, its shape (T, F) and precision."""

    first_byte: int
    shape: tuple[int, int]
    precision: str


def is_shar(data_dir: Path) -> bool:
    """Whether a directory states that its data lie in shards."""
    return (data_dir / FACTS).is_file()


def check_unpacked(data_dir: Path) -> None:
    """DataError for a directory of shards, whose features no other directory can name."""
    if is_shar(data_dir):
        raise DataError(f"{data_dir}: is in shards; steps/import_shar.py unpacks it")


def shard_files(data_dir: Path) -> list[tuple[Path, Path]]:
    """(cuts, features) of all shards of a directory; DataError if one is missing."""
    stated = read_record(data_dir / FACTS, SharFacts)
    directory = data_dir / SHARDS
    files = []
    for n in range(stated.shards):  # one by one: the number may be wrong, and beyond all memory
        files.append((directory / f"cuts.{n:06d}.jsonl.gz", directory / f"features.{n:06d}.tar"))
        for path in files[-1]:
            if not path.is_file():
                raise DataError(f"{path}: no such file; was the directory copied as a whole?")
    return files


def arrays_of(path: Path) -> Iterator[tuple[str, Place]]:
    """Names without ".npy", and places, of the features in a tar file, of which only the headers are read.

    Raises:
        DataError: it is cut short, damaged, or holds something else.
    """
    npy: Any = np.lib.format  # has no types
    try:
        with tarfile.open(path, "r:") as tar, open(path, "rb") as file:
            for member in tar:
                name, _, kind = member.name.rpartition(".")
                if kind in ("json", "nometa"):
                    continue  # what lhotse notes of an array; the cut says the same
                if kind != "npy":
                    raise DataError(f"{path}: holds {member.name!r}, where features of an utterance are .npy files")
                file.seek(member.offset_data)
                try:
                    version = npy.read_magic(file)
                    if version != (1, 0):
                        raise ValueError(f"version {version} of the format")
                    shape, by_columns, dtype = npy.read_array_header_1_0(file)
                    if by_columns or len(shape) != 2 or dtype.str not in _PRECISION_OF:
                        raise ValueError(f"an array of shape {shape}, type {dtype}, expected frames x features")
                    first = file.tell()
                    if member.offset_data + member.size - first != dtype.itemsize * shape[0] * shape[1]:
                        raise ValueError(f"{member.size} bytes, which do not fit the shape {shape}")
                except Exception as err:  # of the parser of Python's expressions that numpy has its headers read by
                    raise DataError(f"{path}: {member.name!r} is damaged or no such array ({err})") from None
                yield name, Place(first, (shape[0], shape[1]), _PRECISION_OF[dtype.str])
    except (tarfile.TarError, EOFError) as err:
        raise DataError(f"{path}: damaged or cut short ({err or type(err).__name__})") from None


class SharPlaces:
    """Where the features of the cuts of a directory lie; asked once for each cut, in order."""

    def __init__(self, data_dir: Path) -> None:
        """Raises:
        DataError: a shard is missing.
        """
        self._stated, self._path = read_record(data_dir / FACTS, SharFacts), data_dir / FACTS
        self._tars = [tar for _, tar in shard_files(data_dir)]
        self._shard = -1
        self._arrays: Iterator[tuple[str, Place]] = iter(())
        self._utterances = self._frames = 0

    def next(self, cut: dict[str, Any], shard: int) -> tuple[tuple[str, int, str], int, int]:
        """(path below the directory, features per frame, precision), first byte and number of frames of the features of
        a cut, which stands in shard number `shard`.

        Raises:
            DataError: they are missing or of another length, or the shard is damaged.
        """
        while self._shard < shard:
            self._end_shard()
            self._shard += 1
            self._arrays = arrays_of(self._tars[self._shard])
        path, cut_id = self._tars[shard], cut["id"]
        feats = cut.get("features")
        stated = feats.get("num_frames") if isinstance(feats, dict) else None
        name, place = next(self._arrays, ("", None))
        if place is None:
            raise DataError(f"{path}: has no features of utterance {cut_id!r}; was the shard copied as a whole?")
        frames, dim = place.shape
        if name != cut_id:
            raise DataError(f"{path}: holds features of {name!r}, those of utterance {cut_id!r} are due")
        if frames != stated or not frames:
            raise DataError(f"{path}: {frames} frames of utterance {cut_id!r}, its cut states {stated}")
        self._utterances, self._frames = self._utterances + 1, self._frames + frames
        return (f"{SHARDS}/{path.name}", dim, place.precision), place.first_byte, frames

    def end(self) -> None:
        """DataError unless all that the directory states has come."""
        self._end_shard()
        found, stated = (self._utterances, self._frames), (self._stated.utterances, self._stated.frames)
        if found != stated or self._shard + 1 != len(self._tars):
            raise DataError(
                f"{self._path}: states {stated[0]:,} utterances and {stated[1]:,} frames, the shards hold {found[0]:,} "
                f"and {found[1]:,}; was the directory copied as a whole?"
            )

    def _end_shard(self) -> None:
        for name, _ in self._arrays:
            raise DataError(f"{self._tars[self._shard]}: holds features of {name!r}, which has no cut in the shard")
