"""Pruned RNN-T loss (Kuang et al. 2022): a cheap joint network says where the full one is worth its memory.

The cheap network adds scores of the encoder and of the predictor, so that its normaliser is one matrix product. The
occupancies of its lattice choose a window of token positions for each frame, and the full network runs on these alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from pipeline.artifacts.tokens import BLANK_ID
from pipeline.e2e.rnnt import lattice_loss, occupancies_of
from pipeline.hmm.numba_cache import cached_njit

LM_SCALE = 0.25  # weight of the predictor's scores alone in those of the cheap network, as in icefall's recipes

Joint = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Lengths = TypeVar("Lengths", np.ndarray, torch.Tensor)


def pruned_rnnt_loss(
    am: torch.Tensor,
    lm: torch.Tensor,
    encoded: torch.Tensor,
    predicted: torch.Tensor,
    lens: torch.Tensor,
    tokens: torch.Tensor,
    token_lens: torch.Tensor,
    joint: Joint,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the cheap joint network, the sum am + lm, and of the full one on `width` token positions per frame.

    Args:
        am: (N, T, V) and lm: (N, U + 1, V), scores that are added.
        encoded: (N, T, J) and predicted: (N, U + 1, J), what the full joint network adds.
        lens, token_lens: (N,). tokens: (N, U) int64.
        joint: from two (N, T, width, J) to (N, T, width, V) logits.
        width: token positions per frame, at least 2; memory falls from T (U + 1) V to T width V.
    Returns:
        (N,) losses of the cheap and (N,) of the full network, whose windows cannot reach the end of an utterance with
        more than ``most_tokens``: its second loss is 0.
    """
    assert width >= 2, width
    blank, label = additive_scores(am.float(), lm.float(), tokens)
    simple = lattice_loss(blank, label, lens, token_lens)
    first = windows(blank, label, lens, token_lens, width)  # (N, T)
    positions = (first[:, :, None] + torch.arange(min(width, lm.shape[1]))).to(am.device)  # (N, T, W)
    frames = encoded[:, :, None].expand(-1, -1, positions.shape[2], -1)
    rows = torch.arange(len(lens), device=am.device)[:, None, None]
    logits = joint(frames, predicted[rows, positions]).float()
    full = windowed_loss(logits, positions, lens, tokens, token_lens)
    return simple, full.masked_fill(token_lens > most_tokens(lens, width), 0.0)


def most_tokens(num_frames: Lengths, width: int) -> Lengths:
    """How many tokens windows of `width` positions can reach: each begins no later than the one before it ends."""
    return num_frames * (width - 1)


def additive_scores(am: torch.Tensor, lm: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Natural logs of blanks (N, T, U + 1) and tokens (N, T, U) under the sum of two scores; tokens and blanks have
    LM_SCALE of the predictor's own log probabilities in them, which keeps it from being taken for the encoder's bias.
    """
    # log sum_v exp(am + lm), as a product of exponentials with their maxima taken out
    am_top, lm_top = am.detach().amax(2, keepdim=True), lm.detach().amax(2, keepdim=True)
    with torch.autocast(am.device.type, enabled=False):  # a product of 16 bits would be a normaliser of 16 bits
        product = (am - am_top).exp() @ (lm - lm_top).exp().transpose(1, 2)  # (N, T, U + 1)
    norm = (product + torch.finfo(am.dtype).tiny).log() + am_top + lm_top.transpose(1, 2)
    alone = lm.log_softmax(2)
    num_tokens = tokens.shape[1]
    index = tokens[:, None].expand(-1, am.shape[1], -1)  # (N, T, U)
    label = am.gather(2, index) + lm[:, :num_tokens].gather(2, tokens[:, :, None]).transpose(1, 2) - norm[..., :-1]
    blank = am[..., BLANK_ID, None] + lm[:, None, :, BLANK_ID] - norm
    label_alone = alone[:, :num_tokens].gather(2, tokens[:, :, None]).transpose(1, 2)  # (N, 1, U)
    both = torch.lerp(blank, alone[:, None, :, BLANK_ID].expand_as(blank), LM_SCALE)
    return both, torch.lerp(label, label_alone.expand_as(label), LM_SCALE)


@torch.no_grad()
def windows(
    blank: torch.Tensor, label: torch.Tensor, lens: torch.Tensor, token_lens: torch.Tensor, width: int
) -> torch.Tensor:
    """(N, T) int64 first token position of the window of each frame.

    The window that holds most of the occupancy at its frame; then moved as little as needed for the windows to rise
    from position 0 to the last one, each overlapping the one before. Beyond the last frame: that of the last frame.

    Args:
        blank: (N, T, U + 1) and label: (N, T, U) natural logs.
    """
    gamma_blank, gamma_label, _ = occupancies_of(blank, label, lens, token_lens)
    first = np.zeros(blank.shape[:2], dtype=np.int64)
    _windows(gamma_blank, gamma_label, lens.cpu().numpy(), token_lens.cpu().numpy(), width, first)
    return torch.from_numpy(first)


@cached_njit(nogil=True)
def _windows(
    blank: np.ndarray, label: np.ndarray, lens: np.ndarray, token_lens: np.ndarray, width: int, first: np.ndarray
) -> None:
    for n in range(len(lens)):
        last, size = lens[n] - 1, min(width, blank.shape[2])
        end = max(token_lens[n] - size + 1, 0)
        for t in range(blank.shape[1]):
            first[n, t] = end
        for t in range(last):
            best = -np.inf
            # Every start counts that fits into the padded width, as far as its positions are this utterance's.
            for start in range(blank.shape[2] - size + 1):
                inside = 0.0
                for u in range(start, start + size):
                    inside += blank[n, t, u]
                if start:  # what enters from below does so at this frame: a lower window would hold more of the path
                    inside -= label[n, t, start - 1]
                if inside > best:
                    best, first[n, t] = inside, start
        for t in range(last - 1, -1, -1):
            first[n, t] = min(first[n, t], first[n, t + 1])
        for t in range(last - 1, -1, -1):
            first[n, t] = max(first[n, t], first[n, t + 1] - (size - 1))
        for t in range(last + 1):
            first[n, t] = min(first[n, t], (size - 1) * t)


def windowed_loss(
    logits: torch.Tensor, positions: torch.Tensor, lens: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """RNN-T loss of a lattice that has only some token positions at each frame.

    Args:
        logits: (N, T, W, V), not normalised. positions: (N, T, W) int64, ascending by one.
    Returns:
        (N,) float.
    """
    n, num_frames, size, _ = logits.shape
    log_probs = logits.log_softmax(-1)
    written = torch.nn.functional.pad(tokens, (0, 1))  # no token follows the last position
    rows = torch.arange(n, device=logits.device)[:, None, None]
    next_token = written[rows, positions.clamp(max=tokens.shape[1])]
    width = tokens.shape[1] + 1
    shape = (n, num_frames, width + size)  # windows may reach beyond the padded positions
    nothing = log_probs.new_full(shape, float("-inf"))
    blank = nothing.scatter(2, positions, log_probs[..., BLANK_ID])[..., :width]
    label = nothing.scatter(2, positions, log_probs.gather(3, next_token[..., None])[..., 0])[..., : width - 1]
    # A token leads into the next position, which must be in the window, too.
    inside = torch.zeros(shape, dtype=torch.bool, device=logits.device).scatter(2, positions, True)
    label = label.masked_fill(~inside[..., 1:width], float("-inf"))
    return lattice_loss(blank, label, lens, token_lens)
