"""Compiled sums over lattices: posteriors of arcs, expected accuracies, whether a word sequence is in a lattice.

Arcs are those of ``pipeline.artifacts.lattice.Lattice``: sorted by source, every arc leads to a later state; state 0 is
the start, the last state the end.
"""

from __future__ import annotations

import numpy as np

from pipeline.hmm.numba_cache import cached_njit


@cached_njit(nogil=True)
def contains(
    src: np.ndarray,
    dst: np.ndarray,
    label: np.ndarray,
    spell_splits: np.ndarray,
    spell_words: np.ndarray,
    reference: np.ndarray,
) -> bool:
    """Whether a lattice has a path with exactly the reference's words.

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


@cached_njit(nogil=True)
def posteriors(
    src: np.ndarray, dst: np.ndarray, score: np.ndarray, accuracy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Forward-backward over scores and, beside them, over accuracies (Povey 2003, section 6.3).

    With c(a) the expected accuracy of the paths through arc a and C that of all paths, the derivative of C by the score
    of a is gamma(a) (c(a) - C).

    Args:
        src, dst: (A,) states, A > 0.
        score, accuracy: (A,) float64 natural-log weight and accuracy of each arc; accuracy (0,) where there is none.
    Returns:
        (A,) posteriors gamma; (A,) derivatives, or (0,) without accuracies; log sum over all paths; C.
    """
    scored, last = len(accuracy) > 0, dst.max()
    gamma, derivative = np.zeros(len(src)), np.zeros(len(accuracy))
    alpha, beta = np.full(last + 1, -np.inf), np.full(last + 1, -np.inf)
    before, after = np.zeros(last + 1), np.zeros(last + 1)  # expected accuracies of the paths to and from a state
    alpha[0], beta[last] = 0.0, 0.0
    for a in range(len(src)):
        s, d, x = src[a], dst[a], alpha[src[a]] + score[a]
        if x > -np.inf:
            new = np.logaddexp(alpha[d], x)
            if scored:
                share = np.exp(x - new)
                before[d] = (1.0 - share) * before[d] + share * (before[s] + accuracy[a])
            alpha[d] = new
    for a in range(len(src) - 1, -1, -1):
        s, d, x = src[a], dst[a], beta[dst[a]] + score[a]
        if x > -np.inf:
            new = np.logaddexp(beta[s], x)
            if scored:
                share = np.exp(x - new)
                after[s] = (1.0 - share) * after[s] + share * (after[d] + accuracy[a])
            beta[s] = new
    mean = before[last]
    if alpha[last] > -np.inf:
        for a in range(len(src)):
            gamma[a] = np.exp(alpha[src[a]] + score[a] + beta[dst[a]] - alpha[last])
            if scored:
                derivative[a] = gamma[a] * (before[src[a]] + accuracy[a] + after[dst[a]] - mean)
    return gamma, derivative, alpha[last], mean


@cached_njit(nogil=True)
def oracle_errors(src: np.ndarray, dst: np.ndarray, word: np.ndarray, reference: np.ndarray) -> int:
    """Fewest insertions, deletions and substitutions of a path against the reference.

    Args:
        src, dst: (A,) states, A > 0.
        word: (A,) one word id at most, 0 for none (``Lattice.spelled``).
        reference: (U,) word ids.
    """
    size, last = len(reference), dst.max()
    # States have a row from the first arc into them to the last one out of them, so that an hour of speech fits.
    row_of = np.full(last + 1, -1, np.int64)
    rows = np.empty((64, size + 1), np.int64)
    free = np.arange(63, -1, -1)
    num_free = 63
    row_of[0] = 0
    rows[0] = np.arange(size + 1)
    for a in range(len(src)):
        s, d = src[a], dst[a]
        if row_of[d] < 0:
            if num_free == 0:
                more, num_free = np.empty((2 * len(rows), size + 1), np.int64), len(rows)
                more[:num_free] = rows
                free = np.arange(2 * num_free - 1, -1, -1)  # the new ones first; room for all
                rows = more
            num_free -= 1
            row_of[d] = free[num_free]
            rows[row_of[d]] = size + len(src)
        here, there = rows[row_of[s]], rows[row_of[d]]
        if a == 0 or src[a - 1] != s:  # words of the reference that nobody says here
            for u in range(1, size + 1):
                here[u] = min(here[u], here[u - 1] + 1)
        if word[a] == 0:
            for u in range(size + 1):
                there[u] = min(there[u], here[u])
        else:
            there[0] = min(there[0], here[0] + 1)
            for u in range(1, size + 1):
                there[u] = min(there[u], here[u] + 1, here[u - 1] + (word[a] != reference[u - 1]))
        if a + 1 == len(src) or src[a + 1] != s:
            free[num_free] = row_of[s]
            num_free += 1
    end = rows[row_of[last]]
    for u in range(1, size + 1):
        end[u] = min(end[u], end[u - 1] + 1)
    return end[size]
