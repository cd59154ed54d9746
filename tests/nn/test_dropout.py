"""Dropout: share, independence, mean, gradient, and torch's generator."""

import pytest
import torch

from pipeline.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.93])
def test_share_and_scale(p):
    torch.manual_seed(3)
    y = dropout(torch.ones(301, 333), p, True)
    kept = y != 0
    n = y.numel()
    assert abs(float((~kept).float().mean()) - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1e-5
    torch.testing.assert_close(y[kept], torch.full((int(kept.sum()),), 1 / (1 - p)), rtol=2e-4, atol=0)


def test_places_are_independent():
    """Neighbours share a random number; their masks must not know of each other, at any distance within it or
    across.
    """
    torch.manual_seed(4)
    kept = (dropout(torch.ones(400_000), 0.3, True) != 0).float()
    for distance in range(1, 9):
        both = float((kept[:-distance] * kept[distance:]).mean())
        assert abs(both - 0.49) < 0.004
    for place in range(4):
        assert abs(float(kept[place::4].mean()) - 0.7) < 0.008


def test_gradient_is_the_mask():
    torch.manual_seed(5)
    x = torch.randn(7, 11, 13, requires_grad=True)
    y = dropout(x.transpose(0, 2), 0.4, True)
    y.sum().backward()
    torch.testing.assert_close(y, (x * x.grad).transpose(0, 2))
    torch.testing.assert_close(x.grad.unique(), torch.tensor([0.0, 1 / 0.6]), rtol=1e-4, atol=0)


def test_seeded_by_torch():
    def draw():
        torch.manual_seed(6)
        return dropout(torch.ones(1000), 0.5, True)

    first = draw()
    assert torch.equal(first, draw())
    assert not torch.equal(first, dropout(torch.ones(1000), 0.5, True))


@pytest.mark.parametrize("p, training", [(0.0, True), (0.5, False)])
def test_nothing_to_drop(p, training):
    x = torch.randn(3, 4)
    assert dropout(x, p, training) is x


def test_edges():
    assert dropout(torch.ones(0, 3), 0.5, True).shape == (0, 3)
    assert not dropout(torch.ones(9), 1.0, True).any()
    assert dropout(torch.ones(9, dtype=torch.bfloat16), 0.5, True).dtype == torch.bfloat16


def test_module_follows_its_mode():
    module = Dropout(0.5)
    x = torch.ones(100)
    assert bool((module(x) == 0).any())
    assert torch.equal(module.eval()(x), x)
