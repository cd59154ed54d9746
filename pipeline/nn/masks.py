"""Lengths and masks of padded batches."""

from __future__ import annotations

import torch


def mask_of(lens: torch.Tensor, num_frames: int) -> torch.Tensor:
    """(N, T) bool, True on real frames."""
    return torch.arange(num_frames, device=lens.device)[None, :] < lens[:, None]


def all_finite(scores: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether (N, T, ..) scores are finite on the real frames of an (N, T) mask, or those of all frames at once."""
    if scores.dim() < 3:
        return bool(torch.isfinite(scores).all())
    return bool((torch.isfinite(scores).flatten(2).all(2) | ~mask).all())


def ceil_div(lens: torch.Tensor, factor: int) -> torch.Tensor:
    """Lengths after joining every `factor` frames, an incomplete last group included."""
    return torch.div(lens + factor - 1, factor, rounding_mode="floor")
