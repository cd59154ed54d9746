"""G: a back-off language model as an automaton over word ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.arpa import BOS, EOS, LOG10, ZERO, Arpa, Ngram
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError


@dataclass(frozen=True)
class Grammar:
    """States are histories; weights are natural logs.

    Attributes:
        src, dst, word: (A,) int64 arcs sorted by src; word ids.
        weight: (A,) float64.
        backoff: (S,) int64 state of the shorter history, -1 for none.
        backoff_weight: (S,) float64.
        final: (S,) float64 weight of the sentence end, -inf where it is not listed.
        start: the state of the sentence start.
        dropped: words of the model that the vocabulary lacks.
    """

    src: np.ndarray
    dst: np.ndarray
    word: np.ndarray
    weight: np.ndarray
    backoff: np.ndarray
    backoff_weight: np.ndarray
    final: np.ndarray
    start: int
    dropped: tuple[str, ...] = ()

    @property
    def num_states(self) -> int:
        return len(self.backoff)


def grammar_from_arpa(arpa: Arpa, words: SymbolTable) -> Grammar:
    """Builds G as Kaldi's arpa2fst does (the tests compare it with kaldilm, which cannot be used itself because it
    ends the process when a file is broken and takes the back-off label from the vocabulary).

    A state is a history that some n-gram extends; the arc of n-gram h w leads to the longest suffix of h w that is a
    state. N-grams with words outside the vocabulary are dropped.

    Args:
        words: the lang's word table.
    Raises:
        DataError: no word of the model is in the vocabulary.
    """
    known = {w for w in words if (w,) in arpa.probs}
    if not known:
        raise DataError("the language model and the lang have no word in common")
    kept = [n for n in arpa.probs if n[-1] != BOS and all(w in known or w in (BOS, EOS) for w in n)]
    state_of: dict[Ngram, int] = {(): 0}
    start = (BOS,) if arpa.order > 1 else ()
    for history in [start, *(n[:-1] for n in kept)]:
        state_of.setdefault(history, len(state_of))
    src, dst, word, weight = [], [], [], []
    final = np.full(len(state_of), -np.inf)
    for ngram in kept:
        prob, state = arpa.probs[ngram], state_of[ngram[:-1]]
        if prob <= ZERO * LOG10 / 2:
            continue
        if ngram[-1] == EOS:
            final[state] = prob
            continue
        src.append(state)
        dst.append(_longest_suffix(ngram, state_of))
        word.append(words.id(ngram[-1]))
        weight.append(prob)
    backoff = np.full(len(state_of), -1, dtype=np.int64)
    backoff_weight = np.zeros(len(state_of))
    for history, state in state_of.items():
        while history:  # a shorter history that is no state is passed through, with its own back-off weight
            backoff_weight[state] += arpa.backoffs.get(history, 0.0)
            history = history[1:]
            if history in state_of:
                backoff[state] = state_of[history]
                break
    order = np.argsort(np.array(src, dtype=np.int64), kind="stable")
    ends = {name: np.array(x, dtype=np.int64)[order] for name, x in (("src", src), ("dst", dst), ("word", word))}
    dropped = tuple(w for w in arpa.words() if w not in known)
    return Grammar(
        **ends,
        weight=np.array(weight)[order],
        backoff=backoff,
        backoff_weight=backoff_weight,
        final=final,
        start=state_of[start],
        dropped=dropped,
    )


def _longest_suffix(ngram: Ngram, state_of: dict[Ngram, int]) -> int:
    while ngram not in state_of:
        ngram = ngram[1:]
    return state_of[ngram]
