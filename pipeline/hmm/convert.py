"""Constructors of `Graphs`: arc-emitting automata, left-to-right chains, CTC topologies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from pipeline.base.errors import DataError
from pipeline.hmm.graphs import NEG_INF, Graphs, bounds


def from_arcs(
    src: npt.ArrayLike,
    dst: npt.ArrayLike,
    pdf: npt.ArrayLike,
    tid: npt.ArrayLike,
    weight: npt.ArrayLike,
    starts: Sequence[tuple[int, float]],
    finals: Sequence[tuple[int, float] | tuple[int, float, int]],
    num_pdfs: int | None = None,
    num_tids: int | None = None,
) -> Graphs:
    """One graph from an epsilon-free automaton whose arcs emit.

    Each automaton state is split by the pdf of the arcs that enter it, which makes the states emit. The split states
    keep the order of (automaton state, pdf), so number the automaton in time order. The arc that leaves a start
    state becomes the start of a path: its weight counts, its transition-id does not.

    Args:
        src, dst: (A,) automaton states joined by each arc.
        pdf: (A,) pdf-id emitted on the arc.
        tid: (A,) transition-id that scores the arc, -1 for none.
        weight: (A,) natural-log weights.
        starts: (state, weight) pairs.
        finals: (state, weight) pairs or (state, weight, tid of leaving there).
        num_pdfs, num_tids: default to one more than the largest id.
    Returns:
        A batch of one graph.
    """
    src, dst, pdf, tid = (np.asarray(x, dtype=np.int64).reshape(-1) for x in (src, dst, pdf, tid))
    weight = np.asarray(weight, dtype=np.float32).reshape(-1)
    if not len(src) == len(dst) == len(pdf) == len(tid) == len(weight):
        raise DataError(f"arcs: {len(src)} src, {len(dst)} dst, {len(pdf)} pdf, {len(tid)} tid, {len(weight)} weight")
    if len(src) == 0 or min(src.min(), dst.min(), pdf.min()) < 0:
        raise DataError("arcs: none, or a negative state or pdf-id (an epsilon arc?)")
    width = int(pdf.max()) + 1
    keys, node_of_arc = np.unique(dst * width + pdf, return_inverse=True)
    start_node, start_weight = _start_nodes(src, node_of_arc.reshape(-1), weight, starts)
    # Two arcs that start the same node must stay two paths (max, not sum, in Viterbi), so each repeat gets a copy.
    copies = np.unique(start_node, return_index=True)[1]
    is_copy = np.ones(len(start_node), dtype=bool)
    is_copy[copies] = False
    node_key = np.concatenate([keys, keys[start_node[is_copy]]])
    order = np.argsort(node_key, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    node_start = np.full(len(node_key), NEG_INF, dtype=np.float32)
    node_start[start_node[~is_copy]] = start_weight[~is_copy]
    node_start[len(keys) :] = start_weight[is_copy]
    node_state = node_key // width
    final_weight, final_tid = _finals(node_state, finals)
    arc, node_src = _match(node_state, src)
    arc_dst = rank[node_of_arc.reshape(-1)[arc]]
    return build(
        pdf=(node_key % width)[order],
        src=rank[node_src],
        dst=arc_dst,
        tid=tid[arc],
        weight=weight[arc],
        start_weight=node_start[order],
        final_weight=final_weight[order],
        final_tid=final_tid[order],
        state_splits=np.array([0, len(node_key)]),
        num_pdfs=width if num_pdfs is None else num_pdfs,
        num_tids=int(max(tid.max(), final_tid.max())) + 1 if num_tids is None else num_tids,
    ).validate("arcs")


def _start_nodes(
    src: NDArray[Any], node_of_arc: NDArray[Any], weight: NDArray[Any], starts: Sequence[tuple[int, float]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Node and weight of every way to take the first arc."""
    nodes, weights = [], []
    for state, start in starts:
        arcs = np.flatnonzero(src == state)
        nodes.append(node_of_arc[arcs])
        weights.append(weight[arcs] + np.float32(start))
    if not nodes or sum(len(n) for n in nodes) == 0:
        raise DataError("arcs: no arc leaves a start state")
    return np.concatenate(nodes), np.concatenate(weights)


