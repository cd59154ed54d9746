"""Word lattices, least risk and oracle errors, against enumeration of the paths of random lattices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.lattice import FLOATS, Lattice
from pipeline.graph.beam_search import Beams
from pipeline.graph.determinise import word_lattice
from pipeline.graph.lattice_sums import oracle_errors
from pipeline.graph.lattices import Lattices, arc_scores
from pipeline.graph.mbr import least_risk
from pipeline.graph.nbest import nbest
from pipeline.tasks.lattice_words import BEAM
from tests.graph.test_beam_search import PDFS, random_graph, real_case, run, search_graph


def lattice_of(seed: int, frames: int = 4, lattice_beam: float = 1e4) -> Lattice:
    """What the search leaves of random scores over a random graph."""
    graph, log_probs = random_graph(seed)
    scores = np.random.default_rng(seed).normal(size=(frames, PDFS)).astype(np.float32)
    return run(search_graph(graph, log_probs), scores, Beams(1.0, 1e4, lattice_beam, 0, 10**6))


def word_paths(lattice: Lattice, lm_weight: float, penalty: float) -> list[tuple[tuple[int, ...], float, np.ndarray]]:
    """(words, total, parts) of every path."""
    scores = arc_scores(lattice, lm_weight, penalty)
    parts = np.stack([lattice.acoustic, lattice.graph, lattice.lm], axis=1).astype(np.float64)
    grown, done = [((), 0, 0.0, np.zeros(3))], []
    while grown:
        words, state, total, sums = grown.pop()
        if state == lattice.num_states - 1:
            done.append((words, total, sums))
            continue
        for a in np.flatnonzero(lattice.src == state):
            longer = (*words, *lattice.spell([int(lattice.label[a])]))
            grown.append((longer, int(lattice.dst[a]), total + scores[a], sums + parts[a]))
    return done


def best_of(paths: list) -> dict[tuple[int, ...], tuple[float, np.ndarray]]:
    out: dict = {}
    for words, total, sums in paths:
        if words not in out or total > out[words][0]:
            out[words] = (total, sums)
    return out


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([(1.0, 0.0), (3.0, 0.7)]), st.floats(0.5, 8.0))
def test_every_word_sequence_once_with_its_best_scores(seed: int, frames: int, weights: tuple, beam: float) -> None:
    lattice = lattice_of(seed, frames)
    if not lattice.complete:
        assert not word_lattice(lattice, *weights).complete
        return
    expected = best_of(word_paths(lattice, *weights))
    top = max(total for total, _ in expected.values())
    for limit in (np.inf, beam):
        found = word_lattice(lattice, *weights, limit)
        found.validate("words")
        paths = word_paths(found, *weights)
        assert len({words for words, _, _ in paths}) == len(paths)
        assert found.num_frames == frames and found.complete
        for words, total, sums in paths:
            assert total <= expected[words][0] + 1e-3
            if expected[words][0] >= top - limit + 1e-3:
                assert total == pytest.approx(expected[words][0], abs=1e-3)
                assert sums == pytest.approx(expected[words][1], abs=2e-3)
        within = {words for words, (total, _) in expected.items() if total >= top - limit + 1e-3}
        assert within <= {words for words, _, _ in paths}
        if limit == np.inf:
            assert len(paths) == len(expected)


def test_a_limit_of_size_cuts_off_what_is_least_probable() -> None:
    lattice = next(x for x in map(lattice_of, range(100), [6] * 100) if x.complete and len(sequences(x)) > 40)
    order = sorted(sequences(lattice).items(), key=lambda x: -x[1][0])
    sizes = []
    for limit in (10, 15, 40, 1000):  # the best sequence has nine words
        found = {words for words, _, _ in word_paths(word_lattice(lattice, 1.0, 0.0, np.inf, limit), 1.0, 0.0)}
        sizes.append(len(found))
        assert order[0][0] in found and found <= {words for words, _ in order}
    assert sizes == sorted(sizes) and 1 <= sizes[0] < sizes[-1] == len(order)


def sequences(lattice: Lattice) -> dict:
    return best_of(word_paths(lattice, 1.0, 0.0))


def edits(one: tuple, other: tuple) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.lists(st.integers(1, 2), max_size=5))
def test_oracle_errors_are_those_of_the_closest_path(seed: int, frames: int, reference: list[int]) -> None:
    lattice = lattice_of(seed, frames).spelled()
    if not lattice.complete:
        return
    expected = min(edits(words, tuple(reference)) for words, _, _ in word_paths(lattice, 1.0, 0.0))
    found = oracle_errors(lattice.src, lattice.dst, lattice.label, np.array(reference, dtype=np.int64))
    assert found == expected


def test_oracle_errors_of_a_lattice_with_many_states_per_frame() -> None:
    """Against one row per state."""
    graph, scores = real_case(60)
    lattice = run(graph, scores, Beams(0.5, 50.0, 12.0, 0, 10**6)).spelled()
    assert lattice.complete and np.bincount(lattice.frame).max() > 70
    for seed in range(4):
        reference = np.random.default_rng(seed).integers(1, 5, 12)
        cost = np.full((lattice.num_states, 13), 10**6)
        cost[0] = np.arange(13)
        for a in range(lattice.num_arcs + 1):
            src = lattice.src[a] if a < lattice.num_arcs else lattice.num_states - 1
            for u in range(1, 13):
                cost[src, u] = min(cost[src, u], cost[src, u - 1] + 1)
            if a < lattice.num_arcs:
                word, there = lattice.label[a], cost[lattice.dst[a]]
                np.minimum(there, cost[src] + (word > 0), out=there)
                if word:
                    there[1:] = np.minimum(there[1:], cost[src, :-1] + (reference != word))
        assert oracle_errors(lattice.src, lattice.dst, lattice.label, reference) == cost[-1, -1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_words_of_least_risk(seed: int, frames: int) -> None:
    """The expected errors are not below the true ones, and hardly above those of the single best sequence."""
    lattice = word_lattice(lattice_of(seed, frames), 1.0)
    if not lattice.complete:
        assert least_risk(lattice, 1.0, 0.0, 0.01) == ([], 0.0)
        return
    paths = word_paths(lattice, 1.0, 0.0)
    weight = np.exp([total for _, total, _ in paths])
    weight /= weight.sum()
    heard, risk = least_risk(lattice, 1.0, 0.0, 0.01)
    words = tuple(w.word for w in heard)
    best = max(zip(weight, paths), key=lambda x: x[0])[1][0]
    true = {h: sum(p * edits(w, h) for p, (w, _, _) in zip(weight, paths)) for h in (words, best)}
    assert true[words] - 1e-3 <= risk
    assert risk <= true[best] + 0.5 and true[words] <= true[best] + 0.1
    for w in heard:
        assert 0.0 < w.confidence <= 1.0 and 0.0 <= w.begin <= w.end <= frames * 0.01 + 1e-9
    assert all(a.end <= b.begin + 1e-9 for a, b in zip(heard[:-1], heard[1:]))
    if len(paths) == 1:
        assert risk < 1e-3 and all(w.confidence == pytest.approx(1.0) for w in heard)


def sausage(*choices: list[tuple[int, int, int, float]], frames: tuple[int, ...]) -> Lattice:
    """A word lattice from (src, dst, word, probability)."""
    arcs = sorted(choices[0], key=lambda a: a[:2])
    src, dst, word = (np.array([a[i] for a in arcs], dtype=np.int32) for i in range(3))
    none, zeros = np.full(len(arcs), -1, np.int32), np.zeros(len(arcs), np.float32)
    graph = np.log(np.array([a[3] for a in arcs])).astype(np.float32)
    return Lattice(np.array(frames, np.int32), src, dst, none, none, word, zeros, graph, zeros, 6)


def test_least_risk_is_not_the_most_probable_sequence() -> None:
    """Words 1 2 have 0.4, 3 4 and 3 5 have 0.3 each: 1.2 errors are expected of the first, 1.1 of the others."""
    arcs = [(0, 1, 1, 0.4), (0, 2, 3, 0.6), (1, 3, 2, 1.0), (2, 3, 4, 0.5), (2, 3, 5, 0.5)]
    lattice = sausage(arcs, frames=(0, 10, 20, 30))
    lattice.validate("sausage")
    heard, risk = least_risk(lattice, 1.0, 0.0, 0.01)
    assert heard[0].word == 3 and heard[1].word in (2, 4, 5)
    assert heard[0].confidence == pytest.approx(0.6)
    assert heard[0].begin == 0.0 and heard[0].end == heard[1].begin == pytest.approx(0.1 if heard[1].word == 2 else 0.2)
    assert risk == pytest.approx(0.4 + (0.7 if heard[1].word != 2 else 0.6), abs=1e-3)
    assert heard[1].end == pytest.approx(0.3)


def test_a_word_that_may_be_missing() -> None:
    lattice = sausage([(0, 1, 1, 1.0), (1, 2, 2, 0.3), (1, 2, 0, 0.7), (2, 3, 3, 1.0)], frames=(0, 5, 9, 20))
    heard, risk = least_risk(lattice, 1.0, 0.0, 0.01)
    assert [w.word for w in heard] == [1, 3] and risk == pytest.approx(0.3, abs=1e-3)
    assert [w.confidence for w in heard] == pytest.approx([1.0, 1.0])
    assert [(w.begin, w.end) for w in heard] == [pytest.approx((0.0, 0.05)), pytest.approx((0.09, 0.2))]


def test_the_beam_of_confidences_leaves_them_as_they_are() -> None:
    """What it leaves out is most of some lattices, and is not probable."""
    all_states = states = 0
    for seed in range(30):
        graph, log_probs = random_graph(seed)
        scores = 6 * np.random.default_rng(seed).normal(size=(7, PDFS)).astype(np.float32)
        lattice = run(search_graph(graph, log_probs), scores, Beams(1.0, 1e4, 1e4, 0, 10**6))
        whole, cut = (word_lattice(lattice, 1.0, 0.0, beam) for beam in (np.inf, BEAM))
        all_states, states = all_states + whole.num_states, states + cut.num_states
        words = [h.word for h in least_risk(whole, 1.0, 0.0, 0.01)[0]]
        one, other = (least_risk(x, 1.0, 0.0, 0.01, words)[0] for x in (whole, cut))
        assert [h.confidence for h in other] == pytest.approx([h.confidence for h in one], abs=5e-3)
    assert states < 0.7 * all_states


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_lists_of_a_word_lattice_are_those_of_the_lattice(seed: int) -> None:
    lattice = lattice_of(seed, 4)
    one, other = (nbest(Lattices([x]), 10**4, 2.0, 1e4)[0] for x in (lattice, word_lattice(lattice, 2.0)))
    named = {b.words: b for b in other}
    assert {a.words for a in one} == set(named) and len(one) == len(other)
    for a in one:
        b = named[a.words]
        assert (a.acoustic, a.graph, a.lm) == pytest.approx((b.acoustic, b.graph, b.lm), abs=2e-3)


def joined(lattices: list[Lattice]) -> Lattice:
    """One after the other: the last state of each is the first of the next."""
    parts, states, frames = [], 0, 0
    for x in lattices:
        parts.append((x, states, frames))
        states, frames = states + x.num_states - 1, frames + x.num_frames
    columns = [np.concatenate([x.frame[:-1] + f for x, _, f in parts] + [[frames]]).astype(np.int32)]
    columns += [np.concatenate([getattr(x, n) + s for x, s, _ in parts]).astype(np.int32) for n in ("src", "dst")]
    columns += [np.concatenate([getattr(x, n) for x, _, _ in parts]) for n in ("pdf", "tid", "label", *FLOATS)]
    return Lattice.of(columns, lattices[0].num_words)


def test_long_lattices_are_judged_in_pieces(monkeypatch) -> None:
    """Cut where all paths meet: as if each stood alone, its times moved. Given words are found in their pieces."""
    alone = [word_lattice(lattice_of(seed, 5), 1.0) for seed in range(40)]
    alone = [x for x in alone if x.complete][:12]
    whole = joined(alone)
    whole.validate("joined")
    uncut, risk_uncut = least_risk(whole, 1.0, 0.0, 0.01)
    monkeypatch.setattr("pipeline.graph.mbr.MOST_CELLS", 1)  # cut wherever that can be, the parts as well as the whole
    separate, frames, risks = [], 0, 0.0
    for x in alone:
        heard, risk = least_risk(x, 1.0, 0.0, 0.01)
        separate += [h._replace(begin=h.begin + 0.01 * frames, end=h.end + 0.01 * frames) for h in heard]
        frames, risks = frames + x.num_frames, risks + risk
    cut, risk_cut = least_risk(whole, 1.0, 0.0, 0.01)
    assert [h.word for h in cut] == [h.word for h in separate] and risk_cut == pytest.approx(risks, abs=1e-6)
    for a, b in zip(cut, separate):
        assert (a.begin, a.end, a.confidence) == pytest.approx((b.begin, b.end, b.confidence), abs=1e-6)
    assert risk_uncut <= risk_cut + 1e-6, "alignments may cross no cut"
    assert edits(tuple(h.word for h in uncut), tuple(h.word for h in cut)) <= 2
    best = Lattices([whole]).best_words(1.0, 0.0)[0]
    judged, _ = least_risk(whole, 1.0, 0.0, 0.01, best)
    assert [h.word for h in judged] == best and all(0.0 < h.confidence <= 1.0 for h in judged)
    other = [*best[1:], best[0]] if best[1:] != best[:-1] else best
    assert [h.word for h in least_risk(whole, 1.0, 0.0, 0.01, other)[0]] == other


def test_a_given_sequence_is_judged_as_it_is() -> None:
    lattice = sausage([(0, 1, 1, 1.0), (1, 2, 2, 0.3), (1, 2, 0, 0.7), (2, 3, 3, 1.0)], frames=(0, 5, 9, 20))
    heard, risk = least_risk(lattice, 1.0, 0.0, 0.01, [1, 2, 3])
    assert [w.word for w in heard] == [1, 2, 3] and risk == pytest.approx(0.7, abs=1e-3)
    assert [w.confidence for w in heard] == pytest.approx([1.0, 0.3, 1.0])
    heard, risk = least_risk(lattice, 1.0, 0.0, 0.01, [5])  # a word that the lattice lacks
    assert [w.word for w in heard] == [5] and heard[0].confidence < 1e-6 and risk > 2.0
    assert least_risk(lattice, 1.0, 0.0, 0.01, [])[0] == []
