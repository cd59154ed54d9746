"""Compiled loops of the CPU backend: full-sum recursions over one half of one utterance per task.

Log domain throughout: a scaled-probability recursion in float32 loses paths that fall 88 nats behind the best state of
a frame and win later; with polynomials for exp and log that LLVM vectorises it costs about 1 ns per state and frame.
Every row holds scores relative to the best state of the row before; the float64 sum of these offsets lies in `cum`.
Each utterance is cut at frame m = T // 2. Task (n, 0) runs alpha over frames 0..m, task (n, 1) runs beta over frames
T-1..m on the reversed arcs; both count the emission of their own frame, and Z = sum_s alpha(m, s) beta(m, s) / e(m, s).
The backward pass continues both over the other half. So even one utterance keeps two cores busy, and what is computed
never depends on the rest of the batch or on the number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.hmm.numba_math import cast, exact, exp, frames, jit, log
from pipeline.hmm.numba_plan import band, half_of, orient, stored_at, transition_score
from pipeline.hmm.numba_scores import DEAD, LANES, NEG, PAD, emit, known_scores


@jit
def retime(out, base, tids, scores, low, high, pad, neg):
    """out = base + transition scores of one frame, for the arcs low..high; rows of `out` and `base` start at `pad`."""
    for s in range(low, min(high, len(tids))):
        out[s + pad] = base[s + pad] + transition_score(scores, tids[s], neg)


@jit
def retime_all(slots, edges, width, scores, low, high, neg):
    """Weights of slots and edges at one frame: the fixed ones and the transition scores into the frame."""
    for k in range(width):
        retime(slots.weights[k], slots.fixed[k], slots.tids[k], scores, low, high, PAD, neg)
    retime(edges.weights, edges.fixed, edges.tids, scores, 0, len(edges.weights), 0, neg)


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
    """cur = log sum over all arcs of prev and the arc's weight, with the frame's own scores if these are `timed`."""
    if timed:
        retime_all(slots, edges, width, scores, low, high, neg)
    weights, x = slots.weights, edges.scores
    step(prev, cur, weights[0], weights[1], weights[2], low, high, d, width)
    if len(x) > 0:
        edge_scores(prev, x, edges.weights, edges.sources)
        add_edges(cur, x, edges.groups, edges.group_edge)


@jit
def highest(row, low, high, neg):
    """Best of the states low..high."""
    best = neg
    for s in range(np.uintp(low + PAD), np.uintp(high + PAD)):
        best = max(best, row[s])
    return best


@jit
def forward_one(plan, n, direction, call, keep, rows, cum, mid, mid_cum, neg):
    """Sweep one half of utterance n; False if no path survives it."""
    num_frames, first = call.lengths[n], plan.splits[n]
    if num_frames == 0:
        return False
    limits = band(plan, n, num_frames)
    slots, edges = orient(plan, n, direction, call, neg)
    known = known_scores(call.source, call.num_pdfs, neg)
    work = np.full((3, slots.fixed.shape[1]), neg)
    span = (0 if direction == 0 else num_frames - 1, num_frames // 2)
    stored = half_of(num_frames, direction) if keep else 0
    at = stored_at(call, n, direction, 0, slots.tids.shape[1]) if keep else 0
    to = (at, call.every[n], stored)
    row, score = mid[direction, first : first + slots.tids.shape[1]], mid_cum[direction]
    return forward_sweep(
        plan, n, direction, call, limits, slots, edges, known, work, span, False, to, rows, cum, row, score, neg
    )


@frames
def forward_sweep(
    plan, n, direction, call, limits, slots, edges, known, work, span, resumed, to, rows, cum, last_row, last_cum, neg
):
    """The recursion of one direction over some frames.

    Args:
        span: first and last frame.
        resumed: the first frame's row is in work[0] already.
        to: cell of `rows` for the first frame's row, frames between stored rows, frames of which rows are stored at
            most and offsets are; the rows of later frames lie behind it, or before it against time.
        last_row: (S,) for the last frame's row, or empty.
        last_cum: (N,) for the offset of the last frame.
    """
    first = plan.splits[n]
    low, high = limits
    size, width = slots.tids.shape[1], plan.width[n]
    prev, cur, emission = work[1], work[0], work[2]
    pdf, ends = plan.pdf[first : first + size], plan.ends[direction, first : first + size]
    timed, transitions = call.timed == 1, call.transitions[n if call.timed == 1 else 0]
    row = call.row_at[n]
    d, (start, stop), (at, every, stored) = 1 if direction == 0 else -1, span, to
    total, offset, best = 0.0, cast(0.0, neg), neg
    for i in range(abs(stop - start) + 1):
        t = start + i * d
        lo, hi = low[t], high[t]
        if lo >= hi:
            return False
        if i == 0 and resumed:
            total, best = cum[row + t], highest(cur, lo, hi, neg)
        else:
            if i == 0:
                for s in range(lo, min(hi, size)):
                    cur[s + PAD] = max(cast(ends[s], neg), neg)
            else:
                prev, cur = cur, prev
                if i > 1:
                    fill(cur, low[t - 2 * d], high[t - 2 * d], neg)
                scores = transitions[t + direction if timed else 0]
                advance(prev, cur, slots, edges, width, scores, timed, lo, hi, d, neg)
            emit(emission, call.source, known, n, t, pdf, cur, lo, hi, neg)
            best = settle(cur, emission, lo, hi, offset, neg)
            total += offset
        if best < DEAD:
            return False
        offset = best
        if i < stored:
            cum[row + t] = total
            if i % every == 0:
                copy_out(rows, at + i // every * d * size, cur, lo, min(hi, size))
    for s in range(len(last_row)):
        last_row[s] = cur[s + PAD]
    last_cum[n] = total
    return True


@jit
def forward_tasks(tasks, plan, call, keep, rows, cum, mid, mid_cum, alive, neg):
    """Run tasks 2 n + direction."""
    for task in tasks:
        n, direction = task // 2, task % 2
        alive[direction, n] = forward_one(plan, n, direction, call, keep, rows, cum, mid, mid_cum, neg)


@jit
def middle_scores(plan, call, n, reached, neg):
    """Emissions (S,) of the middle frame, where `reached` (S,) has a path."""
    first, last = plan.splits[n], plan.splits[n + 1]
    blocks = (last - first + LANES - 1) // LANES * LANES
    row, path = np.full(blocks + 2 * PAD, neg), np.full(blocks + 2 * PAD, neg)
    path[PAD : PAD + last - first] = reached
    known = known_scores(call.source, call.num_pdfs, neg)
    emit(row, call.source, known, n, call.lengths[n] // 2, plan.pdf[first:last], path, 0, last - first, neg)
    return row[PAD : PAD + last - first]


@exact
def join(plan, call, mid, mid_cum, alive, scores, neg):
    """Scores (N,) float64 from the two halves; -inf without a path."""
    for n in range(len(scores)):
        scores[n] = -np.inf
        if not (alive[0, n] and alive[1, n]):
            continue
        first, last = plan.splits[n], plan.splits[n + 1]
        alpha, beta = mid[0, first:last], mid[1, first:last]
        emissions = middle_scores(plan, call, n, alpha, neg)
        both = np.full(last - first, NEG)
        for s in range(last - first):
            if emissions[s] > neg:
                both[s] = np.float64(alpha[s]) + np.float64(beta[s]) - np.float64(emissions[s])
        best = both.max()
        if best > DEAD:
            scores[n] = best + math.log(np.exp(both - best).sum()) + mid_cum[0, n] + mid_cum[1, n]
