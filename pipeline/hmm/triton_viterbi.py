"""Triton kernels of the CUDA backend: best paths, one program per utterance."""

from __future__ import annotations

from pipeline.hmm.triton_kernels import DEAD, NEG, arc_score, jit, proper, tl


@jit
def best_arc(
    row, begin, degree, most, other, weight, tid, scores, SCORED: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr
):
    """Best score over the arcs into each state, and the arc, the first of equals."""
    best = tl.full((BLOCK,), NEG, DT)
    chosen = tl.full((BLOCK,), -1, tl.int32)
    for k in range(0, most):
        x = arc_score(begin + k, k < degree, row, other, weight, tid, scores, SCORED, DT)
        better = (x > best) & (k < degree)
        chosen = tl.where(better, begin + k, chosen)
        best = tl.where(better, x, best)
    return best, chosen


@jit
def viterbi(
    emissions, e_n, e_t, e_p, transitions, r_n, r_t, lengths, cell_at,
    splits, pdf, ends, begin, degree, most, other, weight, tid, num_states,
    ring, backpointer, last, log_best,
    SCORED: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The arc taken into every state and frame, the best last state (N,), its score (N,) float64."""
    n = tl.program_id(0)
    frames, first = tl.load(lengths + n), tl.load(splits + n)
    size, many = tl.load(splits + n + 1) - first, tl.load(most + n)
    ring += first
    emissions += n.to(tl.int64) * e_n
    transitions += n.to(tl.int64) * r_n
    cell = tl.load(cell_at + n)
    total = tl.full((), 0.0, tl.float64)
    offset = tl.full((), 0.0, DT)
    for i in range(0, frames):
        t = tl.full((), 0, tl.int64) + i
        prev, cur = ring + (i + 1) % 2 * num_states, ring + i % 2 * num_states
        frame, scores = emissions + t * e_t, transitions + t * r_t
        best = tl.full((), NEG, DT)
        for low in range(0, size, BLOCK):
            s = low + tl.arange(0, BLOCK)
            inside = s < size
            column = tl.load(pdf + first + s, mask=inside, other=0).to(tl.int64)
            emit = proper(tl.load(frame + column * e_p, mask=inside, other=0.0).to(DT))
            chosen = tl.full((BLOCK,), -1, tl.int32)
            if i == 0:
                x = tl.maximum(tl.load(ends + first + s, mask=inside, other=NEG).to(DT), NEG)
            else:
                a, has = (
                    tl.load(begin + first + s, mask=inside, other=0),
                    tl.load(degree + first + s, mask=inside, other=0),
                )
                x, chosen = best_arc(prev, a, has, many, other, weight, tid, scores, SCORED, DT, BLOCK)
            x = tl.where(inside, tl.maximum(x + emit - offset, NEG), NEG)
            tl.store(cur + s, x, mask=inside)
            tl.store(backpointer + cell + t * size + s, chosen, mask=inside)
            best = tl.maximum(best, tl.max(x, axis=0))
        total += offset.to(tl.float64)
        offset = tl.where(best > DEAD, best, 0.0)
        tl.debug_barrier()
    top = tl.full((), NEG, DT)
    state = tl.full((), 0, tl.int32)
    row = ring + (frames + 1) % 2 * num_states
    for low in range(0, tl.where(frames > 0, size, 0), BLOCK):
        s = low + tl.arange(0, BLOCK)
        inside = s < size
        x = tl.load(row + s, mask=inside, other=NEG)
        x += tl.maximum(tl.load(ends + num_states + first + s, mask=inside, other=NEG).to(DT), NEG)
        x = tl.where(inside, x, NEG)
        here = tl.max(x, axis=0)
        state = tl.where(here > top, low + tl.argmax(x, axis=0), state)
        top = tl.maximum(top, here)
    tl.store(last + n, state)
    tl.store(log_best + n, tl.where(top > DEAD, top.to(tl.float64) + total, float("-inf")))


@jit
def trace(lengths, cell_at, splits, other, backpointer, last, log_best, states, arcs, stride):
    """Follow the arcs from the last frame to the first."""
    n = tl.program_id(0)
    frames = tl.where(tl.load(log_best + n) > DEAD, tl.load(lengths + n), 0)
    size = tl.load(splits + n + 1) - tl.load(splits + n)
    cell, to = tl.load(cell_at + n), n.to(tl.int64) * stride
    state = tl.load(last + n)
    for i in range(0, frames):
        t = frames - 1 - i
        arc = tl.load(backpointer + cell + t.to(tl.int64) * size + state)
        tl.store(states + to + t, state.to(tl.int64))
        tl.store(arcs + to + t, arc.to(tl.int64))
        state = tl.load(other + tl.maximum(arc, 0))
