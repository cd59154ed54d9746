"""Compiled loops of the CPU backend: best paths of recordings whose backpointers would not fit into memory.

A first pass over both halves keeps one row of scores in K frames and the best score of every frame. The path is then
traced outwards from the middle frame, a block of K frames at a time: the block's frames are computed once more from its
first row, now with backpointers. Only states from which the path's state at the block's end can be reached matter, so
that in left-to-right graphs the second pass is over a narrow band. Both passes compute the same bits, so the path is
the one that a search in one piece finds. (Checkpoints as in Tarnas and Hughey 1998.)
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.hmm.numba_math import jit
from pipeline.hmm.numba_plan import band, orient
from pipeline.hmm.numba_scores import LANES, PAD, known_scores
from pipeline.hmm.numba_viterbi import Track, edges_of, finish, meet, sweep, viterbi_one, walk


@jit
def spacing(num_frames):
    """Frames between two rows that are kept, so that the rows of both halves are as many as those of two blocks."""
    return np.int64(math.ceil(math.sqrt(num_frames / 2)))


@jit
def forward_tasks(tasks, plan, call, beam, backpointers, best, rows, mid, mid_cum, alive, neg):
    """First pass, tasks 2 n + direction.

    Args:
        backpointers: (2, K S), of which the first S are written to and never read.
        best: (2, T), rows: (2, B, S), by direction, to be set.
    """
    for task in tasks:
        n, direction = task // 2, task % 2
        every = spacing(call.lengths[n])
        track = Track(backpointers[direction], 0, 0, best[direction], rows[direction], every)
        alive[direction, n] = viterbi_one(plan, n, direction, call, beam, track, mid, mid_cum, neg)


@jit
def reaches(slots, edges, size, d):
    """Bounds (S,) of the states that states s and above, or s and below, are reached from in one frame."""
    low, high = np.arange(size), np.arange(size)
    for k in range(len(slots.arcs)):
        for s in range(size):
            if slots.arcs[k, s] >= 0:
                low[s], high[s] = min(low[s], s - k * d), max(high[s], s - k * d)
    for g in range(len(edges.groups)):
        s = edges.groups[g]
        for i in range(edges.group_edge[g], edges.group_edge[g + 1]):
            low[s], high[s] = min(low[s], edges.sources[i]), max(high[s], edges.sources[i])
    for s in range(1, size):
        high[s] = max(high[s], high[s - 1])
        low[size - 1 - s] = min(low[size - 1 - s], low[size - s])
    return low, high


@jit
def narrow(limits, bounds, span, chosen, out):
    """Set out (2, T) over the frames of a block to the states that may lead to state `chosen` at its last frame."""
    first, last = chosen, chosen
    begin, end = span
    d = 1 if end >= begin else -1
    for i in range(abs(end - begin) + 1):
        t = end - i * d
        out[0, t] = max(limits[0][t], first // LANES * LANES)
        out[1, t] = min(limits[1][t], (last + LANES) // LANES * LANES)
        first, last = bounds[0][first], bounds[1][last]


@jit
def trace_tasks(tasks, plan, call, beam, backpointers, best, rows, mid, mid_cum, paths, neg):
    """Second pass, tasks 2 n + direction: sets paths (4, N, T) on one side of the middle frame.

    Args:
        backpointers: (2, K S), by direction, of the type that is used.
    """
    for task in tasks:
        n, direction = task // 2, task % 2
        first, last, num_frames = plan.splits[n], plan.splits[n + 1], call.lengths[n]
        size, every, middle = np.int64(last - first), spacing(num_frames), num_frames // 2
        limits = band(plan, n, num_frames)
        slots, edges = orient(plan, n, direction, call, neg)
        known = known_scores(call.source, call.num_pdfs, neg)
        work, unused = np.empty((3, slots.fixed.shape[1]), mid.dtype), np.empty(len(call.lengths))
        nothing, no_rows = np.empty(0, mid.dtype), np.empty((0, 0), mid.dtype)
        start, d = (0, 1) if direction == 0 else (num_frames - 1, -1)
        bounds = reaches(slots, edges, size, d)
        narrowed = np.empty((2, num_frames), np.int32)
        path, pdf, arcs = paths[:, n, :num_frames], plan.pdf[first:last], plan.arc[:, first:last]
        around = edges_of(plan, n, direction)
        state, steps, table = meet(plan, n, mid, mid_cum)[0], abs(middle - start), backpointers[direction]
        for j in range((steps + every - 1) // every - 1, -1, -1):
            begin, end = start + d * j * every, start + d * min((j + 1) * every, steps)
            narrow(limits, bounds, (begin, end), state, narrowed)
            work[:] = neg
            work[0, PAD : PAD + size] = rows[direction, j]
            cell = -(min(begin, end) + 1) * size
            track = Track(table, int(cell), int(size), best[direction], no_rows, 1)
            sweep(
                plan, n, direction, call, beam, (narrowed[0], narrowed[1]), slots, edges, known, work, (begin, end),
                True, track, nothing, unused, neg,
            )  # fmt: skip
            state = walk(path, state, (end, begin), table, cell, size, direction, pdf, plan.tid, arcs, around)


@jit
def score_of(plan, n, mid, mid_cum):
    """Score of the best path, -inf without one."""
    chosen, score = meet(plan, n, mid, mid_cum)
    return score if chosen >= 0 else -np.inf


@jit
def finish_path(plan, n, num_frames, mid, mid_cum, paths):
    """Set what the two sides of a path leave."""
    finish(paths[:, n, :num_frames], plan, n, meet(plan, n, mid, mid_cum)[0])
