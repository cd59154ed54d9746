"""Inputs of encoders: augmented positions, features in levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.nn.levels import RANGE, Levels
from pipeline.nn.positions import Cape


def test_positions_count_from_the_middle_of_each_utterance():
    cape = Cape(8, 100.0, 2.0).eval()
    assert cape.positions(torch.tensor([5, 2]), 5).tolist() == [[-2, -1, 0, 1, 2], [-0.5, 0.5, 1.5, 2.5, 3.5]]
    found = cape(torch.tensor([5]), 5)
    expected = [[math.cos(p * 10_000 ** (-2 * k / 8)) for k in range(4)] for p in (-2, -1, 0, 1, 2)]
    assert np.allclose(found[0, :, :4], expected, atol=1e-6)
    assert torch.allclose(found[..., :4] ** 2 + found[..., 4:] ** 2, torch.ones(1, 5, 4))


def test_products_of_embeddings_depend_on_the_distance_alone():
    """Whatever the shift: what training cannot take away."""
    found = Cape(8, 0.0, 1.0).eval()(torch.tensor([9]), 9)[0]
    products = found @ found.T
    for offset in range(9):
        assert torch.allclose(products.diagonal(offset), products[0, offset].expand(9 - offset), atol=1e-5)


def test_training_shifts_and_stretches_within_bounds():
    torch.manual_seed(0)
    cape, lens = Cape(8, 50.0, 1.5).train(), torch.full((2000,), 11)
    places = cape.positions(lens, 11)
    steps = places.diff(dim=1)
    stretch = (places[:, -1] - places[:, 0]) / 10
    assert (steps > 0).all()  # order stays
    # Ends move by half a frame each: a tenth of the ten frames between them.
    assert 1 / 1.5 * 0.9 <= float(stretch.min()) < 0.75 and 1.35 < float(stretch.max()) <= 1.5 * 1.1
    middle = places.mean(1)
    assert 45 < float(middle.max()) <= 1.5 * 50.5 and abs(float(middle.mean())) < 3
    assert float(stretch.log().mean()) == pytest.approx(0.0, abs=0.02)


def test_without_shift_and_scale_only_frames_move():
    torch.manual_seed(0)
    moved = Cape(8, 0.0, 1.0).train().positions(torch.tensor([7]), 7) - Cape(8, 0.0, 1.0).eval().positions(
        torch.tensor([7]), 7
    )
    assert 0 < float(moved.abs().max()) <= 0.5


def test_levels_are_bins_of_equal_width():
    levels = Levels(3, 16, 4)
    x = torch.linspace(-4, 4, 1000)[:999].view(1, 333, 3)  # none on an edge, where rounding decides
    edges = np.linspace(-RANGE, RANGE, 17)[1:-1]
    assert np.array_equal(levels.level_of(x).numpy(), np.digitize(x.numpy(), edges))


def test_round_trip_is_within_half_a_level():
    levels = Levels(1, 16, 4)
    width = 2 * RANGE / 16
    x = torch.rand(1000) * 2 * RANGE - RANGE
    centres = (levels.level_of(x) + 0.5) * width - RANGE
    assert float((centres - x).abs().max()) <= width / 2 + 1e-5
    assert torch.equal(levels.level_of(centres), levels.level_of(x))
    assert levels.level_of(torch.tensor([-99.0, 99.0])).tolist() == [0, 15]


def test_a_frame_is_the_sum_of_its_symbols():
    torch.manual_seed(0)
    levels, x = Levels(5, 16, 4), torch.randn(2, 7, 5)
    table, index = levels.table.view(5, 16, 4), levels.level_of(x)
    expected = sum(table[f][index[..., f]] for f in range(5))
    torch.testing.assert_close(levels(x), expected)
