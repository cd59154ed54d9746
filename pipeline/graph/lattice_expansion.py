"""Lattices under another language model: a state for each history that the model tells apart, within a beam.

cf. Kaldi lattice-lmrescore and lattice-lmrescore-pruned (Xu et al. 2018, A pruned RNNLM lattice-rescoring algorithm for
automatic speech recognition): a lattice is composed with the difference of two models. Histories of a neural model
whose last words agree may count as one (Liu et al. 2014, Efficient lattice rescoring using recurrent neural network
language models); the better path's stays.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from pipeline.artifacts.lattice import Lattice
from pipeline.graph.lattice_paths import best_to_end, depths, on_paths, within_beam
from pipeline.graph.lattices import arc_scores


class WordLm(Protocol):
    """A language model over the words of a lang; its states are numbers, which are good until the next ``start``."""

    def start(self) -> tuple[int, int]:
        """The state at the sentence begin, and its history: states with equal histories may stand for each other."""

    def step(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(M,) states and word ids -> (M,) natural-log probabilities, states after the words, and their histories."""

    def end(self, states: np.ndarray) -> np.ndarray:
        """(M,) states -> (M,) natural-log probabilities of the sentence end."""


class Expansion(NamedTuple):
    """How a lattice is expanded.

    Attributes:
        lm_weight, word_penalty: paths are pruned by acoustic / lm_weight + graph - penalty * words.
        old_lm: share of the old language model's log score that stays; the new model has the rest.
        histories: most histories of a state, the best ones.
        beam: histories of a state that are worse by more are dropped, and so are paths of the whole in the end.
    """

    lm_weight: float
    word_penalty: float = 0.0
    old_lm: float = 0.0
    histories: int = 32
    beam: float = np.inf


class _Found(NamedTuple):
    """Ways into states, side by side: token that each comes from, arc, total, language model's state, history, and log
    probability of the arc's word (and of the sentence end).
    """

    source: np.ndarray
    arc: np.ndarray
    total: np.ndarray
    state: np.ndarray
    history: np.ndarray
    log_prob: np.ndarray


def expand(lattice: Lattice, lm: WordLm, how: Expansion) -> Lattice:
    """A lattice whose paths have another language model's scores.

    Args:
        lattice: best of words (``pipeline.graph.determinise.word_lattice``), which are fewer states.
        lm: over the lattice's words.
    Returns:
        A lattice with one word per arc at most, or as it was where the search failed.
    """
    if not lattice.complete:
        return lattice.spelled()
    plain = lattice.spelled()
    share, last = 1.0 - how.old_lm, plain.num_states - 1
    base = arc_scores(plain, how.lm_weight, how.word_penalty) - share * plain.lm
    depth = depths(plain.src, plain.dst, plain.num_states)
    splits = np.searchsorted(plain.src, np.arange(plain.num_states + 1))
    waiting: list[list[_Found]] = [[] for _ in range(int(depth[last]) + 1)]
    state, history = lm.start()
    one = np.zeros(1, np.int64)
    tokens = _Tokens(one, np.zeros(1), one + state, one + history)
    kept: list[_Found] = []
    targets: list[np.ndarray] = []  # token that each way of `kept` leads to
    places: list[np.ndarray] = [tokens.place]
    count = 1
    for level in range(int(depth[last]) + 1):
        if level:
            into = _Found(*map(np.concatenate, zip(*waiting[level])))
            waiting[level] = []
            target, chosen, tokens = _merged(into, plain.dst, last, how)
            kept.append(_Found(*(x[chosen] for x in into)))
            targets.append(target + count)
            places.append(tokens.place)
        out = _leaving(tokens, count if level else 0, plain, splits, base, share, lm)
        count += len(tokens.place) if level else 0
        if out is not None:
            at = depth[plain.dst[out.arc]]
            for there in np.unique(at).tolist():
                waiting[there].append(_Found(*(x[at == there] for x in out)))
    ways = _Found(*map(np.concatenate, zip(*kept)))
    return _lattice(plain, np.concatenate(places), ways, np.concatenate(targets), share, how)


class _Tokens(NamedTuple):
    """Pairs of a lattice state and a history: the state, the best total up to there, the language model's state, the
    history.
    """

    place: np.ndarray
    total: np.ndarray
    state: np.ndarray
    history: np.ndarray


