"""Forced alignment of token sequences with the frames where a transducer or an attention decoder emits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID

if TYPE_CHECKING:
    from pipeline.e2e.decoder import AttentionDecoder
    from pipeline.e2e.transducer import Transducer

SMALL = 1e-6  # attention weight below which a frame counts as not looked at


def monotonic_path(emit: np.ndarray, stay: np.ndarray) -> tuple[float, np.ndarray]:
    """The best placement of U tokens, in order, on T frames, one at a frame at most.

    score = sum over frames of emit[t, u] where token u is put on frame t, else of stay[t, u] with u tokens behind it.

    Args:
        emit: (T, U). stay: (T, U + 1).
    Returns:
        score, -inf when there are more tokens than frames; and the frame of each token (U,) int64.
    """
    num_frames, num_tokens = emit.shape
    best = np.full(num_tokens + 1, -np.inf)
    best[0] = 0.0
    emitted = np.zeros((num_frames, num_tokens + 1), dtype=bool)
    for t in range(num_frames):
        keep = best + stay[t]
        put = np.append(-np.inf, best[:-1] + emit[t])
        emitted[t] = put > keep
        best = np.maximum(keep, put)
    frames = np.zeros(num_tokens, dtype=np.int64)
    u = num_tokens
    for t in range(num_frames - 1, -1, -1):
        if emitted[t, u]:
            u -= 1
            frames[u] = t
    return float(best[num_tokens]), frames


@torch.no_grad()
def transducer_path(transducer: Transducer, encoded: torch.Tensor, tokens: Sequence[int]) -> tuple[float, np.ndarray]:
    """The best path of an utterance through the transducer's lattice, with one token at a frame at most.

    Args:
        encoded: (T', D). tokens: U ids.
    """
    labels = torch.tensor([list(tokens)], dtype=torch.long, device=encoded.device)
    log_probs = (
        torch.log_softmax(transducer.logits(encoded[None], transducer.predict(labels))[0], -1).cpu().double().numpy()
    )
    blank = log_probs[:, :, BLANK_ID]  # (T', U + 1)
    label = log_probs[:, np.arange(len(tokens)), list(tokens)] if len(tokens) else blank[:, :0]
    return monotonic_path(label + blank[:, 1:], blank)


@torch.no_grad()
def attention_path(decoder: AttentionDecoder, encoded: torch.Tensor, tokens: Sequence[int]) -> tuple[float, np.ndarray]:
    """The best order of frames by attention weights, the mean over the heads.

    Args:
        encoded: (T', D). tokens: U ids.
    """
    lens = torch.tensor([len(encoded)], device=encoded.device)
    state, last, rows = decoder.start(encoded[None], lens), EOS_ID, []
    for token in tokens:
        _, state = decoder.step(torch.tensor([last], device=encoded.device), state)
        rows.append(state.weights[0].mean(0))
        last = token
    weights = torch.stack(rows, 1).cpu().double().numpy() if rows else np.zeros((len(encoded), 0))  # (T', U)
    return monotonic_path(np.log(weights + SMALL), np.zeros((len(encoded), len(tokens) + 1)))
