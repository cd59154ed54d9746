"""Chunks of utterances that stay in files: the numbers of the whole utterance, and only the bytes that they need."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.base.errors import DataError
from pipeline.feats import frame_file
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Dataset
from pipeline.feats.options import FeatureOptions
from tests.feats.test_feats import make_data

DIM = 13
CONTEXTS = [
    dict(),
    dict(deltas=1),
    dict(deltas=2),
    dict(deltas=3, delta_window=3),
    dict(splice_left=3, splice_right=1),
    dict(deltas=2, splice_left=5, splice_right=4),
]


@pytest.fixture(scope="module")
def feats(tmp_path_factory) -> dict[str, Path]:
    """Utterances of 300, 120, 21 and 450 frames, by the precision in which they are stored."""
    root = tmp_path_factory.mktemp("chunks")
    data, out = make_data(root, seconds=(3.0, 1.2, 0.21, 4.5)), {}
    for precision in ("float32", "float16"):
        out[precision] = root / precision
        out[precision].mkdir()
        compute_feats(data, out[precision], out[precision], FeatureOptions(precision=precision))
    return out


@pytest.fixture
def read_bytes(monkeypatch) -> list[int]:
    """Sizes of all reads of feature files."""
    sizes: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        sizes.append(real(fd, buffers, offset))
        return sizes[-1]

    monkeypatch.setattr(frame_file.os, "preadv", preadv)
    return sizes


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("cmvn", ["none", "utterance", "speaker", "global"])
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_numbers_of_the_whole_utterance(context, cmvn, precision, feats):
    """To the last bit, in any order and with repetitions, for pieces of a subset and for pieces of pieces."""
    options = FeatLoadOptions(cmvn=cmvn, norm_vars=cmvn != "none", **context)
    kept, read = (Dataset.open(feats[precision], options, cache_mib=mib) for mib in (64, 0))
    rng = np.random.default_rng(3)
    for size in (1, 7, 50, 1000):
        for left, right in ((kept, read), (kept.select([3, 0]), read.select([3, 0]))):
            expected, found = left.chunks(size), right.chunks(size)
            everything = np.arange(len(found))
            assert torch.equal(found.flat(everything), expected.flat(everything))
            for _ in range(5):
                some = rng.choice(len(found), size=min(20, len(found)))
                for ours, theirs in zip(found.each(some), expected.each(some)):
                    assert torch.equal(ours, theirs)
            inner, outer = found.chunks(3), expected.chunks(3)
            some = rng.choice(len(inner), size=min(20, len(inner)))
            assert torch.equal(inner.flat(some), outer.flat(some))


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_only_the_frames_that_a_chunk_needs_are_read(context, feats, read_bytes):
    options = FeatLoadOptions(cmvn="speaker", **context)
    chunks = Dataset.open(feats["float32"], options, cache_mib=0).chunks(20)
    reach = options.deltas * options.delta_window
    around = 2 * reach + options.splice_left + options.splice_right
    middle, last = 7, 14  # of the first utterance, of 15 chunks
    for wanted, frames in (
        ([middle], 20 + around),
        ([0], 20 + reach + options.splice_right),
        ([last], 20 + reach + options.splice_left),
        ([8, 6, 7], 60 + around),  # neighbours are read together
        ([2, 9], 2 * (20 + around)),
        ([2, 2, 9, 2], 2 * (20 + around)),
        (list(range(15)), 300),
    ):
        read_bytes.clear()
        chunks.each(np.array(wanted))
        assert sum(read_bytes) == 4 * DIM * frames, wanted
    assert chunks.each(np.array([], dtype=np.int64)) == [] and len(chunks.flat(np.array([], dtype=np.int64))) == 0


def test_normalisation_over_the_utterance_reads_it_once(feats, read_bytes):
    chunks = Dataset.open(feats["float32"], FeatLoadOptions(cmvn="utterance"), cache_mib=0).chunks(20)
    read_bytes.clear()
    chunks.each(np.array([2, 9, 12, 2]))
    assert sum(read_bytes) == 4 * DIM * 300


def test_numbers_that_are_not_finite_are_named(feats, tmp_path):
    data = Dataset.open(feats["float32"], FeatLoadOptions(cmvn="none"), cache_mib=0)
    source = data.frames
    broken = tmp_path / "feats.bin"
    values = np.fromfile(source._files[0].path, dtype="<f4")
    values[DIM * 45] = np.nan  # frame 45 of the first utterance
    values.tofile(broken)
    source._files[0] = frame_file.FrameFile(broken, DIM, "float32")
    chunks = data.chunks(20)
    assert bool(torch.isfinite(chunks.flat(np.array([0, 1, 3]))).all())
    with pytest.raises(DataError, match="features of utterance 'a-1' are not finite"):
        chunks.each(np.array([3, 2]))
