"""Triton kernels of the CUDA backend: the full-sum recursions, one program per half of an utterance.

As on the CPU, each utterance is cut at frame m = T // 2: program (n, 0) runs alpha over frames 0..m, program (n, 1)
runs beta over frames T - 1..m, both in the log domain, relative to the best state of the row before, with the float64
sum of these offsets in `cum`. The backward pass continues both over the other half and stores the occupancies of the
states; a second kernel, one program per frame, sums them by pdf. So memory is T x S per utterance, and the gradient of
the emissions needs no atomic addition: it repeats bit for bit.

A frame needs the row before it from all threads of the program; rows go through global memory (that is, the cache)
with a barrier in between. NEG stands for -inf, so that no NaN can arise from differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["DEAD", "NEG", "VARYING", "tl"]

# Values that differ from batch to batch; kernels that were compiled anew for special ones would stop the training.
VARYING = ["num", "num_states", "num_arcs", "e_n", "e_t", "r_n", "r_t", "g_n", "g_t", "stride"]
NEG = -1e30 if tl is None else tl.constexpr(-1e30)
DEAD = -1e29 if tl is None else tl.constexpr(-1e29)


def jit(function: Callable[..., Any]) -> Any:
    """triton.jit, or the function as it stands where Triton is missing: then it is never called."""
    return function if triton is None else triton.jit(function, do_not_specialize=VARYING)


@jit
def proper(x):
    """x, or NEG for NaN and +inf."""
    return tl.where((x > NEG) & (x < -NEG), x, NEG)


@jit
def reach(
    row, begin, degree, most, other, weight, tid, scores, SCORED: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr
):
    """log sum over the arcs of each state of row(other end) + weight + transition score."""
    best = tl.full((BLOCK,), NEG, DT)
    total = tl.full((BLOCK,), 0.0, DT)
    for k in range(0, most):
        x = arc_score(begin + k, k < degree, row, other, weight, tid, scores, SCORED, DT)
        above = tl.maximum(best, x)
        total = total * tl.exp(best - above) + tl.exp(x - above)
        best = above
    return tl.where(total > 0, best + tl.log(tl.maximum(total, 1e-30)), NEG)


@jit
def arc_score(arc, inside, row, other, weight, tid, scores, SCORED: tl.constexpr, DT: tl.constexpr):
    """Path score over one arc per state; NEG outside."""
    x = tl.load(row + tl.load(other + arc, mask=inside, other=0), mask=inside, other=NEG)
    x += tl.load(weight + arc, mask=inside, other=NEG).to(DT)
    if SCORED:
        k = tl.load(tid + arc, mask=inside, other=-1)
        r = tl.load(scores + k, mask=k >= 0, other=0.0).to(DT)
        x += tl.where(k >= 0, proper(r), 0.0)
    return tl.maximum(tl.where(inside, x, NEG), NEG)


@jit
def forward(
    emissions, e_n, e_t, e_p, transitions, r_n, r_t, lengths, row_at, cell_at,
    splits, pdf, ends, begin, degree, most, other, weight, tid, num, num_states, num_arcs,
    ring, rows, cum, mid, mid_cum,
    KEEP: tl.constexpr, SCORED: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One half of one utterance: `mid` and, with KEEP, `rows` and `cum`."""
    n, direction = tl.program_id(0) // 2, tl.program_id(0) % 2
    frames, first = tl.load(lengths + n), tl.load(splits + n)
    size = tl.load(splits + n + 1) - first
    middle, d = frames // 2, 1 - 2 * direction
    start = tl.where(direction == 0, 0, frames - 1)
    steps = tl.where(frames > 0, tl.where(direction == 0, middle + 1, frames - middle), 0)
    at, arcs = direction * num_states + first, direction * num_arcs
    ring += 2 * direction * num_states + first
    emissions += n.to(tl.int64) * e_n
    transitions += n.to(tl.int64) * r_n
    row, cell = tl.load(row_at + n), tl.load(cell_at + n)
    many = tl.load(most + direction * num + n)
    total = tl.full((), 0.0, tl.float64)
    offset = tl.full((), 0.0, DT)
    for i in range(0, steps):
        t = start + d * i
        prev, cur = ring + (i + 1) % 2 * num_states, ring + i % 2 * num_states
        frame, scores = emissions + t.to(tl.int64) * e_t, transitions + (t + direction).to(tl.int64) * r_t
        best = tl.full((), NEG, DT)
        for low in range(0, size, BLOCK):
            s = low + tl.arange(0, BLOCK)
            inside = s < size
            column = tl.load(pdf + first + s, mask=inside, other=0).to(tl.int64)
            emit = proper(tl.load(frame + column * e_p, mask=inside, other=0.0).to(DT))
            if i == 0:
                x = tl.maximum(tl.load(ends + at + s, mask=inside, other=NEG).to(DT), NEG)
            else:
                a = tl.load(begin + at + s, mask=inside, other=0) + arcs
                x = reach(prev, a, tl.load(degree + at + s, mask=inside, other=0), many, other, weight, tid, scores,
                          SCORED, DT, BLOCK)  # fmt: skip
            x = tl.where(inside, tl.maximum(x + emit - offset, NEG), NEG)
            tl.store(cur + s, x, mask=inside)
            if KEEP:
                kept = tl.where((direction == 1) | (t < middle), size, 0)
                tl.store(rows + cell + t.to(tl.int64) * size + s, x, mask=s < kept)
            tl.store(mid + at + s, x, mask=s < tl.where(i == steps - 1, size, 0))
            best = tl.maximum(best, tl.max(x, axis=0))
        total += offset.to(tl.float64)
        if KEEP:
            tl.store(cum + row + t, total, mask=(direction == 1) | (t < middle))
        offset = tl.where(best > DEAD, best, 0.0)
        tl.debug_barrier()
    tl.store(mid_cum + direction * num + n, total)


