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

from pipeline.hmm.numba_kernels import advance, fill, settle
from pipeline.hmm.numba_math import cast, exp, frames, jit
from pipeline.hmm.numba_plan import band, orient
from pipeline.hmm.numba_scores import DEAD, PAD, gather


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
    for s in range(np.uintp(low + PAD), np.uintp(high + PAD)):
        p = exp(a[s] + b[s] - emit[s] - log_z)
        out[s] = p
        total += p
    return total


@jit
def scale(row, low, high, factor):
    """Multiply a row."""
    for s in range(np.uintp(low + PAD), np.uintp(high + PAD)):
        row[s] *= factor


@jit
def load_row(row, rows, at, low, high):
    """Fetch the states low..high stored at rows[at]."""
    start = np.uintp(at)
    for s in range(np.uintp(low), np.uintp(high)):
        row[s + np.uintp(PAD)] = rows[s + start]


@jit
def slot_occupancies(out, prev, weight, b, low, high, shift, log_z, factor):
    """out(s) += occupancy of the arc that reaches s over one slot."""
    here, there = np.uintp(PAD), np.uintp(PAD - shift)
    for s in range(np.uintp(low), np.uintp(high)):
        out[s + here] += exp(prev[s + there] + weight[s + here] + b[s + here] - log_z) * factor


@jit
def timed_occupancies(out, prev, weight, b, tids, low, high, shift, log_z, factor):
    """As `slot_occupancies`, out being indexed by transition-id."""
    for s in range(low, min(high, len(tids))):
        if tids[s] >= 0:
            x = prev[s + PAD - shift] + weight[s + PAD] + b[s + PAD]
            out[tids[s]] += exp(x - log_z) * factor


@jit
def edge_occupancies(out, x, b, groups, group_edge, tids, by_tid, log_z, factor):
    """Add the occupancies of the edges to `out`, by edge or by transition-id."""
    for g in range(len(groups)):
        at = b[groups[g] + PAD] - log_z
        for i in range(group_edge[g], group_edge[g + 1]):
            p = exp(x[i] + at) * factor
            if not by_tid:
                out[i] += p
            elif tids[i] >= 0:
                out[tids[i]] += p


@jit
def flush(counts, arcs, by_slot, edge_arcs, by_edge):
    """Write the summed occupancies of one task's arcs."""
    for k in range(len(arcs)):
        for s in range(arcs.shape[1]):
            if arcs[k, s] >= 0:
                counts[arcs[k, s]] = by_slot[k, s + PAD]
    for i in range(len(by_edge)):
        counts[edge_arcs[i]] = by_edge[i]


@jit
def keep_states(rows, at, states, low, high, size):
    """Replace a stored row by the occupancies of its frame."""
    for s in range(size):
        rows[at + s] = states[s + PAD] if low <= s < high else cast(0.0, states[0])


@jit
def backward_one(plan, n, direction, call, sink, rows, cum, mid, mid_cum, score, grad, neg):
    """Continue one sweep of utterance n over its other half."""
    limits = band(plan, n, call.lengths[n])
    slots, edges = orient(plan, n, direction, call, neg)
    work = np.full((5, slots.fixed.shape[1]), neg)
    by_slot, by_edge = np.zeros_like(slots.fixed), np.zeros_like(edges.fixed)
    pdf_total = np.zeros(call.num_pdfs if call.source.half else 0, slots.fixed.dtype)
    backward_sweep(
        plan,
        n,
        direction,
        call,
        limits,
        slots,
        edges,
        work,
        by_slot,
        by_edge,
        pdf_total,
        sink,
        rows,
        cum,
        mid,
        mid_cum,
        score,
        grad,
        neg,
    )
    if sink.arcs == 1:
        flush(sink.counts[direction], slots.arcs, by_slot, edges.arcs, by_edge)


@frames
def backward_sweep(
    plan,
    n,
    direction,
    call,
    limits,
    slots,
    edges,
    work,
    by_slot,
    by_edge,
    pdf_total,
    sink,
    rows,
    cum,
    mid,
    mid_cum,
    score,
    grad,
    neg,
):
    """The recursion over the other half, and the occupancies."""
    num_frames, first = call.lengths[n], plan.splits[n]
    middle = num_frames // 2
    low, high = limits
    tids, weights, edge_tids, groups = slots.tids, slots.weights, edges.tids, edges.groups
    group_edge, x = edges.group_edge, edges.scores
    size, width = tids.shape[1], plan.width[n]
    prev, cur, emit, b, states = work[0], work[1], work[2], work[3], work[4]
    pdf, emissions, half = plan.pdf[first : first + size], call.source.emissions[n], call.source.half
    timed, transitions = call.timed == 1, call.transitions[n if call.timed == 1 else 0]
    dense, by_arc, by_tid = sink.dense, sink.arcs == 1, sink.arcs == 2
    d_emissions, d_transitions = sink.emissions[n if dense else 0], sink.transitions[n if by_tid else 0]
    row, cell = call.row_at[n], call.cell_at[n]
    d, stop = (1, num_frames) if direction == 0 else (-1, -1)
    total, offset = mid_cum[direction, n], neg
    for s in range(size):
        cur[s + PAD] = mid[direction, first + s]
        offset = max(offset, cur[s + PAD])
    for t in range(middle if direction == 0 else middle - 1, stop, d):
        lo, hi, at = low[t], high[t], cell + t * size
        gather(emit, emissions[t], pdf, lo, hi, half, neg)
        load_row(b, rows, at, lo, min(hi, size))
        used = offset
        if t != middle:
            prev, cur = cur, prev
            if abs(t - middle) > 1:
                fill(cur, low[t - 2 * d], high[t - 2 * d], neg)
            advance(prev, cur, slots, edges, width, transitions[t + direction if timed else 0], timed, lo, hi, d, neg)
            offset = settle(cur, emit, lo, hi, used, neg)
            total += used
        log_z = score - total - cum[row + t]
        mass = state_occupancies(states, cur, b, emit, lo, hi, cast(log_z, neg))
        factor = cast(grad / mass, neg) if mass > 0 else cast(0.0, neg)
        if t != middle and by_arc:
            at_arc = cast(log_z + used, neg)
            for k in range(width):
                slot_occupancies(by_slot[k], prev, weights[k], b, lo, hi, k * d, at_arc, factor)
            edge_occupancies(by_edge, x, b, groups, group_edge, edge_tids, False, at_arc, factor)
        elif t != middle and by_tid:
            at_arc, out = cast(log_z + used, neg), d_transitions[t + direction]
            for k in range(width):
                timed_occupancies(out, prev, weights[k], b, tids[k], lo, hi, k * d, at_arc, factor)
            edge_occupancies(out, x, b, groups, group_edge, edge_tids, True, at_arc, factor)
        scale(states, lo, hi, factor)
        if dense:
            scatter(d_emissions[t], states, pdf, lo, min(hi, size), pdf_total, half)
        else:
            keep_states(rows, at, states, lo, hi, size)


@jit
def backward_tasks(tasks, plan, call, sink, rows, cum, mid, mid_cum, scores, grads, neg):
    """Run tasks 2 n + direction of the utterances that have a path."""
    for task in tasks:
        n, direction = task // 2, task % 2
        if scores[n] > DEAD and grads[n] != 0:
            backward_one(plan, n, direction, call, sink, rows, cum, mid, mid_cum, scores[n], grads[n], neg)