def _merged(into: _Found, dst: np.ndarray, last: int, how: Expansion) -> tuple[np.ndarray, np.ndarray, _Tokens]:
    """The tokens of a level: of each state the best histories.

    Returns:
        (B,) number of the token that each way that stays leads to, (B,) those ways, the tokens.
    """
    place = dst[into.arc].astype(np.int64)
    history = np.where(place == last, 0, into.history)  # nothing follows
    order = np.lexsort((-into.total, history, place))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(place[order]) != 0) | (np.diff(history[order]) != 0)
    best, group = order[new], np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    # Groups of a state lie side by side; the best ones of each stay.
    rank = np.lexsort((-into.total[best], place[best]))
    first = np.ones(len(rank), dtype=bool)
    first[1:] = np.diff(place[best][rank]) != 0
    begin = np.flatnonzero(first)[np.cumsum(first) - 1]
    total = into.total[best][rank]
    stays = (np.arange(len(rank)) - begin < how.histories) & (total >= total[begin] - how.beam)
    number = np.full(len(best), -1)
    number[rank[stays]] = np.arange(int(stays.sum()))
    top = best[rank[stays]]
    target = number[group]
    chosen = np.flatnonzero(target >= 0)
    return target[chosen], chosen, _Tokens(place[top], into.total[top], into.state[top], into.history[top])


def _leaving(
    tokens: _Tokens, first: int, plain: Lattice, splits: np.ndarray, base: np.ndarray, share: float, lm: WordLm
) -> _Found | None:
    """The ways out of tokens, numbered from `first` on; None where there are none."""
    counts = splits[tokens.place + 1] - splits[tokens.place]
    if not counts.sum():
        return None
    source = np.repeat(np.arange(len(tokens.place)), counts)
    arc = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + splits[tokens.place][source]
    state, history = tokens.state[source], tokens.history[source]
    word, log_prob = plain.label[arc].astype(np.int64), np.zeros(len(arc))
    said = np.flatnonzero(word)
    if len(said):
        pairs, again = np.unique(np.stack([state[said], word[said]]), axis=1, return_inverse=True)
        found = lm.step(pairs[0], pairs[1])
        log_prob[said], state[said], history[said] = (x[again.reshape(-1)] for x in found)
    ends = np.flatnonzero(plain.dst[arc] == plain.num_states - 1)
    if len(ends):
        unique, again = np.unique(state[ends], return_inverse=True)
        log_prob[ends] += lm.end(unique)[again]
    return _Found(source + first, arc, tokens.total[source] + base[arc] + share * log_prob, state, history, log_prob)


def _lattice(
    plain: Lattice, place: np.ndarray, ways: _Found, target: np.ndarray, share: float, how: Expansion
) -> Lattice:
    """The arrays of what was found, pruned by the beam.

    Args:
        place: state of `plain` that each token is in. target: token that each way leads to.
    """
    order = np.lexsort((np.arange(len(place)), place))
    number = np.empty(len(place), np.int64)
    number[order] = np.arange(len(place))
    src, dst = number[ways.source], number[target]
    arcs = np.lexsort((dst, src))
    src, dst, arc = src[arcs], dst[arcs], ways.arc[arcs]
    lm = how.old_lm * plain.lm[arc] + share * ways.log_prob[arcs]
    graph = plain.graph[arc] - plain.lm[arc] + lm
    score = plain.acoustic[arc] / how.lm_weight + graph - how.word_penalty * (plain.label[arc] > 0)
    backward = best_to_end(src, dst, score, len(place))
    near = np.flatnonzero(within_beam(src, dst, score, len(place), backward, how.beam))
    new_src, new_dst, kept = on_paths(src[near], dst[near])
    chosen = near[kept]
    frame = np.empty(int(new_dst.max()) + 1, np.int32)
    frame[new_src], frame[new_dst] = plain.frame[plain.src[arc[chosen]]], plain.frame[plain.dst[arc[chosen]]]
    columns = [getattr(plain, name)[arc[chosen]] for name in ("pdf", "tid", "label", "acoustic")]
    scores = [x[chosen].astype(np.float32) for x in (graph, lm)]
    return Lattice.of([frame, new_src, new_dst, *columns, *scores], plain.num_words)
