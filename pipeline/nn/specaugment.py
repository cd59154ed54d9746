"""SpecAugment: masks over time and over features (Park et al. 2019), with the mean of the features in the masks."""

from __future__ import annotations

import torch

from pipeline.nn.masks import mask_of


def spec_augment(
    feats: torch.Tensor,
    lens: torch.Tensor,
    time_masks: int,
    time_size: int,
    time_share: float,
    feature_masks: int,
    feature_size: int,
) -> torch.Tensor:
    """Masks each utterance of a batch by itself, with torch's global random numbers.

    Args:
        feats: (N, T, F), normalised, so that 0 is the mean.
        lens: (N,).
        time_masks: masks per utterance, of T frames ceil(T time_share / time_size) at most: masks may cover
            time_share of it and up to one mask more.
        time_size: longest time mask in frames; lengths are uniform in 0..time_size.
        feature_masks, feature_size: the same over features.
    Returns:
        (N, T, F), a new tensor.
    """
    n, num_frames, dim = feats.shape
    keep = torch.ones((n, num_frames, 1), dtype=torch.bool, device=feats.device)
    if time_masks and time_size:
        allowed = (lens * time_share / time_size).ceil().clamp(max=time_masks)
        covered = _masks(lens[:, None].expand(n, time_masks), time_size, num_frames)  # (N, masks, T)
        used = torch.arange(time_masks, device=lens.device)[None, :] < allowed[:, None]
        keep = keep & ~(covered & used[:, :, None]).any(1)[:, :, None]
    keep = keep & mask_of(lens, num_frames)[:, :, None]
    if feature_masks and feature_size:
        dims = torch.full((n, feature_masks), dim, device=feats.device)
        keep = keep & ~_masks(dims, feature_size, dim).any(1)[:, None, :]
    return feats * keep


def _masks(limit: torch.Tensor, size: int, width: int) -> torch.Tensor:
    """(N, M) limits -> (N, M, width) bool: a random span of 0..size places inside 0..limit."""
    length = torch.minimum(torch.randint(0, size + 1, limit.shape, device=limit.device), limit)
    start = (torch.rand(limit.shape, device=limit.device) * (limit - length + 1)).floor()
    place = torch.arange(width, device=limit.device)[None, None, :]
    return (place >= start[:, :, None]) & (place < (start + length)[:, :, None])
