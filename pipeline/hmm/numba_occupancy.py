"""Compiled loops of the CPU backend: the second half of both sweeps, where occupancies arise.

At frame t, a is the recursion that is being continued, b the one stored by the forward pass; both count the emission
of frame t. The occupancy of a state is exp(a + b - e - log Z), that of an arc into it exp(x + b - log Z), where x is
the path score over the arc before the emission. Each frame is divided by its own sum, which takes out what rounding
has gathered over the utterance.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload

from pipeline.hmm.numba_kernels import (
    DEAD,
    PAD,
    add_edges,
    band,
    cast,
    edge_scores,
    exp,
    gather,
    jit,
    orient,
    retime,
    settle,
    step,
)


class Sink(NamedTuple):
    """Where occupancies go: (N, T, P) if `dense`, else over the stored rows; arcs into `counts` (2, A) if `arcs`, or
    into `transitions` (N, T, K) if these depend on time."""

    dense: int
    emissions: np.ndarray
    arcs: int
    counts: np.ndarray
    transitions: np.ndarray


def scatter(out, states, pdf, low, high, total, half):
    """out(pdf(s)) += states(s), with `total` (P,) zeros as scratch."""
    raise NotImplementedError


@overload(scatter)
def _scatter(out, states, pdf, low, high, total, half):
    if out.dtype != numba.uint16:

        def add(out, states, pdf, low, high, total, half):
            for s in range(low, high):
                out[pdf[s]] += states[s + PAD]

        return add

    def add_half(out, states, pdf, low, high, total, half):
        for s in range(low, high):
            total[pdf[s]] += states[s + PAD]
        for s in range(low, high):
            out[pdf[s]] = narrow(total[pdf[s]], half)
        for s in range(low, high):
            total[pdf[s]] = 0

    return add_half


@jit
def narrow(x, half):
    """Bits of x in bfloat16 (half = 1) or float16 (half = 2), rounded to even."""
    x = np.float32(x)
    if half == 1:
        bits = np.int64(x.view(np.uint32))
        return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
    sign = 0x8000 if x < 0 else 0
    x = abs(x)
    if x >= np.float32(65520.0):
        return np.uint16(sign | 0x7C00)
    bits = np.int64(np.float32(x * np.float32(2.0**-112)).view(np.uint32))
    return np.uint16(sign | ((bits + 0xFFF + ((bits >> 13) & 1)) >> 13))


@jit
def state_occupancies(out, a, b, emit, low, high, log_z):
    """out(s) = exp(a + b - e - log Z); returns their sum."""
    total = cast(0.0, log_z)
    for s in range(low + PAD, high + PAD):
        p = exp(a[s] + b[s] - emit[s] - log_z)
        out[s] = p
        total += p
    return total


@jit
def scale(row, low, high, factor):
    """Multiply a row."""
    for s in range(low + PAD, high + PAD):
        row[s] *= factor


@jit
def slot_occupancies(out, prev, weight, b, low, high, shift, log_z, factor):
    """out(s) += occupancy of the arc that reaches s over one slot."""
    for s in range(low + PAD, high + PAD):
        out[s] += exp(prev[s - shift] + weight[s] + b[s] - log_z) * factor


@jit
def timed_occupancies(out, prev, weight, b, arcs, tid, low, high, shift, log_z, factor):
    """As `slot_occupancies`, out being indexed by transition-id."""
    for s in range(low, high):
        if arcs[s] >= 0 and tid[arcs[s]] >= 0:
            x = prev[s + PAD - shift] + weight[s + PAD] + b[s + PAD]
            out[tid[arcs[s]]] += exp(x - log_z) * factor


@jit
def edge_occupancies(sink, out, x, b, plan, n, way, frame, begin, end, log_z, factor):
    """Add the occupancies of the edges of some groups, to `out` by edge or to the sink by transition-id."""
    base = plan.edge_splits[n]
    for g in range(begin, end):
        at = b[plan.groups[way, g] + PAD] - log_z
        for i in range(plan.group_edge[way, g], plan.group_edge[way, g + 1]):
            p = exp(x[i - base] + at) * factor
            if sink.arcs == 1:
                out[i - base] += p
            else:
                tid = plan.tid[plan.edge_arc[way, i]]
                if tid >= 0:
                    sink.transitions[n, frame, tid] += p


@jit
def flush(sink, plan, n, way, arcs, by_slot, by_edge):
    """Write the summed occupancies of one task's arcs."""
    for k in range(plan.width[n]):
        for s in range(arcs.shape[1]):
            if arcs[k, s] >= 0:
                sink.counts[way, arcs[k, s]] = by_slot[k, s + PAD]
    for i in range(len(by_edge)):
        sink.counts[way, plan.edge_arc[way, plan.edge_splits[n] + i]] = by_edge[i]