@jit
def join(
    emissions, e_n, e_t, e_p, lengths, splits, pdf, num, num_states, mid, mid_cum, scores,
    DT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """log Z (N,) float64 from the two halves of each utterance: both count the emission of the middle frame."""
    n = tl.program_id(0)
    frames, first = tl.load(lengths + n), tl.load(splits + n)
    size = tl.load(splits + n + 1) - first
    frame = emissions + n.to(tl.int64) * e_n + (frames // 2).to(tl.int64) * e_t
    best = tl.full((BLOCK,), NEG, tl.float64)
    total = tl.full((BLOCK,), 0.0, tl.float64)
    for low in range(0, tl.where(frames > 0, size, 0), BLOCK):
        s = low + tl.arange(0, BLOCK)
        inside = s < size
        column = tl.load(pdf + first + s, mask=inside, other=0).to(tl.int64)
        emit = proper(tl.load(frame + column * e_p, mask=inside, other=0.0).to(DT))
        x = tl.load(mid + first + s, mask=inside, other=NEG).to(tl.float64)
        x += tl.load(mid + num_states + first + s, mask=inside, other=NEG).to(tl.float64) - emit.to(tl.float64)
        x = tl.where(inside & (emit > DEAD), tl.maximum(x, NEG), NEG)
        above = tl.maximum(best, x)
        total = total * tl.exp(best - above) + tl.exp(x - above)
        best = above
    top = tl.max(best, axis=0)
    total = tl.sum(total * tl.exp(best - top), axis=0)
    log_z = top + tl.log(tl.maximum(total, 1e-300)) + tl.load(mid_cum + n) + tl.load(mid_cum + num + n)
    tl.store(scores + n, tl.where(top > DEAD, log_z, float("-inf")))


@jit
def backward(
    emissions, e_n, e_t, e_p, transitions, r_n, r_t, lengths, row_at, cell_at,
    splits, pdf, begin, degree, most, other, weight, tid, arc, num, num_states, num_arcs,
    ring, rows, cum, mid, mid_cum, log_zs, grads, out, counts, d_transitions, g_n, g_t,
    ARCS: tl.constexpr, SCORED: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Continue one half over the other: occupancies of the states, times `grads`, into `out` (as `rows`).

    Those of the arcs are added up in `counts` (2, A) if ARCS is 1, in d_transitions (N, T, K) if it is 2.
    """
    n, direction = tl.program_id(0) // 2, tl.program_id(0) % 2
    frames, first, log_z, grad = tl.load(lengths + n), tl.load(splits + n), tl.load(log_zs + n), tl.load(grads + n)
    size = tl.load(splits + n + 1) - first
    middle, d = frames // 2, 1 - 2 * direction
    start = middle - direction
    steps = tl.where((log_z > DEAD) & (grad != 0), tl.where(direction == 0, frames - middle, middle), 0)
    at, arcs = direction * num_states + first, direction * num_arcs
    ring += 2 * direction * num_states + first
    emissions += n.to(tl.int64) * e_n
    transitions += n.to(tl.int64) * r_n
    d_transitions += n.to(tl.int64) * g_n
    row, cell = tl.load(row_at + n), tl.load(cell_at + n)
    many = tl.load(most + direction * num + n)
    total = tl.load(mid_cum + direction * num + n)
    best = tl.full((), NEG, DT)
    for low in range(0, size, BLOCK):
        s = low + tl.arange(0, BLOCK)
        x = tl.load(mid + at + s, mask=s < size, other=NEG)
        tl.store(ring + direction * num_states + s, x, mask=s < size)
        best = tl.maximum(best, tl.max(x, axis=0))
    tl.debug_barrier()
    for i in range(0, steps):
        t = start + d * i
        moved = (direction == 1) | (i > 0)
        prev, cur = ring + (i + 1) % 2 * num_states, ring + i % 2 * num_states
        frame, scores = emissions + t.to(tl.int64) * e_t, transitions + (t + direction).to(tl.int64) * r_t
        stored = rows + cell + t.to(tl.int64) * size
        used = best
        total += tl.where(moved, used, 0.0).to(tl.float64)
        at_state = (log_z - total - tl.load(cum + row + t)).to(DT)
        at_arc = (log_z - total - tl.load(cum + row + t) + used.to(tl.float64)).to(DT)
        mass = tl.full((), 0.0, DT)
        top = tl.full((), NEG, DT)
        for low in range(0, size, BLOCK):
            s = low + tl.arange(0, BLOCK)
            inside = s < size
            column = tl.load(pdf + first + s, mask=inside, other=0).to(tl.int64)
            emit = proper(tl.load(frame + column * e_p, mask=inside, other=0.0).to(DT))
            if moved:
                a = tl.load(begin + at + s, mask=inside, other=0) + arcs
                x = reach(prev, a, tl.load(degree + at + s, mask=inside, other=0), many, other, weight, tid, scores,
                          SCORED, DT, BLOCK)  # fmt: skip
                x = tl.where(inside, tl.maximum(x + emit - used, NEG), NEG)
            else:
                x = tl.load(cur + s, mask=inside, other=NEG)
            tl.store(cur + s, x, mask=inside)
            b = tl.load(stored + s, mask=inside, other=NEG)
            mass += tl.sum(tl.where(inside, tl.exp(x + b - emit - at_state), 0.0), axis=0)
            top = tl.maximum(top, tl.max(x, axis=0))
        best = tl.where(moved, top, best)
        tl.debug_barrier()
        factor = tl.where(mass > 0, grad / tl.maximum(mass, 1e-30), 0.0).to(DT)
        for low in range(0, size, BLOCK):
            s = low + tl.arange(0, BLOCK)
            inside = s < size
            column = tl.load(pdf + first + s, mask=inside, other=0).to(tl.int64)
            emit = proper(tl.load(frame + column * e_p, mask=inside, other=0.0).to(DT))
            x, b = tl.load(cur + s, mask=inside, other=NEG), tl.load(stored + s, mask=inside, other=NEG)
            if ARCS > 0:
                a = tl.load(begin + at + s, mask=inside, other=0) + arcs
                has = tl.load(degree + at + s, mask=inside, other=0)
                for k in range(0, tl.where(moved, many, 0)):
                    y = arc_score(a + k, k < has, prev, other, weight, tid, scores, SCORED, DT)
                    p = tl.where(k < has, tl.exp(tl.minimum(y + b - at_arc, 80.0)) * factor, 0.0)
                    if ARCS == 1:
                        to = counts + arcs + tl.load(arc + a + k, mask=k < has, other=0)
                        tl.store(to, tl.load(to, mask=k < has, other=0.0) + p, mask=k < has)
                    else:
                        label = tl.load(tid + a + k, mask=k < has, other=-1)
                        to = d_transitions + (t + direction).to(tl.int64) * g_t + label
                        tl.atomic_add(to, p, mask=label >= 0)
            tl.store(out + cell + t.to(tl.int64) * size + s, tl.exp(x + b - emit - at_state) * factor, mask=inside)
        tl.debug_barrier()


@jit
def scatter(
    d_emissions, e_n, e_t, e_p, row_graph, row_at, cell_at, splits, log_zs, grads, rows,
    group_splits, group_pdf, member_at, members, most, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the occupancies of one frame by pdf, in the order of the states."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(row_graph + row)
    t = row - tl.load(row_at + n)
    size = tl.load(splits + n + 1) - tl.load(splits + n)
    alive = (tl.load(log_zs + n) > DEAD) & (tl.load(grads + n) != 0)
    end = tl.where(alive, tl.load(group_splits + n + 1), 0)
    group = tl.load(group_splits + n) + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = group < end
    begin = tl.load(member_at + group, mask=inside, other=0)
    count = tl.load(member_at + group + 1, mask=inside, other=0) - begin
    stored = rows + tl.load(cell_at + n) + t * size
    total = tl.full((BLOCK,), 0.0, rows.dtype.element_ty)
    for k in range(0, tl.load(most + n)):
        s = tl.load(members + begin + k, mask=k < count, other=0)
        total += tl.load(stored + s, mask=k < count, other=0.0)
    column = tl.load(group_pdf + group, mask=inside, other=0).to(tl.int64)
    to = d_emissions + n.to(tl.int64) * e_n + t * e_t + column * e_p
    tl.store(to, total.to(d_emissions.dtype.element_ty), mask=inside)
