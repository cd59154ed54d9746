"""Deltas and splicing against the formulas written out frame by frame."""

from __future__ import annotations

import pytest
import torch

from pipeline.feats.transforms import add_deltas, delta_filters, pad_utterances, splice

OFFSETS = torch.tensor([0, 1, 8, 20])  # utterances of 1, 7 and 12 frames


def kaldi_deltas(feats: torch.Tensor, order: int, window: int) -> torch.Tensor:
    """One utterance (T, F), frame by frame, as Kaldi's DeltaFeatures::Process: filters first, then edge frames
    repeated.
    """
    scales = [[1.0]]
    for _ in range(order):
        previous, offset = scales[-1], (len(scales[-1]) - 1) // 2
        current = [0.0] * (len(previous) + 2 * window)
        for j in range(-window, window + 1):
            for k in range(-offset, offset + 1):
                current[j + k + offset + window] += j * previous[k + offset]
        scales.append([value / sum(j * j for j in range(-window, window + 1)) for value in current])
    rows = []
    for t in range(len(feats)):
        row = []
        for taps in scales:
            reach = (len(taps) - 1) // 2
            picked = [taps[j + reach] * feats[min(max(t + j, 0), len(feats) - 1)] for j in range(-reach, reach + 1)]
            row.append(torch.stack(picked).sum(0))
        rows.append(torch.cat(row))
    return torch.stack(rows)


@pytest.mark.parametrize("order, window", [(1, 1), (1, 2), (2, 2), (2, 3), (3, 2)])
def test_deltas_of_packed_utterances(order, window):
    feats = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([kaldi_deltas(feats[a:b], order, window) for a, b in zip(OFFSETS, OFFSETS[1:])])
    torch.testing.assert_close(add_deltas(feats, OFFSETS, order, window), expected, rtol=1e-5, atol=1e-6)


def test_delta_filters_of_kaldi():
    """Kaldi's defaults, order 2 and window 2, give these numbers."""
    _, first, second = delta_filters(2, 2)
    assert first.tolist() == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2])
    assert second.tolist() == pytest.approx([0.04, 0.04, 0.01, -0.04, -0.1, -0.04, 0.01, 0.04, 0.04])


def test_first_derivative_of_a_line_is_its_slope():
    line = torch.arange(12.0)[:, None] * 0.5
    offsets = torch.tensor([0, 12])
    inner = add_deltas(line, offsets)[4:-4]
    torch.testing.assert_close(inner[:, 1], torch.full((4,), 0.5))
    torch.testing.assert_close(inner[:, 2], torch.zeros(4))


def test_splice():
    feats = torch.arange(20.0)[:, None]
    spliced = splice(feats, OFFSETS, 2, 1)
    assert spliced.shape == (20, 4)
    assert spliced[0].tolist() == [0, 0, 0, 0]  # an utterance of one frame
    assert spliced[1].tolist() == [1, 1, 1, 2]
    assert spliced[4].tolist() == [2, 3, 4, 5]
    assert spliced[7].tolist() == [5, 6, 7, 7]


def test_padding_repeats_the_edges_of_each_utterance():
    feats = torch.arange(20.0)[:, None]
    padded, index = pad_utterances(feats, OFFSETS, 2, 3)
    assert padded[:, 0].tolist()[:13] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 5]
    utterance = torch.repeat_interleave(torch.arange(3), torch.tensor([1, 7, 12]))
    for shift in range(-2, 4):
        expected = (torch.arange(20) + shift).clamp(min=OFFSETS[utterance], max=OFFSETS[utterance + 1] - 1)
        assert torch.equal(padded[index + 2 + shift, 0].long(), expected)


def test_transforms_leave_their_input_alone():
    feats = torch.randn(20, 2)
    before = feats.clone()
    add_deltas(feats, OFFSETS), splice(feats, OFFSETS, 1, 1)
    assert torch.equal(feats, before)
