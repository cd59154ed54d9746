"""G: a back-off language model as an automaton over word ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.arpa import BOS, EOS, LOG10, UNK, ZERO, Arpa, Ngram
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

    N-grams with words outside the vocabulary are dropped. A state is a history that some n-gram left extends; the arc
    of n-gram h w leads to the longest suffix of h w that is a state, and has the back-off weights on the way there.

    Args:
        words: the lang's word table.
    Raises:
        DataError: no word of the model is in the vocabulary, or <unk> alone.
    """
    known = {w for w in words if (w,) in arpa.probs}
    if known <= {UNK}:
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
        after, score = _longest_suffix(arpa, ngram, state_of, prob)
        src.append(state)
        dst.append(after)
        word.append(words.id(ngram[-1]))
        weight.append(score)
    backoff = np.full(len(state_of), -1, dtype=np.int64)
    backoff_weight = np.zeros(len(state_of))
    for history, state in state_of.items():
        if history:
            own = arpa.backoffs.get(history, 0.0)
            backoff[state], backoff_weight[state] = _longest_suffix(arpa, history[1:], state_of, own)
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


def _longest_suffix(arpa: Arpa, history: Ngram, state_of: dict[Ngram, int], score: float) -> tuple[int, float]:
    """The state of the longest suffix that has one, and the score with the back-off weights of the longer ones."""
    while history not in state_of:
        score += arpa.backoffs.get(history, 0.0)
        history = history[1:]
    return state_of[history], score
