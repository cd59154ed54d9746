"""Best paths of a lattice, compiled; under many weights at once, because tuning asks for dozens of them per lattice."""

from __future__ import annotations

import numpy as np

from pipeline.hmm.numba_cache import cached_njit


@cached_njit(nogil=True)
def best_labels(
    src: np.ndarray,
    dst: np.ndarray,
    label: np.ndarray,
    acoustic: np.ndarray,
    graph: np.ndarray,
    words: np.ndarray,
    num_states: int,
    inverse: np.ndarray,
    penalty: np.ndarray,
) -> np.ndarray:
    """Labels of the path with the largest acoustic * inverse + graph - penalty * words, for each of W pairs of weights.

    Args:
        src, dst: (A,) states of the arcs, sorted by source, each leading to a later state; state 0 is the start, the
            last state the end.
        label: (A,) output labels, 0 for none.
        acoustic, graph, words: (A,) float64.
        inverse, penalty: (W,) float64.
    Returns:
        (W, U) int64, padded with 0 behind each path's end; U is the most labels of a path.
    """
    size = len(inverse)
    score = np.full((num_states, size), -np.inf)
    back = np.full((num_states, size), -1, np.int32)
    score[0] = 0.0
    for a in range(len(src)):
        s, d = src[a], dst[a]
        for w in range(size):
            new = score[s, w] + acoustic[a] * inverse[w] + graph[a] - penalty[w] * words[a]
            if new > score[d, w]:
                score[d, w], back[d, w] = new, a
    most = 0
    count = np.zeros(size, np.int64)
    for w in range(size):
        a = back[num_states - 1, w]
        while a >= 0:
            count[w] += label[a] > 0
            a = back[src[a], w]
        most = max(most, count[w])
    out = np.zeros((size, most), np.int64)
    for w in range(size):
        at, a = count[w], back[num_states - 1, w]
        while a >= 0:
            if label[a] > 0:
                at -= 1
                out[w, at] = label[a]
            a = back[src[a], w]
    return out


@cached_njit(nogil=True)
def best_to_end(src: np.ndarray, dst: np.ndarray, score: np.ndarray, num_states: int) -> np.ndarray:
    """(S,) float64 score of the best path from each state to the last one.

    Args:
        src, dst: (A,) as above.
        score: (A,) float64.
    """
    out = np.full(num_states, -np.inf)
    out[num_states - 1] = 0.0
    for a in range(len(src) - 1, -1, -1):
        out[src[a]] = max(out[src[a]], score[a] + out[dst[a]])
    return out


@cached_njit(nogil=True)
def within_beam(
    src: np.ndarray, dst: np.ndarray, score: np.ndarray, num_states: int, backward: np.ndarray, beam: float
) -> np.ndarray:
    """(A,) bool: arcs on a path that is worse than the best one by no more than a beam.

    Args:
        src, dst: (A,) as above.
        score: (A,) float64.
        backward: (S,) what ``best_to_end`` gives.
    """
    forward = np.full(num_states, -np.inf)
    forward[0] = 0.0
    out = np.zeros(len(src), np.bool_)
    for a in range(len(src)):
        forward[dst[a]] = max(forward[dst[a]], forward[src[a]] + score[a])
    for a in range(len(src)):
        out[a] = forward[src[a]] + score[a] + backward[dst[a]] >= backward[0] - beam
    return out


@cached_njit(nogil=True)
def depths(src: np.ndarray, dst: np.ndarray, num_states: int) -> np.ndarray:
    """(S,) int64 most arcs from the start to each state."""
    out = np.zeros(num_states, np.int64)
    for a in range(len(src)):
        out[dst[a]] = max(out[dst[a]], out[src[a]] + 1)
    return out


@cached_njit(nogil=True)
def on_paths(src: np.ndarray, dst: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leaves out what is on no path from the start to the end.

    Args:
        src, dst: (A,) as above, but states may be on no path.
    Returns:
        (B,) int32 src and dst of the arcs that stay, the states numbered anew without gaps, and (B,) their places.
    """
    if len(src) == 0:
        return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64)
    last = dst.max()
    ahead, behind = np.zeros(last + 1, np.bool_), np.zeros(last + 1, np.bool_)
    ahead[0], behind[last] = True, True
    for a in range(len(src)):
        ahead[dst[a]] |= ahead[src[a]]
    for a in range(len(src) - 1, -1, -1):
        behind[src[a]] |= behind[dst[a]]
    number, count = np.empty(last + 1, np.int32), 0
    for s in range(last + 1):
        number[s] = count
        count += ahead[s] and behind[s]
    kept = np.flatnonzero(ahead[src] & behind[dst])
    return number[src[kept]], number[dst[kept]], kept
