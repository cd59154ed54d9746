"""Compiled forward-backward over a decoding graph as it stands, visiting only states that matter.

Probabilities in float64, scaled at every frame, hold paths up to 700 nats behind the best. The forward pass drops
states whose probability is less than `floor` of the frame's best: for a denominator, most of a graph at most frames;
where one state is far ahead of all others, a FEW of them stay. The backward pass visits only what ends in a path: at
frames where few states are left by then it goes against the arcs.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.hmm.numba_cache import cached_njit

ARC = np.dtype([("state", np.int32), ("pdf", np.int32), ("weight", np.float64)])  # one after the other, for the cache
THIN = 0.01  # the backward pass drops states of a posterior below THIN * floor
BINS = 256
LEAST = 1e-200  # of floors: a share that float64 hardly tells from 0, clear of its slow smallest numbers
# States of a frame that are kept beyond the floor, down to its square, where the best state is far ahead of all others.
FEW = 200


def arrange(
    near: np.ndarray, far: np.ndarray, pdf: np.ndarray, weight: np.ndarray, num_states: int
) -> tuple[np.ndarray, np.ndarray]:
    """The arcs by the state at one end.

    Args:
        near, far: (A,) states at either end.
        pdf: (A,) labels.
        weight: (A,) probabilities.
    Returns:
        (S + 1,) int64 and (A,) ARC: those of state s, with the state at the far end, are arcs[splits[s]:splits[s + 1]].
    """
    order = np.argsort(near, kind="stable")
    arcs = np.empty(len(order), ARC)
    arcs["state"], arcs["pdf"], arcs["weight"] = far[order], pdf[order], weight[order]
    return np.concatenate([[0], np.cumsum(np.bincount(near, minlength=num_states))]).astype(np.int64), arcs


@cached_njit(nogil=True)
def graph_sums(
    splits: np.ndarray,
    arcs: np.ndarray,
    in_splits: np.ndarray,
    in_arcs: np.ndarray,
    final: np.ndarray,
    emission: np.ndarray,
    accuracy: np.ndarray,
    floor: float,
    max_active: int,
    occupancy: np.ndarray,
    derivative: np.ndarray,
) -> tuple[float, float]:
    """Sum over all paths of one utterance, the label posteriors, and the expected accuracy with its derivative.

    Args:
        splits, arcs: arcs out of each state, see ``arrange``; state 0 is the start.
        in_splits, in_arcs: the same arcs by the state that they enter.
        final: (S,) float64 probabilities of ending.
        emission: (T, P) float64 label likelihoods.
        accuracy: (T, P) float64 accuracies of labels, or (0, 0) where they are of no interest.
        floor: see above; at least LEAST.
        max_active: states that are kept at a frame at most; what is below the floor that this needs is dropped.
        occupancy: (T, P) zeros, filled with the posteriors.
        derivative: like accuracy, zeros, filled with the derivative of the expected sum of accuracies by the log
            likelihoods.
    Returns:
        Natural log of the sum, -inf without a path; expected sum of the accuracies.
    """
    frames, states, with_accuracy = emission.shape[0], len(splits) - 1, len(accuracy) > 0
    kept, prob, right, first, scale, fanout = _forward(splits, arcs, emission, accuracy, floor, max_active)
    value, right_after = np.zeros(states), np.zeros(states if with_accuracy else 0)  # of live states, backward
    live, place = np.empty(states, np.int32), np.zeros(states, np.int32)
    num_live, ended, mean = _end(kept, prob, right, first[frames], first[frames + 1], final, value, live)
    if ended == 0.0:
        return -np.inf, 0.0
    width = np.max(np.diff(first[: frames + 1]))
    back, back_right, touched = np.zeros(width), np.zeros(width if with_accuracy else 0), np.empty(width, np.int32)
    total = np.log(ended)
    for t in range(frames - 1, -1, -1):
        begin, end = first[t], first[t + 1]
        row = prob[begin:end], right[begin:end], emission[t], accuracy[t : t + 1], occupancy[t], derivative[t : t + 1]
        fanin = 0
        for k in range(num_live):
            fanin += in_splits[live[k] + 1] - in_splits[live[k]]
        if fanin < fanout[t]:
            count, mass = _against(
                kept[begin:end],
                place,
                live[:num_live],
                in_splits,
                in_arcs,
                value,
                right_after,
                row,
                back,
                back_right,
                touched,
            )
        else:
            count, mass = _along(kept[begin:end], splits, arcs, value, right_after, row, back, back_right, touched)
        least = THIN * floor * mass
        num_live = _turn(
            kept, prob, begin, scale[t + 1], value, right_after, live, num_live, back, back_right, touched, count, least
        )
        occupancy[t] /= mass
        if with_accuracy:
            derivative[t] = derivative[t] / mass - mean * occupancy[t]
        total += np.log(scale[t + 1])
    return total, mean


@cached_njit(nogil=True)
def _end(kept, prob, right, begin, end, final, value, live):
    """The states at begin .. end in which paths end.

    Args:
        value: (S,) zeros, filled with the probabilities of ending.
        live: filled with these states.
    Returns:
        Their number, the probability of all paths, the expected sum of accuracies.
    """
    num_live, ended, mean = 0, 0.0, 0.0
    for i in range(begin, end):
        s = kept[i]
        if final[s] > 0.0:
            value[s] = final[s]
            live[num_live] = s
            num_live += 1
            ended += prob[i] * final[s]
            if len(right):
                mean += prob[i] * final[s] * right[i]
    return num_live, ended, mean / ended if ended > 0.0 else 0.0


@cached_njit(nogil=True)
def _turn(kept, prob, begin, scale, value, right_after, live, num_live, back, back_right, touched, count, least):
    """From one frame to the one before: what was noted of its states becomes that of the live ones, and is cleared.

    Args:
        num_live: live states of the frame behind.
        touched: the `count` states of the frame, counted from `begin`, that have a backward sum.
        least: a state of a lower posterior is dropped.
    Returns:
        The number of live states.
    """
    for k in range(num_live):
        value[live[k]] = 0.0
    num_live = 0
    for k in range(count):
        j = touched[k]
        if prob[begin + j] * back[j] >= least:
            s = kept[begin + j]
            live[num_live] = s
            num_live += 1
            value[s] = back[j] / scale
            if len(back_right):
                right_after[s] = back_right[j] / back[j]
        back[j] = 0.0
        if len(back_right):
            back_right[j] = 0.0
    return num_live


@cached_njit(nogil=True)
def _along(kept, splits, arcs, value, right_after, row, back, back_right, touched):
    """A frame backward, along the arcs out of its states; see ``_take``. Returns how many states are touched, and the
    mass.
    """
    (prob, right, emission, accuracy, occupancy, derivative), count, mass = row, 0, 0.0
    for j in range(len(kept)):
        for a in range(splits[kept[j]], splits[kept[j] + 1]):
            arc = arcs[a]
            if value[arc.state] > 0.0:
                x = arc.weight * emission[arc.pdf] * value[arc.state]
                if x > 0.0:
                    count, g = _take(
                        j, arc.pdf, arc.state, x, right_after, prob, right, accuracy, occupancy, derivative, back,
                        back_right, touched, count,
                    )  # fmt: skip
                    mass += g
    return count, mass


@cached_njit(nogil=True)
def _against(kept, place, live, in_splits, in_arcs, value, right_after, row, back, back_right, touched):
    """The same against the arcs into the live states behind it; place: (S,) zeros."""
    (prob, right, emission, accuracy, occupancy, derivative), count, mass = row, 0, 0.0
    for j in range(len(kept)):
        place[kept[j]] = j + 1
    for state in live:
        for a in range(in_splits[state], in_splits[state + 1]):
            arc = in_arcs[a]
            j = place[arc.state] - 1
            if j >= 0:
                x = arc.weight * emission[arc.pdf] * value[state]
                if x > 0.0:
                    count, g = _take(
                        j, arc.pdf, state, x, right_after, prob, right, accuracy, occupancy, derivative, back,
                        back_right, touched, count,
                    )  # fmt: skip
                    mass += g
    for s in kept:
        place[s] = 0
    return count, mass


@numba.njit(inline="always")  # a call would count references to ten arrays at every arc
def _take(
    j, pdf, after, x, right_after, prob, right, accuracy, occupancy, derivative, back, back_right, touched, count
):
    """Credits all paths through one arc: to the backward sum of the frame's state j, and to the label.

    Args:
        after: the state that the arc enters.
        x: what the arc and all that follows weigh.
        prob, right: forward probabilities and expected accuracies of the frame's states.
        accuracy, occupancy, derivative: of the frame, by label.
        back, back_right: by state of the frame, as j; backward sums and their products with expected accuracies.
        touched: the `count` states that have one.
    Returns:
        The new count, and the probability of all these paths.
    """
    if back[j] == 0.0:
        touched[count] = j
        count += 1
    back[j] += x
    g = prob[j] * x
    occupancy[pdf] += g
    if len(accuracy):
        ahead = accuracy[0, pdf] + right_after[after]
        back_right[j] += x * ahead
        derivative[0, pdf] += g * (right[j] + ahead)
    return count, g


@cached_njit(nogil=True)
def _forward(splits, arcs, emission, accuracy, floor, max_active):
    """States kept at each frame and their forward probabilities.

    Returns:
        kept, prob: states and probabilities, frame by frame; those before frame t lie at first[t]:first[t + 1].
        right: expected accuracy up to there, where accuracies are given.
        first: (T + 2,), all equal from the frame on in which no path is left.
        scale: (T + 1,) what the probabilities of each frame were divided by.
        fanout: (T,) arcs out of the states kept before each frame.
    """
    frames, states, with_accuracy = emission.shape[0], len(splits) - 1, len(accuracy) > 0
    kept, prob, right = np.empty(4096, np.int32), np.empty(4096), np.empty(4096 if with_accuracy else 0)
    first, scale, fanout = np.zeros(frames + 2, np.int64), np.ones(frames + 1), np.zeros(frames, np.int64)
    kept[0], prob[0], first[1] = 0, 1.0, 1
    if with_accuracy:
        right[0] = 0.0
    work = np.zeros(states), np.zeros(states if with_accuracy else 0), np.empty(states, np.int32)
    top = 0  # where the best state of the frame lies
    for t in range(frames):
        begin, end = first[t], first[t + 1]
        for i in range(begin, end):
            fanout[t] += splits[kept[i] + 1] - splits[kept[i]]
        kept, prob, right = _room(kept, prob, right, end + min(states, fanout[t]))
        row = emission[t], accuracy[t : t + 1]
        last, best = _next(kept, prob, right, begin, end, top, splits, arcs, row, floor, max_active, work)
        top = end
        for i in range(end, last):
            prob[i] /= best
            if prob[i] == 1.0:
                top = i
        first[t + 2] = last
        if best > 0.0:
            scale[t + 1] = best
    return kept, prob, right, first, scale, fanout


@cached_njit(nogil=True)
def _next(kept, prob, right, begin, end, top, splits, arcs, row, floor, max_active, work):
    """A frame forward: the states that those at begin .. end lead to are put behind them.

    Args:
        top: see ``_reach``.
        row: emissions and accuracies of the frame.
        work: value, gained and reached of ``_reach``.
    Returns:
        The new end, and the highest probability.
    """
    value, gained, reached = work
    emission, accuracy = row
    states, deep, limit = len(value), max(floor * floor, LEAST), max_active
    count, best = _reach(
        kept, prob, right, begin, end, top, splits, arcs, emission, accuracy, floor, value, gained, reached
    )
    last = _keep(kept, prob, right, end, value, gained, reached, count, floor * best)
    if last - end < min(FEW, states):
        limit = min(FEW, max_active)
        count, best = _reach(
            kept, prob, right, begin, end, top, splits, arcs, emission, accuracy, deep, value, gained, reached
        )
        last = _keep(kept, prob, right, end, value, gained, reached, count, deep * best)
    if last - end > limit:
        last = _shortened(kept, prob, right, end, last, best, deep, limit)
    return last, best


@cached_njit(nogil=True)
def _reach(kept, prob, right, begin, end, top, splits, arcs, emission, accuracy, floor, value, gained, reached):
    """Follows the arcs of a frame's states, those at begin .. end, and leaves out what is below the floor from the
    outset.

    Args:
        top: where the best of the states lies: its arcs show how much the others have to offer at least.
        emission: (P,) likelihoods of the frame.
        accuracy: (1, P) or (0, P).
        value, gained: (S,) zeros, filled with probabilities and, with accuracies, their products with expected
            accuracies.
        reached: (S,) filled with the states reached.
    Returns:
        Number of states reached, and the highest probability among them.
    """
    count, best = 0, 0.0
    if begin < end:
        for a in range(splits[kept[top]], splits[kept[top] + 1]):
            best = max(best, prob[top] * arcs[a].weight * emission[arcs[a].pdf])
    for i in range(begin, end):
        s, p, cut = kept[i], prob[i], floor * best
        for a in range(splits[s], splits[s + 1]):
            arc = arcs[a]
            x = p * arc.weight * emission[arc.pdf]
            if x > 0.0 and x >= cut:
                before = value[arc.state]
                if before == 0.0:
                    reached[count] = arc.state
                    count += 1
                value[arc.state] = before + x
                best = max(best, before + x)
                if len(accuracy):
                    gained[arc.state] += x * (right[i] + accuracy[0, arc.pdf])
    return count, best


@cached_njit(nogil=True)
def _keep(kept, prob, right, end, value, gained, reached, count, least):
    """Moves the states of at least this probability behind `end`, and clears what was noted of all; returns the new
    end.
    """
    for i in range(count):
        s = reached[i]
        if value[s] >= least:
            kept[end], prob[end] = s, value[s]
            if len(gained):
                right[end] = gained[s] / value[s]
            end += 1
        value[s] = 0.0
        if len(gained):
            gained[s] = 0.0
    return end


@cached_njit(nogil=True)
def _shortened(kept, prob, right, begin, end, best, floor, limit):
    """Drops the least probable of the states at begin .. end, so that about `limit` are left; returns the new end."""
    histogram, step = np.zeros(BINS + 1, np.int64), BINS / -np.log(floor)
    for i in range(begin, end):
        histogram[min(BINS, int(np.log(best / prob[i]) * step))] += 1
    k, total = 0, histogram[0]
    while total <= limit:
        k += 1
        total += histogram[k]
    least, to = best * np.exp(-max(k, 1) / step), begin
    for i in range(begin, end):
        if prob[i] > least:
            kept[to], prob[to] = kept[i], prob[i]
            if len(right):
                right[to] = right[i]
            to += 1
    return to


@cached_njit(nogil=True)
def _room(kept, prob, right, size):
    """The arrays, grown to at least so many places."""
    while size > len(kept):
        kept, prob = _grown(kept), _grown(prob)
        if len(right):
            right = _grown(right)
    return kept, prob, right


@cached_njit(nogil=True)
def _grown(old: np.ndarray) -> np.ndarray:
    new = np.empty(2 * len(old), old.dtype)
    new[: len(old)] = old
    return new
