"""Deltas and splicing over packed utterances: neighbours are taken inside each utterance, with its edge frames repeated."""

from __future__ import annotations

import torch


def neighbours(offsets: torch.Tensor, shift: int) -> torch.Tensor:
    """Index of the frame ``shift`` frames away from each frame, kept inside the utterance.

    Args:
        offsets: first frame of each utterance and the total, int64 (N+1,).
        shift: positive looks ahead.
    Returns:
        int64 (sum T,).
    """
    lengths = offsets[1:] - offsets[:-1]
    first = torch.repeat_interleave(offsets[:-1], lengths)
    last = torch.repeat_interleave(offsets[1:], lengths) - 1
    frames = torch.arange(int(offsets[-1]), dtype=torch.int64) + shift
    return torch.minimum(torch.maximum(frames, first), last)


def delta_filters(order: int, window: int) -> list[torch.Tensor]:
    """Filters of the derivatives 0 to ``order``; filter k has 2 k window + 1 taps.

    The first derivative is d_t = sum_j j x_{t+j} / sum_j j^2, j from -window to window; each further one applies the same filter to the
    filter before it, not to frames (cf. Kaldi DeltaFeatures), which matters at the edges of an utterance.
    """
    slope = torch.arange(-window, window + 1, dtype=torch.float64)
    slope = slope / (slope**2).sum()
    filters = [torch.ones(1, dtype=torch.float64)]
    for _ in range(order):
        previous = filters[-1]
        taps = torch.zeros(len(previous) + 2 * window, dtype=torch.float64)
        for k, weight in enumerate(slope):
            taps[k : k + len(previous)] += weight * previous
        filters.append(taps)
    return filters


def add_deltas(feats: torch.Tensor, offsets: torch.Tensor, order: int = 2, window: int = 2) -> torch.Tensor:
    """Append time derivatives; cf. Kaldi add-deltas.

    Args:
        feats: float (sum T, F).
        offsets: int64 (N+1,).
        order: highest derivative.
        window: frames on each side of the regression.
    Returns:
        (sum T, F (order + 1)): statics, first derivatives, second derivatives ...
    """
    dim = feats.shape[1]
    out = feats.new_zeros(len(feats), dim * (order + 1))
    filters = delta_filters(order, window)
    reach = order * window
    for shift in range(-reach, reach + 1):
        shifted = feats[neighbours(offsets, shift)] if shift else feats  # (sum T, F)
        for k, taps in enumerate(filters):
            tap = shift + k * window
            if 0 <= tap < len(taps) and taps[tap] != 0:
                out[:, k * dim : (k + 1) * dim].add_(shifted, alpha=float(taps[tap]))
    return out


def splice(feats: torch.Tensor, offsets: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Stack each frame with its neighbours, from the leftmost to the rightmost; (sum T, F) -> (sum T, F (left + 1 + right))."""
    return torch.cat([feats[neighbours(offsets, shift)] for shift in range(-left, right + 1)], dim=1)
