"""Compiled loops of the CPU backend: full-sum recursions over one half of one utterance per task.

Log domain throughout: a scaled-probability recursion in float32 loses paths that fall 88 nats behind the best state of
    a
frame and win later; with polynomials for exp and log that LLVM vectorises it costs about 1 ns per state and frame.
Every row holds scores relative to the best state of the row before; the float64 sum of these offsets lies in `cum`.
Each utterance is cut at frame m = T // 2. Task (n, 0) runs alpha over frames 0..m, task (n, 1) runs beta over frames
T-1..m on the reversed arcs; both count the emission of their own frame, and Z = sum_s alpha(m, s) beta(m, s) / e(m, s).
The backward pass continues both over the other half. So even one utterance keeps two cores busy, and what is computed
never depends on the rest of the batch or on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pipeline.hmm.numba_math import cast, exact, exp, frames, jit, log, value
from pipeline.hmm.numba_scores import DEAD, LANES, NEG, PAD, gather

SLOTS = 3


class Plan(NamedTuple):
    """Graphs as the kernels read them: arcs from s, s - 1, s - 2 into s in three slots, the others as edges.

    `ends` (2, S) are start and final weights. `arc` (3, S) is -1 where a slot is empty; `width` (N,) counts the slots
    that a graph uses. `depth` (2, S) is the number of frames before and after the state at the least. Edges (2, R) are
    sorted by the state they reach, in time order [0] and against it [1]; `groups` (2, R) are the states reached,
    `group_edge` (2, R + 1) their first edges, `group_splits` (2, N + 1) the groups of each graph. `most` is the largest
    number of arcs that enter or of edges that leave a state.
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
    final_tid: np.ndarray
    most: int


class Call(NamedTuple):
    """Inputs of one call: the source of emissions (see numba_scores) and its number of pdfs, lengths (N,), transitions
    (N, T, K) if `timed` is 1, (1, 1, K) if 0, none if -1; first row and first cell of each utterance."""

    source: Any  # a NamedTuple: numba_scores.Dense or what OnDemand.compiled gives
    num_pdfs: int
    lengths: np.ndarray
    transitions: np.ndarray
    timed: int
    row_at: np.ndarray
    cell_at: np.ndarray


@jit
def offsets(lengths, splits):
    """First row (frame) and first cell (frame and state) of each utterance, and their totals: (N + 1,) each."""
    row_at, cell_at = np.zeros(len(lengths) + 1, np.int64), np.zeros(len(lengths) + 1, np.int64)
    for n in range(len(lengths)):
        row_at[n + 1] = row_at[n] + lengths[n]
        cell_at[n + 1] = cell_at[n] + lengths[n] * (splits[n + 1] - splits[n])
    return row_at, cell_at


@jit
def band(plan, n, num_frames):
    """First and last + 1 state that a complete path can be in, per frame, widened to blocks."""
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
    for t in range(num_frames):
        if low[t] >= high[t]:
            low[t] = high[t] = 0
        low[t] = low[t] // LANES * LANES
        high[t] = (high[t] + LANES - 1) // LANES * LANES
    return low, high


@exact
def transition_score(scores, tid, neg):
    """Score of a transition-id, 0 for none; what is no number below infinity becomes NEG."""
    if tid < 0:
        return cast(0.0, neg)
    x = scores[tid]
    return x if neg < x < -neg else neg


