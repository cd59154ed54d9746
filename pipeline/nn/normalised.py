"""What all networks begin with: features of mean 0 and variance 1 over the training data."""

from __future__ import annotations

import torch
from torch import nn


class Normalised(nn.Module):
    """A network that normalises its features itself, so that a model directory needs no statistics beside it."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def set_normalisation(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Takes mean and variance (F,) of the training features, as ``Dataset.moments`` gives them."""
        self.mean.copy_(mean)
        self.scale.copy_(1.0 / variance.sqrt().clamp(min=1e-5))

    def normalise(self, feats: torch.Tensor) -> torch.Tensor:
        """(.., F) features with mean 0 and variance 1 over the training data."""
        return (feats - self.mean) * self.scale
