"""Deltas and splicing over packed utterances: neighbours are taken inside each utterance, with its edge frames
repeated.
"""

from __future__ import annotations

import torch


def pad_utterances(
    feats: torch.Tensor, offsets: torch.Tensor, left: int, right: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat the first frame of each utterance ``left`` times before it and the last one ``right`` times after it.

    Args:
        feats: (sum T, F).
        offsets: first frame of each utterance and the total, int64 (N+1,); no utterance is empty.
    Returns:
        (sum T + N (left + right), F), and the index (sum T,) such that the frame ``shift`` away from frame t, for a
        shift from -left to right, is row ``index[t] + left + shift`` of it.
    """
    lengths = offsets[1:] - offsets[:-1]
    assert int(lengths.min()) > 0, lengths
    number = torch.arange(len(lengths))
    padded_lengths = lengths + left + right
    utterance = torch.repeat_interleave(number, padded_lengths)
    frames = torch.arange(int(padded_lengths.sum())) - (left + right) * utterance - left
    frames = torch.minimum(torch.maximum(frames, offsets[utterance]), offsets[utterance + 1] - 1)
    index = torch.arange(int(offsets[-1])) + (left + right) * torch.repeat_interleave(number, lengths)
    return feats[frames], index


def delta_filters(order: int, window: int) -> list[torch.Tensor]:
    """Filters of the derivatives 0 to ``order``; filter k has 2 k window + 1 taps.

    The first derivative is d_t = sum_j j x_{t+j} / sum_j j^2, j from -window to window; each further one applies the
    same filter to the filter before it, not to frames (cf. Kaldi DeltaFeatures), which matters at the edges of an
    utterance.
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
    reach = order * window
    padded, index = pad_utterances(feats, offsets, reach, reach)
    rows = len(padded) - 2 * reach
    parts = [feats]
    for k, taps in enumerate(delta_filters(order, window)[1:], start=1):
        total = feats.new_zeros(rows, feats.shape[1])
        for j, tap in enumerate(taps.tolist()):
            if tap:
                start = reach - k * window + j
                total.add_(padded[start : start + rows], alpha=tap)
        parts.append(total[index])
    return torch.cat(parts, dim=1)


def splice(feats: torch.Tensor, offsets: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Stack each frame with its neighbours, from the leftmost to the rightmost; (sum T, F) -> (sum T, F (left + 1 +
    right)).
    """
    padded, index = pad_utterances(feats, offsets, left, right)
    dim, width = feats.shape[1], left + 1 + right
    windows = padded.as_strided((len(padded) - width + 1, width * dim), (dim, 1))  # overlapping rows of one memory
    return windows[index]
