"""Graphs as the compiled loops of the CPU backend read them, whole and as one direction of time sees one of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.hmm.numba_math import cast, exact, jit
from pipeline.hmm.numba_scores import LANES, NEG, PAD

SLOTS = 3


class Plan(NamedTuple):
    """Graphs as the kernels read them: arcs from s, s - 1, s - 2 into s in three slots, the others as edges.

    `ends` (2, S) are start and final weights. `arc` (3, S) is -1 where a slot is empty; `width` (N,) counts the slots
    that a graph uses. `depth` (2, S) is the number of frames before and after the state at the least. Edges (2, R) are
    sorted by the state they reach, in time order [0] and against it [1]; `groups` (2, R) are the states reached,
    `group_edge` (2, R + 1) their first edges, `group_splits` (2, N + 1) the groups of each graph. `most` is the largest
    number of arcs that enter or of edges that leave a state.
    """

    splits: NDArray[Any]
    pdf: NDArray[Any]
    ends: NDArray[Any]
    tid: NDArray[Any]
    arc_weight: NDArray[Any]
    arc: NDArray[Any]
    width: NDArray[Any]
    depth: NDArray[Any]
    edge_splits: NDArray[Any]
    edge_from: NDArray[Any]
    edge_arc: NDArray[Any]
    groups: NDArray[Any]
    group_edge: NDArray[Any]
    group_splits: NDArray[Any]
    final_tid: NDArray[Any]
    most: int


class Call(NamedTuple):
    """Inputs of one call: the source of emissions (see numba_scores) and its number of pdfs, lengths (N,), transitions
    (N, T, K) if `timed` is 1, (1, 1, K) if 0, none if -1; first row and first cell of each utterance, and how many
    frames lie between two rows that are stored (N,): 1, or more in a recording whose rows would not fit."""

    source: Any  # a NamedTuple: numba_scores.Dense or what OnDemand.compiled gives
    num_pdfs: int
    lengths: NDArray[Any]
    transitions: NDArray[Any]
    timed: int
    row_at: NDArray[Any]
    cell_at: NDArray[Any]
    every: NDArray[Any]


class Slots(NamedTuple):
    """Arcs of one graph in the three slots, as one direction of time sees them: fixed weights (3, S'), transition-ids
    and arcs (3, S), -1 where a slot is empty, and weights of the frame at hand (3, S'); rows of S' begin at PAD."""

    fixed: NDArray[Any]
    tids: NDArray[Any]
    arcs: NDArray[Any]
    weights: NDArray[Any]


class Edges(NamedTuple):
    """The other arcs: fixed weights, transition-ids, arcs and sources (R,), grouped by the state they reach: states
    (G,), first edges (G + 1,); weights and path scores of the frame at hand (R,)."""

    fixed: NDArray[Any]
    tids: NDArray[Any]
    arcs: NDArray[Any]
    sources: NDArray[Any]
    groups: NDArray[Any]
    group_edge: NDArray[Any]
    weights: NDArray[Any]
    scores: NDArray[Any]


@jit
def offsets(lengths, splits, most_cells):
    """First row (frame) and first stored cell (frame and state) of each utterance, and their totals: (N + 1,) each; and
    frames between stored rows (N,), 1 up to `most_cells` cells.

    Beyond, a row in sqrt(T / 2) is stored, and the rows between two of them when they are needed: both halves of the
    utterance take such a block, and the rows and the blocks have the same size, 2 sqrt(T / 2) S cells.
    """
    row_at, cell_at = np.zeros(len(lengths) + 1, np.int64), np.zeros(len(lengths) + 1, np.int64)
    every = np.ones(len(lengths), np.int64)
    for n in range(len(lengths)):
        size = np.int64(splits[n + 1]) - splits[n]
        if lengths[n] * size > most_cells:
            every[n] = math.ceil(math.sqrt(lengths[n] / 2))
        row_at[n + 1] = row_at[n] + lengths[n]
        stored = blocks(lengths[n], 0, every[n]) + blocks(lengths[n], 1, every[n])
        cell_at[n + 1] = cell_at[n] + stored * size
    return row_at, cell_at, every


@jit
def half_of(num_frames, direction):
    """How many frames a direction stores on its way to the middle: the middle itself against time only."""
    return num_frames // 2 if direction == 0 else num_frames - num_frames // 2


@jit
def blocks(num_frames, direction, every):
    """How many rows a direction stores."""
    return (half_of(num_frames, direction) + every - 1) // every


@jit
def stored_at(call, n, direction, block, size):
    """Cell of the first state of a stored row: in time order, those of either direction."""
    every = call.every[n]
    count = blocks(call.lengths[n], 0, every)
    row = block if direction == 0 else count + blocks(call.lengths[n], 1, every) - 1 - block
    return call.cell_at[n] + row * size


@jit
def block_frames(call, n, direction, block):
    """First and last frame of a block, in the order of the direction."""
    begin, d = (0, 1) if direction == 0 else (call.lengths[n] - 1, -1)
    every = call.every[n]
    last = min((block + 1) * every, half_of(call.lengths[n], direction)) - 1
    return begin + d * block * every, begin + d * last


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
    """Score of a transition-id, 0 for none; NaN and +inf become NEG."""
    if tid < 0:
        return cast(0.0, neg)
    x = scores[tid]
    return x if neg < x < -neg else neg


@jit
def orient(plan, n, direction, call, neg):
    """`Slots` and `Edges` of one graph, with static transition scores in their fixed weights."""
    first = plan.splits[n]
    size = plan.splits[n + 1] - first
    blocks = (size + LANES - 1) // LANES * LANES
    weights = np.full((SLOTS, blocks + 2 * PAD), neg)
    tids, arcs = np.full((SLOTS, size), np.int32(-1)), np.full((SLOTS, size), np.int32(-1))
    static = call.transitions[0, 0]
    is_static = call.timed == 0
    tid, arc_weight, slot_arc = plan.tid, plan.arc_weight, plan.arc
    for k in range(plan.width[n]):
        shift = k * direction
        for s in range(size - shift):
            a = slot_arc[k, first + s + shift]
            if a >= 0:
                arcs[k, s], tids[k, s] = a, tid[a]
                weights[k, s + PAD] = max(cast(arc_weight[a], neg), neg)
                if is_static:
                    weights[k, s + PAD] += transition_score(static, tid[a], neg)
    begin, end = plan.edge_splits[n], plan.edge_splits[n + 1]
    edge_arcs = plan.edge_arc[direction, begin:end]
    edge_tids = tid[edge_arcs]
    edge_weights = np.empty(end - begin, weights.dtype)
    for i in range(end - begin):
        edge_weights[i] = max(cast(arc_weight[edge_arcs[i]], neg), neg)
        if is_static:
            edge_weights[i] += transition_score(static, edge_tids[i], neg)
    group, group_end = plan.group_splits[direction, n], plan.group_splits[direction, n + 1]
    groups, group_edge = (
        plan.groups[direction, group:group_end],
        plan.group_edge[direction, group : group_end + 1] - begin,
    )
    sources = plan.edge_from[direction, begin:end]
    room = edge_weights.copy(), np.empty_like(edge_weights)
    edges = Edges(edge_weights, edge_tids, edge_arcs, sources, groups, group_edge, room[0], room[1])
    return Slots(weights, tids, arcs, weights.copy()), edges


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
        for direction in range(2):
            reached = into if direction == 0 else out_of
            for i in range(len(reached)):
                if i == 0 or reached[i] != reached[i - 1]:
                    plan.groups[direction, groups[direction]] = reached[i]
                    plan.group_edge[direction, groups[direction]] = edge_begin + i
                    groups[direction] += 1
            plan.group_edge[direction, groups[direction]] = edges
            plan.group_splits[direction, n + 1] = groups[direction]
        depths(plan, n, arc_splits, arc_src)


@jit
def depths(plan, n, arc_splits, arc_src):
    """Fewest frames before and after each state, by relaxation in and against the order of the states."""
    first, last = plan.splits[n], plan.splits[n + 1]
    for direction in range(2):
        for s in range(first, last):
            plan.depth[direction, s] = 0 if plan.ends[direction, s] > NEG else 1 << 29
        changed = True
        while changed:
            changed = False
            for i in range(first, last):
                s = i if direction == 0 else last - 1 - (i - first)
                for a in range(arc_splits[s], arc_splits[s + 1]):
                    source = first + arc_src[a]
                    if direction == 0 and plan.depth[0, source] + 1 < plan.depth[0, s]:
                        plan.depth[0, s] = plan.depth[0, source] + 1
                        changed = True
                    if direction == 1 and plan.depth[1, s] + 1 < plan.depth[1, source]:
                        plan.depth[1, source] = plan.depth[1, s] + 1
                        changed = True
