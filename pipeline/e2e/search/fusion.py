"""Language models for shallow fusion: n-grams over tokens or over words, scored token by token."""
from __future__ import annotations

from typing import Any, Protocol, Sequence

import torch

from pipeline.arpa import BOS, EOS, UNK, Arpa
from pipeline.e2e.search.results import NEVER
from pipeline.tokens import BLANK_ID, EOS_ID, UNK_ID, Tokens

UNKNOWN_WORD = -20.0  # natural log; for words without probability, so that a word outside the model stays possible


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
        self._rows: dict[tuple[str, ...], torch.Tensor] = {}

    def start(self, n: int) -> ListState:
        """No tokens yet."""
        return ListState([()] * n)

    def step(self, tokens: torch.Tensor, state: ListState) -> tuple[torch.Tensor, ListState]:
        """See ``TokenLm``."""
        new = []
        for token, history in zip(tokens.tolist(), state.items):
            piece = BOS if token == EOS_ID else self.tokens.pieces[token]
            new.append(self._known((*history, piece)))
        return torch.stack([self._row(h) for h in new]).to(tokens.device), ListState(new)

    def _known(self, history: tuple[str, ...]) -> tuple[str, ...]:
        """The part of a history that the model can tell from others."""
        history = history[-(self.arpa.order - 1):] if self.arpa.order > 1 else ()
        while history and history not in self.arpa.backoffs and history not in self.arpa.probs:
            history = history[1:]
        return history

    def _row(self, history: tuple[str, ...]) -> torch.Tensor:
        if history not in self._rows:
            names = [EOS if i == EOS_ID else UNK if i == UNK_ID else p for i, p in enumerate(self.tokens.pieces)]
            row = [NEVER if i == BLANK_ID else max(self.arpa.log_prob(history, name), UNKNOWN_WORD) for i, name in enumerate(names)]
            self._rows[history] = torch.tensor(row, dtype=torch.float32)
        return self._rows[history]


class WordNgramLm:
    """An n-gram over words as ``TokenLm``: a word counts when the next one begins or the sentence ends.

    A state is the history of words and the tokens of the word that is under way.
    """

    def __init__(self, arpa: Arpa, tokens: Tokens) -> None:
        self.arpa, self.tokens = arpa, tokens
        self._starts = torch.tensor(tokens.starts_word())
        self._rows: dict[tuple, torch.Tensor] = {}

    def start(self, n: int) -> ListState:
        """No words yet."""
        return ListState([((), ())] * n)

    def step(self, tokens: torch.Tensor, state: ListState) -> tuple[torch.Tensor, ListState]:
        """See ``TokenLm``."""
        new = []
        for token, (history, word) in zip(tokens.tolist(), state.items):
            if token == EOS_ID:
                new.append(((BOS,), ()))
            elif word and bool(self._starts[token]):
                new.append((self._after(history, word), (token,)))
            else:
                new.append((history, (*word, token)))
        return torch.stack([self._row(*item) for item in new]).to(tokens.device), ListState(new)

    def _after(self, history: tuple[str, ...], word: tuple[int, ...]) -> tuple[str, ...]:
        keep = (*history, self.tokens.decode(word))
        return keep[-(self.arpa.order - 1):] if self.arpa.order > 1 else ()

    def _log_prob(self, history: tuple[str, ...], name: str) -> float:
        return max(self.arpa.log_prob(history, name), UNKNOWN_WORD)

    def _row(self, history: tuple[str, ...], word: tuple[int, ...]) -> torch.Tensor:
        key = (history, word)
        if key not in self._rows:
            row = torch.zeros(len(self.tokens))
            if word:
                row[self._starts] = self._log_prob(history, self.tokens.decode(word))
            after = self._after(history, word) if word else history
            row[EOS_ID] = (float(row[self._starts][0]) if word else 0.0) + self._log_prob(after, EOS)
            row[BLANK_ID] = NEVER
            self._rows[key] = row
        return self._rows[key]


def ngram_lm(arpa: Arpa, tokens: Tokens) -> NgramLm | WordNgramLm:
    """The n-gram as ``TokenLm``; it is one over tokens when its words hold the mark of word beginnings."""
    is_token_level = any(word in tokens.pieces and word.startswith("▁") for word in arpa.words())
    return NgramLm(arpa, tokens) if is_token_level else WordNgramLm(arpa, tokens)