@jit
def emit_states(sink, rows, at, states, pdf, n, t, low, high, total, half):
    """Deliver the occupancies of one frame."""
    if sink.dense:
        scatter(sink.emissions[n, t], states, pdf, low, high, total, half)
    else:
        rows[at : at + low] = 0
        rows[at + low : at + high] = states[low + PAD : high + PAD]
        rows[at + high : at + len(pdf)] = 0


@jit
def backward_one(plan, n, way, call, sink, rows, cum, mid, mid_cum, score, grad, neg):
    """Continue one sweep of utterance n over its other half."""
    num_frames, first = call.lengths[n], plan.splits[n]
    size, middle = plan.splits[n + 1] - first, num_frames // 2
    low, high = band(plan, n, num_frames)
    work = np.full((8, size + 2 * PAD), neg)
    prev, cur, emit, b, states = work[0], work[1], work[2], work[3], work[4]
    by_slot = work[5:8]
    by_slot[:] = 0
    weights, arcs = orient(plan, n, way, call, neg)
    x = np.empty(plan.edge_splits[n + 1] - plan.edge_splits[n], weights.dtype)
    by_edge = np.zeros_like(x)
    pdf = plan.pdf[first : first + size]
    pdf_total = np.zeros(call.emissions.shape[2] if call.half else 0, weights.dtype)
    row, cell = call.row_at[n], call.cell_at[n]
    d, stop = (1, num_frames) if way == 0 else (-1, -1)
    cur[PAD : size + PAD] = mid[way, first : first + size]
    total, offset = mid_cum[way, n], cast(cur.max(), neg)
    for t in range(middle if way == 0 else middle - 1, stop, d):
        lo, hi, into, at = low[t], high[t], t + way, cell + t * size
        begin = end = 0
        gather(emit, call.emissions[n, t], pdf, lo, hi, call.half, neg)
        b[lo + PAD : hi + PAD] = rows[at + lo : at + hi]
        if t != middle:
            prev, cur = cur, prev
            if abs(t - middle) > 1:
                cur[low[t - 2 * d] + PAD : high[t - 2 * d] + PAD] = neg
            if call.timed == 1:
                retime(weights, arcs, plan, n, call, into, lo, hi, neg)
            step(prev, cur, weights[0], weights[1], weights[2], lo, hi, d, plan.width[n])
            if len(x):
                begin, end = edge_scores(prev, x, plan, n, way, call, into, lo, hi, neg)
                add_edges(cur, x, plan, n, way, begin, end)
            best = settle(cur, emit, lo, hi, offset, neg)
            total += offset
        log_z = score - total - cum[row + t]
        mass = state_occupancies(states, cur, b, emit, lo, hi, cast(log_z, neg))
        factor = cast(grad / mass, neg) if mass > 0 else cast(0.0, neg)
        if t != middle and sink.arcs:
            log_z = cast(log_z + offset, neg)
            for k in range(plan.width[n]):
                if sink.arcs == 1:
                    slot_occupancies(by_slot[k], prev, weights[k], b, lo, hi, k * d, log_z, factor)
                else:
                    out = sink.transitions[n, into]
                    timed_occupancies(out, prev, weights[k], b, arcs[k], plan.tid, lo, hi, k * d, log_z, factor)
            edge_occupancies(sink, by_edge, x, b, plan, n, way, into, begin, end, log_z, factor)
        if t != middle:
            offset = best
        scale(states, lo, hi, factor)
        emit_states(sink, rows, at, states, pdf, n, t, lo, hi, pdf_total, call.half)
    if sink.arcs == 1:
        flush(sink, plan, n, way, arcs, by_slot, by_edge)


@jit
def backward_tasks(tasks, plan, call, sink, rows, cum, mid, mid_cum, scores, grads, neg):
    """Run tasks 2 n + way of the utterances that have a path."""
    for task in tasks:
        n, way = task // 2, task % 2
        if scores[n] > DEAD and grads[n] != 0:
            backward_one(plan, n, way, call, sink, rows, cum, mid, mid_cum, scores[n], grads[n], neg)
