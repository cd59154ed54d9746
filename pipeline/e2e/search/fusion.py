"""Language models for shallow fusion: n-grams over tokens or over words, scored token by token."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.artifacts.arpa import BOS, EOS, UNK, Arpa
from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID, Tokens
from pipeline.e2e.search.results import NEVER

UNKNOWN_WORD = -20.0  # natural log; for words without probability, so that a word outside the model stays possible
LEAST = 1e-12  # probability below which a prefix counts as hardly possible
HISTORIES = 500  # whose sums over the vocabulary are kept
ROW_BYTES = 2**28  # of rows of scores that a model keeps


class TokenLm(Protocol):
    """A language model that searches step through, one token at a time; the first token is the sentence begin."""

    def start(self, n: int) -> Any:
        """The state of n hypotheses before the sentence begin, with a method ``select(rows)``."""

    def step(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """(M,) last tokens and their state -> (M, V) natural-log probabilities of the next token, next state."""


class ListState:
    """One hashable value per hypothesis."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = list(items)

    def select(self, rows: torch.Tensor) -> ListState:
        """See ``pipeline.e2e.search.results.State``."""
        return ListState([self.items[i] for i in rows.tolist()])

    def cat(self, other: ListState) -> ListState:
        """The hypotheses of both."""
        return ListState(self.items + other.items)


class NgramLm:
    """An n-gram over tokens as ``TokenLm``; a state is the history of pieces."""

    def __init__(self, arpa: Arpa, tokens: Tokens) -> None:
        self.arpa, self.tokens = arpa, tokens
        self._row = functools.lru_cache(maxsize=_rows_kept(tokens))(self._scores)

    def start(self, n: int) -> ListState:
        """No tokens yet."""
        return ListState([()] * n)

    def step(self, tokens: torch.Tensor, state: ListState) -> tuple[torch.Tensor, ListState]:
        """See ``TokenLm``."""
        new = []
        for token, history in zip(tokens.tolist(), state.items):
            piece = BOS if token == EOS_ID else self.tokens.pieces[token]
            new.append(_shortened(self.arpa, (*history, piece)))
        return torch.stack([self._row(h) for h in new]).to(tokens.device), ListState(new)

    def _scores(self, history: tuple[str, ...]) -> torch.Tensor:
        """(V,) natural logs behind a history."""
        names = [EOS if i == EOS_ID else UNK if i == UNK_ID else p for i, p in enumerate(self.tokens.pieces)]
        row = [
            NEVER if i == BLANK_ID else max(self.arpa.log_prob(history, name), UNKNOWN_WORD)
            for i, name in enumerate(names)
        ]
        return torch.tensor(row, dtype=torch.float32)


