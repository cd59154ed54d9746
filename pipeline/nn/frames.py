"""Frame rates inside an encoder: frames are joined before, between or inside its layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.nn.masks import ceil_div, mask_of


class Subsample(nn.Module):
    """Joins every `factor` frames; T' = ceil(T / factor), as ``pipeline.artifacts.ali.subsample`` counts labels.

    Missing frames of the last group are zeros for "concat"; "mean" and "max" leave them out.
    """

    def __init__(self, factor: int, by: str = "concat") -> None:
        super().__init__()
        assert by in ("concat", "mean", "max"), by
        self.factor, self.by = factor, by

    def out_dim(self, dim: int) -> int:
        return dim * self.factor if self.by == "concat" else dim

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', F or factor * F), (N,)."""
        n, num_frames, dim = x.shape
        k = self.factor
        if k == 1:
            return x * mask_of(lens, num_frames)[:, :, None], lens
        x = F.pad(x, (0, 0, 0, -num_frames % k))
        mask = mask_of(lens, x.shape[1])
        groups = (x * mask[:, :, None]).view(n, -1, k, dim)  # (N, T', k, F)
        real = mask.view(n, -1, k, 1)
        if self.by == "concat":
            out = groups.reshape(n, -1, k * dim)
        elif self.by == "mean":
            out = groups.sum(2) / real.sum(2).clamp(min=1)
        else:
            out = groups.masked_fill(~real, float("-inf")).amax(2)
            out = out.masked_fill(~real.any(2), 0.0)
        return out, ceil_div(lens, k)


class Join(nn.Module):
    """Joins frames between layers of equal width: side by side, then a linear layer back to that width."""

    def __init__(self, factor: int, dim: int) -> None:
        super().__init__()
        self.frames = Subsample(factor)
        self.linear = nn.Linear(factor * dim, dim) if factor > 1 else None

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, D), (N,) -> (N, T', D), (N,)."""
        if self.linear is None:
            return x, lens
        x, lens = self.frames(x, lens)
        return self.linear(x) * mask_of(lens, x.shape[1])[:, :, None], lens


def strides_of(strides: Sequence[int], layers: int) -> list[int]:
    """The factor behind each layer but the last; ConfigError for more factors than places or for one below 1."""
    if (len(strides) >= layers and strides) or any(s < 1 for s in strides):
        raise ConfigError(
            f"strides {tuple(strides)}: {layers} layers have {layers - 1} places for factors of 1 or more"
        )
    return [*strides, *[1] * (layers - 1 - len(strides))]
