"""Compiled loops of the CPU backend: best paths, exact or within a beam, over stored scores or over scores on demand.

Cut in the middle like the full sum: task (n, 0) finds the best way from the start to each state of frame T // 2, task
(n, 1) the best way from the end to there, without that frame's emissions, and the path is traced outwards from the best
state of the middle frame. A backpointer is one byte (or an int32 where a state has very many arcs) per state and frame:
the slot, or 3 plus the number of the edge among those that reach the state.

With a beam, a state that falls further behind the best one of its frame is given up, and only what the others reach is
looked at in the next frame (cf. Kaldi's FasterDecoder): near the best path a dozen states, where the graph has
hundreds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.hmm.numba_kernels import copy_out, edge_scores, fill, retime_all, settle
from pipeline.hmm.numba_math import cast, frames, jit
from pipeline.hmm.numba_plan import SLOTS, band, orient
from pipeline.hmm.numba_scores import DEAD, LANES, NEG, PAD, emit, known_scores


@jit
def best_step(prev, cur, backpointer, w0, w1, w2, low, high, d, width):
    """cur(s) = max over the slots of prev(s - k d) + w_k(s); backpointer(s) = k, the lowest of equals."""
    here, one, two = np.uintp(PAD), np.uintp(PAD - d), np.uintp(PAD - 2 * d)
    if width <= 1:
        for s in range(np.uintp(low), np.uintp(high)):
            cur[s + here] = prev[s + here] + w0[s + here]
            backpointer[s] = 0
    elif width == 2:
        for s in range(np.uintp(low), np.uintp(high)):
            x0 = prev[s + here] + w0[s + here]
            x1 = prev[s + one] + w1[s + here]
            cur[s + here] = max(x0, x1)
            backpointer[s] = 1 if x1 > x0 else 0
    else:
        for s in range(np.uintp(low), np.uintp(high)):
            x0 = prev[s + here] + w0[s + here]
            x1 = prev[s + one] + w1[s + here]
            x2 = prev[s + two] + w2[s + here]
            first = max(x0, x1)
            k = 1 if x1 > x0 else 0
            cur[s + here] = max(first, x2)
            backpointer[s] = 2 if x2 > first else k


@jit
def best_edges(cur, backpointer, x, groups, group_edge):
    """Let the edges compete with the slots."""
    for g in range(len(groups)):
        s = groups[g]
        for i in range(group_edge[g], group_edge[g + 1]):
            if x[i] > cur[s + PAD]:
                cur[s + PAD] = x[i]
                backpointer[s] = SLOTS + i - group_edge[g]


@jit
def widen(x, groups, group_edge, low, high):
    """The range low..high with the states that a living edge reaches."""
    first, last = 0, len(groups)
    while first < last and not alive_edge(x, group_edge[first], group_edge[first + 1]):
        first += 1
    while first < last and not alive_edge(x, group_edge[last - 1], group_edge[last]):
        last -= 1
    if first < last:
        low, high = min(low, groups[first]), max(high, groups[last - 1] + 1)
    return low, high


@jit
def alive_edge(x, begin, end):
    """Whether one of the edges begin..end carries a path."""
    for i in range(begin, end):
        if x[i] > DEAD:
            return True
    return False


@jit
def prune(row, floor, low, high, neg):
    """Give up the states below the floor; the range of the others."""
    for s in range(np.uintp(low + PAD), np.uintp(high + PAD)):
        row[s] = row[s] if row[s] >= floor else neg
    while low < high and row[low + PAD] < DEAD:
        low += 1
    while low < high and row[high - 1 + PAD] < DEAD:
        high -= 1
    return low, high


class Track(NamedTuple):
    """What a sweep writes beside its rows: backpointers of frame t at backpointers[cell + (t + direction) * stride];
    the best score of each frame into best (T,), by frame, unless it is empty; one row in `every` into rows (B, S)."""

    backpointers: NDArray[Any]
    cell: int
    stride: int
    best: NDArray[Any]
    rows: NDArray[Any]
    every: int


@jit
def viterbi_one(plan, n, direction, call, beam, track, mid, mid_cum, neg):
    """Sweep one half of utterance n; False if no path survives it."""
    num_frames, first, last = call.lengths[n], plan.splits[n], plan.splits[n + 1]
    if num_frames == 0:
        return False
    limits = band(plan, n, num_frames)
    slots, edges = orient(plan, n, direction, call, neg)
    work = np.full((3, slots.fixed.shape[1]), neg)
    known = known_scores(call.source, call.num_pdfs, neg)
    span = (0 if direction == 0 else num_frames - 1, num_frames // 2)
    row, score = mid[direction, first:last], mid_cum[direction]
    return sweep(plan, n, direction, call, beam, limits, slots, edges, known, work, span, False, track, row, score, neg)


@frames
def sweep(
    plan, n, direction, call, beam, limits, slots, edges, known, work, span, resumed, track, last_row, last_cum, neg
):
    """The recursion of one direction over some frames; for the other arguments see `numba_kernels.forward_sweep`.

    Args:
        resumed: the row of the first frame is in work[0], and the best scores of all frames are in track.best.
    """
    num_frames, first = call.lengths[n], plan.splits[n]
    low, high = limits
    weights, x, groups, group_edge = slots.weights, edges.scores, edges.groups, edges.group_edge
    size, width = slots.tids.shape[1], plan.width[n]
    prev, cur, emission = work[1], work[0], work[2]
    pdf, ends = plan.pdf[first : first + size], plan.ends[direction, first : first + size]
    timed, transitions = call.timed == 1, call.transitions[n if call.timed == 1 else 0]
    d, (start, stop), middle = 1 if direction == 0 else -1, span, num_frames // 2
    total, offset, pruned, best = 0.0, cast(0.0, neg), beam < math.inf, neg
    ahead, behind = (0, width - 1) if direction == 0 else (width - 1, 0)  # what the slots reach
    live_low, live_high, low_1, high_1, low_2, high_2 = 0, size, 0, 0, 0, 0
    for i in range(abs(stop - start) + 1):
        t = start + i * d
        lo, hi = low[t], high[t]
        if lo >= hi:
            return False
        if i == 0 and resumed:
            low_1, high_1, best = 0, size, cast(track.best[t], neg)
            if pruned:
                live_low, live_high = prune(cur, cast(DEAD, neg), 0, size, neg)
        else:
            if i > 0:
                prev, cur = cur, prev
                fill(cur, low_2, high_2, neg)
                if timed:
                    retime_all(slots, edges, width, transitions[t + direction], lo, hi, neg)
                if len(x) > 0:
                    edge_scores(prev, x, edges.weights, edges.sources)
                if pruned:
                    live_low, live_high = widen(x, groups, group_edge, live_low - ahead, live_high + behind)
                    lo, hi = max(lo, live_low // LANES * LANES), min(hi, (live_high + LANES - 1) // LANES * LANES)
                at = track.cell + (t + direction) * track.stride
                backpointer = track.backpointers[at : at + size]
                best_step(prev, cur, backpointer, weights[0], weights[1], weights[2], lo, min(hi, size), d, width)
                best_edges(cur, backpointer, x, groups, group_edge)
            else:
                for s in range(lo, min(hi, size)):
                    cur[s + PAD] = max(cast(ends[s], neg), neg)
            low_1, high_1, low_2, high_2 = lo, hi, low_1, high_1
            if direction == 0 or t != middle:
                emit(emission, call.source, known, n, t, pdf, cur, lo, hi, neg)
            else:
                fill(emission, lo, hi, cast(0.0, neg))
            best = settled(track, t, settle(cur, emission, lo, hi, offset, neg), resumed)
            total += offset
            if pruned:
                live_low, live_high = prune(cur, best - cast(beam, neg), lo, min(hi, size), neg)
            if len(track.rows) > 0 and i % track.every == 0:
                copy_out(track.rows[i // track.every], 0, cur, 0, size)
        if best < DEAD:
            return False
        offset = best
    for s in range(len(last_row)):
        last_row[s] = cur[s + PAD]
    last_cum[n] = total
    return True


@jit
def settled(track, t, best, resumed):
    """The best score of a frame: kept, or read where it was kept before and `best` is only that of some states."""
    if len(track.best) == 0:
        return best
    if resumed:
        return cast(track.best[t], best)
    track.best[t] = best
    return best


@jit
def viterbi_tasks(tasks, plan, call, beam, backpointers, cell_at, mid, mid_cum, alive, neg):
    """Run tasks 2 n + direction."""
    best, rows = np.empty(0, mid.dtype), np.empty((0, 0), mid.dtype)
    for task in tasks:
        n, direction = task // 2, task % 2
        track = Track(backpointers, cell_at[n], plan.splits[n + 1] - plan.splits[n], best, rows, 1)
        alive[direction, n] = viterbi_one(plan, n, direction, call, beam, track, mid, mid_cum, neg)


@jit
def walk(path, chosen, span, backpointers, cell, stride, direction, pdf, arc_tid, slots, edge_plan):
    """Follow the backpointers from a state at one frame outwards to another frame, and return the state there.

    Args:
        path: (4, T) states, arcs into frames, pdf-ids and transition-ids of the arcs out of frames, to be set.
        span: frame of the state `chosen`, frame to end at.
        cell, stride: see `Track`.
        edge_plan: groups, their first edges, arcs and sources of edges, of this direction.
    """
    groups, group_edge, edge_arc, edge_from = edge_plan
    d = -1 if direction == 0 else 1
    s = np.int64(chosen)
    for t in range(span[0], span[1], d):
        code = np.int64(backpointers[cell + (t + direction) * stride + s])
        if code < SLOTS:
            source = s - code if direction == 0 else s + code
            arc = slots[code, s if direction == 0 else source]
        else:
            i = group_edge[np.searchsorted(groups, s)] + code - SLOTS
            arc, source = edge_arc[i], np.int64(edge_from[i])
        path[1, t + direction], path[3, t + direction - 1] = arc, arc_tid[arc]
        s = source
        path[0, t + d], path[2, t + d] = s, pdf[s]
    return s


@jit
def meet(plan, n, mid, mid_cum):
    """State of the middle frame on the best path, -1 without one, and the score of the path."""
    first, last = plan.splits[n], plan.splits[n + 1]
    best, chosen = np.float64(NEG), 0
    for s in range(first, last):
        both = np.float64(mid[0, s]) + np.float64(mid[1, s])
        if both > best:
            best, chosen = both, s - first
    return -1 if best < DEAD else chosen, best + mid_cum[0, n] + mid_cum[1, n]


@jit
def edges_of(plan, n, direction):
    """What `walk` needs to know of the edges of a graph."""
    begin, end = plan.group_splits[direction, n], plan.group_splits[direction, n + 1]
    groups, group_edge = plan.groups[direction, begin:end], plan.group_edge[direction, begin:end]
    return groups, group_edge, plan.edge_arc[direction], plan.edge_from[direction]


@jit
def trace(utterances, plan, call, backpointers, cell_at, mid, mid_cum, alive, scores, paths):
    """Scores (N,) float64 and paths (4, N, T), see `walk`, of some utterances from their halves; untouched without a
    path.
    """
    for n in utterances:
        chosen, score = meet(plan, n, mid, mid_cum) if alive[0, n] and alive[1, n] else (-1, NEG)
        if chosen < 0:
            continue
        scores[n] = score
        first, last, num_frames = plan.splits[n], plan.splits[n + 1], call.lengths[n]
        path, pdf, slots = paths[:, n, :num_frames], plan.pdf[first:last], plan.arc[:, first:last]
        for direction in range(2):
            span = (num_frames // 2, 0 if direction == 0 else num_frames - 1)
            around = edges_of(plan, n, direction)
            walk(path, chosen, span, backpointers, cell_at[n], last - first, direction, pdf, plan.tid, slots, around)
        finish(path, plan, n, chosen)


@jit
def finish(path, plan, n, chosen):
    """Set what `walk` leaves: the middle frame, and the transition-id of the last one."""
    first, middle = plan.splits[n], path.shape[1] // 2
    path[0, middle], path[2, middle] = chosen, plan.pdf[first + chosen]
    path[3, path.shape[1] - 1] = plan.final_tid[first + path[0, path.shape[1] - 1]]
