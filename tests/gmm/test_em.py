"""Updates against the formulas written out frame by frame; test_kaldi.py has Kaldi's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feats.dataset import Dataset
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import global_gaussian, grow, single_gaussians, split_targets, update
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.gmm.stats import accumulate
from tests.gmm.test_diag import density, random_gmms


def labelled(num_pdfs: int, frames: int, dim: int, seed: int = 0, weighted: bool = False):
    """Features, pdf-ids and labels."""
    rng = np.random.default_rng(seed)
    feats = torch.from_numpy(rng.standard_normal((frames, dim)).astype(np.float32) * 2)
    pdfs = rng.integers(0, num_pdfs, frames)
    weights = rng.uniform(0.1, 1.0, frames).astype(np.float32) if weighted else None
    return feats, pdfs, weights, FrameLabels.from_pdfs(pdfs, num_pdfs, weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_and_update_are_the_formulas(weighted):
    gmms = random_gmms([3, 1, 2], 4)
    feats, pdfs, weights, labels = labelled(3, 400, 4, weighted=weighted)
    stats = accumulate(Evaluator(gmms), [Piece(feats, labels)])
    occ, first, second = np.zeros(6), np.zeros((6, 4)), np.zeros((6, 4))
    total = 0.0
    for t, pdf in enumerate(pdfs):
        span = range(int(gmms.offsets[pdf]), int(gmms.offsets[pdf + 1]))
        scale = 1.0 if weights is None else float(weights[t])
        one = [
            density(
                DiagGmms(torch.ones(1), gmms.means[g : g + 1], gmms.vars[g : g + 1], torch.tensor([0, 1])),
                feats[t : t + 1],
            )
            for g in span
        ]
        joint = np.array([float(d) + np.log(float(gmms.weights[g])) for d, g in zip(one, span)])
        total += scale * np.logaddexp.reduce(joint)
        gamma = scale * np.exp(joint - np.logaddexp.reduce(joint))
        x = feats[t].double().numpy()
        for g, value in zip(span, gamma):
            occ[g] += value
            first[g] += value * x
            second[g] += value * x * x
    assert np.allclose(stats.occ, occ, rtol=1e-4)
    assert np.isclose(stats.log_like, total, rtol=1e-5)
    new, report = update(gmms, stats, min_count=0.0, min_weight=0.0, min_var=1e-6)
    mean = first / occ[:, None]
    assert np.allclose(new.means, mean, atol=1e-4)
    assert np.allclose(new.vars, second / occ[:, None] - mean**2, atol=1e-3)
    assert np.allclose(new.weights, occ / np.repeat(np.add.reduceat(occ, [0, 3, 4]), [3, 1, 2]), atol=1e-5)
    assert report.removed == report.kept == report.unseen == report.floored == 0


def test_frames_without_a_pdf_do_not_count():
    gmms = random_gmms([2, 2], 3)
    feats, pdfs, _, labels = labelled(2, 100, 3)
    holes = np.where(np.arange(100) < 30, -1, pdfs)
    part = accumulate(Evaluator(gmms), [Piece(feats, FrameLabels.from_pdfs(holes, 2))])
    same = accumulate(Evaluator(gmms), [Piece(feats[30:], FrameLabels.from_pdfs(pdfs[30:], 2))])
    assert part.total() == pytest.approx(70)
    assert torch.allclose(part.first, same.first, atol=1e-4)


def test_likelihood_never_falls():
    rng = np.random.default_rng(1)
    feats = torch.from_numpy(np.concatenate([rng.normal(m, 1, (200, 3)) for m in (-3, 0, 4)]).astype(np.float32))
    labels = FrameLabels.from_pdfs(np.zeros(600, dtype=int), 1)
    gmms = grow(global_gaussian(Dataset.of([feats]).moments(), 1, 1e-3), np.array([600.0]), 4, perturb=0.2)
    values = []
    for _ in range(15):
        stats = accumulate(Evaluator(gmms), [Piece(feats, labels)])
        values.append(stats.log_like)
        gmms, _ = update(gmms, stats, min_count=0.0, min_weight=0.0)
    assert all(b >= a - 1e-3 for a, b in zip(values, values[1:]))
    assert values[-1] > values[0] + 50


def test_empty_light_and_singular_pdfs_keep_usable_parameters():
    gmms = random_gmms([2, 2, 1], 3)
    feats = torch.ones(50, 3)  # no variance at all
    feats[:3] += torch.randn(3, 3)
    pdfs = np.array([1] * 3 + [2] * 47)
    stats = accumulate(Evaluator(gmms), [Piece(feats, FrameLabels.from_pdfs(pdfs, 3))])
    new, report = update(gmms, stats, min_count=10.0, min_var=1e-3)
    new.validate("update")
    assert report.unseen == 1 and report.kept == 2 and report.floored == 3
    assert new.sizes().tolist() == [1, 1, 1]
    heaviest = int(gmms.weights[:2].argmax())
    assert torch.equal(new.means[0], gmms.means[heaviest])  # unseen: the old Gaussian
    assert torch.allclose(new.means[2], torch.ones(3), atol=1e-5)
    assert torch.allclose(new.vars[2], torch.full((3,), 1e-3))


def test_light_gaussians_are_removed_and_weights_made_whole():
    gmms = DiagGmms(torch.tensor([0.5, 0.5]), torch.tensor([[0.0], [100.0]]), torch.ones(2, 1), torch.tensor([0, 2]))
    feats = torch.randn(60, 1)
    new, report = update(
        gmms, accumulate(Evaluator(gmms), [Piece(feats, FrameLabels.from_pdfs(np.zeros(60, dtype=int), 1))])
    )
    assert report.removed == 1 and new.sizes().tolist() == [1] and float(new.weights[0]) == 1.0


@given(occ=st.lists(st.floats(0, 5000), min_size=1, max_size=8), wanted=st.integers(1, 60), power=st.floats(0, 1))
def test_split_targets(occ, wanted, power):
    targets = split_targets(np.array(occ), wanted, power, 20.0)
    assert targets.min() >= 1
    assert targets.sum() <= max(wanted, len(occ))
    assert all(t == 1 or o >= 20.0 * t for t, o in zip(targets, occ))
    possible = sum(max(1, int(o // 20.0)) for o in occ)
    assert targets.sum() >= min(wanted, possible)


def test_split_targets_follow_the_power_rule():
    targets = split_targets(np.array([10_000.0, 625.0]), 30, 0.25, 1.0)
    assert targets.tolist() == [20, 10]  # 10000^0.25 : 625^0.25 = 10 : 5


def test_growth_keeps_mass_mean_and_variances():
    gmms = random_gmms([2, 1], 4)
    new = grow(gmms, np.array([1000.0, 1000.0]), 8, seed=3)
    assert new.sizes().tolist() == [4, 4]
    new.validate("grow")
    assert torch.allclose(new.weights[4:] @ new.means[4:], gmms.means[2], atol=1e-4)
    assert torch.allclose(new.vars[4:], gmms.vars[2].expand(4, -1))
    assert torch.equal(new.means, grow(gmms, np.array([1000.0, 1000.0]), 8, seed=3).means)
    assert not torch.equal(new.means, grow(gmms, np.array([1000.0, 1000.0]), 8, seed=4).means)


def test_single_gaussians_fall_back_where_there_is_no_frame():
    feats, pdfs, _, _ = labelled(3, 90, 2)
    labels = FrameLabels.from_pdfs(np.where(pdfs == 1, 0, pdfs), 3)
    start = global_gaussian(Dataset.of([feats]).moments(), 3, 1e-3)
    gmms = single_gaussians(start, accumulate(Evaluator(start), [Piece(feats, labels)]), 1e-3)
    assert torch.allclose(gmms.means[1], feats.mean(0), atol=1e-5)
    assert torch.allclose(gmms.means[2], feats[pdfs == 2].mean(0), atol=1e-5)


def test_labels_weighted_by_zero_are_left_out():
    labels = FrameLabels.from_pdfs(np.array([0, 1, 1, 2]), 3)
    assert labels.weighted([1], 0.0).occupancies().tolist() == [1, 0, 1]
    assert labels.weighted([1], 0.5).occupancies().tolist() == [1, 1, 1]
    assert labels.weighted([1], 1.0) is labels
