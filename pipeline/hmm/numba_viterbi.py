"""Compiled loops of the CPU backend: best paths.

Cut in the middle like the full sum: task (n, 0) finds the best way from the start to each state of frame T // 2, task
(n, 1) the best way from there to the end, and the path is traced outwards from the best state of the middle frame.
A way is kept as one byte (or an int32 where a state has very many arcs) per state and frame: the slot, or 3 plus the
number of the edge among those that reach the state.
"""

from __future__ import annotations

import numpy as np

from pipeline.hmm.numba_kernels import (
    DEAD,
    NEG,
    PAD,
    band,
    cast,
    edge_scores,
    exact,
    gather,
    jit,
    orient,
    retime,
    settle,
    value,
)


@jit
def best_step(prev, cur, back, w0, w1, w2, low, high, d, width):
    """cur(s) = max over the slots of prev(s - k d) + w_k(s); back(s) = k, the lowest of equals."""
    if width <= 1:
        for s in range(low, high):
            cur[s + PAD] = prev[s + PAD] + w0[s + PAD]
            back[s] = 0
    elif width == 2:
        for s in range(low, high):
            x0 = prev[s + PAD] + w0[s + PAD]
            x1 = prev[s + PAD - d] + w1[s + PAD]
            cur[s + PAD] = max(x0, x1)
            back[s] = 1 if x1 > x0 else 0
    else:
        for s in range(low, high):
            x0 = prev[s + PAD] + w0[s + PAD]
            x1 = prev[s + PAD - d] + w1[s + PAD]
            x2 = prev[s + PAD - 2 * d] + w2[s + PAD]
            first = max(x0, x1)
            k = 1 if x1 > x0 else 0
            cur[s + PAD] = max(first, x2)
            back[s] = 2 if x2 > first else k


@jit
def best_edges(cur, back, x, plan, n, way, begin, end):
    """Let the edges compete with the slots."""
    base = plan.edge_splits[n]
    for g in range(begin, end):
        s = plan.groups[way, g]
        for i in range(plan.group_edge[way, g], plan.group_edge[way, g + 1]):
            if x[i - base] > cur[s + PAD]:
                cur[s + PAD] = x[i - base]
                back[s] = 3 + i - plan.group_edge[way, g]


@jit
def row_cell(plan, call, n, row):
    """First cell of a row of ways: an utterance has one row more than frames, since both halves reach the middle."""
    return call.cell_at[n] + plan.splits[n] + row * (plan.splits[n + 1] - plan.splits[n])


@jit
def viterbi_one(plan, n, way, call, backs, mid, mid_cum, neg):
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
            at = row_cell(plan, call, n, into)
            back = backs[at : at + size]
            best_step(prev, cur, back, weights[0], weights[1], weights[2], lo, hi, d, plan.width[n])
            if len(x):
                begin, end = edge_scores(prev, x, plan, n, way, call, into, lo, hi, neg)
                best_edges(cur, back, x, plan, n, way, begin, end)
        best = settle(cur, emit, lo, hi, offset, neg)
        total += offset
        if best < DEAD:
            return False
        offset = best
    mid[way, first : first + size] = cur[PAD : size + PAD]
    mid_cum[way, n] = total
    return True


@jit
def viterbi_tasks(tasks, plan, call, backs, mid, mid_cum, alive, neg):
    """Run tasks 2 n + way."""
    for task in tasks:
        n, way = task // 2, task % 2
        alive[way, n] = viterbi_one(plan, n, way, call, backs, mid, mid_cum, neg)


@jit
def other_end(plan, n, way, s, code):
    """The arc that `code` stands for at state s, and the state at its other end."""
    if code <= PAD:
        source = s - code if way == 0 else s + code
        return plan.arc[code, plan.splits[n] + (s if way == 0 else source)], source
    begin, end = plan.group_splits[way, n], plan.group_splits[way, n + 1]
    g = begin + np.searchsorted(plan.groups[way, begin:end], s)
    i = plan.group_edge[way, g] + code - 3
    return plan.edge_arc[way, i], plan.edge_from[way, i]


@exact
def trace(plan, call, backs, mid, mid_cum, alive, scores, states, arcs, neg):
    """Scores (N,) float64 and paths (N, T) from the two halves."""
    for n in range(len(scores)):
        scores[n] = -np.inf
        if not (alive[0, n] and alive[1, n]):
            continue
        num_frames, first = call.lengths[n], plan.splits[n]
        middle = num_frames // 2
        best, chosen = NEG, 0
        for s in range(plan.splits[n + 1] - first):
            x = value(call.emissions[n, middle, plan.pdf[first + s]], call.half)
            if neg < x < -neg:
                both = np.float64(mid[0, first + s]) + np.float64(mid[1, first + s]) - np.float64(x)
                if both > best:
                    best, chosen = both, s
        if best < DEAD:
            continue
        scores[n] = best + mid_cum[0, n] + mid_cum[1, n]
        states[n, middle] = chosen
        s = chosen
        for t in range(middle, 0, -1):
            arcs[n, t], s = other_end(plan, n, 0, s, backs[row_cell(plan, call, n, t) + s])
            states[n, t - 1] = s
        s = chosen
        for t in range(middle, num_frames - 1):
            arcs[n, t + 1], s = other_end(plan, n, 1, s, backs[row_cell(plan, call, n, t + 1) + s])
            states[n, t + 1] = s
