"""CTC search without a graph: best label of each frame, and beam search over label sequences."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID
from pipeline.e2e.search.fusion import TokenLm
from pipeline.e2e.search.results import NEVER, Found, Weights, best_first

CANDIDATES = 3  # times the beam: labels of a frame that may extend a hypothesis
CLEAR = 1e-4  # labels below this posterior do not extend a hypothesis


def greedy(log_probs: torch.Tensor, lens: torch.Tensor) -> list[list[Found]]:
    """The best label of each frame, repetitions and blanks taken out.

    Args:
        log_probs: (N, T, V).
    Returns:
        one hypothesis per utterance; its score is that of the single path.
    """
    scores = log_probs.clone()
    scores[:, :, [EOS_ID, UNK_ID]] = NEVER
    best, labels = scores.max(2)
    out = []
    for row, score, length in zip(labels.tolist(), best.double(), lens.tolist()):
        found = tuple(k for k, _ in itertools.groupby(row[:length]) if k != BLANK_ID)
        total = float(score[:length].sum())
        out.append([Found(found, total, 0.0, total)])
    return out


@dataclass
class _Prefix:
    """Log probabilities of the paths of a prefix that end in a blank and in its last label; bonus: weighted scores of
    its tokens.
    """

    blank: float
    label: float
    lm: float
    bonus: float

    @property
    def model(self) -> float:
        """Log probability of all its paths."""
        return float(np.logaddexp(self.blank, self.label))

    @property
    def total(self) -> float:
        """The score by which prefixes are ranked."""
        return self.model + self.bonus


class _LmTree:
    """Language model scores of prefixes; each prefix is stepped through once, those of a frame together."""

    def __init__(self, lm: TokenLm, device: torch.device) -> None:
        self.lm = lm
        log_probs, state = lm.step(torch.tensor([EOS_ID], device=device), lm.start(1))
        self.rows: dict[tuple[int, ...], tuple[np.ndarray, Any, int]] = {(): (log_probs[0].cpu().numpy(), state, 0)}
        self.device = device

    def add(self, prefixes: list[tuple[int, ...]]) -> None:
        """Steps to prefixes whose beginnings are known."""
        groups: dict[int, list[tuple[int, ...]]] = {}
        for prefix in prefixes:
            if prefix not in self.rows:
                groups.setdefault(id(self.rows[prefix[:-1]][1]), []).append(prefix)
        for members in groups.values():
            state = self.rows[members[0][:-1]][1]
            parents = torch.tensor([self.rows[m[:-1]][2] for m in members], device=self.device)
            tokens = torch.tensor([m[-1] for m in members], device=self.device)
            log_probs, new = self.lm.step(tokens, state.select(parents))
            for i, member in enumerate(members):
                self.rows[member] = (log_probs[i].cpu().numpy(), new, i)


class CtcPrefixSearch:
    """Beam search over label sequences, each with the sum of its paths (Hannun et al. 2014), utterance by utterance."""

    def __init__(
        self, weights: Weights = Weights(), beam: int = 8, lm: TokenLm | None = None, clear: float = CLEAR
    ) -> None:
        """Args:
        clear: posterior below which labels do not extend a hypothesis.
        """
        self.weights, self.beam, self.lm, self.floor = weights, beam, lm, np.log(max(clear, 1e-300))

    def search(self, log_probs: torch.Tensor, lens: torch.Tensor, number: int = 1) -> list[list[Found]]:
        """The best hypotheses of each utterance.

        Args:
            log_probs: (N, T, V) natural-log label posteriors.
        """
        array = log_probs.double().cpu().numpy()
        return [self._utterance(array[i, :n], number, log_probs.device) for i, n in enumerate(lens.tolist())]

    def _utterance(self, log_probs: np.ndarray, number: int, device: torch.device) -> list[Found]:
        w = self.weights
        tree = None if self.lm is None else _LmTree(self.lm, device)
        beam: dict[tuple[int, ...], _Prefix] = {(): _Prefix(0.0, -np.inf, 0.0, 0.0)}
        for row in log_probs:
            new: dict[tuple[int, ...], _Prefix] = {}
            labels = self._candidates(row)
            for tokens, p in beam.items():
                stay = new.setdefault(tokens, _Prefix(-np.inf, -np.inf, p.lm, p.bonus))
                stay.blank = np.logaddexp(stay.blank, p.model + row[BLANK_ID])
                if tokens:
                    stay.label = np.logaddexp(stay.label, p.label + row[tokens[-1]])
                lm_row = None if tree is None else tree.rows[tokens][0]
                for label in labels:
                    score = (p.blank if tokens and tokens[-1] == label else p.model) + row[label]
                    longer = (*tokens, label)
                    if longer not in new:
                        lm = p.lm if lm_row is None else p.lm + float(lm_row[label])
                        new[longer] = _Prefix(-np.inf, -np.inf, lm, w.lm * lm + w.length * len(longer))
                    new[longer].label = np.logaddexp(new[longer].label, score)
            ranked = sorted(new.items(), key=lambda item: (-item[1].total, item[0]))[: self.beam]
            beam = {tokens: p for tokens, p in ranked if p.total > NEVER}
            if tree is not None:
                tree.add(list(beam))
        found = []
        for tokens, p in beam.items():
            end = 0.0 if tree is None else float(tree.rows[tokens][0][EOS_ID])
            found.append(Found(tokens, p.model, p.lm + end, p.total + w.lm * end))
        return best_first(found, number)

    def _candidates(self, row: np.ndarray) -> list[int]:
        allowed = row.copy()
        allowed[[BLANK_ID, EOS_ID, UNK_ID]] = -np.inf
        few = min(CANDIDATES * self.beam, len(row))
        best = np.argpartition(-allowed, few - 1)[:few]
        return [int(i) for i in best if allowed[i] > self.floor]
