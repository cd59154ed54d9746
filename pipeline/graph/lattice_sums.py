"""Compiled sums over state lattices: frames of arcs, whether a word sequence is in a lattice, expected accuracies.

Arcs of an utterance lie side by side, sorted by source, and every arc leads to a later state; state 0 is the start, the
last state the end, as k2 leaves its lattices.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def arc_frames(splits: np.ndarray, src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """(A,) int64, the frame of each arc, that is the number of arcs on any path to it.

    Args:
        splits: (N + 1,) arcs of utterance n are splits[n]:splits[n + 1].
        src, dst: (A,) states, numbered within their utterance.
    """
    out = np.zeros(len(src), np.int64)
    for n in range(len(splits) - 1):
        states = 1
        for a in range(splits[n], splits[n + 1]):
            states = max(states, dst[a] + 1)
        frame = np.zeros(states, np.int64)
        for a in range(splits[n], splits[n + 1]):
            out[a] = frame[src[a]]
            frame[dst[a]] = frame[src[a]] + 1
    return out


@numba.njit(cache=True)
def contains(
    src: np.ndarray,
    dst: np.ndarray,
    label: np.ndarray,
    spell_splits: np.ndarray,
    spell_words: np.ndarray,
    reference: np.ndarray,
) -> bool:
    """Whether one utterance's lattice has a path with exactly the reference's words.

    Args:
        src, dst, label: (A,) its arcs; label l stands for the words spell_words[spell_splits[l]:spell_splits[l + 1]].
        reference: (U,) word ids.
    """
    if len(src) == 0:
        return False
    last = 0
    for a in range(len(src)):
        last = max(last, dst[a])
    size = len(reference)
    reached = np.zeros((last + 1, size + 1), np.bool_)
    reached[0, 0] = True
    for a in range(len(src)):
        begin, end = spell_splits[max(label[a], 0)], spell_splits[max(label[a], 0) + 1]
        for u in range(size + 1):
            if not reached[src[a], u]:
                continue
            at = u
            for i in range(begin, end):
                if at < 0 or at >= size or reference[at] != spell_words[i]:
                    at = -1
                else:
                    at += 1
            if at >= 0:
                reached[dst[a], at] = True
    return reached[last, size]


@numba.njit(cache=True)
def expected_accuracy(
    splits: np.ndarray, src: np.ndarray, dst: np.ndarray, score: np.ndarray, accuracy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward-backward over scores and, beside them, over accuracies (Povey 2003, section 6.3).

    With c(a) the expected accuracy of the paths through arc a and C that of all paths, the derivative of C by the score
    of a is gamma(a) (c(a) - C).

    Args:
        splits, src, dst: as for ``arc_frames``.
        score, accuracy: (A,) float64 natural-log weight and accuracy of each arc.
    Returns:
        (A,) posteriors gamma, (A,) derivatives, (N,) expected accuracies C (0 for an empty lattice).
    """
    gamma, derivative = np.zeros(len(src)), np.zeros(len(src))
    total = np.zeros(len(splits) - 1)
    for n in range(len(splits) - 1):
        begin, end = splits[n], splits[n + 1]
        if begin == end:
            continue
        last = 0
        for a in range(begin, end):
            last = max(last, dst[a])
        alpha, beta = np.full(last + 1, -np.inf), np.full(last + 1, -np.inf)
        before, after = np.zeros(last + 1), np.zeros(last + 1)  # expected accuracies of the paths to and from a state
        alpha[0], beta[last] = 0.0, 0.0
        for a in range(begin, end):
            s, d, x = src[a], dst[a], alpha[src[a]] + score[a]
            if x == -np.inf:
                continue
            new = np.logaddexp(alpha[d], x)
            share = np.exp(x - new)
            before[d] = (1.0 - share) * before[d] + share * (before[s] + accuracy[a])
            alpha[d] = new
        for a in range(end - 1, begin - 1, -1):
            s, d, x = src[a], dst[a], beta[dst[a]] + score[a]
            if x == -np.inf:
                continue
            new = np.logaddexp(beta[s], x)
            share = np.exp(x - new)
            after[s] = (1.0 - share) * after[s] + share * (after[d] + accuracy[a])
            beta[s] = new
        total[n] = before[last]
        for a in range(begin, end):
            gamma[a] = np.exp(alpha[src[a]] + score[a] + beta[dst[a]] - alpha[last])
            derivative[a] = gamma[a] * (before[src[a]] + accuracy[a] + after[dst[a]] - total[n])
    return gamma, derivative, total