@jit
def orient(plan, n, way, call, neg):
    """Arcs of one graph as one direction of time sees them, with static transition scores in their weights.

    Returns:
        Slots: weights (3, S'), transition-ids and arcs (3, S), room for weights of one frame (3, S'); edges: weights,
        transition-ids, arcs, sources (R,), their groups: states (G,), first edges (G + 1,), room for weights of one
        frame and for path scores (R,).
    """
    first = plan.splits[n]
    size = plan.splits[n + 1] - first
    blocks = (size + LANES - 1) // LANES * LANES
    weights = np.full((SLOTS, blocks + 2 * PAD), neg)
    tids, arcs = np.full((SLOTS, size), np.int32(-1)), np.full((SLOTS, size), np.int32(-1))
    static = call.transitions[0, 0]
    is_static = call.timed == 0
    tid, arc_weight, slot_arc = plan.tid, plan.arc_weight, plan.arc
    for k in range(plan.width[n]):
        shift = k * way
        for s in range(size - shift):
            a = slot_arc[k, first + s + shift]
            if a >= 0:
                arcs[k, s], tids[k, s] = a, tid[a]
                weights[k, s + PAD] = max(cast(arc_weight[a], neg), neg)
                if is_static:
                    weights[k, s + PAD] += transition_score(static, tid[a], neg)
    begin, end = plan.edge_splits[n], plan.edge_splits[n + 1]
    edge_arcs = plan.edge_arc[way, begin:end]
    edge_tids = tid[edge_arcs]
    edge_weights = np.empty(end - begin, weights.dtype)
    for i in range(end - begin):
        edge_weights[i] = max(cast(arc_weight[edge_arcs[i]], neg), neg)
        if is_static:
            edge_weights[i] += transition_score(static, edge_tids[i], neg)
    group, group_end = plan.group_splits[way, n], plan.group_splits[way, n + 1]
    groups, group_edge = plan.groups[way, group:group_end], plan.group_edge[way, group : group_end + 1] - begin
    room = edge_weights.copy(), np.empty_like(edge_weights)
    edges = (edge_weights, edge_tids, edge_arcs, plan.edge_from[way, begin:end], groups, group_edge, *room)
    return (weights, tids, arcs, weights.copy()), edges


@jit
def retime(out, base, tids, scores, low, high, pad, neg):
    """out = base + transition scores of one frame, for the arcs low..high; rows of `out` and `base` start at `pad`."""
    for s in range(low, min(high, len(tids))):
        out[s + pad] = base[s + pad] + transition_score(scores, tids[s], neg)


@jit
def retime_all(weights, base, tids, width, edges, edge_base, edge_tids, scores, low, high, neg):
    """Weights of slots and edges at one frame: the fixed ones and the transition scores into the frame."""
    for k in range(width):
        retime(weights[k], base[k], tids[k], scores, low, high, PAD, neg)
    retime(edges, edge_base, edge_tids, scores, 0, len(edges), 0, neg)


@jit
def fill(row, low, high, neg):
    """Forget the states low..high."""
    for s in range(np.uintp(low + PAD), np.uintp(high + PAD)):
        row[s] = neg


@jit
def copy_out(rows, at, row, low, high):
    """Store the states low..high of a row at rows[at]."""
    to = np.uintp(at)
    for s in range(np.uintp(low), np.uintp(high)):
        rows[s + to] = row[s + np.uintp(PAD)]


@jit
def step(prev, cur, w0, w1, w2, low, high, d, width):
    """cur(s) = log sum over the slots of prev(s - k d) + w_k(s)."""
    here, one, two, lanes = np.uintp(PAD), np.uintp(PAD - d), np.uintp(PAD - 2 * d), np.uintp(LANES)
    if width <= 1:
        for s in range(np.uintp(low), np.uintp(high), lanes):
            for i in range(s, s + lanes):
                cur[i + here] = prev[i + here] + w0[i + here]
    elif width == 2:
        for s in range(np.uintp(low), np.uintp(high), lanes):
            for i in range(s, s + lanes):
                x0 = prev[i + here] + w0[i + here]
                x1 = prev[i + one] + w1[i + here]
                cur[i + here] = max(x0, x1) + log(exp(min(x0, x1) - max(x0, x1)) + cast(1.0, x0))
    else:
        for s in range(np.uintp(low), np.uintp(high), lanes):
            for i in range(s, s + lanes):
                x0 = prev[i + here] + w0[i + here]
                x1 = prev[i + one] + w1[i + here]
                x2 = prev[i + two] + w2[i + here]
                best = max(x0, max(x1, x2))
                cur[i + here] = best + log(exp(x0 - best) + exp(x1 - best) + exp(x2 - best))


@jit
def edge_scores(prev, x, weights, sources):
    """Path score x over every edge."""
    for i in range(len(x)):
        x[i] = prev[sources[i] + PAD] + weights[i]


@jit
def add_edges(cur, x, groups, group_edge):
    """Add the paths over the edges to cur."""
    for g in range(len(groups)):
        s = groups[g] + PAD
        best = cur[s]
        for i in range(group_edge[g], group_edge[g + 1]):
            best = max(best, x[i])
        total = exp(cur[s] - best)
        for i in range(group_edge[g], group_edge[g + 1]):
            total += exp(x[i] - best)
        cur[s] = best + log(total)


