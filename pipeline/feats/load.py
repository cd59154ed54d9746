"""Load the features of a data directory as packed tensors, normalised, with deltas and context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.artifacts.corpus import iter_cuts
from pipeline.base.errors import DataError
from pipeline.feats.cmvn import CmvnStats, mean_std
from pipeline.feats.facts import FeatureFacts
from pipeline.feats.options import FeatLoadOptions
from pipeline.feats.transforms import add_deltas, splice


@dataclass(frozen=True)
class PackedFeats:
    """Features of N utterances, one after the other.

    Args:
        cut_ids: utterance ids, (N,).
        speakers: speaker of each utterance, (N,).
        feats: float32 (sum T, F).
        offsets: first frame of each utterance and the total, int64 (N+1,).
    """

    cut_ids: tuple[str, ...]
    speakers: tuple[str, ...]
    feats: torch.Tensor
    offsets: torch.Tensor

    def __len__(self) -> int:
        return len(self.cut_ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Features (T, F) of one utterance, a view."""
        return self.feats[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> torch.Tensor:
        """Frames per utterance, int64 (N,)."""
        return self.offsets[1:] - self.offsets[:-1]


class _Stored(NamedTuple):
    """Where the frames of one utterance stand."""

    cut_id: str
    speaker: str
    path: str
    first: int
    num_frames: int
    dim: int
    dtype: str


def load_packed(
    data_dir: str | Path,
    options: FeatLoadOptions,
    cut_ids: Sequence[str] | None = None,
    global_stats: CmvnStats | None = None,
) -> PackedFeats:
    """Load all features of a data directory into memory.

    Args:
        data_dir: a directory made by steps/compute_feats.py.
        options: normalisation, deltas, context.
        cut_ids: load these only, in this order; all in the order of the directory by default.
        global_stats: statistics for cmvn "global"; by default those of this directory. Give those of the training data
            at test time.
    Raises:
        DataError: no features, a missing utterance, numbers that are not finite.
    """
    stored = _select(_stored(Path(data_dir)), cut_ids, data_dir)
    return _load(Path(data_dir), stored, options, _stats(Path(data_dir), options, global_stats))


def iter_packed(
    data_dir: str | Path,
    options: FeatLoadOptions,
    max_frames: int = 1_000_000,
    cut_ids: Sequence[str] | None = None,
    global_stats: CmvnStats | None = None,
) -> Iterator[PackedFeats]:
    """Load the features of a data directory piece by piece, each of at most ``max_frames`` frames (a longer utterance
    is a piece).

    Args and errors are those of load_packed.
    """
    assert max_frames > 0, max_frames
    data_dir = Path(data_dir)
    stats = _stats(data_dir, options, global_stats)
    piece: list[_Stored] = []
    num_frames = 0
    for item in _select(_stored(data_dir), cut_ids, data_dir):
        if piece and num_frames + item.num_frames > max_frames:
            yield _load(data_dir, piece, options, stats)
            piece, num_frames = [], 0
        piece.append(item)
        num_frames += item.num_frames
    if piece:
        yield _load(data_dir, piece, options, stats)


def validate_feats(data_dir: str | Path) -> FeatureFacts:
    """Check that the features of a data directory are complete, finite, as many as features.json says and as long as
    the audio.
    """
    data_dir = Path(data_dir)
    facts = FeatureFacts.load(data_dir)
    durations = {cut["id"]: cut["duration"] for _, cut in iter_cuts(data_dir)}
    num_utterances = num_frames = 0
    for piece in iter_packed(data_dir, FeatLoadOptions(cmvn="speaker")):
        num_utterances += len(piece)
        num_frames += len(piece.feats)
        for cut_id, length in zip(piece.cut_ids, piece.lengths().tolist()):
            if abs(length * facts.frame_shift - durations[cut_id]) > facts.frame_shift:
                raise DataError(
                    f"{data_dir}: utterance {cut_id!r} lasts {durations[cut_id]} s, its {length} frames do not"
                )
    for what, stated, found in (
        ("utterances", facts.num_utterances, num_utterances),
        ("frames", facts.num_frames, num_frames),
    ):
        if stated != found:
            raise DataError(f"{data_dir / 'features.json'}: states {stated} {what}, there are {found}")
    return facts


def _stored(data_dir: Path) -> list[_Stored]:
    from pipeline.feats.storage import PackedFramesReader, parse_key

    facts = FeatureFacts.load(data_dir)
    found = []
    for line_no, cut in iter_cuts(data_dir):
        feats = cut.get("features")
        where = f"{data_dir / 'cuts.jsonl.gz'}:{line_no}: utterance {cut['id']!r}"
        if not feats:
            raise DataError(f"{where} has no features")
        if feats["storage_type"] != PackedFramesReader.name:
            raise DataError(
                f"{where}: features of storage type {feats['storage_type']!r}, expected {PackedFramesReader.name!r}"
            )
        item = _Stored(
            cut["id"], cut["supervisions"][0]["speaker"], feats["storage_path"], *parse_key(feats["storage_key"])
        )
        if item.dim != facts.dim or item.num_frames < 1:
            raise DataError(
                f"{where} has {item.num_frames} frames of {item.dim} features, features.json says {facts.dim}"
            )
        found.append(item)
    return found


def _select(stored: list[_Stored], cut_ids: Sequence[str] | None, data_dir: str | Path) -> list[_Stored]:
    if cut_ids is None:
        return stored
    by_id = {item.cut_id: item for item in stored}
    missing = [cut_id for cut_id in cut_ids if cut_id not in by_id]
    if missing:
        raise DataError(f"{data_dir}: has no utterance {missing[0]!r} ({len(missing)} of {len(cut_ids)} are missing)")
    return [by_id[cut_id] for cut_id in cut_ids]


def _stats(data_dir: Path, options: FeatLoadOptions, global_stats: CmvnStats | None) -> CmvnStats | None:
    if options.cmvn == "global" and global_stats is not None:
        return global_stats
    return CmvnStats.load(data_dir) if options.cmvn in ("speaker", "global") else None


def _load(data_dir: Path, stored: list[_Stored], options: FeatLoadOptions, stats: CmvnStats | None) -> PackedFeats:
    offsets = torch.tensor(np.cumsum([0] + [item.num_frames for item in stored]), dtype=torch.int64)
    feats = torch.from_numpy(_read(stored))
    if not bool(torch.isfinite(feats).all()):
        bad = int(torch.searchsorted(offsets, torch.nonzero(~torch.isfinite(feats).all(1))[0], right=True)) - 1
        raise DataError(f"{data_dir}: features of utterance {stored[bad].cut_id!r} are not finite")
    _normalise(feats, stored, offsets.tolist(), options, stats)
    if options.deltas:
        feats = add_deltas(feats, offsets, options.deltas, options.delta_window)
    if options.splice_left or options.splice_right:
        feats = splice(feats, offsets, options.splice_left, options.splice_right)
    return PackedFeats(tuple(item.cut_id for item in stored), tuple(item.speaker for item in stored), feats, offsets)


def _read(stored: Sequence[_Stored]) -> np.ndarray:
    """Frames of the utterances, float32 (sum T, F); neighbours in the file are read together."""
    from pipeline.feats.storage import read_frames

    pieces = []
    start = 0
    for end in range(1, len(stored) + 1):
        last = stored[end - 1]
        if end < len(stored) and stored[end][2:4] == (last.path, last.first + last.num_frames):
            continue
        run = stored[start:end]
        pieces.append(
            read_frames(Path(last.path), run[0].first, sum(item.num_frames for item in run), last.dim, last.dtype)
        )
        start = end
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _normalise(
    feats: torch.Tensor,
    stored: Iterable[_Stored],
    offsets: list[int],
    options: FeatLoadOptions,
    stats: CmvnStats | None,
) -> None:
    """Normalise means, and variances if asked for, in place."""
    if options.cmvn == "none":
        return
    known: dict[str | None, tuple[torch.Tensor, torch.Tensor]] = {}
    for i, item in enumerate(stored):
        rows = feats[offsets[i] : offsets[i + 1]]
        if options.cmvn == "utterance":
            wide = rows.double()
            count = torch.full_like(wide[0], len(wide))
            mean, std = mean_std(torch.stack([count, wide.sum(0), (wide**2).sum(0)]))
        else:
            group = item.speaker if options.cmvn == "speaker" else None
            if group not in known:
                assert stats is not None, options.cmvn
                known[group] = stats.mean_std(group)
            mean, std = known[group]
        rows -= mean
        if options.norm_vars:
            rows /= std
