"""Lattices under another language model against enumeration of all paths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.arpa import train_kneser_ney
from pipeline.artifacts.lattice import Lattice
from pipeline.graph.determinise import word_lattice
from pipeline.graph.lattice_expansion import Expansion, expand
from pipeline.graph.lattices import Lattices, arc_scores
from pipeline.graph.lm_lattice import LatticeRescorer, NgramWordLm
from tests.graph.cases import SENTENCES
from tests.graph.test_lm_lattice import lattices_of
from tests.graph.test_word_lattice import best_of, lattice_of, word_paths


class TableLm:
    """Random log probabilities of each word given all words before it, or the last ones."""

    def __init__(self, seed: int, order: int = 0) -> None:
        self.seed, self.order = seed, order
        self.said: list[tuple[int, ...]] = []

    def kept(self, said: tuple[int, ...]) -> tuple[int, ...]:
        return said[len(said) - min(len(said), self.order - 1) :] if self.order else said

    def log_prob(self, said: tuple[int, ...], word: int) -> float:
        return float(np.random.default_rng([self.seed, word, len(said), *said]).normal())

    def of(self, words: tuple[int, ...]) -> float:
        path = [*words, 0]  # 0 is the end
        return sum(self.log_prob(self.kept(tuple(path[:i])), word) for i, word in enumerate(path))

    def add(self, said: tuple[int, ...]) -> tuple[int, int]:
        self.said.append(said)
        return len(self.said) - 1, hash(said) % (1 << 60)

    def start(self) -> tuple[int, int]:
        self.said = []
        return self.add(())

    def step(self, states: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        said = [self.said[s] for s in states.tolist()]
        log_probs = np.array([self.log_prob(h, w) for h, w in zip(said, words.tolist())])
        after, history = zip(*(self.add(self.kept((*h, w))) for h, w in zip(said, words.tolist())))
        return log_probs, np.array(after), np.array(history)

    def end(self, states: np.ndarray) -> np.ndarray:
        return np.array([self.log_prob(self.said[s], 0) for s in states.tolist()])


def expected_of(lattice: Lattice, lm: TableLm, how: Expansion) -> dict:
    """Words -> (total, parts) of their best path with the new scores."""
    paths = []
    for words, total, parts in word_paths(lattice, how.lm_weight, how.word_penalty):
        new = how.old_lm * parts[2] + (1 - how.old_lm) * lm.of(words)
        paths.append((words, total - parts[2] + new, np.array([parts[0], parts[1] - parts[2] + new, new])))
    return best_of(paths)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([0, 2, 3]),
    st.sampled_from([0.0, 0.4]),
    st.booleans(),
    st.floats(0.5, 6.0),
)
def test_every_sequence_has_its_new_score(
    seed: int, frames: int, order: int, old_lm: float, words_only: bool, beam: float
) -> None:
    """Also of lattices as the search leaves them; with a beam, the sequences within it."""
    lattice = lattice_of(seed, frames)
    if words_only:
        lattice = word_lattice(lattice, 2.0, 0.3)
    lm = TableLm(seed, order)
    if not lattice.complete:
        assert not expand(lattice, lm, Expansion(2.0)).complete
        return
    how = Expansion(2.0, 0.3, old_lm, 10**6)
    expected = expected_of(lattice, lm, how)
    found = expand(lattice, lm, how)
    found.validate("expanded")
    assert found.complete and found.num_frames == frames
    paths = best_of(word_paths(found, 2.0, 0.3))
    assert paths.keys() == expected.keys()
    for words, (total, parts) in paths.items():
        assert total == pytest.approx(expected[words][0], abs=1e-3)
        assert parts == pytest.approx(expected[words][1], abs=2e-3)
    pruned = expand(lattice, lm, how._replace(beam=beam))
    pruned.validate("pruned")
    best = best_of(word_paths(pruned, 2.0, 0.3))
    assert best.keys() <= expected.keys() and pruned.num_arcs <= found.num_arcs
    assert all(total <= expected[words][0] + 1e-3 for words, (total, _) in best.items())
    through: dict[int, float] = {}
    for arcs, total in arc_paths(pruned):
        through |= {a: max(total, through.get(a, -np.inf)) for a in arcs}
    assert len(through) == pruned.num_arcs and min(through.values()) >= max(through.values()) - beam - 1e-3


def arc_paths(lattice: Lattice) -> list[tuple[tuple[int, ...], float]]:
    """(arcs, total) of every path."""
    scores, grown, done = arc_scores(lattice, 2.0, 0.3), [((), 0, 0.0)], []
    while grown:
        path, state, total = grown.pop()
        if state == lattice.num_states - 1:
            done.append((path, total))
        for a in np.flatnonzero(lattice.src == state).tolist():
            grown.append(((*path, a), int(lattice.dst[a]), total + scores[a]))
    return done


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 3))
def test_a_few_histories_keep_real_paths(seed: int, frames: int, histories: int) -> None:
    """Whatever is dropped, every path that is left is one of the lattice with its right score, and one is left."""
    lattice = lattice_of(seed, frames)
    if not lattice.complete:
        return
    lm = TableLm(seed)
    how = Expansion(1.0, 0.0, 0.0, histories)
    expected = expected_of(lattice, lm, how)
    found = expand(lattice, lm, how)
    found.validate("few")
    paths = word_paths(found, 1.0, 0.0)
    assert paths and len(np.unique(found.frame)) <= frames + 1
    for words, total, _ in paths:
        assert total <= expected[words][0] + 1e-3
    # No more states than the lattice's, times what is allowed.
    assert found.num_states <= histories * lattice.spelled().num_states
    if max(len(w) for w in expected) <= 1 or len(expected) <= histories:
        assert max(t for _, t, _ in paths) == pytest.approx(max(t for t, _ in expected.values()), abs=1e-3)


def test_histories_that_agree_count_as_one() -> None:
    """With a model that looks back one word, states are as many as a bigram needs; the same scores."""
    lattice = word_lattice(
        next(x for x in map(lattice_of, range(100), [6] * 100) if x.complete and x.num_arcs > 30), 1.0
    )
    how = Expansion(1.0, histories=10**6)

    class Unmerged(TableLm):
        def add(self, said: tuple[int, ...]) -> tuple[int, int]:
            state, _ = super().add(said)
            return state, state

    one, other = expand(lattice, TableLm(1, 2), how), expand(lattice, Unmerged(1, 2), how)
    assert one.num_states < other.num_states
    totals = [best_of(word_paths(x, 1.0, 0.0)) for x in (one, other)]
    assert totals[0].keys() == totals[1].keys()
    assert all(totals[0][w][0] == pytest.approx(totals[1][w][0], abs=1e-4) for w in totals[0])


@pytest.mark.parametrize("left, right, silence_prob", [(0, 0, 0.3), (1, 1, 0.3), (0, 1, 0.0)])
def test_an_n_gram_finds_what_the_exact_search_finds(left: int, right: int, silence_prob: float) -> None:
    """On lattices as they are under every pair of weights, on word lattices at the scale where they were made."""
    lang, lattices = lattices_of(left, right, (5, 4, 2), silence_prob)
    sharp = train_kneser_ney([*SENTENCES, *([["C", "A", "B"]] * 9)], 3)
    exact, lm = LatticeRescorer(sharp, lang.words), NgramWordLm(sharp, lang.words)
    how = Expansion(2.0, histories=1000)
    whole = Lattices([expand(x, lm, how) for x in lattices])
    words = Lattices([expand(word_lattice(x, 2.0, max_states=10**6), lm, how) for x in lattices])
    assert sum(x.num_arcs for x in words) < sum(x.num_arcs for x in whole) / 2
    for pair in ((2.0, 0.0), (0.7, 1.0), (5.0, -1.0)):
        assert whole.best_words(*pair) == exact.best_words(lattices, *pair)
    assert words.best_words(2.0, 0.0) == exact.best_words(lattices, 2.0, 0.0)
