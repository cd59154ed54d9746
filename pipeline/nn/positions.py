"""Sinusoids of positions, and continuous augmented positional embeddings (CAPE, Likhomanenko et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.base.errors import ConfigError

LONGEST = 10_000.0  # wavelength of the slowest component, in frames / 2 pi


class Cape(nn.Module):
    """Sinusoids of each frame's distance to the middle of its utterance, which training shifts and stretches.

    In training the position p of a frame becomes (p + D + e) l, so that only distances can be relied on, and these
    within a factor: D ~ U(-shift, shift) and log l ~ U(-log scale, log scale) are drawn for each utterance,
    e ~ U(-1/2, 1/2) for each frame, which keeps their order. The paper has positions in seconds; here they are frames
    of the first layer, of 30 to 40 ms there, where the paper's fastest component turns by 1 rad a frame as well.
    """

    def __init__(self, dim: int, shift: float, scale: float) -> None:
        """Args:
        dim: D, even.
        shift: frames.
        scale: 1 or more.
        """
        super().__init__()
        if dim % 2:
            raise ConfigError(f"dim {dim} must be even for positions cape")
        self.dim, self.shift, self.scale = dim, shift, scale

    def forward(self, lens: torch.Tensor, num_frames: int) -> torch.Tensor:
        """(N,) real frames of num_frames -> (N, T, D): cosines, then sines."""
        return sinusoids(self.positions(lens, num_frames), self.dim)

    def positions(self, lens: torch.Tensor, num_frames: int) -> torch.Tensor:
        """(N, T) of the frames, random in training."""
        place = torch.arange(num_frames, device=lens.device) - (lens[:, None] - 1) / 2
        if not self.training:
            return place
        whole = (len(lens), 1)
        shift = self.shift * _uniform(whole, lens.device)
        stretch = (math.log(self.scale) * _uniform(whole, lens.device)).exp()
        return (place + shift + _uniform((len(lens), num_frames), lens.device) / 2) * stretch


def sinusoids(places: torch.Tensor, dim: int) -> torch.Tensor:
    """(..) positions in frames -> (.., D): cosines, then sines, of D / 2 wavelengths up to 2 pi LONGEST frames."""
    rates = LONGEST ** (-torch.arange(dim // 2, device=places.device) * 2 / dim)
    angle = places[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


def _uniform(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Between -1 and 1."""
    return 2 * torch.rand(shape, device=device) - 1
