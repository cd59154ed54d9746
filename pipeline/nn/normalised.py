"""What the training loop asks of networks, and what most of them begin with: features of mean 0 and variance 1 over the
training data.
"""

from __future__ import annotations

import torch
from torch import nn


class Network(nn.Module):
    """A network that the training loop can train."""

    def normalise(self, feats: torch.Tensor) -> torch.Tensor:
        """(.., F) features of a data set -> as the network reads them."""
        raise NotImplementedError

    def rate_factors(self) -> dict[nn.Parameter, float]:
        """Parameters that learn faster or slower than the others, and by which factor."""
        return {}

    def without_decay(self) -> set[nn.Parameter]:
        """Parameters that weight decay leaves alone, since 0 means nothing special for them."""
        return set()


class Normalised(Network):
    """A network that normalises its features itself, so that a model directory needs no statistics beside it."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def set_normalisation(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Takes mean and variance (F,) of the training features, as ``Dataset.moments`` gives them."""
        self.mean.copy_(mean)
        self.scale.copy_(1.0 / variance.sqrt().clamp(min=1e-5))

    def normalise(self, feats: torch.Tensor) -> torch.Tensor:
        """(.., F) features with mean 0 and variance 1 over the training data."""
        return (feats - self.mean) * self.scale