class WordNgramLm:
    """An n-gram over words as ``TokenLm``, by looking ahead (Hori et al. 2018): a token costs what it takes from the
    sum over all words that may still come, so that the tokens of a sentence cost together what the n-gram says of its
    words.

        p(token | history, prefix) = sum of p(w | history) over words with prefix and token / sum over words with the
        prefix

    Leaving the vocabulary costs UNKNOWN_WORD once. A state is the history of words and the tokens of the word under
    way, None where no word begins with them.
    """

    def __init__(self, arpa: Arpa, tokens: Tokens) -> None:
        self.arpa, self.tokens = arpa, tokens
        starts = tokens.starts_word()
        self._starts = np.array(starts)
        spelt = sorted((tuple(tokens.encode_word(word)), word) for word in arpa.words())
        spelt = [(ids, word) for ids, word in spelt if UNK_ID not in ids]
        self._words = [word for _, word in spelt]
        self._word_of = {ids: i for i, (ids, _) in enumerate(spelt)}
        self._ranges: dict[tuple[int, ...], tuple[int, int]] = {}  # prefix -> words from .. to that begin with it
        self._children: dict[tuple[int, ...], list[int]] = {}
        for i, (ids, _) in enumerate(spelt):
            for k in range(len(ids) + 1):
                first, _ = self._ranges.get(ids[:k], (i, i))
                if k and ids[:k] not in self._ranges:
                    self._children.setdefault(ids[: k - 1], []).append(ids[k - 1])
                self._ranges[ids[:k]] = first, i + 1
        self._own = _by_history(arpa, {word: i for i, word in enumerate(self._words)})
        self._row = functools.lru_cache(maxsize=_rows_kept(tokens))(self._scores)
        self._masses = functools.lru_cache(maxsize=HISTORIES)(self._sums)

    def start(self, n: int) -> ListState:
        """No words yet."""
        return ListState([((), ())] * n)

    def step(self, tokens: torch.Tensor, state: ListState) -> tuple[torch.Tensor, ListState]:
        """See ``TokenLm``."""
        new: list[tuple[tuple[str, ...], tuple[int, ...] | None]] = []
        for token, (history, word) in zip(tokens.tolist(), state.items):
            if token == EOS_ID:
                new.append((self._known((BOS,)), ()))
            elif word != () and self._starts[token]:
                new.append((self._after(history, word), self._prefix((token,))))
            else:
                new.append((history, None if word is None else self._prefix((*word, token))))
        return torch.stack([self._row(*item) for item in new]).to(tokens.device), ListState(new)

    def _prefix(self, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        return ids if ids in self._ranges else None

    def _known(self, history: tuple[str, ...]) -> tuple[str, ...]:
        """The part of a history that the model can tell from others."""
        return _shortened(self.arpa, history)

    def _after(self, history: tuple[str, ...], word: tuple[int, ...] | None) -> tuple[str, ...]:
        known = None if word is None else self._word_of.get(word)
        return self._known((*history, UNK if known is None else self._words[known]))

    def _sums(self, history: tuple[str, ...]) -> np.ndarray:
        """(W + 1,) sums of the probabilities of the first words in the order of their spellings."""
        return np.concatenate([[0.0], np.cumsum(self._probs(history))])

    def _probs(self, history: tuple[str, ...]) -> np.ndarray:
        """(W,) probabilities of all words: those of the shorter history, scaled, but for the words that have their
        own.
        """
        if history:
            probs = self._probs(history[1:]) * math.exp(self.arpa.backoffs.get(history, 0.0))
        else:
            probs = np.zeros(len(self._words))
        places, own = self._own.get(history, ((), ()))
        probs[list(places)] = np.exp(own)
        return probs

    def _mass(self, history: tuple[str, ...], prefix: tuple[int, ...]) -> float:
        """Log probability that the next word begins with a prefix."""
        sums, (first, last) = self._masses(history), self._ranges[prefix]
        return math.log(max(sums[last] - sums[first], LEAST))

    def _scores(self, history: tuple[str, ...], word: tuple[int, ...] | None) -> torch.Tensor:
        """(V,) natural logs in a state."""
        row = np.full(len(self.tokens), 0.0 if word is None else UNKNOWN_WORD)
        end, after = 0.0, history
        if word:
            base = self._mass(history, word)
            for token in self._children.get(word, []):
                row[token] = self._mass(history, (*word, token)) - base
            known = self._word_of.get(word)
            end = UNKNOWN_WORD if known is None else self.arpa.log_prob(history, self._words[known]) - base
        if word != ():
            after = self._after(history, word)
        row[self._starts] = end + UNKNOWN_WORD
        for token in self._children.get((), []):
            row[token] = end + self._mass(after, (token,))
        row[EOS_ID] = end + max(self.arpa.log_prob(after, EOS), UNKNOWN_WORD)
        row[BLANK_ID] = NEVER
        return torch.from_numpy(row).float()


def _rows_kept(tokens: Tokens) -> int:
    """How many rows of scores fit into ROW_BYTES."""
    return max(1, ROW_BYTES // (4 * len(tokens)))


def _by_history(arpa: Arpa, places: dict[str, int]) -> dict[tuple[str, ...], tuple[list[int], list[float]]]:
    """History -> places and log probabilities of the words that the model lists behind it."""
    out: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
    for ngram, log_prob in arpa.probs.items():
        if ngram[-1] in places:
            words, log_probs = out.setdefault(ngram[:-1], ([], []))
            words.append(places[ngram[-1]])
            log_probs.append(log_prob)
    return out


def _shortened(arpa: Arpa, history: tuple[str, ...]) -> tuple[str, ...]:
    """A history without what the model cannot tell from others."""
    history = history[-(arpa.order - 1) :] if arpa.order > 1 else ()
    while history and history not in arpa.backoffs and history not in arpa.probs:
        history = history[1:]
    return history


def ngram_lm(arpa: Arpa, tokens: Tokens) -> NgramLm | WordNgramLm:
    """The n-gram as ``TokenLm``; it is one over tokens when its words hold the mark of word beginnings."""
    is_token_level = any(word.startswith("▁") and word in tokens.pieces for word in arpa.words())
    return NgramLm(arpa, tokens) if is_token_level else WordNgramLm(arpa, tokens)
