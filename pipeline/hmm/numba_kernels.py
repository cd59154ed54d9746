"""Compiled loops of the CPU backend: full-sum recursions over one half of one utterance per task.

Log domain throughout: a scaled-probability recursion in float32 loses paths that fall 88 nats behind the best state of a
frame and win later. exp and log are polynomials that LLVM vectorises, which makes the log domain cheap (about 1 ns
per state and frame). Every row holds scores relative to the best state of the row before; the float64 sum of these
offsets lies in `cum`. NEG stands for -inf, so that no NaN can arise from differences.

Each utterance is cut at frame m = T // 2. Task (n, 0) runs alpha over frames 0..m, task (n, 1) runs beta over frames
T-1..m on the reversed arcs; both count the emission of their own frame, and Z = sum_s alpha(m, s) beta(m, s) / e(m, s).
The backward pass continues both over the other half. So even one utterance keeps two cores busy, and what is computed
never depends on the rest of the batch or on the number of threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload

NEG = -1e30
DEAD = -1e29
PAD = 2  # the slots reach two states aside
FLAGS = {"nnan", "nsz", "contract", "reassoc", "arcp"}
jit = numba.njit(nogil=True, fastmath=FLAGS, cache=True)
exact = numba.njit(nogil=True, cache=True)  # for what meets the NaN and inf of inputs


class Plan(NamedTuple):
    """Graphs as the kernels read them: arcs from s, s - 1, s - 2 into s in three slots, the others as edges.

    `ends` (2, S) are start and final weights. `arc` (3, S) is -1 where a slot is empty; `width` (N,) counts the slots
    that a graph uses. `depth` (2, S) is the number of frames before and after the state at the least. Edges (2, R) are sorted by the state they
    reach, in time order [0] and against it [1]; `groups` (2, R) are the states reached, `group_edge` (2, R + 1) their
    first edges, `group_splits` (2, N + 1) the groups of each graph.
    """

    splits: np.ndarray
    pdf: np.ndarray
    ends: np.ndarray
    tid: np.ndarray
    arc_weight: np.ndarray
    arc: np.ndarray
    width: np.ndarray
    depth: np.ndarray
    edge_splits: np.ndarray
    edge_from: np.ndarray
    edge_arc: np.ndarray
    groups: np.ndarray
    group_edge: np.ndarray
    group_splits: np.ndarray


class Call(NamedTuple):
    """Inputs of one call: emissions (N, T, P) (uint16 bits if `half` is 1, bfloat16, or 2, float16), lengths (N,),
    transitions (N, T, K) if `timed` is 1, (1, 1, K) if 0, none if -1; first row and first cell of each utterance."""

    emissions: np.ndarray
    half: int
    lengths: np.ndarray
    transitions: np.ndarray
    timed: int
    row_at: np.ndarray
    cell_at: np.ndarray


def cast(value, like):
    """value in the type of like."""
    raise NotImplementedError


@overload(cast)
def _cast(value, like):
    if like == numba.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


def exp(x):
    """exp(x) for x <= 0; relative error 3e-7 in float32, and 0 below -87."""
    raise NotImplementedError


@overload(exp, jit_options={"fastmath": FLAGS})
def _exp(x):
    if x != numba.float32:
        return lambda x: math.exp(x)

    def float32(x):
        c = x if x > np.float32(-87.0) else np.float32(-87.0)
        n = np.int32(c * np.float32(1.44269504) - np.float32(0.5))
        f = np.float32(n)
        r = c - f * np.float32(0.693359375) - f * np.float32(-2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1.0)
        y = p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)
        return y if x > np.float32(-87.0) else np.float32(0.0)

    return float32


def log(y):
    """log(y) for normal y > 0; absolute error 3e-7 in float32."""
    raise NotImplementedError


@overload(log, jit_options={"fastmath": FLAGS})
def _log(y):
    if y != numba.float32:
        return lambda y: math.log(y)

    def float32(y):
        i = np.float32(y).view(np.int32)
        e = np.int32(np.int32(i - np.int32(0x3F3504F3)) >> np.int32(23))
        f = np.int32(i - np.int32(e << np.int32(23))).view(np.float32) - np.float32(1.0)
        p = np.float32(7.0376836292e-2)
        p = p * f + np.float32(-1.1514610310e-1)
        p = p * f + np.float32(1.1676998740e-1)
        p = p * f + np.float32(-1.2420140846e-1)
        p = p * f + np.float32(1.4249322787e-1)
        p = p * f + np.float32(-1.6668057665e-1)
        p = p * f + np.float32(2.0000714765e-1)
        p = p * f + np.float32(-2.4999993993e-1)
        p = p * f + np.float32(3.3333331174e-1)
        r = p * f * f * f + np.float32(e) * np.float32(-2.12194440e-4) - np.float32(0.5) * f * f
        return f + r + np.float32(e) * np.float32(0.693359375)

    return float32


def value(bits, half):
    """The number that an element of the emissions stands for."""
    raise NotImplementedError


@overload(value)
def _value(bits, half):
    if bits != numba.uint16:
        return lambda bits, half: bits

    def widen(bits, half):
        if half == 1:
            return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
        # Shift the float16 fields into place; 2^112 corrects the exponent's bias, also of subnormals.
        magnitude = np.uint32((np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32)
        magnitude = magnitude * np.float32(2.0**112)
        if magnitude >= np.float32(65536.0):
            magnitude = np.float32(np.inf)
        return -magnitude if bits & np.uint16(0x8000) else magnitude

    return widen


@jit
def band(plan, n, num_frames):
    """First and last + 1 state that a complete path can be in, per frame."""
    first, last = plan.splits[n], plan.splits[n + 1]
    size = last - first
    low = np.full(num_frames, size, np.int32)
    high = np.zeros(num_frames, np.int32)
    for s in range(size):
        begin, end = plan.depth[0, first + s], num_frames - 1 - plan.depth[1, first + s]
        if begin <= end:
            high[begin] = max(high[begin], s + 1)
            low[end] = min(low[end], s)
    for t in range(1, num_frames):
        high[t] = max(high[t], high[t - 1])
        low[num_frames - 1 - t] = min(low[num_frames - 1 - t], low[num_frames - t])
    return low, high


@exact
def gather(row, emissions, pdf, low, high, half, neg):
    """Emissions of the states low..high; what is no number below infinity becomes NEG."""
    for s in range(low, high):
        x = value(emissions[pdf[s]], half)
        row[s + PAD] = x if neg < x < -neg else neg


@jit
def orient(plan, n, way, call, neg):
    """Slot weights (3, S + 4) with static transition scores, and the arcs (3, S) of the slots, for one direction."""
    first = plan.splits[n]
    size = plan.splits[n + 1] - first
    weights = np.full((3, size + 2 * PAD), neg)
    arcs = np.full((3, size), np.int32(-1))
    for k in range(plan.width[n]):
        shift = k * way
        for s in range(size - shift):
            arc = plan.arc[k, first + s + shift]
            arcs[k, s] = arc
            if arc >= 0:
                weights[k, s + PAD] = arc_score(plan, arc, call, n, 0, 0, neg)
    return weights, arcs


@exact
def arc_score(plan, arc, call, n, t, timed, like):
    """Weight of an arc with its transition score; `timed` is the kind of score to add."""
    weight = max(cast(plan.arc_weight[arc], like), cast(NEG, like))
    if call.timed == timed and plan.tid[arc] >= 0:
        x = call.transitions[n, t, plan.tid[arc]] if timed else call.transitions[0, 0, plan.tid[arc]]
        weight += x if cast(NEG, like) < x < -cast(NEG, like) else cast(NEG, like)
    return weight


@jit
def retime(weights, arcs, plan, n, call, t, low, high, neg):
    """Write the slot weights of arcs taken into frame t, where scores depend on time."""
    for k in range(plan.width[n]):
        for s in range(low, high):
            if arcs[k, s] >= 0:
                weights[k, s + PAD] = arc_score(plan, arcs[k, s], call, n, t, 1, neg)


@jit
def step(prev, cur, w0, w1, w2, low, high, d, width):
    """cur(s) = log sum over the slots of prev(s - k d) + w_k(s)."""
    if width <= 1:
        for s in range(low + PAD, high + PAD):
            cur[s] = prev[s] + w0[s]
    elif width == 2:
        for s in range(low + PAD, high + PAD):
            x0 = prev[s] + w0[s]
            x1 = prev[s - d] + w1[s]
            cur[s] = max(x0, x1) + log(exp(min(x0, x1) - max(x0, x1)) + cast(1.0, x0))
    else:
        for s in range(low + PAD, high + PAD):
            x0 = prev[s] + w0[s]
            x1 = prev[s - d] + w1[s]
            x2 = prev[s - 2 * d] + w2[s]
            best = max(x0, max(x1, x2))
            cur[s] = best + log(exp(x0 - best) + exp(x1 - best) + exp(x2 - best))


@jit
def edge_scores(prev, x, plan, n, way, call, t, low, high, neg):
    """Scores x of the edges that reach the states low..high; returns the range of their groups."""
    begin, end = plan.group_splits[way, n], plan.group_splits[way, n + 1]
    groups = plan.groups[way]
    begin, end = (begin + np.searchsorted(groups[begin:end], low), begin + np.searchsorted(groups[begin:end], high))
    base = plan.edge_splits[n]
    timed = max(call.timed, 0)
    for i in range(plan.group_edge[way, begin], plan.group_edge[way, end]):
        score = arc_score(plan, plan.edge_arc[way, i], call, n, t, timed, neg)
        x[i - base] = prev[plan.edge_from[way, i] + PAD] + score
    return begin, end


@jit
def add_edges(cur, x, plan, n, way, begin, end):
    """Add the paths over the edges to cur."""
    base = plan.edge_splits[n]
    for g in range(begin, end):
        s = plan.groups[way, g] + PAD
        best = cur[s]
        for i in range(plan.group_edge[way, g] - base, plan.group_edge[way, g + 1] - base):
            best = max(best, x[i])
        total = exp(cur[s] - best)
        for i in range(plan.group_edge[way, g] - base, plan.group_edge[way, g + 1] - base):
            total += exp(x[i] - best)
        cur[s] = best + log(total)


@jit
def settle(cur, emit, low, high, offset, neg):
    """Add the emissions, take off the offset; returns the best score."""
    best = neg
    for s in range(low + PAD, high + PAD):
        x = cur[s] + emit[s] - offset
        cur[s] = x
        best = max(best, x)
    return best


@jit
def forward_one(plan, n, way, call, keep, rows, cum, mid, mid_cum, neg):
    """Sweep one half of utterance n; False if no path survives it."""
    num_frames, first = call.lengths[n], plan.splits[n]
    size = plan.splits[n + 1] - first
    if num_frames == 0:
        return False
    low, high = band(plan, n, num_frames)
    work = np.full((3, size + 2 * PAD), neg)
    prev, cur, emit = work[0], work[1], work[2]
    weights, arcs = orient(plan, n, way, call, neg)
    x = np.empty(plan.edge_splits[n + 1] - plan.edge_splits[n], weights.dtype)
    pdf, ends = plan.pdf[first : first + size], plan.ends[way, first : first + size]
    d, start, stop = (1, 0, num_frames // 2) if way == 0 else (-1, num_frames - 1, num_frames // 2)
    total, offset = 0.0, cast(0.0, neg)
    for t in range(start, stop + d, d):
        lo, hi = low[t], high[t]
        if lo >= hi:
            return False
        gather(emit, call.emissions[n, t], pdf, lo, hi, call.half, neg)
        if t == start:
            for s in range(lo, hi):
                cur[s + PAD] = max(cast(ends[s], neg), neg)
        else:
            prev, cur = cur, prev
            if abs(t - start) > 1:
                cur[low[t - 2 * d] + PAD : high[t - 2 * d] + PAD] = neg
            into = t + way
            if call.timed == 1:
                retime(weights, arcs, plan, n, call, into, lo, hi, neg)
            step(prev, cur, weights[0], weights[1], weights[2], lo, hi, d, plan.width[n])
            if len(x):
                begin, end = edge_scores(prev, x, plan, n, way, call, into, lo, hi, neg)
                add_edges(cur, x, plan, n, way, begin, end)
        best = settle(cur, emit, lo, hi, offset, neg)
        total += offset
        if best < DEAD:
            return False
        offset = best
        if keep and (way == 1 or t < stop):
            at = call.cell_at[n] + t * size
            rows[at + lo : at + hi] = cur[lo + PAD : hi + PAD]
            cum[call.row_at[n] + t] = total
    mid[way, first : first + size] = cur[PAD : size + PAD]
    mid_cum[way, n] = total
    return True


@jit
def forward_tasks(tasks, plan, call, keep, rows, cum, mid, mid_cum, alive, neg):
    """Run tasks 2 n + way."""
    for task in tasks:
        n, way = task // 2, task % 2
        alive[way, n] = forward_one(plan, n, way, call, keep, rows, cum, mid, mid_cum, neg)


@exact
def join(plan, call, mid, mid_cum, alive, scores, neg):
    """Scores (N,) float64 from the two halves; -inf without a path."""
    for n in range(len(scores)):
        scores[n] = -np.inf
        if not (alive[0, n] and alive[1, n]):
            continue
        t, first, last = call.lengths[n] // 2, plan.splits[n], plan.splits[n + 1]
        emissions = call.emissions[n, t]
        both = np.full(last - first, NEG)
        for s in range(first, last):
            x = value(emissions[plan.pdf[s]], call.half)
            if neg < x < -neg:
                both[s - first] = np.float64(mid[0, s]) + np.float64(mid[1, s]) - np.float64(x)
        best = both.max()
        if best > DEAD:
            scores[n] = best + math.log(np.exp(both - best).sum()) + mid_cum[0, n] + mid_cum[1, n]


@jit
def make_plan(plan, arc_splits, arc_src):
    """Fill slot, edge and depth arrays of a plan from the arcs of its graphs."""
    edges, groups = 0, np.zeros(2, np.int64)
    for n in range(len(plan.splits) - 1):
        first, last = plan.splits[n], plan.splits[n + 1]
        edge_begin = edges
        plan.width[n] = 1
        for s in range(first, last):
            for a in range(arc_splits[s], arc_splits[s + 1]):
                k = s - first - arc_src[a]
                if 0 <= k <= PAD and plan.arc[k, s] < 0:
                    plan.arc[k, s] = a
                    plan.width[n] = max(plan.width[n], k + 1)
                else:
                    plan.edge_arc[0, edges] = a
                    plan.edge_from[0, edges] = arc_src[a]
                    plan.edge_from[1, edges] = s - first
                    edges += 1
        plan.edge_splits[n + 1] = edges
        order = np.argsort(plan.edge_from[0, edge_begin:edges], kind="mergesort")
        into = plan.edge_from[1, edge_begin:edges].copy()
        plan.edge_from[1, edge_begin:edges] = into[order]
        plan.edge_arc[1, edge_begin:edges] = plan.edge_arc[0, edge_begin:edges][order]
        out_of = plan.edge_from[0, edge_begin:edges][order]
        for way in range(2):
            reached = into if way == 0 else out_of
            for i in range(len(reached)):
                if i == 0 or reached[i] != reached[i - 1]:
                    plan.groups[way, groups[way]] = reached[i]
                    plan.group_edge[way, groups[way]] = edge_begin + i
                    groups[way] += 1
            plan.group_edge[way, groups[way]] = edges
            plan.group_splits[way, n + 1] = groups[way]
        depths(plan, n, arc_splits, arc_src)


@jit
def depths(plan, n, arc_splits, arc_src):
    """Fewest frames before and after each state, by relaxation in and against the order of the states."""
    first, last = plan.splits[n], plan.splits[n + 1]
    for way in range(2):
        for s in range(first, last):
            plan.depth[way, s] = 0 if plan.ends[way, s] > NEG else 1 << 29
        changed = True
        while changed:
            changed = False
            for i in range(first, last):
                s = i if way == 0 else last - 1 - (i - first)
                for a in range(arc_splits[s], arc_splits[s + 1]):
                    source = first + arc_src[a]
                    if way == 0 and plan.depth[0, source] + 1 < plan.depth[0, s]:
                        plan.depth[0, s] = plan.depth[0, source] + 1
                        changed = True
                    if way == 1 and plan.depth[1, s] + 1 < plan.depth[1, source]:
                        plan.depth[1, source] = plan.depth[1, s] + 1
                        changed = True
