"""Dropout. On a CPU torch draws its masks number by number, which takes a quarter of the time of a convolutional
network's step; here four places share a random number of 64 bits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

_LEVELS = 1 << 16  # of 16 bits; probabilities are rounded to multiples of 1 / 65,536


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Zeros each element with probability `p` and divides the others by 1 - p (Srivastava et al. 2014), by torch's
    generator.

    Args:
        x: (..) of floats.
        p: 0 .. 1.
        training: without it x is returned as it is.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p, True)
    dropped = round(p * _LEVELS)
    if dropped == _LEVELS:
        return x * 0.0
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-1 << 63, None)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
    return x * keep.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p, self.training)
