"""Compiled forward-backward over a decoding graph as it stands, visiting only states that matter.

Probabilities in float64, scaled at every frame, hold paths up to 700 nats behind the best. States whose forward
probability is less than `floor` of the frame's best are dropped: for a denominator, most of a graph at most frames.
"""
from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def label_posteriors(splits: np.ndarray, dst: np.ndarray, pdf: np.ndarray, weight: np.ndarray, final: np.ndarray, emission: np.ndarray,
                     floor: float, out: np.ndarray) -> float:
    """Sum over all paths of one utterance, and the label posteriors.

    Args:
        splits: (S + 1,) arcs out of state s are splits[s]:splits[s + 1]; state 0 is the start.
        dst, pdf: (A,) states entered and labels; arcs with a negative label are not taken.
        weight: (A,) float64 probabilities of arcs.
        final: (S,) float64 probabilities of ending.
        emission: (T, P) float64 label likelihoods.
        floor: see above; far above the smallest float64, next to which arithmetic is slow.
        out: (T, P) zeros, filled with the posteriors.
    Returns:
        Natural log of the sum, -inf without a path.
    """
    frames = emission.shape[0]
    kept, prob, first, scale = _forward(splits, dst, pdf, weight, emission, floor)
    value, ended = np.zeros(len(splits) - 1), 0.0
    for i in range(first[frames], first[frames + 1]):
        value[kept[i]] = final[kept[i]]
        ended += prob[i] * final[kept[i]]
    if ended == 0.0:
        return -np.inf
    total = np.log(ended)
    for t in range(frames - 1, -1, -1):
        mass = 0.0
        for i in range(first[t], first[t + 1]):
            after = 0.0
            for a in range(splits[kept[i]], splits[kept[i] + 1]):
                if pdf[a] >= 0 and value[dst[a]] > 0.0:
                    x = weight[a] * emission[t, pdf[a]] * value[dst[a]]
                    after += x
                    out[t, pdf[a]] += prob[i] * x
            mass += prob[i] * after
            prob[i] = after / scale[t + 1]  # from here on the backward probability
        for i in range(first[t + 1], first[t + 2]):
            value[kept[i]] = 0.0
        for i in range(first[t], first[t + 1]):
            value[kept[i]] = prob[i]
        for p in range(out.shape[1]):
            out[t, p] /= mass
        total += np.log(scale[t + 1])
    return total


@numba.njit(cache=True)
def _forward(splits, dst, pdf, weight, emission, floor):
    """States kept at each frame and their forward probabilities.

    Returns:
        kept, prob: states and probabilities, frame by frame; those before frame t lie at first[t]:first[t + 1].
        first: (T + 2,), all equal from the frame on in which no path is left.
        scale: (T + 1,) what the probabilities of each frame were divided by.
    """
    frames, states = emission.shape[0], len(splits) - 1
    kept, prob = np.empty(1024, np.int64), np.empty(1024)
    first, scale = np.zeros(frames + 2, np.int64), np.ones(frames + 1)
    kept[0], prob[0], first[1] = 0, 1.0, 1
    value, reached = np.zeros(states), np.empty(states, np.int64)
    for t in range(frames):
        count, best = 0, 0.0
        for i in range(first[t], first[t + 1]):
            for a in range(splits[kept[i]], splits[kept[i] + 1]):
                if pdf[a] < 0:
                    continue
                x = prob[i] * weight[a] * emission[t, pdf[a]]
                if x > 0.0:
                    if value[dst[a]] == 0.0:
                        reached[count] = dst[a]
                        count += 1
                    value[dst[a]] += x
                    best = max(best, value[dst[a]])
        end = first[t + 1]
        while end + count > len(kept):
            kept, prob = _grown(kept), _grown(prob)
        for i in range(count):
            s = reached[i]
            if value[s] >= floor * best:
                kept[end], prob[end] = s, value[s] / best
                end += 1
            value[s] = 0.0
        first[t + 2] = end
        if best > 0.0:
            scale[t + 1] = best
    return kept, prob, first, scale


@numba.njit(cache=True)
def _grown(old: np.ndarray) -> np.ndarray:
    new = np.empty(2 * len(old), old.dtype)
    new[:len(old)] = old
    return new
