"""A language model over tokens as one over words, for lattices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.tokens import EOS_ID, Tokens
from pipeline.e2e.search.fusion import TokenLm


class TokenWordLm:
    """``pipeline.graph.lattice_expansion.WordLm``: a word costs what its tokens cost one after the other."""

    def __init__(
        self, lm: TokenLm, tokens: Tokens, words: SymbolTable, order: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        """Args:
        lm: the model over tokens. tokens: which ones.
        words: the lang's table; what no token covers scores as the unknown token.
        order: sequences whose last order - 1 words agree have equal histories; 0: only equal sequences have.
        """
        self._lm, self._tokens, self._words, self._order, self._device = lm, tokens, words, order, device
        self._spelt: dict[int, list[int]] = {}
        self._forget()

    def _forget(self) -> None:
        # A state is a row of a batch of the model's states, and a token that the model has not been told of yet.
        self._batches: list[Any] = []
        self._batch: list[int] = []
        self._row: list[int] = []
        self._last: list[int] = []
        self._said: list[tuple[int, ...]] = []
        self._histories: dict[tuple[int, ...], int] = {}

    def start(self) -> tuple[int, int]:
        """See ``WordLm``; forgets all states."""
        self._forget()
        self._batches.append(self._lm.start(1))
        return self._add(0, 0, EOS_ID, ())

    def _add(self, batch: int, row: int, last: int, said: tuple[int, ...]) -> tuple[int, int]:
        """A new state and its history."""
        if self._order:
            said = said[max(len(said) - (self._order - 1), 0) :]
        for values, value in zip((self._batch, self._row, self._last, self._said), (batch, row, last, said)):
            values.append(value)  # type: ignore[attr-defined]
        return len(self._row) - 1, self._histories.setdefault(said, len(self._histories))

    def _rows(self, states: list[int]) -> Any:
        """The model's states of some of ours, in their order."""
        by_batch: dict[int, list[int]] = {}
        for i, state in enumerate(states):
            by_batch.setdefault(self._batch[state], []).append(i)
        out, order = None, []
        for batch, members in by_batch.items():
            rows = self._batches[batch].select(self._index([self._row[states[i]] for i in members]))
            out = rows if out is None else out.cat(rows)
            order += members
        assert out is not None
        return out.select(self._index(np.argsort(order).tolist()))

    def _index(self, rows: list[int]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self._device)

    def _spell(self, word: int) -> list[int]:
        if word not in self._spelt:
            self._spelt[word] = self._tokens.encode_word(self._words.name(word))
        return self._spelt[word]

    @torch.no_grad()
    def step(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``WordLm``; words that begin alike share the steps of their beginnings."""
        before, node = np.unique(states, return_inverse=True)
        known = before.tolist()
        log_probs, batch = self._lm.step(self._index([self._last[s] for s in known]), self._rows(known))
        spelt = [self._spell(w) for w in words.tolist()]
        total = np.zeros(len(words))
        after, history = np.zeros(len(words), np.int64), np.zeros(len(words), np.int64)
        open_, at = list(range(len(words))), node.reshape(-1).tolist()  # pairs that go on, and their rows of the batch
        for depth in range(max(map(len, spelt))):
            own = [spelt[i][depth] for i in open_]
            total[open_] += log_probs[self._index(at), self._index(own)].double().cpu().numpy()
            # Rows for which the model is told their token now or, behind the last one of a word, later.
            ends = [k for k, i in enumerate(open_) if len(spelt[i]) == depth + 1]
            if ends:
                rows = sorted({at[k] for k in ends})
                self._batches.append(batch.select(self._index(rows)))
                place = {row: j for j, row in enumerate(rows)}
                for k in ends:
                    i = open_[k]
                    said = (*self._said[int(states[i])], int(words[i]))
                    after[i], history[i] = self._add(len(self._batches) - 1, place[at[k]], own[k], said)
            further = [k for k, i in enumerate(open_) if len(spelt[i]) > depth + 1]
            if not further:
                break
            nodes = list(dict.fromkeys((at[k], own[k]) for k in further))
            number = {pair: j for j, pair in enumerate(nodes)}
            at = [number[at[k], own[k]] for k in further]
            open_ = [open_[k] for k in further]
            rows_of, said_now = (self._index(list(x)) for x in zip(*nodes))
            log_probs, batch = self._lm.step(said_now, batch.select(rows_of))
        return total, after, history

    @torch.no_grad()
    def end(self, states: np.ndarray) -> np.ndarray:
        """See ``WordLm``."""
        known = states.tolist()
        log_probs, _ = self._lm.step(self._index([self._last[s] for s in known]), self._rows(known))
        return log_probs[:, EOS_ID].double().cpu().numpy()
