"""Pruned RNN-T loss (Kuang et al. 2022) by k2: a cheap joint network says where the full one is worth its memory."""

from __future__ import annotations

from collections.abc import Callable

import k2
import torch

from pipeline.artifacts.tokens import BLANK_ID

LM_SCALE, AM_SCALE = 0.25, 0.0  # smoothing of the cheap joint network, as in icefall's recipes


def pruned_rnnt_loss(
    am: torch.Tensor,
    lm: torch.Tensor,
    encoded: torch.Tensor,
    predicted: torch.Tensor,
    lens: torch.Tensor,
    tokens: torch.Tensor,
    token_lens: torch.Tensor,
    joint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    width: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the cheap joint network, the sum am + lm, and of the full one on `width` token positions per frame.

    Args:
        am: (N, T, V) and lm: (N, U + 1, V), scores that are added.
        encoded: (N, T, J) and predicted: (N, U + 1, J), what the full joint network adds.
        lens, token_lens: (N,). tokens: (N, U) int64.
        joint: from two (N, T, width, J) to (N, T, width, V) logits.
        width: token positions per frame; memory falls from T (U + 1) V to T width V.
    Returns:
        (N,) losses of the cheap and (N,) of the full network.
    """
    boundary = torch.zeros((len(lens), 4), dtype=torch.int64, device=am.device)
    boundary[:, 2], boundary[:, 3] = token_lens, lens
    simple, (px_grad, py_grad) = k2.rnnt_loss_smoothed(
        lm=lm.float(),
        am=am.float(),
        symbols=tokens,
        termination_symbol=BLANK_ID,
        lm_only_scale=LM_SCALE,
        am_only_scale=AM_SCALE,
        boundary=boundary,
        reduction="none",
        return_grad=True,
    )
    ranges = k2.get_rnnt_prune_ranges(
        px_grad=px_grad, py_grad=py_grad, boundary=boundary, s_range=min(width, tokens.shape[1] + 1)
    )
    pruned = k2.do_rnnt_pruning(am=encoded, lm=predicted, ranges=ranges)
    full = k2.rnnt_loss_pruned(
        logits=joint(*pruned).float(),
        symbols=tokens,
        ranges=ranges,
        termination_symbol=BLANK_ID,
        boundary=boundary,
        reduction="none",
    )
    return simple, full
