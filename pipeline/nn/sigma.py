"""Linear layers whose weight is W gamma / sigma(W): a learned scale times a matrix of spectral norm 1 (sigma-reparam,
Zhai et al. 2023).

The norm of the products of queries and keys, and with it how far the entropy of attention can fall, is then a
matter of the scales alone, which move slowly; deep stacks of attention train without a warm-up.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

FIRST_ITERATIONS = 50  # of a new layer, whose vector is random
EVAL_ITERATIONS = 10  # the vector of a mean of models, or of a replica's parameters, lags behind


class SigmaLinear(nn.Linear):
    """y = (gamma / sigma(W)) W x + b.

    sigma(W) = u' W v by one power iteration per step of training, through which the gradient goes with u and v held
    (Zhai et al. 2023, algorithm 1).

    Attributes:
        gamma: scalar, 1 at first.
        u: (out_features,) left singular vector of W, up to date within a step's change of W.
    """

    u: torch.Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.gamma = nn.Parameter(torch.ones(()))
        self.register_buffer("u", _unit(torch.randn(out_features)))
        self.settle()

    @classmethod
    def of(cls, layer: nn.Linear) -> SigmaLinear:
        """The same matrix and bias, reparametrised."""
        out = cls(layer.in_features, layer.out_features, layer.bias is not None)
        out.weight, out.bias = layer.weight, layer.bias
        out.settle()
        return out

    @torch.no_grad()
    def settle(self) -> None:
        """Brings u to the singular vector of the present weight."""
        self.u.copy_(_left_vector(self.weight, self.u, FIRST_ITERATIONS))

    def scaled_weight(self) -> torch.Tensor:
        """(out_features, in_features) W gamma / sigma(W); in training u goes one power iteration ahead."""
        with torch.no_grad():
            u = _left_vector(self.weight, self.u, 1 if self.training else EVAL_ITERATIONS)
            v = _unit(u @ self.weight)
            if self.training:
                self.u.copy_(u)
        sigma = u @ (self.weight @ v)
        return self.weight * (self.gamma / sigma)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(.., in_features) -> (.., out_features)."""
        with torch.autocast(self.weight.device.type, enabled=False):  # singular vectors need their 32 bits
            weight = self.scaled_weight()
        return F.linear(x, weight, self.bias)


def reparametrise(network: nn.Module) -> int:
    """Puts a SigmaLinear in the place of each linear layer below `network`, and returns how many there were."""
    count = 0
    for name, child in network.named_children():
        if type(child) is nn.Linear:
            setattr(network, name, SigmaLinear.of(child))
            count += 1
        else:
            count += reparametrise(child)
    return count


def vectors_of(network: nn.Module) -> list[torch.Tensor]:
    """The vector u of each of its layers of this kind."""
    return [layer.u for layer in network.modules() if isinstance(layer, SigmaLinear)]


def _left_vector(weight: torch.Tensor, u: torch.Tensor, iterations: int) -> torch.Tensor:
    for _ in range(iterations):
        u = _unit(weight @ (u @ weight))
    return u


def _unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=0, eps=1e-12)