def _finals(
    node_state: NDArray[Any], finals: Sequence[tuple[int, float] | tuple[int, float, int]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Final weight and final transition-id of every node."""
    weight = np.full(len(node_state), NEG_INF, dtype=np.float32)
    tid = np.full(len(node_state), -1, dtype=np.int64)
    seen = set()
    label: list[int]
    for state, value, *label in finals:
        if state in seen:
            raise DataError(f"arcs: state {state} is final twice")
        seen.add(state)
        weight[node_state == state] = value
        tid[node_state == state] = label[0] if label else -1
    return weight, tid


def _match(node_state: NDArray[Any], src: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """All pairs (arc, node) where the arc leaves the automaton state of the node."""
    by_state = np.argsort(node_state, kind="stable")
    ordered = node_state[by_state]
    low, high = np.searchsorted(ordered, src, "left"), np.searchsorted(ordered, src, "right")
    count = high - low
    arc = np.repeat(np.arange(len(src)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return arc, by_state[np.repeat(low, count) + within]


def build(
    *,
    pdf: NDArray[Any],
    src: NDArray[Any],
    dst: NDArray[Any],
    tid: NDArray[Any],
    weight: NDArray[Any],
    start_weight: NDArray[Any],
    final_weight: NDArray[Any],
    final_tid: NDArray[Any],
    state_splits: NDArray[Any],
    num_pdfs: int,
    num_tids: int,
) -> Graphs:
    """`Graphs` from arcs in any order.

    Args:
        src, dst: (A,) states counted over the batch; the other arguments as the fields of `Graphs`.
    Returns:
        The graphs; arcs into a state are ordered loop, s - 1, s - 2, ... whatever the order here, so that equal Viterbi
        scores of a backend always resolve alike.
    """
    num_states = len(pdf)
    order = np.lexsort(((dst - src) % max(num_states, 1), dst))
    counts = np.bincount(dst, minlength=num_states)
    offset = np.repeat(state_splits[:-1], np.diff(state_splits))
    arrays = dict(
        state_pdf=pdf,
        state_splits=bounds(np.diff(state_splits)),
        arc_splits=bounds(counts),
        arc_src=(src - offset[src])[order] if len(src) else src,
        arc_tid=tid[order],
        final_tid=final_tid,
    )
    weights = dict(arc_weight=weight[order], start_weight=start_weight, final_weight=final_weight)
    return Graphs(
        **{k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.int32)) for k, v in arrays.items()},
        **{k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for k, v in weights.items()},
        num_pdfs=num_pdfs,
        num_tids=num_tids,
    )


def _flat(seqs: Sequence[npt.ArrayLike], what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Concatenated values and the splits of the sequences."""
    arrays = [np.asarray(s, dtype=np.int64).reshape(-1) for s in seqs]
    if not arrays:
        raise DataError(f"{what}: no sequence")
    return np.concatenate(arrays), np.concatenate([[0], np.cumsum([len(a) for a in arrays])])


def linear(
    pdf_seqs: Sequence[npt.ArrayLike],
    loop_tids: Sequence[npt.ArrayLike] | None = None,
    forward_tids: Sequence[npt.ArrayLike] | None = None,
    num_pdfs: int | None = None,
    num_tids: int | None = None,
) -> Graphs:
    """Left-to-right chains: state s is entered from itself and from s - 1.

    Args:
        pdf_seqs: per graph the pdf-ids of its states, in order.
        loop_tids: same shape, transition-id of the self-loop of each state.
        forward_tids: same shape, transition-id of leaving each state forwards (also its final_tid).
        num_pdfs, num_tids: default to one more than the largest id.
    Returns:
        One graph per sequence.
    """
    pdf, splits = _flat(pdf_seqs, "linear")
    none = np.full(len(pdf), -1)
    loop = none if loop_tids is None else _flat(loop_tids, "linear")[0]
    forward = none if forward_tids is None else _flat(forward_tids, "linear")[0]
    if not len(loop) == len(forward) == len(pdf) or (np.diff(splits) == 0).any():
        raise DataError("linear: an empty sequence, or transition-ids that do not match the pdf-ids")
    states = np.arange(len(pdf))
    inner = np.setdiff1d(states, splits[:-1])
    start, final = np.full((2, len(pdf)), NEG_INF, dtype=np.float32)
    start[splits[:-1]] = 0
    final[splits[1:] - 1] = 0
    return build(
        pdf=pdf,
        src=np.concatenate([states, inner - 1]),
        dst=np.concatenate([states, inner]),
        tid=np.concatenate([loop, forward[inner - 1]]),
        weight=np.zeros(len(states) + len(inner), dtype=np.float32),
        start_weight=start,
        final_weight=final,
        final_tid=forward,
        state_splits=splits,
        num_pdfs=int(pdf.max()) + 1 if num_pdfs is None else num_pdfs,
        num_tids=int(max(loop.max(), forward.max())) + 1 if num_tids is None else num_tids,
    ).validate("linear")


def ctc(labels: Sequence[Sequence[int]], blank: int = 0, num_pdfs: int | None = None) -> Graphs:
    """CTC topologies: optional blanks between labels, at least one between equal labels.

    Graves et al. 2006; the full sum over this graph is -torch.nn.functional.ctc_loss(reduction="none").

    Args:
        labels: per graph its label sequence (may be empty).
        blank: id of the blank.
        num_pdfs: number of labels with blank; defaults to one more than the largest id.
    Returns:
        One graph of 2 U + 1 states per sequence.
    """
    flat, label_splits = _flat(labels, "ctc")
    if (flat == blank).any():
        raise DataError(f"ctc: a label equals the blank, {blank}")
    splits = 2 * label_splits + np.arange(len(label_splits))
    pdf = np.full(splits[-1], blank, dtype=np.int64)
    graph = np.repeat(np.arange(len(labels)), np.diff(label_splits))
    label_state = 2 * np.arange(len(flat)) + graph + 1
    pdf[label_state] = flat
    states = np.arange(len(pdf))
    inner = np.setdiff1d(states, splits[:-1])
    skip = label_state[np.isin(label_state, splits[:-1] + 1, invert=True)]
    skip = skip[pdf[skip] != pdf[skip - 2]]
    start, final = np.full((2, len(pdf)), NEG_INF, dtype=np.float32)
    has_label = np.diff(splits) > 1
    start[splits[:-1]] = 0
    start[splits[:-1][has_label] + 1] = 0
    final[splits[1:] - 1] = 0
    final[splits[1:][has_label] - 2] = 0
    none = np.full(len(states) + len(inner) + len(skip), -1)
    return build(
        pdf=pdf,
        src=np.concatenate([states, inner - 1, skip - 2]),
        dst=np.concatenate([states, inner, skip]),
        tid=none,
        weight=np.zeros(len(none), dtype=np.float32),
        start_weight=start,
        final_weight=final,
        final_tid=none[: len(pdf)],
        state_splits=splits,
        num_pdfs=int(max(pdf.max(), blank)) + 1 if num_pdfs is None else num_pdfs,
        num_tids=0,
    ).validate("ctc")