@jit
def settle(cur, emit, low, high, offset, neg):
    """Add the emissions, take off the offset; returns the best score."""
    best = neg
    for s in range(np.uintp(low + PAD), np.uintp(high + PAD)):
        x = cur[s] + emit[s] - offset
        cur[s] = x
        best = max(best, x)
    return best


@jit
def advance(prev, cur, slots, edges, width, scores, timed, low, high, d, neg):
    """cur = log sum over all arcs of prev and the arc's weight, which at a frame with `timed` scores holds these
    too.
    """
    weights, base, tids = slots[3], slots[0], slots[1]
    now, edge_base, edge_tids, sources, groups, group_edge, x = (
        edges[6],
        edges[0],
        edges[1],
        edges[3],
        edges[4],
        edges[5],
        edges[7],
    )
    if timed:
        retime_all(weights, base, tids, width, now, edge_base, edge_tids, scores, low, high, neg)
    step(prev, cur, weights[0], weights[1], weights[2], low, high, d, width)
    if len(x) > 0:
        edge_scores(prev, x, now, sources)
        add_edges(cur, x, groups, group_edge)


@jit
def forward_one(plan, n, way, call, keep, rows, cum, mid, mid_cum, neg):
    """Sweep one half of utterance n; False if no path survives it."""
    if call.lengths[n] == 0:
        return False
    limits = band(plan, n, call.lengths[n])
    slots, edges = orient(plan, n, way, call, neg)
    work = np.full((3, slots[0].shape[1]), neg)
    return forward_sweep(plan, n, way, call, limits, slots, edges, work, keep, rows, cum, mid, mid_cum, neg)


@frames
def forward_sweep(plan, n, way, call, limits, slots, edges, work, keep, rows, cum, mid, mid_cum, neg):
    """The recursion of one half."""
    num_frames, first = call.lengths[n], plan.splits[n]
    low, high = limits
    size, width = slots[1].shape[1], plan.width[n]
    prev, cur, emit = work[0], work[1], work[2]
    pdf, ends = plan.pdf[first : first + size], plan.ends[way, first : first + size]
    emissions, half = call.source.emissions[n], call.source.half
    timed, transitions = call.timed == 1, call.transitions[n if call.timed == 1 else 0]
    row, cell = call.row_at[n], call.cell_at[n]
    d, start, stop = (1, 0, num_frames // 2) if way == 0 else (-1, num_frames - 1, num_frames // 2)
    total, offset = 0.0, cast(0.0, neg)
    for t in range(start, stop + d, d):
        lo, hi = low[t], high[t]
        if lo >= hi:
            return False
        gather(emit, emissions[t], pdf, lo, hi, half, neg)
        if t == start:
            for s in range(lo, min(hi, size)):
                cur[s + PAD] = max(cast(ends[s], neg), neg)
        else:
            prev, cur = cur, prev
            if abs(t - start) > 1:
                fill(cur, low[t - 2 * d], high[t - 2 * d], neg)
            advance(prev, cur, slots, edges, width, transitions[t + way if timed else 0], timed, lo, hi, d, neg)
        best = settle(cur, emit, lo, hi, offset, neg)
        total += offset
        if best < DEAD:
            return False
        offset = best
        if keep and (way == 1 or t < stop):
            copy_out(rows, cell + t * size, cur, lo, min(hi, size))
            cum[row + t] = total
    for s in range(size):
        mid[way, first + s] = cur[s + PAD]
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
        first, last = plan.splits[n], plan.splits[n + 1]
        frame, pdf = call.source.emissions[n, call.lengths[n] // 2], plan.pdf[first:last]
        alpha, beta = mid[0, first:last], mid[1, first:last]
        both = np.full(last - first, NEG)
        for s in range(last - first):
            x = value(frame[pdf[s]], call.source.half)
            if neg < x < -neg:
                both[s] = np.float64(alpha[s]) + np.float64(beta[s]) - np.float64(x)
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
                if 0 <= k < SLOTS and plan.arc[k, s] < 0:
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
