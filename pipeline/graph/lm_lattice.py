"""N-gram language models on lattices: exact best paths under another model, and the model as ``WordLm``.

cf. Kaldi lattice-lmrescore: there the lattice is composed with the difference of two models. Here every lattice state
keeps its best path for each history of the new model; so nothing is lost as with n-best lists, and no composed lattice
has to be built (``pipeline.graph.lattice_expansion`` builds one).
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from pipeline.artifacts.arpa import LOG10, UNK, ZERO, Arpa
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.symbols import SymbolTable
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.lattices import Lattices, arc_scores
from pipeline.hmm.numba_cache import cached_njit

NEVER = ZERO * LOG10  # score of what a model gives no probability


class _Model(NamedTuple):
    """A back-off model: arcs out of history h are splits[h]:splits[h + 1], sorted by word; `counts_as` (V,) int64 is
    the word itself, or <unk> for one that the model lacks."""

    splits: np.ndarray
    word: np.ndarray
    dst: np.ndarray
    weight: np.ndarray
    backoff: np.ndarray
    backoff_weight: np.ndarray
    final: np.ndarray
    counts_as: np.ndarray
    start: int


def _model_of(arpa: Arpa, words: SymbolTable) -> _Model:
    names, known = list(words), set(arpa.words())
    table = SymbolTable([*names[1:], UNK]) if UNK in known and UNK not in words else words
    grammar = grammar_from_arpa(arpa, table)
    counts_as = [i if name in known or UNK not in known else table.id(UNK) for i, name in enumerate(names)]
    order = np.lexsort((grammar.word, grammar.src))
    return _Model(
        np.searchsorted(grammar.src[order], np.arange(grammar.num_states + 1)),
        grammar.word[order],
        grammar.dst[order],
        grammar.weight[order],
        grammar.backoff,
        grammar.backoff_weight,
        grammar.final,
        np.array(counts_as, dtype=np.int64),
        grammar.start,
    )


class NgramWordLm:
    """An n-gram as ``pipeline.graph.lattice_expansion.WordLm``, whose states are the histories that it tells apart."""

    def __init__(self, arpa: Arpa, words: SymbolTable) -> None:
        """Args:
        arpa: the model; words that it lacks score as its <unk>, or as zero probability.
        words: the lang's table.
        """
        self._model = _model_of(arpa, words)

    def start(self) -> tuple[int, int]:
        """See ``WordLm``."""
        return self._model.start, self._model.start

    def step(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``WordLm``."""
        log_probs, after = _advance_all(states, words, self._model)
        return log_probs, after, after

    def end(self, states: np.ndarray) -> np.ndarray:
        """See ``WordLm``."""
        return _end_all(states, self._model)


