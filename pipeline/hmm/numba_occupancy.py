"""Compiled loops of the CPU backend: the second half of both sweeps, where occupancies arise.

At frame t, a is the recursion that is being continued, b the one stored by the forward pass; both count the emission
of frame t. The occupancy of a state is exp(a + b - e - log Z), that of an arc into it exp(x + b - log Z), where x is
the path score over the arc before the emission. Each frame is divided by its own sum, which takes out what rounding
has gathered over the utterance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from pipeline.hmm.numba_kernels import advance, fill, forward_sweep, highest, settle
from pipeline.hmm.numba_math import cast, exp, frames, jit
from pipeline.hmm.numba_plan import band, block_frames, blocks, orient, stored_at
from pipeline.hmm.numba_scores import DEAD, PAD, emit, known_scores

STATES, PDFS, PATH = 0, 1, 2  # what becomes of the occupancies of states


class Sink(NamedTuple):
    """Where occupancies go. Those of states, by `kind`: over stored rows (STATES), into `emissions` (N, T, P) by pdf
    (PDFS), or into `posterior` (N, T) those with the pdf that `path` (N, T) names (PATH). Those of arcs: into `counts`
    (2, A) if `arcs` is 1, into `transitions` (N, T, K) if it is 2 (scores that depend on time), nowhere if 0."""

    kind: int
    emissions: NDArray[Any]
    path: NDArray[Any]
    posterior: NDArray[Any]
    arcs: int
    counts: NDArray[Any]
    transitions: NDArray[Any]


class Sums(NamedTuple):
    """What one task sums up: occupancies by slot (3, S') and edge (R,), and zeros (P,) for sums in half precision."""

    by_slot: NDArray[Any]
    by_edge: NDArray[Any]
    by_pdf: NDArray[Any]


def scatter(out, states, pdf, low, high, total, source):
    """out(pdf(s)) += states(s), with `total` (P,) zeros as scratch."""
    raise NotImplementedError


@overload(scatter)
def _scatter(out, states, pdf, low, high, total, source):
    if out.dtype != numba.uint16:

        def add(out, states, pdf, low, high, total, source):
            for s in range(low, high):
                out[pdf[s]] += states[s + PAD]

        return add

    def add_half(out, states, pdf, low, high, total, source):
        for s in range(low, high):
            total[pdf[s]] += states[s + PAD]
        for s in range(low, high):
            out[pdf[s]] = narrow(total[pdf[s]], source.half)
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
def on_path(states, pdf, wanted, low, high):
    """Sum of the states low..high that have a pdf."""
    total = cast(0.0, states[0])
    for s in range(low, high):
        if pdf[s] == wanted:
            total += states[s + PAD]
    return total


@jit
def backward_one(plan, n, direction, call, sink, rows, cum, mid, mid_cum, score, grad, neg):
    """Continue one sweep of utterance n over its other half."""
    num_frames, first = call.lengths[n], plan.splits[n]
    size = plan.splits[n + 1] - first
    limits = band(plan, n, num_frames)
    slots, edges = orient(plan, n, direction, call, neg)
    work = np.full((5, slots.fixed.shape[1]), neg)
    by_pdf = np.zeros(call.num_pdfs if sink.kind == PDFS else 0, slots.fixed.dtype)
    sums = Sums(np.zeros_like(slots.fixed), np.zeros_like(edges.fixed), by_pdf)
    known = known_scores(call.source, call.num_pdfs, neg)
    load_row(work[1], mid[direction], first, 0, size)
    carry = np.array([mid_cum[direction, n], np.float64(highest(work[1], 0, size, neg))])
    begin, stop = (num_frames // 2, num_frames) if direction == 0 else (num_frames // 2 - 1, -1)
    if call.every[n] == 1:
        backward_sweep(
            plan, n, direction, call, limits, slots, edges, known, work, 0, (begin, stop), carry, sums,
            sink, rows, call.cell_at[n], cum, score, grad, neg,
        )  # fmt: skip
    else:
        backward_blocks(
            plan, n, direction, call, limits, slots, edges, known, work, carry, sums, sink, rows, cum, score, grad, neg
        )
    if sink.arcs == 1:
        flush(sink.counts[direction], slots.arcs, sums.by_slot, edges.arcs, sums.by_edge)


@jit
def backward_blocks(
    plan, n, direction, call, limits, slots, edges, known, work, carry, sums, sink, rows, cum, score, grad, neg
):
    """As `backward_sweep` over the whole half, where rows are stored now and then: those between two of them are
    computed once more, a block at a time, with the same bits as before."""
    other, size, every = 1 - direction, slots.tids.shape[1], call.every[n]
    other_slots, other_edges = orient(plan, n, other, call, neg)
    other_work = np.empty_like(work[:3])
    block, nothing, scratch = np.empty(every * size, rows.dtype), np.empty(0, rows.dtype), np.empty(len(call.lengths))
    low, high = limits
    d, middle, turn = 1 if direction == 0 else -1, call.lengths[n] // 2, 0
    for j in range(blocks(call.lengths[n], other, every) - 1, -1, -1):
        begin, end = block_frames(call, n, other, j)
        bottom = min(begin, end)
        other_work[:] = neg
        at = stored_at(call, n, other, j, size)
        load_row(other_work[0], rows, at, low[begin], min(high[begin], size))
        to = ((begin - bottom) * size, 1, every)
        forward_sweep(
            plan, n, other, call, limits, other_slots, other_edges, known, other_work, (begin, end), True, to,
            block, cum, nothing, scratch, neg,
        )  # fmt: skip
        backward_sweep(
            plan, n, direction, call, limits, slots, edges, known, work, turn, (end, begin + d), carry, sums,
            sink, block, -bottom * size, cum, score, grad, neg,
        )  # fmt: skip
        turn = (turn + abs(end - begin) + (0 if end == middle and direction == 0 else 1)) % 2


@frames
def backward_sweep(
    plan, n, direction, call, limits, slots, edges, known, work, turn, span, carry, sums,
    sink, rows, cell, cum, score, grad, neg,
):  # fmt: skip
    """The recursion over frames of the other half, and their occupancies.

    Args:
        work: in [1 - turn] the row of the frame before the first one (at the middle frame, its own).
        span: first frame and the one behind the last.
        carry: offset of that row's frame, and its best score; set to those of the last frame.
        cell: the rows of the other direction are stored at rows[cell + t * S].
    """
    middle, first = call.lengths[n] // 2, plan.splits[n]
    low, high = limits
    tids, weights, edge_tids, groups = slots.tids, slots.weights, edges.tids, edges.groups
    group_edge, x, size, width = edges.group_edge, edges.scores, tids.shape[1], plan.width[n]
    prev, cur, emission, b, states = work[turn], work[1 - turn], work[2], work[3], work[4]
    pdf, row = plan.pdf[first : first + size], call.row_at[n]
    timed, transitions = call.timed == 1, call.transitions[n if call.timed == 1 else 0]
    by_arc, by_tid, kind = sink.arcs == 1, sink.arcs == 2, sink.kind
    d_emissions, d_transitions = sink.emissions[n if kind == PDFS else 0], sink.transitions[n if by_tid else 0]
    path, posterior = sink.path[n if kind == PATH else 0], sink.posterior[n if kind == PATH else 0]
    d, total, offset = 1 if direction == 0 else -1, carry[0], cast(carry[1], neg)
    for t in range(span[0], span[1], d):
        lo, hi, at = low[t], high[t], cell + t * size
        load_row(b, rows, at, lo, min(hi, size))
        used = offset
        if t != middle:
            prev, cur = cur, prev
            if abs(t - middle) > 1:
                fill(cur, low[t - 2 * d], high[t - 2 * d], neg)
            advance(prev, cur, slots, edges, width, transitions[t + direction if timed else 0], timed, lo, hi, d, neg)
        emit(emission, call.source, known, n, t, pdf, cur, lo, hi, neg)
        if t != middle:
            offset = settle(cur, emission, lo, hi, used, neg)
            total += used
        log_z = score - total - cum[row + t]
        mass = state_occupancies(states, cur, b, emission, lo, hi, cast(log_z, neg))
        factor = cast(grad / mass, neg) if mass > 0 else cast(0.0, neg)
        if t != middle and by_arc:
            at_arc = cast(log_z + used, neg)
            for k in range(width):
                slot_occupancies(sums.by_slot[k], prev, weights[k], b, lo, hi, k * d, at_arc, factor)
            edge_occupancies(sums.by_edge, x, b, groups, group_edge, edge_tids, False, at_arc, factor)
        elif t != middle and by_tid:
            at_arc, out = cast(log_z + used, neg), d_transitions[t + direction]
            for k in range(width):
                timed_occupancies(out, prev, weights[k], b, tids[k], lo, hi, k * d, at_arc, factor)
            edge_occupancies(out, x, b, groups, group_edge, edge_tids, True, at_arc, factor)
        scale(states, lo, hi, factor)
        if kind == PDFS:
            scatter(d_emissions[t], states, pdf, lo, min(hi, size), sums.by_pdf, call.source)
        elif kind == PATH:
            posterior[t] = on_path(states, pdf, path[t], lo, min(hi, size))
        else:
            keep_states(rows, at, states, lo, hi, size)
    carry[0], carry[1] = total, np.float64(offset)


@jit
def backward_tasks(tasks, plan, call, sink, rows, cum, mid, mid_cum, scores, grads, neg):
    """Run tasks 2 n + direction of the utterances that have a path."""
    for task in tasks:
        n, direction = task // 2, task % 2
        if scores[n] > DEAD and grads[n] != 0:
            backward_one(plan, n, direction, call, sink, rows, cum, mid, mid_cum, scores[n], grads[n], neg)
