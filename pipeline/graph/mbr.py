"""Words of least expected error, with their times and confidences, from word lattices.

Xu, Povey, Mangu and Zhu 2011, Minimum Bayes risk decoding and system combination based on a recursion for edit
distance; cf. Kaldi lattice-mbr-decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.artifacts.lattice import ARCS, Lattice
from pipeline.graph.lattice_paths import best_labels
from pipeline.graph.lattice_sums import posteriors
from pipeline.graph.lattices import NO_ACCURACY, arc_scores
from pipeline.hmm.numba_cache import cached_njit

ROUNDS = 20  # the words settle after two or three
MOST_CELLS = 1 << 22  # pairs of a state and a place in the words, above which a lattice is cut
EXTRA = 1e-5  # of an inserted word: of equal alignments the one without insertions counts


class HeardWord(NamedTuple):
    """A recognised word.

    Attributes:
        word: id.
        begin, end: seconds, means over the paths that have the word there. A graph puts a word out as soon as it is
            sure of it, some frames after its first phone, and silence counts to the word before it.
        confidence: probability that the word is there.
    """

    word: int
    begin: float
    end: float
    confidence: float


def least_risk(
    lattice: Lattice, lm_weight: float, word_penalty: float, frame_shift: float, given: Sequence[int] | None = None
) -> tuple[list[HeardWord], float]:
    """The word sequence with the fewest expected errors over all paths, or what a given one is worth.

    Time and memory grow with the product of states and words. Long lattices are therefore cut at states where all paths
    meet, and words on either side of a cut do not count as the same one.

    Args:
        lattice: of words (``pipeline.graph.determinise.word_lattice``); in others, every state sequence counts.
        lm_weight, word_penalty: probabilities of paths are exp(acoustic / lm_weight + graph - penalty * words).
        frame_shift: seconds.
        given: word ids that are judged in place of looking for better ones.
    Returns:
        The words, and how many errors are expected of them.
    """
    if not lattice.complete:
        return [], 0.0
    lattice = lattice.spelled()
    weights = lm_weight, word_penalty
    cells = lattice.num_states * (2 * len(_best_words(lattice, *weights)) + 1)
    pieces = _cut(lattice, cells // MOST_CELLS + 1)
    words = [_best_words(piece, *weights) for piece in pieces]
    if given is not None and np.concatenate(words).tolist() != list(given):  # whose place is not known
        pieces, words = [lattice], [np.array(given, dtype=np.int64)]
    found = [_judge(x, own, given is not None, *weights, frame_shift) for x, own in zip(pieces, words)]
    return [word for heard, _ in found for word in heard], sum(risk for _, risk in found)


def _best_words(lattice: Lattice, lm_weight: float, word_penalty: float) -> np.ndarray:
    """(U,) word ids of the best path."""
    scores, zeros, one = arc_scores(lattice, lm_weight, word_penalty), np.zeros(lattice.num_arcs), np.ones(1)
    ends = lattice.src, lattice.dst
    return best_labels(*ends, lattice.label, scores, zeros, zeros, lattice.num_states, one, 0 * one)[0]


def _cut(lattice: Lattice, number: int) -> list[Lattice]:
    """About so many pieces of similar size, cut at states that all paths go through; fewer where there are few such."""
    over = np.zeros(lattice.num_states + 1, np.int64)  # arcs that jump over a state, as differences
    np.add.at(over, lattice.src + 1, 1)
    np.add.at(over, lattice.dst, -1)
    free = np.flatnonzero(np.cumsum(over[:-1]) == 0)
    wanted = np.arange(1, number) * lattice.num_states // number
    bounds = np.unique(np.concatenate([[0], free[np.searchsorted(free, wanted)], [lattice.num_states - 1]]))
    first = np.searchsorted(lattice.src, bounds)
    out = []
    for i, (b, e) in enumerate(zip(bounds[:-1], bounds[1:])):
        arcs = slice(first[i], first[i + 1])
        columns = {name: getattr(lattice, name)[arcs] for name in ARCS}
        columns |= {name: columns[name] - np.int32(b) for name in ("src", "dst")}
        out.append(Lattice.of([lattice.frame[b : e + 1], *(columns[n] for n in ARCS)], lattice.num_words))
    return out


def _judge(
    lattice: Lattice, words: np.ndarray, fixed: bool, lm_weight: float, word_penalty: float, frame_shift: float
) -> tuple[list[HeardWord], float]:
    """``least_risk`` of a piece.

    Args:
        words: (U,) ids to begin with, or to stay with if `fixed`.
    """
    scores = arc_scores(lattice, lm_weight, word_penalty)
    names, word = np.unique(np.concatenate([lattice.label, words, [0]]), return_inverse=True)  # word 0 is none
    labels, word = word[lattice.num_arcs : -1], word[: lattice.num_arcs]
    share = _shares(lattice, scores)
    bins = _with_gaps(labels)
    for _ in range(ROUNDS):
        gamma, begin, end, risk = _align(lattice.src, lattice.dst, word, share, lattice.frame, bins, len(names))
        best = gamma.argmax(axis=1)
        keeps = gamma[np.arange(len(bins)), bins] >= gamma.max(axis=1) - 1e-9
        new = np.where(keeps, bins, best)
        if fixed or np.array_equal(new, bins):
            break
        bins = _with_gaps(new[new > 0])
    places = np.flatnonzero(bins)
    chosen = places, bins[places]
    mass = np.maximum(gamma[chosen], 1e-30)
    # Means over different paths may overlap: a word ends where the next one begins, at the latest.
    start = np.maximum.accumulate(begin[chosen] / mass)
    stop = np.maximum(end[chosen] / mass, start)
    stop[:-1] = np.minimum(stop[:-1], start[1:])
    columns = (names[chosen[1]], start * frame_shift, stop * frame_shift, np.minimum(mass, 1.0))
    return [HeardWord(*row) for row in zip(*(c.tolist() for c in columns))], float(risk)


def _with_gaps(words: np.ndarray) -> np.ndarray:
    """Words with an empty place before, between and behind them, where others may be inserted."""
    out = np.zeros(2 * len(words) + 1, np.int64)
    out[1::2] = words
    return out


def _shares(lattice: Lattice, scores: np.ndarray) -> np.ndarray:
    """(A,) share of each arc in the paths that come to its destination."""
    gamma, _, _, _ = posteriors(lattice.src, lattice.dst, scores, NO_ACCURACY)
    into = np.bincount(lattice.dst, weights=gamma, minlength=lattice.num_states)
    return np.divide(gamma, into[lattice.dst], out=np.zeros_like(gamma), where=into[lattice.dst] > 0)


@cached_njit(nogil=True)
def _step(before, word, bins, after, kind):
    """The edit distances behind an arc, for each number of bins, from those before it; `kind` says which edit it was:
    1 the arc's word against the bin, 2 the word inserted, 3 the bin deleted.
    """
    inserted = 1.0 + EXTRA if word > 0 else 0.0
    after[0] = before[0] + inserted
    for q in range(1, len(after)):
        one = before[q - 1] + (word != bins[q - 1])
        two = before[q] + inserted
        three = after[q - 1] + (bins[q - 1] > 0)
        after[q] = min(one, two, three)
        kind[q] = 1 if one <= min(two, three) else (2 if two <= three else 3)


@cached_njit(nogil=True)
def _align(src, dst, word, share, frame, bins, num_words):
    """Aligns all paths with the bins (eq. 14 to 20 and figure 5 of the paper).

    Args:
        src, dst: (A,) states, sorted by source.
        word: (A,) 0 for none; share: (A,) see ``_shares``; frame: (S,).
        bins: (Q,) words, 0 for none.
    Returns:
        (Q, W) probability of each word in each bin, the same times its first and its last frame, expected edits.
    """
    states, size = len(frame), len(bins) + 1
    edits, mass = np.zeros((states, size)), np.zeros((states, size))
    after, kind, own = np.zeros(size), np.zeros(size, np.int64), np.zeros(size)
    gamma = np.zeros((len(bins), num_words))
    begin, end = np.zeros((len(bins), num_words)), np.zeros((len(bins), num_words))
    for q in range(1, size):
        edits[0, q] = edits[0, q - 1] + (bins[q - 1] > 0)
    for a in range(len(src)):
        _step(edits[src[a]], word[a], bins, after, kind)
        for q in range(size):
            edits[dst[a], q] += share[a] * after[q]
    mass[states - 1, size - 1] = 1.0
    for a in range(len(src) - 1, -1, -1):
        s, d = src[a], dst[a]
        _step(edits[s], word[a], bins, after, kind)
        own[:] = share[a] * mass[d]
        for q in range(size - 1, 0, -1):
            if kind[q] == 1:
                mass[s, q - 1] += own[q]
            elif kind[q] == 2:
                mass[s, q] += own[q]
            else:
                own[q - 1] += own[q]
            if kind[q] != 2:
                w = word[a] if kind[q] == 1 else 0
                gamma[q - 1, w] += own[q]
                begin[q - 1, w] += own[q] * frame[s]
                end[q - 1, w] += own[q] * frame[d]
        mass[s, 0] += own[0]
    for q in range(size - 1, 0, -1):  # bins in front of the first arc
        mass[0, q - 1] += mass[0, q]
        gamma[q - 1, 0] += mass[0, q]
    return gamma, begin, end, edits[states - 1, size - 1]
