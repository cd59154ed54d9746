"""Word lattices: every word sequence of a lattice once, with the scores of its best path.

cf. Kaldi's determinize-lattice-pruned (Povey et al. 2012, Generating exact lattices in the WFST framework): subsets of
states with what each is behind the best; here without the state sequences. The most probable subsets are taken first,
so that a limit of size cuts off what is least probable.
"""

from __future__ import annotations

import heapq

import numpy as np

from pipeline.artifacts.lattice import Lattice
from pipeline.graph.lattice_paths import best_to_end, on_paths
from pipeline.graph.lattices import arc_scores
from pipeline.hmm.numba_cache import cached_njit

STEP = 1024.0  # differences of scores are compared in steps of 1 / STEP
MOST_STATES = 10_000
TO_END = -1  # in place of a word


def word_lattice(
    lattice: Lattice,
    lm_weight: float,
    word_penalty: float = 0.0,
    beam: float = np.inf,
    max_states: int | None = None,
) -> Lattice:
    """The word sequences of a lattice, each on one path; pdfs and transition-ids are gone.

    Args:
        lm_weight, word_penalty: which path of a word sequence is its best one, see ``arc_scores``.
        beam: sequences that are worse than the best one by more are left out, in units of these scores; a few may stay,
            on paths that need not be their best ones.
        max_states: subsets that are followed at most, the most probable ones first; the best sequence is among them if
            it has fewer words. None: MOST_STATES, and one more for each frame.
    Returns:
        A lattice whose states begin where they do on the best path to them, at the earliest.
    """
    plain = lattice.spelled()
    if not plain.num_arcs:
        return plain
    total = arc_scores(plain, lm_weight, word_penalty)
    most = MOST_STATES + plain.num_frames if max_states is None else max_states
    backward = best_to_end(plain.src, plain.dst, total, plain.num_states)
    splits = np.searchsorted(plain.src, np.arange(plain.num_states + 1))
    parts = np.stack([plain.acoustic, plain.graph, plain.lm], axis=1).astype(np.float64)
    src, dst, word, found, place = _determinise(
        splits, plain.dst, plain.label, total, parts, backward, min(beam, 1e300), most
    )
    return _ordered(plain, src, dst, word, found, plain.frame[place])


def _ordered(
    plain: Lattice, src: np.ndarray, dst: np.ndarray, word: np.ndarray, parts: np.ndarray, frame: np.ndarray
) -> Lattice:
    """The arrays as a lattice: states in the order of time, what is on no path left out."""
    end = len(frame)
    frame = np.append(frame, plain.frame[-1]).astype(np.int32)
    dst = np.where(word == TO_END, end, dst)
    rank = _rank(src[np.argsort(src, kind="stable")], dst[np.argsort(src, kind="stable")], frame)
    number = np.empty(end + 1, np.int64)
    order = np.lexsort((rank, frame))
    number[order] = np.arange(end + 1)
    src, dst, frame = number[src], number[dst], frame[order]
    arcs = np.lexsort((dst, src))
    new_src, new_dst, kept = on_paths(src[arcs], dst[arcs])
    if not len(kept):
        return Lattice.empty(plain.num_words)
    chosen = arcs[kept]
    begin = np.full(int(new_dst[-1]) + 1, frame[-1], np.int32)
    begin[new_src] = frame[src[chosen]]
    none = np.full(len(chosen), -1, np.int32)
    label = np.maximum(word[chosen], 0).astype(np.int32)
    columns = (np.ascontiguousarray(c) for c in parts[chosen].T.astype(np.float32))
    return Lattice.of([begin, new_src, new_dst, none, none, label, *columns], plain.num_words, (), plain.partial)


@cached_njit(nogil=True)
def _rank(src, dst, frame):
    """(S,) place of each state in an order that all arcs, sorted by source, keep to; makes frames rise along it."""
    states = len(frame)
    first, waiting, rank = np.zeros(states + 1, np.int64), np.zeros(states, np.int64), np.zeros(states, np.int64)
    for a in range(len(src)):
        first[src[a] + 1] += 1
        waiting[dst[a]] += 1
    first = np.cumsum(first)
    queue, end = np.empty(states, np.int64), 0
    for s in range(states):
        if waiting[s] == 0:
            queue[end] = s
            end += 1
    for at in range(states):
        s = queue[at]
        rank[s] = at
        for a in range(first[s], first[s + 1]):
            d = dst[a]
            frame[d] = max(frame[d], frame[s])
            waiting[d] -= 1
            if waiting[d] == 0:
                queue[end] = d
                end += 1
    return rank


