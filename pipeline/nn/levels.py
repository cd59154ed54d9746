"""Features in a few levels each, as symbols (dMel, Bai et al. 2024)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

RANGE = 3.0  # standard deviations on either side of the mean; values beyond belong to the outermost levels
WIDEST = 128  # of a frame's vector: it is made at the features' rate, where width is costly


class Levels(nn.Module):
    """A vector for each pair of feature and level; that of a frame is the sum over its features.

    The levels divide evenly what the paper takes as minimum and maximum over the training data, here the mean of
    each feature plus and minus RANGE standard deviations.

    Attributes:
        out_dim: size of these vectors, `dim` or less.
    """

    offsets: torch.Tensor

    def __init__(self, feature_dim: int, levels: int, dim: int) -> None:
        super().__init__()
        self.levels, self.out_dim = levels, min(dim, WIDEST)
        self.table = nn.Parameter(torch.randn(feature_dim * levels, self.out_dim) / feature_dim**0.5)
        self.register_buffer("offsets", torch.arange(feature_dim) * levels, persistent=False)

    def level_of(self, x: torch.Tensor) -> torch.Tensor:
        """(.., F) of mean 0 and variance 1 -> (.., F) int64 from 0 to levels - 1, of equal width."""
        return ((x + RANGE) * (self.levels / (2 * RANGE))).floor().clamp(0, self.levels - 1).long()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, F) normalised features -> (N, T, out_dim)."""
        index = self.level_of(x) + self.offsets
        return F.embedding_bag(index.flatten(0, 1), self.table, mode="sum").view(*x.shape[:2], -1)
