"""The n best word sequences of lattices, each with its score in parts, so that other weights and models can rank
them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.artifacts.hyp import Alternative
from pipeline.graph.lattice_paths import best_to_end
from pipeline.graph.lattices import Lattices, arc_scores


def nbest(lattices: Lattices, num: int, lm_weight: float, beam: float) -> list[list[Alternative]]:
    """Exact n-best lists of distinct word sequences.

    Every lattice state keeps its n best partial word sequences; two paths with equal words are one sequence with the
    better score. Sequences that cannot come within `beam` of the best path are dropped early.

    Args:
        num: n.
        lm_weight: ranks the sequences by acoustic / lm_weight + graph.
        beam: in units of that score.
    Returns:
        Per utterance the sequences, best first; empty for failed utterances. Words are ids.
    """
    out: list[list[Alternative]] = []
    for lattice in lattices:
        if not lattice.complete:
            out.append([])
            continue
        scores = arc_scores(lattice, lm_weight, 0.0)
        parts = np.stack([scores, lattice.acoustic, lattice.graph, lattice.lm], axis=1)
        backward = best_to_end(lattice.src, lattice.dst, scores, lattice.num_states)
        states = _States(lattice.src, lattice.dst, lattice.label, parts, backward)
        out.append(states.nbest(num, beam, lattice.spell))
    return out


class _Histories:
    """Word sequences as nodes of a tree: equal sequences are equal numbers."""

    def __init__(self, spell: Callable[[list[int]], list[int]]) -> None:
        self._spell = spell
        self._number: dict[tuple[int, int], int] = {}
        self._nodes: list[tuple[int, int]] = [(-1, 0)]

    def extend(self, history: int, label: int) -> int:
        for word in self._spell([label]):
            key = (history, word)
            if key not in self._number:
                self._number[key] = len(self._nodes)
                self._nodes.append(key)
            history = self._number[key]
        return history

    def words(self, history: int) -> tuple[int, ...]:
        out = []
        while history > 0:
            history, word = self._nodes[history]
            out.append(word)
        return tuple(reversed(out))


class _States:
    """Arcs of one utterance; states are numbered in topological order, 0 is the start and the last one final."""

    def __init__(
        self, src: np.ndarray, dst: np.ndarray, word: np.ndarray, parts: np.ndarray, backward: np.ndarray
    ) -> None:
        order = np.argsort(dst, kind="stable")
        self.src, self.word, self.parts, self.backward = src[order], word[order], parts[order], backward
        self.splits = np.searchsorted(dst[order], np.arange(len(backward) + 1)).tolist()

    def nbest(self, num: int, beam: float, spell: Callable[[list[int]], list[int]]) -> list[Alternative]:
        histories = _Histories(spell)
        limit = self.backward[0] - beam - 1e-6
        # Tokens of each state: history (k,) and parts (k, 4): total, acoustic, graph, lm; best first.
        tokens: list[tuple[np.ndarray, np.ndarray]] = [
            (np.zeros(1, dtype=np.int64), np.zeros((1, self.parts.shape[1])))
        ]
        for state in range(1, len(self.backward)):
            reached = [
                self._step(a, tokens[self.src[a]], histories) for a in range(self.splits[state], self.splits[state + 1])
            ]
            if not reached:
                tokens.append((np.zeros(0, dtype=np.int64), np.zeros((0, self.parts.shape[1]))))
                continue
            history, parts = reached[0] if len(reached) == 1 else (np.concatenate(x) for x in zip(*reached))
            alive = parts[:, 0] + self.backward[state] >= limit
            tokens.append(_best(history[alive], parts[alive], num))
        history, parts = tokens[-1]
        return [Alternative(histories.words(h), *p[1:]) for h, p in zip(history.tolist(), parts.tolist())]

    def _step(
        self, arc: int, tokens: tuple[np.ndarray, np.ndarray], histories: _Histories
    ) -> tuple[np.ndarray, np.ndarray]:
        history, parts = tokens
        label = int(self.word[arc])
        if label:
            history = np.array([histories.extend(h, label) for h in history.tolist()], dtype=np.int64)
        return history, parts + self.parts[arc]


def _best(history: np.ndarray, parts: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The best token of each history, and of those the `num` best."""
    order = np.argsort(-parts[:, 0], kind="stable")
    _, first = np.unique(history[order], return_index=True)
    keep = order[np.sort(first)[:num]]
    return history[keep], parts[keep]
