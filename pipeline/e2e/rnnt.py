"""The RNN-T loss: the sum over all paths through a lattice of frames and tokens, with its exact gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.artifacts.tokens import BLANK_ID
from pipeline.hmm.numba_cache import cached_njit


def rnnt_loss(logits: torch.Tensor, lens: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the tokens (Graves 2012, eq. 16 to 18): at each frame any number of tokens, then a
    blank.

    Args:
        logits: (N, T, U + 1, V), not normalised; id 0 is the blank. Cells behind an utterance's end get no gradient.
        lens: (N,) frames, at least 1.
        tokens: (N, U) int64. token_lens: (N,).
    Returns:
        (N,) float.
    """
    n, num_frames, width, _ = logits.shape
    assert tokens.shape == (n, width - 1) and lens.shape == token_lens.shape == (n,), (logits.shape, tokens.shape)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return _Loss.apply(logits, lens, tokens, token_lens)


class _Loss(torch.autograd.Function):
    """With occupancies gamma of the lattice's arcs:  d loss / d logits[v] = (gamma_blank + gamma_token) p(v) - gamma_v,
    written into a single array, where autograd through softmax and gather would keep four.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, lens: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor
    ) -> torch.Tensor:
        norm = logits.logsumexp(-1)  # (N, T, U + 1)
        index = tokens[:, None, :, None].expand(-1, logits.shape[1], -1, 1)  # (N, T, U, 1)
        blank = logits[..., BLANK_ID] - norm
        label = logits[:, :, :-1].gather(3, index)[..., 0] - norm[:, :, :-1]  # (N, T, U)
        *gammas, log_z = occupancies_of(blank, label, lens, token_lens)
        ctx.save_for_backward(logits, norm, index, *(torch.from_numpy(g).to(logits) for g in gammas))
        return torch.from_numpy(-log_z).to(logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        logits, norm, index, *gammas = ctx.saved_tensors
        blank, label = (grad[:, None, None] * g for g in gammas)
        both = blank.clone()
        both[:, :, :-1] += label
        out = (logits - norm[..., None]).exp_().mul_(both[..., None])
        out[..., BLANK_ID] -= blank
        out[:, :, :-1].scatter_add_(3, index, -label[..., None])
        return out, None, None, None


def lattice_loss(
    blank: torch.Tensor, label: torch.Tensor, lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """Negative log of the sum over all paths through a lattice with given scores.

    Args:
        blank: (N, T, U + 1) and label: (N, T, U) natural logs of reading on and of writing the next token; -inf where
            there is no such arc.
        lens, token_lens: (N,).
    Returns:
        (N,) float; inf without a path, and then without a gradient.
    """
    return _LatticeLoss.apply(blank, label, lens, token_lens)


class _LatticeLoss(torch.autograd.Function):
    """d loss / d score = - occupancy of the arc."""

    @staticmethod
    def forward(
        ctx: Any, blank: torch.Tensor, label: torch.Tensor, lens: torch.Tensor, token_lens: torch.Tensor
    ) -> torch.Tensor:
        *gammas, log_z = occupancies_of(blank, label, lens, token_lens)
        ctx.save_for_backward(*(torch.from_numpy(g).to(blank) for g in gammas))
        return torch.from_numpy(-log_z).to(blank)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        blank, label = (-grad[:, None, None] * g for g in ctx.saved_tensors)
        return blank, label, None, None


def occupancies_of(
    blank: torch.Tensor, label: torch.Tensor, lens: torch.Tensor, token_lens: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Occupancies of blanks (N, T, U + 1) and tokens (N, T, U), float64, and (N,) log of the sum over all paths.

    Args as for ``lattice_loss``; without a path occupancies are 0 and the log is -inf.
    """
    arrays = [x.detach().double().cpu().contiguous().numpy() for x in (blank, label)]
    gammas = [np.zeros_like(a) for a in arrays]
    log_z = np.zeros(len(blank))
    _occupancies(*arrays, lens.cpu().numpy(), token_lens.cpu().numpy(), log_z, *gammas)
    return gammas[0], gammas[1], log_z


@cached_njit(nogil=True)
def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == -np.inf else a + np.log1p(np.exp(b - a))


@cached_njit(nogil=True)
def _occupancies(
    blank: np.ndarray,
    label: np.ndarray,
    lens: np.ndarray,
    token_lens: np.ndarray,
    log_z: np.ndarray,
    d_blank: np.ndarray,
    d_label: np.ndarray,
) -> None:
    """Fills log_z (N,) and the occupancies of all arcs; utterances without a path get -inf and zeros.

    alpha[t, u]: sum of all paths that have read t frames and written u tokens; beta[t, u]: of all paths from there on.
    """
    for n in range(len(lens)):
        num_frames, num_tokens = lens[n], token_lens[n]
        beta = np.full((num_frames + 1, num_tokens + 2), -np.inf)
        beta[num_frames, num_tokens] = 0.0
        for t in range(num_frames - 1, -1, -1):
            for u in range(num_tokens, -1, -1):
                total = blank[n, t, u] + beta[t + 1, u]
                if u < num_tokens:
                    total = _log_add(total, label[n, t, u] + beta[t, u + 1])
                beta[t, u] = total
        log_z[n] = beta[0, 0]
        if not np.isfinite(beta[0, 0]):
            continue
        alpha = np.full((num_frames + 1, num_tokens + 2), -np.inf)
        alpha[0, 0] = 0.0
        for t in range(num_frames):
            for u in range(num_tokens + 1):
                here = alpha[t, u]
                if here == -np.inf:
                    continue
                total = here + blank[n, t, u]
                d_blank[n, t, u] = np.exp(total + beta[t + 1, u] - log_z[n])
                alpha[t + 1, u] = _log_add(alpha[t + 1, u], total)
                if u < num_tokens:
                    total = here + label[n, t, u]
                    d_label[n, t, u] = np.exp(total + beta[t, u + 1] - log_z[n])
                    alpha[t, u + 1] = _log_add(alpha[t, u + 1], total)
