"""H: phones in context become HMM-states whose emissions lie on the arcs that leave them, so no epsilon is left.

An arc c --window--> d of the context graph becomes, for a phone of three states (loop and forward of state i in
brackets)::

    c -pdf0[loop0]-> a0    c -pdf0[forward0]-> a1
    a0 -pdf0[loop0]-> a0   a0 -pdf0[forward0]-> a1
    a1 -pdf1[loop1]-> a1   a1 -pdf1[forward1]-> a2
    a2 -pdf2[loop2]-> a2   a2 -pdf2[forward2]-> d

The chain a0, a1, a2 is shared by all arcs with the same d and the same HMM; word and weight lie on the two arcs that
enter it. Arcs without emission are then removed by letting whatever enters their source enter their destination too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.topo import Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError
from pipeline.graph.context import ContextGraph

COLUMNS = ("src", "dst", "pdf", "tid", "word", "lm", "lex")  # the arrays of EmittingArcs


@dataclass(frozen=True)
class EmittingArcs:
    """Arcs of a graph without epsilons.

    Attributes:
        src, dst: (A,) int64 states.
        pdf: (A,) int64, -1 on the arcs into the superfinal state.
        tid: (A,) int64 transition-id of the arc, -1 for none (cf. the convention in DESIGN.md: leaving the last state
            of an utterance is not scored).
        word: (A,) int64 word id; ids from the size of the word table on stand for word_sequences.
        lm, lex: (A,) float64.
        start, final: states; final is the superfinal state.
        num_states: S.
        word_sequences: meaning of the additional word ids; only the first arc of an utterance can have one.
    """

    src: np.ndarray
    dst: np.ndarray
    pdf: np.ndarray
    tid: np.ndarray
    word: np.ndarray
    lm: np.ndarray
    lex: np.ndarray
    start: int
    final: int
    num_states: int
    word_sequences: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Hmms:
    """The distinct HMMs of a set of context windows; arrays padded with -1 to the longest HMM."""

    of_window: np.ndarray  # (W,)
    pdf: np.ndarray  # (H, K)
    transition_state: np.ndarray  # (H, K)
    length: np.ndarray  # (H,)


def expand_hmm(
    graph: ContextGraph, tree: Tree, topo: Topo, transitions: TransitionModel, num_words: int
) -> EmittingArcs:
    """Expands context windows to HMM-states and removes all arcs that emit nothing.

    Args:
        num_words: size of the word table; further ids are made for word sequences.
    """
    if graph.final < 0:
        raise DataError("no path leads through the graph")
    hmms = _hmms(graph.windows, tree, topo, transitions)
    emits = graph.window >= 0
    arcs, num_states = _expand(graph, emits, hmms)
    silent = tuple(c[~emits] for c in (graph.src, graph.dst, graph.word, graph.lm, graph.lex))
    arcs, num_states = _bypass_silent(arcs, silent, num_states)
    start, final = num_states, num_states + 1
    starts, sequences = _start_arcs(arcs, silent, graph.start, start, num_words)
    # Nothing enters the old start but epsilons, so its copies of arcs are the only ones in use.
    end = tuple(np.array([x]) for x in (graph.final, final, -1, -1, 0)) + (np.zeros(1), np.zeros(1))
    columns = [np.concatenate(c) for c in zip(arcs, starts, end)]
    columns[3] = np.where(columns[1] == graph.final, -1, columns[3])
    return EmittingArcs(
        **dict(zip(COLUMNS, columns)), start=start, final=final, num_states=num_states + 2, word_sequences=sequences
    )


def _hmms(windows: np.ndarray, tree: Tree, topo: Topo, transitions: TransitionModel) -> _Hmms:
    phone = windows[:, tree.left]
    length = transitions.num_states_of[phone].astype(np.int64)
    most = int(length.max(initial=1))
    classes = np.full((len(tree.phones), most), -1, dtype=np.int64)
    for name, phone_topo in topo.phones.items():
        row = phone_topo.pdf_classes[:most]
        classes[tree.phones.id(name), : len(row)] = row
    ts = np.full((len(windows), most), -1, dtype=np.int64)
    for k in range(most):
        has = np.nonzero(length > k)[0]
        pdf = tree.lookup(windows[has], classes[phone[has], k])
        ts[has, k] = transitions.transition_states(phone[has], np.full(len(has), k), pdf)
    unique, of_window = np.unique(ts, axis=0, return_inverse=True)
    pdf = np.where(unique >= 0, transitions.pdf[unique], -1)
    return _Hmms(of_window.reshape(-1), pdf, unique, (unique >= 0).sum(1))


def _expand(graph: ContextGraph, emits: np.ndarray, hmms: _Hmms) -> tuple[tuple[np.ndarray, ...], int]:
    """Chains for all emitting arcs: columns (src, dst, pdf, tid, word, lm, lex) and the number of states."""
    src, dst, word, lm, lex = (c[emits] for c in (graph.src, graph.dst, graph.word, graph.lm, graph.lex))
    hmm = hmms.of_window[graph.window[emits]]
    chains, chain = np.unique(dst * len(hmms.length) + hmm, return_inverse=True)
    chain_dst, chain_hmm = np.divmod(chains, len(hmms.length))
    length = hmms.length[chain_hmm]
    first = graph.num_states + np.cumsum(length) - length
    follower = np.where(length > 1, first + 1, chain_dst)  # of a chain's first state
    pdf, loop = hmms.pdf[hmm, 0], 2 * hmms.transition_state[hmm, 0]
    parts = [(src, first[chain], pdf, loop, word, lm, lex), (src, follower[chain], pdf, loop + 1, word, lm, lex)]
    owner = np.repeat(np.arange(len(chains)), length)
    k = np.arange(len(owner)) - np.repeat(np.cumsum(length) - length, length)
    state = first[owner] + k
    after = np.where(k + 1 == length[owner], chain_dst[owner], state + 1)
    pdf, loop = hmms.pdf[chain_hmm[owner], k], 2 * hmms.transition_state[chain_hmm[owner], k]
    none, zero = np.zeros(len(state), dtype=np.int64), np.zeros(len(state))
    parts += [(state, state, pdf, loop, none, zero, zero), (state, after, pdf, loop + 1, none, zero, zero)]
    return tuple(np.concatenate(c) for c in zip(*parts)), graph.num_states + len(state)


def _bypass_silent(
    arcs: tuple[np.ndarray, ...], silent: tuple[np.ndarray, ...], num_states: int
) -> tuple[tuple[np.ndarray, ...], int]:
    """Adds to every arc into a state copies into all states that silent arcs reach from there."""
    src, dst, _, lm, lex = silent
    out = _Index(src, num_states)
    closure = [(src, dst, lm, lex)]
    while len(closure[-1][0]):
        origin, at, so_far_lm, so_far_lex = closure[-1]
        row, step = out.arcs(at)
        closure.append((origin[row], dst[step], so_far_lm[row] + lm[step], so_far_lex[row] + lex[step]))
    origin, reached, far_lm, far_lex = (np.concatenate(c) for c in zip(*closure))
    row, step = _Index(origin, num_states).arcs(arcs[1])
    copies = tuple(c[row] for c in arcs)
    copies = (copies[0], reached[step], *copies[2:5], copies[5] + far_lm[step], copies[6] + far_lex[step])
    return tuple(np.concatenate(c) for c in zip(arcs, copies)), num_states


class _Index:
    """Rows of a table by the state in one of its columns."""

    def __init__(self, state: np.ndarray, num_states: int) -> None:
        self.order = np.argsort(state, kind="stable")
        self.splits = np.searchsorted(state[self.order], np.arange(num_states + 1))

    def arcs(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs (index into `states`, row of the table with that state)."""
        count = self.splits[states + 1] - self.splits[states]
        index = np.repeat(np.arange(len(states)), count)
        within = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        return index, self.order[within + np.repeat(self.splits[states], count)]


