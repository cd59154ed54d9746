"""Convolutions over time and frequency in front of an encoder, as in VGG (Simonyan and Zisserman 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.nn.masks import ceil_div, mask_of


class Vgg(nn.Module):
    """Blocks of two 3 x 3 convolutions with ReLU and max-pooling by 2 over frequency and by a stride over time, and a
    linear layer; the front of the Transformer encoders of Liu et al. 2020 (time strides 2, 2, 1).
    """

    def __init__(self, in_dim: int, strides: Sequence[int], channels: int, out_dim: int) -> None:
        """Args:
        strides: over time, one per block.
        channels: of the first block; the others have twice as many.
        """
        super().__init__()
        self.strides, self.out_dim = tuple(strides), out_dim
        self.lookahead = sum(
            2 * math.prod(strides[:n]) for n in range(len(strides))
        )  # input frames; two convolutions per block
        sizes = [1, channels, *[2 * channels] * (len(strides) - 1)]
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)])
            for a, b in zip(sizes, sizes[1:])
        )
        for _ in strides:
            in_dim = -(-in_dim // 2)
        self.output = nn.Linear(sizes[-1] * in_dim, out_dim)

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', D), (N,)."""
        x = x[:, None]  # (N, channels, T, F)
        for stride, convolutions in zip(self.strides, self.blocks):
            mask = mask_of(lens, x.shape[2])[:, None, :, None]
            for convolution in convolutions:
                x = F.relu(convolution(x * mask))
            # Nothing real is below 0 here, so zeros behind the end are out of the maximum's way.
            x = F.max_pool2d(x * mask, (stride, 2), ceil_mode=True)
            lens = ceil_div(lens, stride)
        x = self.output(x.transpose(1, 2).flatten(2))
        return x * mask_of(lens, x.shape[1])[:, :, None], lens
