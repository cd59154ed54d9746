"""Labels in files, and statistics that do not depend on the pieces in which data come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.gmm.diag import Evaluator
from pipeline.gmm.fmllr import fmllr_stats
from pipeline.gmm.frame_labels import FrameLabelFile, FrameLabels, Piece
from pipeline.gmm.stats import _CompiledSums, _DenseSums, accumulate
from pipeline.gmm.transforms import lda, lda_sums, mllt_stats
from tests.gmm.test_diag import random_gmms

LENS = np.array([5, 3, 7])


def test_transition_ids_are_read_as_written_and_missing_ones_are_none(tmp_path):
    file = FrameLabelFile(tmp_path / "labels.bin", LENS)
    assert file.read(np.array([0, 1, 2])).tolist() == [-1] * 15
    file.write(2, np.arange(7, dtype=np.int32))
    file.write(0, np.array([9, 0, 9, 0, 9], dtype=np.int32))
    expected = [9, 0, 9, 0, 9, -1, -1, -1, *range(7)]
    assert file.read(np.array([0, 1, 2])).tolist() == expected and not file.soft
    assert file.read(np.array([1, 2])).tolist() == expected[5:]
    again = FrameLabelFile.reopen(tmp_path / "labels.bin", LENS, file.sync())
    assert again.read(np.array([0, 1, 2])).tolist() == expected
    with pytest.raises(AssertionError):
        file.write(1, np.arange(4, dtype=np.int32))


def test_occupancies_are_read_as_written(tmp_path):
    file = FrameLabelFile(tmp_path / "labels.bin", LENS)
    file.write_soft(2, np.array([0, 0, 6]), np.array([4, 5, 4]), np.array([0.25, 0.75, 1.0]))
    file.write_soft(0, np.array([3]), np.array([1]), np.array([0.5]))
    again = FrameLabelFile.reopen(tmp_path / "labels.bin", LENS, file.sync())
    for found in (file, again):
        frames, pdfs, weights = found.read_soft(np.array([0, 1, 2]))
        assert found.soft and frames.tolist() == [3, 8, 8, 14]
        assert pdfs.tolist() == [1, 4, 5, 4] and weights.tolist() == [0.5, 0.25, 0.75, 1.0]
        assert found.read_soft(np.array([1]))[0].tolist() == []
    file.remove()
    assert not (tmp_path / "labels.bin").exists()


@pytest.mark.parametrize("weighted", [False, True])
def test_pieces_change_no_bit_of_the_statistics(weighted):
    """3,000 frames of four pdfs: more of each than are summed in float32 at a time."""
    rng = np.random.default_rng(0)
    gmms, feats = random_gmms([2, 1, 3, 2], 5), torch.from_numpy(rng.standard_normal((3000, 5)).astype(np.float32))
    pdfs, weights = rng.integers(-1, 4, 3000), rng.random(3000).astype(np.float32)

    def pieces(bounds: list[int]) -> list[Piece]:
        return [
            Piece(
                feats[b:e],
                FrameLabels.from_pdfs(pdfs[b:e], 4, weights=weights[b:e] if weighted else None),
                feats[b:e] * 2,
                rng_speaker[b:e],
            )
            for b, e in zip(bounds[:-1], bounds[1:])
        ]

    rng_speaker = rng.integers(0, 3, 3000)
    whole, parts = pieces([0, 3000]), pieces([0, 7, 1500, 1501, 3000])
    one, two = (accumulate(Evaluator(gmms), x) for x in (whole, parts))
    assert torch.equal(one.occ, two.occ) and torch.equal(one.first, two.first) and torch.equal(one.second, two.second)
    assert one.log_like == two.log_like
    # These sum products of blocks of frames, so pieces change the rounding.
    a, b = (lda(lda_sums(x, feats.mean(0)), 3) for x in (whole, parts))
    assert torch.allclose(a, b, atol=1e-4)
    (stats, count), (again, count_again) = (mllt_stats(Evaluator(gmms), x) for x in (whole, parts))
    assert np.allclose(stats, again, rtol=1e-4, atol=1e-3) and count == pytest.approx(count_again)
    one, two = (fmllr_stats(Evaluator(gmms), x, 3) for x in (whole, parts))
    assert np.allclose(one.g, two.g, rtol=1e-4, atol=1e-2) and np.allclose(one.k, two.k, rtol=1e-4, atol=1e-2)
    assert np.allclose(one.beta, two.beta)


def test_frames_that_count_twice_are_two_frames():
    """Of LDA: weights 1 and 2 against the frames repeated."""
    rng = np.random.default_rng(1)
    pdfs = rng.integers(0, 3, 600)
    feats = torch.from_numpy((rng.standard_normal((600, 5)) + 2 * rng.standard_normal((3, 5))[pdfs]).astype(np.float32))
    weights = rng.integers(1, 3, 600)
    centre = feats.mean(0)
    once = lda(lda_sums([Piece(feats, FrameLabels.from_pdfs(pdfs, 3, weights=weights.astype(np.float32)))], centre), 2)
    rows = np.repeat(np.arange(600), weights)
    twice = lda(lda_sums([Piece(feats[rows], FrameLabels.from_pdfs(pdfs[rows], 3))], centre), 2)
    plain = lda(lda_sums([Piece(feats, FrameLabels.from_pdfs(pdfs, 3))], centre), 2)
    assert torch.allclose(once, twice, atol=1e-4) and not torch.allclose(once, plain, atol=1e-3)


def test_tensor_operations_and_compiled_loops_agree():
    """With occupancies, which weigh the log-likelihood, too."""
    rng = np.random.default_rng(2)
    gmms, feats = random_gmms([2, 3], 4), torch.from_numpy(rng.standard_normal((50, 4)).astype(np.float32))
    labels = FrameLabels.from_pdfs(rng.integers(0, 2, 50), 2, weights=rng.random(50).astype(np.float32))
    one, two = (sums(Evaluator(gmms), 4, feats.device) for sums in (_CompiledSums, _DenseSums))
    for sums in (one, two):
        sums.add(Piece(feats, labels))
    a, b = one.stats(), two.stats()
    assert all(torch.allclose(getattr(a, k), getattr(b, k), atol=1e-4) for k in ("occ", "first", "second"))
    assert a.log_like == pytest.approx(b.log_like, rel=1e-5)
