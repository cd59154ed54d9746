"""Label priors and SpecAugment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.hmm import convert
from pipeline.nn.priors import label_prior, log_prior, running_prior, transcript_prior
from pipeline.nn.specaugment import _masks, spec_augment


def test_transcript_prior_by_hand():
    """Two phones of 3 states, silence 0: 2 phones x 8 frames of 10 ms are speech, the other 64 of 80 frames silence."""
    graphs = [convert.linear([[0, 1, 2, 3, 0, 4, 5, 6]])]
    prior = transcript_prior(graphs, [0], num_frames=80, states_per_phone=3, frame_shift=0.01).exp().numpy()
    assert np.allclose(prior, [64 / 80] + [16 / 80 / 6] * 6, atol=1e-5)
    at_20_ms = transcript_prior(graphs, [0], num_frames=40, states_per_phone=3, frame_shift=0.02).exp().numpy()
    assert np.allclose(at_20_ms, prior, atol=1e-5)


def test_transcript_prior_without_silence_or_with_too_much_speech():
    assert np.allclose(transcript_prior([convert.linear([[0, 1]])], [], 10, 1, 0.01).exp(), 0.5)
    crowded = transcript_prior([convert.linear([[0, 1, 1, 1]])], [0], 5, 1, 0.01).exp().numpy()
    assert np.allclose(crowded, [0.05, 0.95], atol=1e-5)


def test_states_of_silence_share_its_time():
    graphs = [convert.linear([[0, 1, 2, 3]]), convert.linear([[3, 2, 1, 0]])]  # counted block by block
    prior = transcript_prior(graphs, [0, 1], num_frames=160, states_per_phone=2, frame_shift=0.01).exp().numpy()
    assert np.allclose(prior, [0.45, 0.45, 0.05, 0.05], atol=1e-5)  # 2 phones of 8 frames, 144 frames of silence


def test_label_prior_counts_with_one_pseudo_count():
    prior = label_prior([np.array([0, 0, 2]), np.array([2])], 4).exp().numpy()
    assert np.allclose(prior, np.array([3, 1, 3, 1]) / 8)


def test_floor_keeps_unseen_labels_finite():
    assert torch.isfinite(log_prior(np.array([5.0, 0.0]))).all()


def test_running_prior_forgets_and_has_no_gradient():
    old = torch.tensor([0.5, 0.5]).log()
    log_post = torch.tensor([[[0.9, 0.1], [0.7, 0.3], [0.0001, 0.9999]]]).log().requires_grad_()
    new = running_prior(old, log_post, torch.tensor([[True, True, False]]), decay=0.75)
    assert torch.allclose(new.exp(), 0.75 * torch.tensor([0.5, 0.5]) + 0.25 * torch.tensor([0.8, 0.2]))
    assert not new.requires_grad


def test_masks_are_zero_and_bounded():
    torch.manual_seed(0)
    lens = torch.tensor([100, 40, 3])
    feats = torch.ones(3, 100, 20)
    seen_time = seen_feature = 0
    for _ in range(50):
        out = spec_augment(feats, lens, 3, 10, 0.3, 2, 4)
        for i, n in enumerate(lens.tolist()):
            time_masked = (out[i, :n] == 0).all(1).sum().item()
            feature_masked = (out[i, :n] == 0).all(0).sum().item() if time_masked < n else 0
            assert time_masked <= min(n, 10 * np.ceil(0.3 * n / 10)) and feature_masked <= 8
            assert (out[i, n:] == 0).all()
            seen_time, seen_feature = seen_time + time_masked, seen_feature + feature_masked
    assert seen_time > 0 and seen_feature > 0
    assert (feats == 1).all()


def test_short_utterances_have_a_mask_as_well():
    """0.2 of 30 frames are less than the longest mask of 10 frames: one mask is allowed, not none."""
    torch.manual_seed(0)
    out = torch.stack([spec_augment(torch.ones(1, 30, 2), torch.tensor([30]), 2, 10, 0.2, 0, 0) for _ in range(20)])
    assert (out == 0).any()


def test_no_masks_change_nothing_but_padding():
    feats = torch.randn(2, 5, 3)
    out = spec_augment(feats, torch.tensor([5, 5]), 0, 10, 0.2, 0, 4)
    assert torch.equal(out, feats)


def test_masks_have_all_lengths_and_places():
    """Spans of 0 to 4 of 6 places, each length as often as the others, and each of its places; none beyond the limit."""
    torch.manual_seed(0)
    found = _masks(torch.full((6000, 1), 6), 4, 8)[:, 0]
    lengths = found.sum(1)
    assert (found.int().diff(dim=1).abs().sum(1) <= 2).all() and not found[:, 6:].any()
    assert torch.bincount(lengths).tolist() == [pytest.approx(1200, rel=0.15)] * 5
    starts = found[lengths == 2].int().argmax(1)
    assert torch.bincount(starts).tolist() == [pytest.approx(240, rel=0.3)] * 5