@cached_njit(nogil=True)
def _determinise(splits, dst, word, total, parts, backward, beam, max_states):
    """Subsets of states that the same words reach, best first.

    Args:
        splits, dst: arcs out of state s are splits[s]:splits[s + 1].
        word: (A,) 0 for none; total: (A,) float64; parts: (A, K) float64.
        backward: (S,) float64 best total from each state to the end.
    Returns:
        Source and destination subset, word (TO_END for none) and parts of the arcs; of each subset its best state.
    """
    last, width = len(splits) - 2, parts.shape[1]
    value, behind = np.full(last + 1, -np.inf), np.zeros((last + 1, width))
    # Members of subset x lie at first[x]:first[x + 1]: states, totals and parts, less those of the best of them.
    first, state, rest = [0, 1], [0], [0.0]
    rest_parts = [np.zeros(width)]
    forward, gone, known = [0.0], [False], {np.int64(0): np.int64(0)}
    out_src, out_dst, out_word, out_parts, place = [0], [0], [0], [np.zeros(width)], [0]
    heap, done = [(-backward[0], 0)], 0
    taken = np.zeros(len(dst), np.int64)
    while len(heap) and done < max_states:
        _, x = heapq.heappop(heap)
        if gone[x]:  # it was put in twice, the second time with a better path to it
            continue
        gone[x] = True
        done += 1
        least = backward[0] - beam - forward[x]
        low, high = last, 0
        for i in range(first[x], first[x + 1]):
            value[state[i]], behind[state[i]] = rest[i], rest_parts[i]
            low, high = min(low, state[i]), max(high, state[i])
        # What the words of this subset reach without a further word.
        count, s = 0, low
        while s <= high:
            if value[s] > -np.inf:
                for a in range(splits[s], splits[s + 1]):
                    d, v = dst[a], value[s] + total[a]
                    if v + backward[d] < least:
                        continue
                    if word[a] > 0:
                        taken[count] = a
                        count += 1
                    elif v > value[d]:
                        value[d], behind[d] = v, behind[s] + parts[a]
                        high = max(high, d)
            s += 1
        if value[last] > -np.inf:
            out_src.append(x)
            out_dst.append(0)
            out_word.append(TO_END)
            out_parts.append(behind[last].copy())
        _leave(
            x, taken[:count], splits, dst, word, total, parts, backward, value, behind,
            first, state, rest, rest_parts, forward, gone, known, place, heap, out_src, out_dst, out_word, out_parts,
        )  # fmt: skip
        value[low : high + 1] = -np.inf
    columns = np.empty((len(out_src) - 1, width))
    for i in range(len(columns)):
        columns[i] = out_parts[i + 1]
    return np.array(out_src[1:]), np.array(out_dst[1:]), np.array(out_word[1:]), columns, np.array(place)


@cached_njit(nogil=True)
def _leave(
    x, taken, splits, dst, word, total, parts, backward, value, behind,
    first, state, rest, rest_parts, forward, gone, known, place, heap, out_src, out_dst, out_word, out_parts,
):  # fmt: skip
    """Add the arcs out of subset x, one for each word, and the subsets that they lead to."""
    source = np.empty(len(taken), np.int64)
    for i in range(len(taken)):
        source[i] = np.searchsorted(splits, taken[i], side="right") - 1
    order = np.argsort(word[taken] * np.int64(len(splits)) + dst[taken], kind="mergesort")
    begin = 0
    while begin < len(order):
        label, end, best, top = word[taken[order[begin]]], begin, -np.inf, 0
        while end < len(order) and word[taken[order[end]]] == label:
            v = value[source[order[end]]] + total[taken[order[end]]]
            if v > best:
                best, top = v, order[end]
            end += 1
        lead = behind[source[top]] + parts[taken[top]]
        size, ahead = 0, -np.inf
        for j in range(begin, end):
            i = order[j]
            a, v = taken[i], value[source[i]] + total[taken[i]] - best
            ahead = max(ahead, v + backward[dst[a]])
            own = behind[source[i]] + parts[a] - lead
            if size > 0 and state[-1] == dst[a]:
                if v > rest[-1]:
                    rest[-1], rest_parts[-1] = v, own
            else:
                state.append(dst[a])
                rest.append(v)
                rest_parts.append(own)
                size += 1
        y = _number(state, rest, size, first, known)
        reach = forward[x] + best
        if y == len(forward):  # a new one
            first.append(len(state))
            forward.append(reach)
            gone.append(False)
            place.append(dst[taken[top]])
            heapq.heappush(heap, (-(reach + ahead), y))
        else:
            for _ in range(size):
                state.pop()
                rest.pop()
                rest_parts.pop()
            if reach > forward[y] and not gone[y]:
                forward[y] = reach
                heapq.heappush(heap, (-(reach + ahead), y))
        out_src.append(x)
        out_dst.append(y)
        out_word.append(label)
        out_parts.append(lead)
        begin = end


@cached_njit(nogil=True)
def _number(state, rest, size, first, known):
    """The subset that the last `size` members are, or the next free number for a new one."""
    end = len(state)
    key = np.int64(size)
    for i in range(end - size, end):
        key = key * np.int64(1000003) + np.int64(state[i]) * np.int64(7919) + np.int64(np.rint(rest[i] * STEP))
    while key in known:
        y = known[key]
        if first[y + 1] - first[y] == size:
            same = True
            for i in range(size):
                one, other = first[y] + i, end - size + i
                same = same and state[one] == state[other] and abs(rest[one] - rest[other]) <= 1.0 / STEP
            if same:
                return y
        key += 1
    known[key] = np.int64(len(first) - 1)
    return known[key]