def _start_arcs(
    arcs: tuple[np.ndarray, ...], silent: tuple[np.ndarray, ...], old_start: int, start: int, num_words: int
) -> tuple[tuple[np.ndarray, ...], tuple[tuple[int, ...], ...]]:
    """Arcs out of a new start state: those of every state that silent arcs reach from the old one.

    With right context the silent arcs at the start may carry words, which are put in front of the word of the first
    emitting arc; more than one word on an arc becomes a word sequence.
    """
    src, dst, word, lm, lex = silent
    size = int(max(arcs[0].max(), arcs[1].max(), start)) + 1
    by_src = _Index(src, size)
    sequences: list[tuple[int, ...]] = [()]
    number: dict[tuple[int, ...], int] = {(): 0}

    def numbers(pairs: np.ndarray) -> np.ndarray:
        """Number of the sequence (first, then one more word) of each (first, word) pair."""
        unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
        out = []
        for first, last in unique.tolist():
            sequence = sequences[first] + ((last,) if last else ())
            if sequence not in number:
                number[sequence] = len(sequences)
                sequences.append(sequence)
            out.append(number[sequence])
        return np.array(out, dtype=np.int64)[inverse.reshape(-1)]

    level = (np.array([old_start]), np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(1))
    levels = [level]
    while len(level[0]):
        at, said, far_lm, far_lex = level
        row, step = by_src.arcs(at)
        level = (
            dst[step],
            numbers(np.stack([said[row], word[step]], axis=1)),
            far_lm[row] + lm[step],
            far_lex[row] + lex[step],
        )
        levels.append(level)
    at, said, far_lm, far_lex = (np.concatenate(c) for c in zip(*levels))
    row, step = _Index(arcs[0], size).arcs(at)
    full = numbers(np.stack([said[row], arcs[4][step]], axis=1))
    several = [n for n, s in enumerate(sequences) if len(s) > 1]
    ids = np.array([s[0] if s else 0 for s in sequences], dtype=np.int64)
    ids[several] = num_words + np.arange(len(several))
    copies = (
        np.full(len(row), start),
        arcs[1][step],
        arcs[2][step],
        arcs[3][step],
        ids[full],
        arcs[5][step] + far_lm[row],
        arcs[6][step] + far_lex[row],
    )
    return copies, tuple(sequences[n] for n in several)
