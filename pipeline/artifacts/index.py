"""Index of a data directory: ids, speakers, transcripts and places of features of its utterances, as arrays.

cuts.jsonl.gz is the truth; parsing it takes about 40 microseconds and 6 KiB of objects per utterance. The index holds
what steps ask for in about 85 bytes per utterance; transcripts stay in its file and are read when they are wanted. It
is made when a directory is first read, stands beside the manifest as index.safetensors, and counts only as long as the
digest of the manifest that it names is that of the manifest: a changed manifest makes a new index. A directory that
cannot be written to keeps it in memory. Of a directory of shards it holds where the features are in these, too.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import logging
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.arrays import ArrayFile, NameTable, name_hash
from pipeline.artifacts.corpus import CUTS, cut_files, iter_cuts
from pipeline.artifacts.shar import SharPlaces, is_shar, shard_files
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, parse_json, sha256_file

logger = logging.getLogger(__name__)

INDEX = "index.safetensors"
VERSION = "3"
PACKED = "packed_frames"  # storage type of features, see pipeline.feats.storage
NO_FEATURES = -1
PRECISIONS = {"float32": 4, "float16": 2}  # bytes of a number

_KINDS = {
    "id_block": np.uint8,
    "id_offsets": np.int64,
    "lines": np.int32,
    "speaker": np.int32,
    "durations": np.float64,
    "num_frames": np.int32,
    "first_byte": np.int64,
    "file": np.int32,
    "text_offsets": np.int64,
    "text_check": np.uint32,
    "hashes": np.uint64,
    "order": np.int32,
}
_TEXT = "text"  # uint8, stays in the file


class UtteranceIndex:
    """Utterances of a data directory, in the order of its manifest; N of them.

    Attributes:
        directory: the data directory.
        lines: (N,) int32 line of each in cuts.jsonl.gz, from 1; counted on from shard to shard.
        speaker: (N,) int32 position in ``speaker_names``, which is sorted.
        durations: (N,) float64 seconds.
        num_frames: (N,) int32 frames of its features, NO_FEATURES without any.
        first_byte: (N,) int64 where they begin in their file.
        file: (N,) int32 position in ``files``.
        files: (path, features per frame, precision) of the feature files.
        sampling_rate: of the audio, in Hz.
    """

    def __init__(
        self, directory: Path, arrays: dict[str, npt.NDArray[Any]], facts: dict[str, Any], text: ArrayFile | bytes
    ) -> None:
        self.directory, self._text, self._text_offsets = directory, text, arrays["text_offsets"]
        self._text_check = arrays["text_check"]
        self._names = NameTable(*(arrays[name] for name in ("id_block", "id_offsets", "hashes", "order")))
        self.lines, self.speaker, self.durations = arrays["lines"], arrays["speaker"], arrays["durations"]
        self.num_frames, self.first_byte, self.file = arrays["num_frames"], arrays["first_byte"], arrays["file"]
        self.speaker_names: tuple[str, ...] = tuple(facts["speakers"])
        self.files = tuple((str(directory / path), int(dim), str(kind)) for path, dim, kind in facts["files"])
        self._manifests = [str(name) for name, _ in facts["manifests"]]
        self._first_lines = [int(first) for _, first in facts["manifests"]]  # ascending
        self.sampling_rate = int(facts["sampling_rate"])

    def __len__(self) -> int:
        return len(self.lines)

    def id(self, i: int) -> str:
        """Utterance id."""
        return self._names[i]

    def ids(self, rows: Iterable[int] | None = None) -> list[str]:
        """Ids of some utterances, of all by default."""
        return [self.id(i) for i in (range(len(self)) if rows is None else rows)]

    def text(self, i: int) -> str:
        """Transcript, words separated by single blanks."""
        begin, end = (int(n) for n in self._text_offsets[i : i + 2])
        raw = self._text[begin:end] if isinstance(self._text, bytes) else self._text.part(_TEXT, begin, end).tobytes()
        if zlib.crc32(raw) != self._text_check[i]:
            raise DataError(f"{self.directory / INDEX}: damaged text of utterance {self.id(i)!r}; remove the file")
        return raw.decode()

    def speaker_of(self, i: int) -> str:
        """Name of the speaker."""
        return self.speaker_names[int(self.speaker[i])]

    def where(self, i: int) -> str:
        """Place of an utterance for messages: file, line and id."""
        line = int(self.lines[i])
        manifest = bisect.bisect_right(self._first_lines, line) - 1  # asked for each transcript, of thousands of shards
        place = self.directory / self._manifests[manifest]
        return f"{place}:{line - self._first_lines[manifest] + 1}: utterance {self.id(i)!r}"

    def find(self, cut_id: str) -> int | None:
        """Position of an utterance, None if it is not here."""
        return self._names.find(cut_id)

    def positions(self, cut_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """(M,) int64 positions of utterances; DataError names the first that is missing."""
        found = [self.find(cut_id) for cut_id in cut_ids]
        missing = [c for c, i in zip(cut_ids, found) if i is None]
        if missing:
            raise DataError(
                f"{self.directory}: has no utterance {missing[0]!r} ({len(missing)} of {len(cut_ids)} are missing)"
            )
        return np.array(found, dtype=np.int64)

    def check_features(self) -> None:
        """DataError for the first utterance without features."""
        lacking = np.flatnonzero(self.num_frames < 0)
        if len(lacking):
            raise DataError(f"{self.where(int(lacking[0]))} has no features")


def load_index(data_dir: str | Path) -> UtteranceIndex:
    """The index of a data directory: the one that stands there if it fits the manifest, else a new one.

    Raises:
        DataError: problems of the manifest, listed with file and line.
    """
    directory = Path(data_dir)
    digest = _manifest_digest(directory)
    found = _read(directory, digest)
    if found is not None:
        return found
    arrays, text, facts = _build(directory)
    if _manifest_digest(directory) != digest:
        raise DataError(f"{cut_files(directory)[0]}: was changed while it was read; run the command again")
    try:
        _write(directory / INDEX, arrays, text, {**facts, "version": VERSION, "manifest": digest})
    except OSError as err:
        logger.debug("%s: the index stays in memory (%s)", directory, err)
        return UtteranceIndex(directory, arrays, facts, text)
    made = _read(directory, digest)
    assert made is not None, directory
    return made


def _manifest_digest(directory: Path) -> str:
    """Digest of what an index is made from: the manifest, or the cuts of all shards and the sizes and times of their
    features, which are too large to be read for it.
    """
    if not is_shar(directory):
        return sha256_file(cut_files(directory)[0])
    states = ((cuts, tar.stat()) for cuts, tar in shard_files(directory))
    listed = [f"{sha256_file(cuts)} {state.st_size} {state.st_mtime_ns}" for cuts, state in states]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _build(directory: Path) -> tuple[dict[str, npt.NDArray[Any]], bytes, dict[str, Any]]:
    """Arrays, text block and facts of a manifest, from one pass over it."""
    columns = {name: array(code) for name, code in _COLUMNS.items()}
    ids, text = bytearray(), bytearray()
    speakers: dict[str, int] = {}
    files: dict[tuple[str, int, str], int] = {}
    rate = 0
    starts: list[int] = []
    shards = SharPlaces(directory) if is_shar(directory) else None
    for line, cut in iter_cuts(directory, starts=starts):
        supervision = cut["supervisions"][0]
        rate = cut["recording"]["sampling_rate"]
        columns["lines"].append(line)
        columns["durations"].append(cut["duration"])
        columns["speaker"].append(speakers.setdefault(supervision["speaker"], len(speakers)))
        ids += cut["id"].encode()
        text += supervision["text"].encode()
        columns["id_offsets"].append(len(ids))
        columns["text_offsets"].append(len(text))
        columns["text_check"].append(zlib.crc32(supervision["text"].encode()))
        columns["hashes"].append(name_hash(cut["id"]))
        if shards is None:
            place, first, frames = _features(cut, f"{directory / CUTS}:{line}: utterance {cut['id']!r}")
        else:
            place, first, frames = shards.next(cut, len(starts) - 1)
        columns["file"].append(files.setdefault(place, len(files)) if place else NO_FEATURES)
        columns["first_byte"].append(first)
        columns["num_frames"].append(frames)
    if shards is not None:
        shards.end()
    arrays = {name: np.array(column, dtype=_KINDS[name]) for name, column in columns.items()}
    names = sorted(speakers)
    rank = np.empty(len(names), dtype=np.int32)
    rank[[speakers[name] for name in names]] = np.arange(len(names))
    arrays["speaker"] = rank[arrays["speaker"]]
    order = np.argsort(arrays["hashes"], kind="stable").astype(np.int32)
    arrays |= {"order": order, "hashes": arrays["hashes"][order], "id_block": np.frombuffer(bytes(ids), dtype=np.uint8)}
    for name in ("id_offsets", "text_offsets"):
        arrays[name] = np.concatenate([np.zeros(1, dtype=np.int64), arrays[name]])
    manifests = [(path.relative_to(directory).as_posix(), first) for path, first in zip(cut_files(directory), starts)]
    facts = {"speakers": names, "files": list(files), "sampling_rate": rate, "manifests": manifests}
    return arrays, bytes(text), facts


_COLUMNS = {
    "id_offsets": "q",
    "lines": "i",
    "speaker": "i",
    "durations": "d",
    "num_frames": "i",
    "first_byte": "q",
    "file": "i",
    "text_offsets": "q",
    "text_check": "I",
    "hashes": "Q",
}


def _features(cut: dict[str, Any], where: str) -> tuple[tuple[str, int, str] | None, int, int]:
    """(path, dim, precision), first byte and number of frames of a cut's features; None without any."""
    feats = cut.get("features")
    if not feats:
        return None, 0, NO_FEATURES
    kind = feats.get("storage_type") if isinstance(feats, dict) else None
    if kind != PACKED:
        raise DataError(f"{where}: features of storage type {kind!r}, expected {PACKED!r}")
    try:
        first, frames, dim, precision = str(feats["storage_key"]).split(",")
        place = (str(feats["storage_path"]), int(dim), precision)
        numbers = int(first), int(dim), int(frames)
    except (KeyError, ValueError):
        raise DataError(f"{where}: its features have no storage key 'first,frames,dim,precision'") from None
    # So large are a file, an utterance and a frame at most; arrays of the index hold no more.
    possible = 0 <= numbers[0] < 1 << 38 and 0 < numbers[1] < 1 << 20 and 0 < numbers[2] < 1 << 31
    if precision not in PRECISIONS or not possible:
        raise DataError(f"{where} has features with storage key {feats['storage_key']!r}")
    return place, numbers[0] * numbers[1] * PRECISIONS[precision], numbers[2]


