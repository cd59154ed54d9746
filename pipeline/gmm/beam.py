"""Viterbi search with a beam that scores mixtures on demand, compiled: alignment of training data on the CPU.

Near the best path a frame has a dozen live states, while its utterance's graph has a hundred pdfs or more. So only the
pdfs that a live state needs in a frame are scored. cf. Kaldi gmm-align-compiled, which also prunes relative to the best
state of the frame and repeats failed utterances with a wider beam.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Sequence

import numba
import numpy as np
import torch

from pipeline.gmm.diag import Evaluator
from pipeline.gmm.kernel import FAR, FLAGS, LOWEST, Mixtures, mixture, mixtures_of
from pipeline.gmm.parallel import share_out
from pipeline.hmm.graphs import Graphs

DEAD = -1e60


class Net(NamedTuple):
    """Graphs as the search reads them: state s of utterance n is splits[n] + s, its incoming arcs lie side by side.

    `low` and `high` (S,) are the first and last state that an arc out of the state reaches, within the utterance.
    """

    splits: np.ndarray
    pdf: np.ndarray
    start: np.ndarray
    final: np.ndarray
    final_tid: np.ndarray
    arc_splits: np.ndarray
    arc_src: np.ndarray
    arc_tid: np.ndarray
    arc_weight: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Scratch(NamedTuple):
    """Memory of one thread: two rows of states, back-pointers, and the pdfs scored last with the frame that it was for."""

    rows: np.ndarray
    back: np.ndarray
    x: np.ndarray
    x2: np.ndarray
    terms: np.ndarray
    known: np.ndarray
    known_at: np.ndarray


class Found(NamedTuple):
    """Best paths.

    Args:
        tids, states: (sum of T,) int32, transition-ids, and states counted within each graph; -1 without a path.
        scores: (N,) float64 natural-log scores, -inf without a path.
        tries: (N,) int64 searches that it took.
    """

    tids: np.ndarray
    states: np.ndarray
    scores: np.ndarray
    tries: np.ndarray


def scratch_for(net: Net, mixtures: Mixtures, lengths: np.ndarray) -> Scratch:
    """Scratch that suffices for all utterances, (N,) `lengths` frames each."""
    sizes = np.diff(net.splits)
    num_pdfs, wide = len(mixtures.offsets) - 1, mixtures.linear.shape[1]
    return Scratch(np.empty((2, int(sizes.max(initial=1)))), np.empty(int((sizes * lengths).max(initial=1)), dtype=np.int32),
                   np.zeros(wide, np.float32), np.zeros(wide, np.float32),
                   np.empty(int(np.diff(mixtures.offsets).max()), np.float32), np.empty(num_pdfs, np.float32),
                   np.full(num_pdfs, -1, np.int64))


def beams(first: float) -> tuple[float, ...]:
    """The beams that are tried one after the other: the last search is exact, so only scores without any path fail."""
    return (first, 4 * first, math.inf) if math.isfinite(first) else (math.inf,)


def net_of(graphs: Graphs, chosen: Optional[np.ndarray] = None, num_utterances: int = 0) -> Net:
    """The graphs of all utterances for the search.

    Args:
        chosen: ascending utterances that the graphs are of, out of `num_utterances`; None: all.
    """
    g = graphs.numpy()
    splits = g["state_splits"].astype(np.int64)
    dst = np.repeat(np.arange(graphs.num_states), np.diff(g["arc_splits"]))
    first = np.repeat(splits[:-1], np.diff(splits))  # of each state
    src = g["arc_src"] + first[dst]
    low = np.full(graphs.num_states, np.iinfo(np.int32).max, dtype=np.int32)
    high = np.full(graphs.num_states, -1, dtype=np.int32)
    np.minimum.at(low, src, (dst - first[dst]).astype(np.int32))
    np.maximum.at(high, src, (dst - first[dst]).astype(np.int32))
    if chosen is not None:
        sizes = np.zeros(num_utterances, dtype=np.int64)
        sizes[chosen] = np.diff(splits)
        splits = np.concatenate([[0], np.cumsum(sizes)])
    return Net(splits, g["state_pdf"], g["start_weight"], g["final_weight"], g["final_tid"], g["arc_splits"], g["arc_src"],
               g["arc_tid"], g["arc_weight"], low, high)


@numba.njit(nogil=True, cache=True, fastmath=FLAGS)
def search_one(n, feats, begin, num_frames, net, arc_score, mixtures, beam, back, scratch, tids, states):
    """Best path of utterance n as transition-ids and states (num_frames,); returns its log-likelihood, DEAD when no path survives.

    Args:
        feats: (T, F) float32 features of all utterances, those of this one from row `begin` on.
        arc_score: (A,) float64, weight and transition score of each arc.
        back: (num_frames, S) int32 scratch: the arc taken into each state.
        scratch: of one thread, see Scratch.
    """
    first = net.splits[n]
    size = net.splits[n + 1] - first
    x, x2, terms, known, known_at = scratch.x, scratch.x2, scratch.terms, scratch.known, scratch.known_at
    prev, cur = scratch.rows[0, :size], scratch.rows[1, :size]
    prev[:] = DEAD
    cur[:] = DEAD
    low, high, prev_low, prev_high = 0, size - 1, 0, -1
    for t in range(num_frames):
        for i in range(feats.shape[1]):
            x[i] = min(max(feats[begin + t, i], -FAR), FAR)
            x2[i] = x[i] * x[i]
        best = DEAD
        for s in range(low, high + 1):
            top, arc = DEAD, -1
            if t == 0:
                if net.start[first + s] > LOWEST:
                    top = np.float64(net.start[first + s])
            else:
                for a in range(net.arc_splits[first + s], net.arc_splits[first + s + 1]):
                    value = prev[net.arc_src[a]] + arc_score[a]
                    if value > top:
                        top, arc = value, a
            if top > DEAD:
                pdf = net.pdf[first + s]
                if known_at[pdf] != begin + t:
                    known_at[pdf] = begin + t
                    known[pdf] = mixture(x, x2, mixtures, pdf, terms)
                top += known[pdf]
                best = max(best, top)
            cur[s] = top
            back[t, s] = arc
        if best <= DEAD:
            return DEAD
        prev[prev_low : prev_high + 1] = DEAD  # so that the row is dead outside the range written next
        prev, cur, prev_low, prev_high = cur, prev, low, high
        floor = best - beam
        low, high = size, -1
        for s in range(prev_low, prev_high + 1):
            if prev[s] < floor:
                prev[s] = DEAD
            elif net.high[first + s] >= 0:
                low = min(low, net.low[first + s])
                high = max(high, net.high[first + s])
    best, chosen = DEAD, -1
    for s in range(prev_low, prev_high + 1):
        if prev[s] > DEAD and net.final[first + s] > LOWEST and prev[s] + net.final[first + s] > best:
            best, chosen = prev[s] + net.final[first + s], s
    if chosen < 0:
        return DEAD
    tids[num_frames - 1], states[num_frames - 1] = net.final_tid[first + chosen], chosen
    for t in range(num_frames - 1, 0, -1):
        arc = back[t, chosen]
        chosen = net.arc_src[arc]
        tids[t - 1], states[t - 1] = net.arc_tid[arc], chosen
    return best


@numba.njit(nogil=True, cache=True)
def search_tasks(tasks, feats, offsets, net, arc_score, mixtures, beams, scratch, found):
    """Search the utterances `tasks`, each with the first beam and, where that finds no path, with the next ones."""
    for n in tasks:
        begin, num_frames = offsets[n], offsets[n + 1] - offsets[n]
        size = net.splits[n + 1] - net.splits[n]
        back = scratch.back[: num_frames * size].reshape(num_frames, size)
        for beam in beams:
            found.tries[n] += 1
            tids, states = found.tids[begin : begin + num_frames], found.states[begin : begin + num_frames]
            found.scores[n] = search_one(n, feats, begin, num_frames, net, arc_score, mixtures, beam, back, scratch, tids, states)
            if found.scores[n] > DEAD:
                break


def search(net: Net, evaluator: Evaluator, feats: torch.Tensor, offsets: np.ndarray, transitions: np.ndarray,
           beams: Sequence[float], usable: np.ndarray) -> Found:
    """Best paths of all utterances.

    Args:
        evaluator: the mixtures, on the CPU.
        feats: (sum of T, F) float32 features that they score.
        offsets: (N + 1,) rows of the utterances.
        transitions: (n_tid,) natural-log probabilities.
        beams: in natural logs; each but the first is for the utterances that found no path with the one before.
        usable: utterances to search; the others, and those whose features are not all numbers, keep score -inf.
    """
    mixtures, lengths = mixtures_of(evaluator), np.diff(offsets)
    tid_score = np.append(np.asarray(transitions, dtype=np.float64), 0.0)  # the last one for arcs without transition-id
    arc_score = net.arc_weight + tid_score[net.arc_tid]
    found = Found(np.full(len(feats), -1, np.int32), np.full(len(feats), -1, np.int32), np.full(len(lengths), DEAD),
                  np.zeros(len(lengths), np.int64))
    if not math.isfinite(float(feats.sum())):
        broken = ~torch.isfinite(feats).all(1).numpy()
        usable = usable[[not broken[b:e].any() for b, e in zip(offsets[usable], offsets[usable + 1])]]
    array, offsets, beams = feats.contiguous().numpy(), np.asarray(offsets, np.int64), np.array(beams, dtype=np.float64)

    def work(tasks: np.ndarray) -> None:
        scratch = scratch_for(net, mixtures, lengths)
        search_tasks(tasks, array, offsets, net, arc_score, mixtures, beams, scratch, found)

    work(usable[:0])  # compiles, before threads would do so at the same time
    share_out(work, usable, (lengths * np.diff(net.splits))[usable])
    found.scores[found.scores <= DEAD] = -np.inf
    return found
