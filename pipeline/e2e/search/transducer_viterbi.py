"""Transducer search for the best single path, one token per frame at most, with stateless predictors.

Hypotheses with the same last tokens have the same future under such a predictor, so that one of them, the best, is kept
(cf. fast_beam_search of icefall and k2). Utterances are searched side by side.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID
from pipeline.e2e.search.results import NEVER, Found

LOG_BEAM = 20.0  # natural logs by which a path may fall behind


@torch.no_grad()
def best_paths(
    transducer: Any, encoded: torch.Tensor, lens: torch.Tensor, beam: int, log_beam: float = LOG_BEAM
) -> list[list[Found]]:
    """The best path of each utterance.

    Args:
        transducer: with a stateless predictor, see ``pipeline.e2e.transducer``.
        encoded: (N, T', D). lens: (N,) frames, at least one.
        beam: different last tokens that are kept.
        log_beam: natural logs by which a path may fall behind the best one.
    Returns:
        one hypothesis per utterance; its score is that of the single path.
    """
    n, device = len(encoded), encoded.device
    context = torch.full((n, 1, transducer.predictor.context), BLANK_ID, device=device)  # (N, K, C)
    score = torch.zeros((n, 1), dtype=torch.float64, device=device)  # (N, K)
    back: list[tuple[torch.Tensor, torch.Tensor]] = []  # (N, K) of each frame: token, and place in the frame before
    lengths = lens.to(device)
    for t in range(int(lengths.max())):
        log_probs = _joint(transducer, encoded[:, t], context)
        new, place, token, after = _step(score, log_probs, context, beam, log_beam)
        # An utterance that has ended stays as it is.
        ended = (t >= lengths)[:, None]
        kept = torch.arange(new.shape[1], device=device).clamp(max=score.shape[1] - 1).expand_as(place)
        extra = torch.arange(new.shape[1], device=device) >= score.shape[1]
        place, token = torch.where(ended, kept, place), torch.where(ended, torch.zeros_like(token), token)
        score = torch.where(ended, score.gather(1, kept).masked_fill(extra, NEVER), new)
        context = torch.where(ended[:, :, None], context.gather(1, kept[:, :, None].expand_as(after)), after)
        back.append((token.cpu(), place.cpu()))
    total, best = score.max(1)
    return [[Found(_trace(back, i, k), x, 0.0, x)] for i, (x, k) in enumerate(zip(total.tolist(), best.tolist()))]


def _joint(transducer: Any, frame: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """(N, D) a frame of each utterance and (N, K, C) last tokens -> (N, K, V) log probabilities."""
    n, k, size = context.shape
    rows = context.reshape(n * k, size)
    predicted = transducer.after(rows)
    log_probs = transducer.joint(frame.repeat_interleave(k, 0), predicted).double()
    log_probs[:, [EOS_ID, UNK_ID]] = NEVER
    return log_probs.view(n, k, -1)


def _step(
    score: torch.Tensor, log_probs: torch.Tensor, context: torch.Tensor, beam: int, log_beam: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best way to each of the best contexts behind a frame.

    Args:
        score: (N, K). log_probs: (N, K, V). context: (N, K, C).
    Returns:
        (N, K') scores, NEVER where there is none; the places that they come from; tokens; (N, K', C) contexts.
    """
    n, k, v = log_probs.shape
    alive = score > NEVER / 2
    # A context is reached by its own blank and by a token from each context that ends alike: so many ways to the best
    # contexts at most come before the last of them.
    alike = (context[:, :, None, 1:] == context[:, None, :, 1:]).all(3) & alive[:, :, None] & alive[:, None]
    ways = min(k * v, beam * (int(alike.sum(2).max()) + 1))
    value, index = (score[:, :, None] + log_probs).view(n, k * v).topk(ways, 1)
    place, token = torch.div(index, v, rounding_mode="floor"), index % v
    before = context.gather(1, place[:, :, None].expand(-1, -1, context.shape[2]))
    after = torch.where((token == BLANK_ID)[:, :, None], before, torch.cat([before[:, :, 1:], token[:, :, None]], 2))
    same = (after[:, :, None] == after[:, None]).all(3)
    first = ~same.tril(-1).any(2)
    good = first & (value >= value[:, :1] - log_beam) & (value > NEVER / 2)
    order = (~good).to(torch.int8).sort(dim=1, stable=True).indices[:, :beam]
    value = value.masked_fill(~good, NEVER).gather(1, order)
    return (
        value,
        place.gather(1, order),
        token.gather(1, order),
        after.gather(1, order[:, :, None].expand(-1, -1, context.shape[2])),
    )


def _trace(back: list[tuple[torch.Tensor, torch.Tensor]], utterance: int, place: int) -> tuple[int, ...]:
    """Tokens of the path to a place behind the last frame."""
    out = []
    for tokens, places in reversed(back):
        token, place = int(tokens[utterance, place]), int(places[utterance, place])
        if token != BLANK_ID:
            out.append(token)
    return tuple(reversed(out))