class LatticeRescorer:
    """A language model that replaces the one in lattices."""

    def __init__(self, arpa: Arpa, words: SymbolTable, old_lm: float = 0.0) -> None:
        """Args:
        arpa: the new model; words that it lacks score as its <unk>, or as zero probability.
        words: the lang's table.
        old_lm: share of the old log score that stays; the new model has the rest.
        """
        self._model = _model_of(arpa, words)
        self._old_lm = old_lm
        self._sorted: WeakKeyDictionary[Lattice, _SortedArcs] = WeakKeyDictionary()
        self._spelling: tuple[tuple[int, tuple], tuple[np.ndarray, np.ndarray]] | None = None

    def best_words(self, lattices: Lattices, lm_weight: float, word_penalty: float) -> list[list[int]]:
        """Word ids of the best path of each utterance; empty for failed ones.

        A path's total is acoustic / lm_weight + graph + (1 - old_lm) * (new - old language model) - penalty * words.
        """
        share = 1.0 - self._old_lm
        out: list[list[int]] = []
        for lattice in lattices:
            if not lattice.complete:
                out.append([])
                continue
            scores = arc_scores(lattice, lm_weight, word_penalty) - share * lattice.lm
            arcs = self._sorted_arcs(lattice)
            path = _search(arcs.src, arcs.splits, arcs.label, scores[arcs.order], *arcs.spelling, self._model, share)
            out.append(path[::-1].tolist())
        return out

    def _sorted_arcs(self, lattice: Lattice) -> _SortedArcs:
        """Kept for as long as the lattice lives: tuning asks for the same ones again and again."""
        if lattice not in self._sorted:
            order = np.argsort(lattice.dst, kind="stable")
            splits = np.searchsorted(lattice.dst[order], np.arange(lattice.num_states + 1))
            self._sorted[lattice] = _SortedArcs(
                order, lattice.src[order], lattice.label[order], splits, self._spelling_of(lattice)
            )
        return self._sorted[lattice]

    def _spelling_of(self, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
        """Words of the labels, which all lattices of a graph share."""
        labels = lattice.num_words, lattice.sequences
        if self._spelling is None or self._spelling[0] != labels:
            self._spelling = labels, lattice.spelling()
        return self._spelling[1]


class _SortedArcs(NamedTuple):
    """What does not depend on weights: arcs sorted by destination.

    `order`, `src`, `label` (A,); arcs into state s are splits[s]:splits[s + 1]; `spelling` are the words of labels.
    """

    order: np.ndarray
    src: np.ndarray
    label: np.ndarray
    splits: np.ndarray
    spelling: tuple[np.ndarray, np.ndarray]


@cached_njit()
def _advance(history, word, model):
    """(history after a word, its log probability)."""
    score, word = 0.0, model.counts_as[word]
    while True:
        low, high = model.splits[history], model.splits[history + 1]
        while low < high:
            middle = (low + high) // 2
            if model.word[middle] < word:
                low = middle + 1
            else:
                high = middle
        if low < model.splits[history + 1] and model.word[low] == word:
            return model.dst[low], score + model.weight[low]
        if model.backoff[history] < 0:
            return history, score + NEVER
        score += model.backoff_weight[history]
        history = model.backoff[history]


@cached_njit()
def _end(history, model):
    """Log probability of the sentence end."""
    score = 0.0
    while model.final[history] == -np.inf and model.backoff[history] >= 0:
        score += model.backoff_weight[history]
        history = model.backoff[history]
    return score + max(model.final[history], NEVER)


@cached_njit(nogil=True)
def _advance_all(histories, words, model):
    """(M,) log probabilities of words behind histories, and the histories after them."""
    log_probs, after = np.empty(len(words)), np.empty(len(words), np.int64)
    for i in range(len(words)):
        after[i], log_probs[i] = _advance(histories[i], words[i], model)
    return log_probs, after


@cached_njit(nogil=True)
def _end_all(histories, model):
    """(M,) log probabilities of the sentence end."""
    out = np.empty(len(histories))
    for i in range(len(histories)):
        out[i] = _end(histories[i], model)
    return out


@cached_njit()
def _search(src, splits, label, score, label_splits, label_words, model, share):
    """Words of the best path from state 0 to the last state, last word first.

    Tokens lie side by side; each has a history, a total, the token that it comes from and the label in between. Paths
    with the same history in the same state are one token, the better one.
    """
    num_states = len(splits) - 1
    if num_states < 1:  # the search failed
        return np.empty(0, np.int64)
    size = 1024
    history, total = np.empty(size, np.int64), np.empty(size, np.float64)
    back, said = np.empty(size, np.int64), np.empty(size, np.int64)
    history[0], total[0], back[0], said[0] = model.start, 0.0, -1, 0
    first = np.zeros(num_states + 1, np.int64)
    first[1] = 1
    slot, stamp = np.empty(len(model.backoff), np.int64), np.full(len(model.backoff), -1, np.int64)
    count = 1
    for state in range(1, num_states):
        for arc in range(splits[state], splits[state + 1]):
            begin, end = label_splits[max(label[arc], 0)], label_splits[max(label[arc], 0) + 1]
            for token in range(first[src[arc]], first[src[arc] + 1]):
                to, value = history[token], total[token] + score[arc]
                for i in range(begin, end):
                    to, log_prob = _advance(to, label_words[i], model)
                    value += share * log_prob
                if stamp[to] == state:
                    at = slot[to]
                    if value <= total[at]:
                        continue
                else:
                    if count == size:
                        size *= 2
                        history, total = _grown(history, size), _grown(total, size)
                        back, said = _grown(back, size), _grown(said, size)
                    at, stamp[to], slot[to] = count, state, count
                    count += 1
                history[at], total[at], back[at], said[at] = to, value, token, label[arc]
        first[state + 1] = count
    best, best_total = -1, -np.inf
    for token in range(first[num_states - 1], count):
        value = total[token] + share * _end(history[token], model)
        if value > best_total:
            best, best_total = token, value
    words = np.empty(0, np.int64)
    while best >= 0:
        begin, end = label_splits[max(said[best], 0)], label_splits[max(said[best], 0) + 1]
        if end > begin:
            words = np.concatenate((words, label_words[begin:end][::-1]))
        best = back[best]
    return words


@cached_njit()
def _grown(old, size):
    new = np.empty(size, old.dtype)
    new[: len(old)] = old
    return new
