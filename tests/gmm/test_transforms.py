"""LDA, MLLT and fMLLR: optimal where a gradient can tell, never worse than doing nothing, stated fallbacks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.feats.dataset import Dataset
from pipeline.gmm import fmllr
from pipeline.gmm.blocks import Blocks
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.gmm.options import FmllrOptions
from pipeline.gmm.sat import Speakers
from pipeline.gmm.stats import accumulate
from pipeline.gmm.transforms import lda, lda_sums, mllt, mllt_objective, mllt_stats, transform_means
from tests.gmm.test_diag import random_gmms


def classes(num: int, frames: int, dim: int, seed: int = 0):
    """Correlated features of classes with different means."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((dim, dim)) + 2 * np.eye(dim)
    pdfs = rng.integers(0, num, frames)
    means = 2 * rng.standard_normal((num, dim))
    feats = (rng.standard_normal((frames, dim)) + means[pdfs]) @ mix.T
    return torch.from_numpy(feats.astype(np.float32)), pdfs


def scatter(feats: torch.Tensor, pdfs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Within-class and total covariance."""
    x = feats.double().numpy()
    within = sum((pdfs == p).mean() * np.cov(x[pdfs == p].T, bias=True) for p in np.unique(pdfs))
    return np.atleast_2d(within), np.atleast_2d(np.cov(x.T, bias=True))


def test_lda_whitens_the_classes_and_sorts_by_separation():
    feats, pdfs = classes(5, 4000, 6)
    out = feats @ lda(lda_sums([Piece(feats, FrameLabels.from_pdfs(pdfs, 5))], feats.mean(0)), 6).t()
    within, total = scatter(out, pdfs)
    assert np.allclose(within, np.eye(6), atol=1e-3)
    between = np.diag(total) - 1
    assert np.allclose(total - np.diag(np.diag(total)), 0, atol=1e-2)
    assert (np.diff(between) <= 1e-3).all() and between[4] == pytest.approx(0, abs=1e-2)  # 5 classes span 4 directions


def test_lda_does_not_depend_on_its_centre():
    """Which is there for the sake of float32 only: the scatters are about the mean."""
    feats, pdfs = classes(3, 2000, 4)
    labels = FrameLabels.from_pdfs(np.where(np.arange(2000) % 3, pdfs, -1), 3)  # without a label frames do not count
    one, other = (lda(lda_sums([Piece(feats, labels)], feats.mean(0) + shift), 2) for shift in (0.0, 1.5))
    assert torch.allclose(one, other, atol=1e-4)


def test_lda_of_constant_features_has_finite_rows():
    feats, pdfs = classes(3, 500, 4)
    feats = torch.cat([feats, torch.full((500, 2), 7.0)], dim=1)
    matrix = lda(lda_sums([Piece(feats, FrameLabels.from_pdfs(pdfs, 3))], feats.mean(0)), 5)
    assert torch.isfinite(matrix).all()
    assert (matrix[4] == 0).all() and (matrix[:4].abs().sum(1) > 0).all()
    assert torch.allclose((feats @ matrix.t()).std(0)[:4] >= 0.9, torch.tensor(True))


def correlated(seed: int = 0, dim: int = 5, frames: int = 3000):
    """Features of two pdfs whose Gaussians share a full covariance, and a diagonal model of them."""
    feats, pdfs = classes(2, frames, dim, seed)
    labels = FrameLabels.from_pdfs(pdfs, 2)
    means = torch.stack([feats[pdfs == p].mean(0) for p in range(2)])
    var = torch.stack([feats[pdfs == p].var(0) for p in range(2)])
    return feats, labels, DiagGmms(torch.ones(2), means, var, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("seed", range(3))
def test_mllt_is_a_stationary_point_and_a_gain(seed):
    feats, labels, gmms = correlated(seed)
    stats, count = mllt_stats(Evaluator(gmms), [Piece(feats, labels)])
    matrix, gain = mllt(stats, count, num_iters=3000, tolerance=1e-13)
    assert gain >= 0
    assert gain == pytest.approx(
        (mllt_objective(matrix, stats, count) - mllt_objective(np.eye(5), stats, count)) / count
    )
    x = torch.from_numpy(matrix).requires_grad_()
    value = torch.linalg.slogdet(x)[1] - 0.5 * torch.einsum("di,dij,dj->", x, torch.from_numpy(stats / count), x)
    value.backward()
    assert x.grad.abs().max() < 1e-3


def test_mllt_raises_the_likelihood_of_the_data():
    feats, labels, gmms = correlated()
    before = accumulate(Evaluator(gmms), [Piece(feats, labels)]).log_like
    matrix, gain = mllt(*mllt_stats(Evaluator(gmms), [Piece(feats, labels)]))
    square = torch.from_numpy(matrix)
    turned = feats @ square.float().t()
    after = accumulate(Evaluator(transform_means(gmms, square)), [Piece(turned, labels)]).log_like
    after += len(feats) * float(torch.linalg.slogdet(square)[1])
    assert (after - before) / len(feats) == pytest.approx(gain, rel=1e-2)
    assert gain > 0.1


def test_mllt_without_data_is_the_identity():
    matrix, gain = mllt(np.zeros((3, 3, 3)), 0.0)
    assert np.array_equal(matrix, np.eye(3)) and gain == 0


def adapted_corpus(dim: int = 4, frames: int = 4000, seed: int = 0):
    """Frames of a known mixture, distorted by one affine map per speaker."""
    rng = np.random.default_rng(seed)
    gmms = random_gmms([1] * 8, dim)
    pdfs = rng.integers(0, 8, frames)
    clean = gmms.means.numpy()[pdfs] + rng.standard_normal((frames, dim)) * np.sqrt(gmms.vars.numpy()[pdfs])
    speaker = np.repeat(np.arange(2), frames // 2)
    maps = [np.eye(dim) + 0.3 * rng.standard_normal((dim, dim)) for _ in range(2)]
    shift = rng.standard_normal((2, dim))
    feats = np.stack([maps[s] @ x + shift[s] for s, x in zip(speaker, clean)])
    true = np.stack(
        [np.concatenate([np.linalg.inv(m), -np.linalg.inv(m) @ b[:, None]], 1) for m, b in zip(maps, shift)]
    )
    return gmms, torch.from_numpy(feats.astype(np.float32)), FrameLabels.from_pdfs(pdfs, 8), speaker, true


def test_fmllr_finds_the_distortion():
    gmms, feats, labels, speaker, true = adapted_corpus()
    stats = fmllr.fmllr_stats(Evaluator(gmms), [Piece(feats, labels, None, speaker)], 2)
    found, gain = fmllr.estimate(stats, num_iters=100, tolerance=1e-10)
    assert stats.beta.tolist() == [2000, 2000]
    assert np.abs(found - true).max() < 0.1
    assert (gain > 0.1).all()
    x = torch.from_numpy(found).requires_grad_()
    beta, k, g = (torch.from_numpy(v) for v in (stats.beta, stats.k, stats.g))
    value = (beta * torch.linalg.slogdet(x[:, :, :-1])[1]).sum() + (x * k).sum()
    value = value - 0.5 * torch.einsum("sdi,sdij,sdj->", x, g, x)
    assert float(value.detach()) == pytest.approx(float(stats.objective(found).sum()), rel=1e-6)
    value.backward()
    assert float(x.grad.abs().max()) < 1e-2 * 2000


def test_fmllr_raises_the_likelihood_by_what_it_says():
    gmms, feats, labels, speaker, _ = adapted_corpus()
    found, gain = fmllr.estimate(fmllr.fmllr_stats(Evaluator(gmms), [Piece(feats, labels, None, speaker)], 2))
    moved = fmllr.apply(torch.from_numpy(found).float(), feats, speaker)
    change = (
        accumulate(Evaluator(gmms), [Piece(moved, labels)]).log_like
        - accumulate(Evaluator(gmms), [Piece(feats, labels)]).log_like
    )
    change += sum(2000 * np.linalg.slogdet(w[:, :-1])[1] for w in found)
    assert change / 4000 == pytest.approx(gain.mean(), rel=1e-2)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 60))
def test_fmllr_never_loses_even_with_few_frames(seed, frames):
    rng = np.random.default_rng(seed)
    gmms = random_gmms([2, 3], 4, seed)
    feats = torch.from_numpy(rng.standard_normal((frames, 4)).astype(np.float32) * 3)
    labels = FrameLabels.from_pdfs(rng.integers(0, 2, frames), 2)
    stats = fmllr.fmllr_stats(Evaluator(gmms), [Piece(feats, labels, None, np.zeros(frames, dtype=int))], 1)
    found, gain = fmllr.estimate(stats, min_count=0.0, min_count_bias=0.0)
    assert np.isfinite(found).all() and gain[0] >= 0


def test_speakers_with_few_frames_get_a_bias_or_nothing(caplog):
    gmms, feats, labels, speaker, _ = adapted_corpus(frames=1000)
    speaker = np.zeros(1000, dtype=int)
    speaker[600:900], speaker[900:950], speaker[950:] = 1, 2, 3
    stats = fmllr.fmllr_stats(
        Evaluator(gmms), [Piece(feats, labels, None, speaker)], 5
    )  # the fifth has no frame at all
    with caplog.at_level("INFO", logger="pipeline.gmm.fmllr"):
        found, gain = fmllr.estimate(stats, min_count=500, min_count_bias=100)
    assert not np.allclose(found[0, :, :-1], np.eye(4))
    assert np.array_equal(found[1, :, :-1], np.eye(4)) and np.abs(found[1, :, -1]).max() > 0.01 and gain[1] > 0
    for s in (2, 3, 4):
        assert np.array_equal(found[s], fmllr.identity(1, 4)[0])
    assert "1 of 5 speakers have a full transform, 1 a bias only" in caplog.text


def test_two_feature_statistics_and_other_mixtures():
    """With posteriors from one space and sums from another, a pure change of space is undone exactly."""
    gmms, feats, labels, speaker, true = adapted_corpus()
    clean = fmllr.apply(torch.from_numpy(true).float(), feats, speaker)
    stats = fmllr.fmllr_stats(Evaluator(gmms), [Piece(clean, labels, feats, speaker)], 2)
    same = fmllr.fmllr_stats(Evaluator(gmms), [Piece(clean, labels, feats, speaker)], 2, mixtures=gmms)
    assert np.array_equal(stats.k, same.k)
    found, _ = fmllr.estimate(stats, num_iters=100, tolerance=1e-10)
    assert np.abs(found - true).max() < 0.1


def test_compose_applies_one_after_the_other():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 1, 3, 4))
    feats = torch.from_numpy(rng.standard_normal((5, 3)).astype(np.float32))
    speaker = np.zeros(5, dtype=int)
    both = fmllr.apply(torch.from_numpy(fmllr.compose(second, first)).float(), feats, speaker)
    stepwise = fmllr.apply(
        torch.from_numpy(second).float(), fmllr.apply(torch.from_numpy(first).float(), feats, speaker), speaker
    )
    assert torch.allclose(both, stepwise, atol=1e-4)


def test_speakers_are_numbered_by_name():
    names, index = fmllr.speaker_index(Dataset.of([torch.zeros(n, 1) for n in (2, 1, 2)], speakers=("b", "a", "b")))
    assert names == ["a", "b"] and index.tolist() == [1, 0, 1]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 80))
def test_mllt_never_loses_and_more_sweeps_never_lose(seed, frames):
    """Also with fewer frames than dimensions, where the statistics are singular."""
    rng = np.random.default_rng(seed)
    gmms = random_gmms([2, 3], 4, seed)
    feats = torch.from_numpy(rng.standard_normal((frames, 4)).astype(np.float32) * 2)
    stats = mllt_stats(Evaluator(gmms), [Piece(feats, FrameLabels.from_pdfs(rng.integers(0, 2, frames), 2))])
    gains = []
    for num_iters in (1, 2, 5, 20):
        matrix, gain = mllt(*stats, num_iters=num_iters, tolerance=0.0)
        assert np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 0
        gains.append(gain)
    assert gains[0] >= 0 and all(b >= a - 1e-9 * abs(a) for a, b in zip(gains, gains[1:]))


@pytest.mark.parametrize("seed", range(3))
def test_more_sweeps_of_fmllr_never_lose(seed):
    gmms, feats, labels, speaker, _ = adapted_corpus(seed=seed, frames=1000)
    stats = fmllr.fmllr_stats(Evaluator(gmms), [Piece(feats, labels, None, speaker)], 2)
    values = [fmllr.estimate(stats, 0.0, 0.0, num_iters=n, tolerance=0.0)[1] for n in (1, 2, 3, 5, 10, 40)]
    assert (values[0] > 0).all() and all((b >= a - 1e-9).all() for a, b in zip(values, values[1:]))


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 4))
def test_no_projection_separates_better_than_lda(seed, dim):
    """The ratio of determinants, total over within, which LDA maximises."""
    feats, pdfs = classes(4, 400, 5, seed)
    within, total = scatter(feats, pdfs)
    assume(np.linalg.cond(within) < 1e5)  # directions of next to no variance are left out, see the docstring of lda

    def separation(rows: np.ndarray) -> float:
        return float(np.linalg.slogdet(rows @ total @ rows.T)[1] - np.linalg.slogdet(rows @ within @ rows.T)[1])

    best = separation(
        lda(lda_sums([Piece(feats, FrameLabels.from_pdfs(pdfs, 4))], feats.mean(0)), dim).double().numpy()
    )
    rng = np.random.default_rng(seed)
    assert all(separation(rng.standard_normal((dim, 5))) <= best + 1e-3 for _ in range(20))
    assert separation(np.eye(5)[:dim]) <= best + 1e-3


def test_speakers_are_estimated_some_at_a_time(monkeypatch):
    """Though their utterances stand among each other, and only some that follow each other are read at once."""
    rng = np.random.default_rng(5)
    lens, speaker = rng.integers(20, 40, 60), rng.integers(0, 7, 60)
    bounds = np.concatenate([[0], np.cumsum(lens)])
    feats, pdfs = classes(3, int(bounds[-1]), 4)
    feats += torch.from_numpy(np.repeat(speaker, lens)).float()[:, None]  # no two speakers have the same transform
    evaluator = Evaluator(random_gmms([2, 1, 2], 4))

    def pieces(rows: np.ndarray):
        assert (np.diff(rows) == 1).all()
        span = slice(int(bounds[rows[0]]), int(bounds[rows[-1] + 1]))
        yield Piece(feats[span], FrameLabels.from_pdfs(pdfs[span], 3), None, np.repeat(speaker[rows], lens[rows]))

    blocks = dataclasses.replace(Blocks.of(lens), own=np.split(np.arange(60), [25, 31]))
    (whole,) = fmllr.fmllr_stats_blocks(evaluator, blocks, pieces, speaker, 7)
    monkeypatch.setattr(fmllr, "TOGETHER", 3)
    some = list(fmllr.fmllr_stats_blocks(evaluator, blocks, pieces, speaker, 7))
    assert [len(stats.beta) for stats in some] == [3, 3, 1] and whole.beta.min() > 100
    for name in ("beta", "k", "g"):
        found = np.concatenate([getattr(stats, name) for stats in some])
        np.testing.assert_allclose(found, getattr(whole, name), rtol=1e-4, atol=1e-3)
    data, options = Dataset.of([feats[:1]], ["u"]), FmllrOptions(fmllr_min_count=100.0)
    one, other = (Speakers(list("abcdefg"), speaker, data, fmllr.identity(7, 4)) for _ in range(2))
    gains = one.estimate([whole], options), other.estimate(some, options)
    assert gains[0] == pytest.approx(gains[1], rel=1e-3) and gains[0][0] > 0
    np.testing.assert_allclose(one.transforms, other.transforms, atol=0.05)  # of a group all end with the last one
