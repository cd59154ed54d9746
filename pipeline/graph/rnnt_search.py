"""Transducer search by k2 (fast_beam_search): one token per frame at most, hypotheses with equal last tokens share a
state.
"""

from __future__ import annotations

from collections.abc import Callable

import k2
import torch


def rnnt_search(
    predict: Callable[[torch.Tensor], torch.Tensor],
    joint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    encoded: torch.Tensor,
    lens: torch.Tensor,
    vocab_size: int,
    context: int,
    beam: float,
    max_contexts: int,
) -> list[tuple[float, list[int]]]:
    """The best path of each utterance.

    Only for predictors that see a fixed number of last tokens (stateless ones): then hypotheses with the same last
        tokens have
    the same future, and the search keeps one lattice state for them instead of a hypothesis each.

    Args:
        predict: (M, context) int64 last tokens, blanks (0) before the first -> (M, Dp) predictions.
        joint: (M, D) and (M, Dp) -> (M, V) natural-log probabilities.
        encoded: (N, T, D). lens: (N,) frames.
        beam: natural logs by which a path may fall behind.
        max_contexts: different last tokens kept per utterance and frame.
    Returns:
        by utterance the score of the best path and its tokens.
    """
    config = k2.RnntDecodingConfig(
        vocab_size=vocab_size,
        decoder_history_len=context,
        beam=beam,
        max_states=4 * max_contexts,
        max_contexts=max_contexts,
    )
    graph = k2.trivial_graph(vocab_size - 1, device=encoded.device)
    streams = [k2.RnntDecodingStream(graph) for _ in range(len(encoded))]
    lengths = lens.tolist()
    decoding = k2.RnntDecodingStreams(streams, config)
    # k2 makes the arcs of the last frame final ones, which leaves out what is put out there: so there is one frame
    # more.
    for t in range(max(lengths) + 1):
        shape, contexts = decoding.get_contexts()
        rows = shape.row_ids(1).long()
        decoding.advance(joint(encoded[rows, min(t, max(lengths) - 1)], predict(contexts.long())).float())
    decoding.terminate_and_flush_to_streams()
    lattice = decoding.format_output([n + 1 for n in lengths])
    best = k2.shortest_path(lattice, use_double_scores=True)
    splits = _arc_splits(best)
    scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
    every = best.labels.tolist()
    return [(score, [x for x in every[b:e] if x > 0]) for score, b, e in zip(scores, splits[:-1], splits[1:])]


def _arc_splits(fsa: k2.Fsa) -> list[int]:
    shape = fsa.arcs.shape()
    return shape.row_splits(2)[shape.row_splits(1).long()].tolist()