def _write(path: Path, arrays: dict[str, npt.NDArray[Any]], text: bytes, facts: dict[str, Any]) -> None:
    """Writes the index; the text comes last. Two processes may do so at once: each file is complete when it appears."""
    from safetensors.numpy import save

    blocks = {**arrays, _TEXT: np.frombuffer(text, dtype=np.uint8)}
    # A digest of the arrays tells a damaged file; of the text it would cost reading all of it, so each has its own.
    facts = {**facts, "arrays": _digest(arrays)}
    with atomic_write(path, "wb") as out:
        out.write(save(blocks, metadata={"index": json.dumps(facts, ensure_ascii=False)}))


def _read(directory: Path, digest: str) -> UtteranceIndex | None:
    """The index of a manifest with this digest, None if there is none or it is damaged."""
    path = directory / INDEX
    if not path.is_file():
        return None
    try:
        file = ArrayFile(path)
        facts = parse_json(file.metadata["index"], path)
        if facts["version"] != VERSION or facts["manifest"] != digest:
            return None
        arrays = {name: file.array(name) for name in _KINDS}
        if _digest(arrays) != facts["arrays"] or arrays["text_offsets"][-1] != file.shape(_TEXT)[0]:
            raise DataError(f"{path}: its arrays are not those that were written")
        return UtteranceIndex(directory, arrays, facts, file)
    except (DataError, OSError, KeyError, TypeError, ValueError, IndexError) as err:
        logger.warning("%s; the index is made anew", err if isinstance(err, DataError) else f"{path}: damaged ({err})")
        return None


def _digest(arrays: dict[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + str(arrays[name].shape).encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
