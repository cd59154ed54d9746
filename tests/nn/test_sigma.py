"""Linear layers of spectral norm gamma: the norm against torch's, the gradient against differences, and training."""

from __future__ import annotations

import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.nn.encoders import Encoder
from pipeline.nn.options import EncoderOptions
from pipeline.nn.sigma import SigmaLinear, reparametrise


def spectral_norm(weight: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach(), 2))


@pytest.mark.parametrize("shape", [(6, 6), (5, 20), (20, 5), (1, 7)])
def test_weight_has_spectral_norm_gamma(shape):
    torch.manual_seed(0)
    layer = SigmaLinear(*shape).eval()
    assert spectral_norm(layer.scaled_weight()) == pytest.approx(1.0, rel=1e-3)
    layer.gamma.data.fill_(0.3)
    layer.weight.data.mul_(50.0)
    assert spectral_norm(layer.scaled_weight()) == pytest.approx(0.3, rel=1e-3)


def test_output_is_that_of_the_scaled_matrix():
    torch.manual_seed(0)
    plain = torch.nn.Linear(4, 3)
    layer, x = SigmaLinear.of(plain).eval(), torch.randn(2, 5, 4)
    expected = x @ (plain.weight / spectral_norm(plain.weight)).T + plain.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-3)


def test_norm_is_followed_while_the_weight_moves():
    """One power iteration per step keeps up with steps of the size of a training's."""
    torch.manual_seed(0)
    layer = SigmaLinear(8, 16)
    for _ in range(200):
        layer.weight.data.add_(0.01 * torch.randn(16, 8))
        layer.scaled_weight()
    assert spectral_norm(layer.scaled_weight()) == pytest.approx(1.0, rel=0.02)


def test_evaluation_changes_nothing():
    layer = SigmaLinear(4, 6).eval()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    first, second = layer(torch.ones(1, 4)), layer(torch.ones(1, 4))
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def test_gradient_is_that_of_the_normalised_matrix():
    """Where u and v are the singular vectors, holding them changes nothing: the gradient of W / |W|_2."""
    torch.manual_seed(0)
    layer = SigmaLinear(3, 4).double()
    for _ in range(20):
        layer.settle()
    target = torch.randn(4, 3, dtype=torch.double)
    (layer.scaled_weight() * target).sum().backward()
    free = layer.weight.detach().clone().requires_grad_()
    (free / torch.linalg.matrix_norm(free, 2) * target).sum().backward()
    torch.testing.assert_close(layer.weight.grad, free.grad, atol=1e-6, rtol=1e-5)
    expected = (free / torch.linalg.matrix_norm(free, 2) * target).sum()
    torch.testing.assert_close(layer.gamma.grad, expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "conformer", "tds", "dnn"])
def test_all_linear_layers_of_an_encoder_are_replaced(name):
    options = dict(encoder=name, layers=2, dim=8, heads=2, conv_kernel=3)
    plain, sigma = (Encoder(5, EncoderOptions(**options, sigma_reparam=on)) for on in (False, True))
    linear = [m for m in plain.network.modules() if isinstance(m, torch.nn.Linear)]
    replaced = [m for m in sigma.network.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == len(replaced) > 0 and all(isinstance(m, SigmaLinear) for m in replaced)
    assert reparametrise(sigma.network) == 0


def test_encoders_without_linear_layers_are_refused():
    with pytest.raises(ConfigError, match="blstm has no linear layers"):
        Encoder(5, EncoderOptions(encoder="blstm", sigma_reparam=True))


def test_half_precision_products_leave_the_norm_exact():
    torch.manual_seed(0)
    layer, x = SigmaLinear(16, 16).eval(), torch.randn(2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), atol=0.03, rtol=0.03)
