"""Sums over whole graphs and over lattices, against enumeration of all word sequences, each other, and finite
differences.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.graph.denominator import Competitors, GraphSum, LatticeSum
from pipeline.graph.graph_sums import _forward, arrange, graph_sums
from pipeline.graph.lattice_sums import contains, posteriors
from pipeline.graph.options import DecodeOptions
from pipeline.hmm import full_sum
from pipeline.hmm.compile import compile_graphs
from tests.graph.cases import hmm_of, language_model, random_tree, small_lang

WIDE = DecodeOptions(acoustic_scale=1.0, beam=1e4, lattice_beam=1e4, max_active=100_000, retries=0)
SCALE = 0.7  # of transitions
EXACT = 400.0  # a beam that leaves nothing out


class Case:
    """A small lang with a unigram and a triphone tree, and random scores."""

    def __init__(
        self, left: int = 1, right: int = 1, frames: tuple[int, ...] = (5, 4), silence_prob: float = 0.3
    ) -> None:
        self.lang = small_lang(silence_prob=silence_prob, states=1)
        self.hmm = hmm_of(self.lang, random_tree(self.lang, left, right))
        self.lm = language_model(1)
        self.graph: DecodingGraph = build_decoding_graph(self.lang, self.lm, self.hmm)
        self.log_probs = self.hmm.transitions.log_probs()
        self.lens = torch.tensor(frames)
        generator = torch.Generator().manual_seed(5)
        self.scores = torch.randn(len(frames), max(frames), self.hmm.transitions.num_pdfs, generator=generator)

    def graph_sum(self, beam: float = EXACT, **options: int) -> GraphSum:
        return GraphSum(self.graph, self.log_probs, SCALE, beam, **options)

    def lattice_sum(self, options: DecodeOptions = WIDE) -> LatticeSum:
        return LatticeSum(self.graph, self.log_probs, self.hmm.transitions.tid_pdf(), SCALE, options)

    def by_enumeration(self, row: int) -> float:
        """Log sum over all word sequences that fit (only silence is no word sequence of the transcript compiler)."""
        length = int(self.lens[row])
        vocabulary = [self.lang.words.id(w) for w in "ABCD"]
        texts = [list(t) for n in range(1, length + 1) for t in itertools.product(vocabulary, repeat=n)]
        graphs = compile_graphs(self.lang, self.hmm.tree, self.hmm.transitions, texts)
        fits = np.flatnonzero(graphs.min_frames <= length)
        scores = self.scores[row, :length].expand(len(fits), -1, -1).contiguous()
        sums = full_sum(
            graphs.select(fits).graphs,
            scores,
            torch.full((len(fits),), length),
            torch.from_numpy(self.log_probs) * SCALE,
        )
        lm = torch.tensor([self.lm.sentence_log_prob([self.lang.words.name(w) for w in texts[i]]) for i in fits])
        return float(torch.logsumexp(sums.double() + lm, 0))


@pytest.mark.parametrize("left, right", [(0, 0), (1, 1), (0, 1)])
def test_graph_sum_is_the_sum_over_all_sentences(left: int, right: int) -> None:
    case = Case(left, right, silence_prob=0.0)
    found = case.graph_sum()(case.scores, case.lens)
    for row in range(2):
        assert float(found.log_z[row]) == pytest.approx(case.by_enumeration(row), abs=1e-4)
        length = int(case.lens[row])
        torch.testing.assert_close(found.occupancy[row].sum(1)[:length], torch.ones(length))
    assert not found.occupancy[1, 4:].any()


@pytest.mark.parametrize("silence_prob", [0.0, 0.3])
def test_unpruned_lattices_give_the_sums_of_the_graph(silence_prob: float) -> None:
    case = Case(frames=(6, 3, 5), silence_prob=silence_prob)
    exact = case.graph_sum()(case.scores, case.lens)
    found = case.lattice_sum()(case.scores, case.lens)
    torch.testing.assert_close(found.log_z, exact.log_z, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.occupancy, exact.occupancy, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spread, beam", [(1.0, EXACT), (30.0, EXACT), (1.0, 18.0)])
def test_the_engine_and_the_recursion_agree(spread: float, beam: float) -> None:
    """Also where one path has everything."""
    case = Case(frames=(9, 1, 4))
    total = case.graph_sum(beam)
    for n, length in enumerate(case.lens.tolist()):
        own = spread * case.scores[n, :length]
        log_z, posteriors, _, _ = total._by_recursion(own)
        exact = total._by_engine(own)
        assert log_z == pytest.approx(exact[0], rel=1e-5, abs=1e-4)
        torch.testing.assert_close(posteriors, exact[1], atol=2e-4, rtol=1e-3)


def test_the_way_back_is_the_same_with_and_against_the_arcs(monkeypatch) -> None:
    """Frames where few states are left are walked against the arcs; with a reversed index that is empty none can be."""
    case = Case(frames=(40, 25, 1))
    both, forth = case.graph_sum(12.0), case.graph_sum(12.0)
    splits, arcs, in_splits, in_arcs, final = forth._arrange()
    huge = np.arange(len(in_splits)) * np.int64(1 << 40)  # so many arcs in that the other way is always cheaper
    forth._arranged = (splits, arcs, huge, in_arcs[:0], final)
    accuracy = torch.rand(case.scores.shape, generator=torch.Generator().manual_seed(1))
    one, other = both(case.scores, case.lens, None, accuracy), forth(case.scores, case.lens, None, accuracy)
    for name in ("log_z", "occupancy", "accuracy", "gradient"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-6, rtol=1e-5)


def test_fewer_states_are_a_lower_bound_of_the_sum() -> None:
    case = Case(frames=(30, 17))
    exact = case.graph_sum()(case.scores, case.lens)
    before = exact.log_z
    for beam, max_active in ((12.0, 1 << 30), (6.0, 1 << 30), (3.0, 1 << 30), (3.0, 6)):
        found = case.graph_sum(beam, max_active=max_active)(case.scores, case.lens)
        assert bool((found.log_z <= before + 1e-6).all())
        lens = found.occupancy.sum(2) > 0.5
        torch.testing.assert_close(found.occupancy.sum(2)[lens], torch.ones(int(lens.sum())))
        before = found.log_z
    close = case.graph_sum(12.0)(case.scores, case.lens)
    torch.testing.assert_close(close.occupancy, exact.occupancy, atol=1e-3, rtol=0.0)
    assert bool((before < exact.log_z - 0.1).all())  # the last ones were narrow indeed


def test_a_search_that_loses_all_paths_is_repeated() -> None:
    """Two states a word and no silence: at the last frame the end lies off the best states, so a narrow beam reaches
    none.
    """
    lang = small_lang(silence_prob=0.0, states=2)
    hmm = hmm_of(lang, random_tree(lang, 0, 0))
    graph, log_probs = build_decoding_graph(lang, language_model(1), hmm), hmm.transitions.log_probs()
    scores = 3.0 * torch.randn(24, 3, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(3))
    lens = torch.full((24,), 3)
    exact = GraphSum(graph, log_probs, SCALE, EXACT)(scores, lens).log_z
    once, again = (GraphSum(graph, log_probs, SCALE, 1.0, retries=n)(scores, lens).log_z for n in (0, 6))
    assert bool(torch.isfinite(exact).all()) and bool(torch.isinf(once).any()) and bool(torch.isfinite(again).all())
    assert bool((again <= exact + 1e-6).all())


def test_a_repeated_search_keeps_more_states_too(monkeypatch) -> None:
    """What the search is asked for when it never finds a path."""
    asked = []

    def nothing(*arguments) -> tuple[float, float]:
        asked.append(arguments[-4:-2])
        return -np.inf, 0.0

    monkeypatch.setattr("pipeline.graph.graph_sums.graph_sums", nothing)
    case = Case(frames=(4,))
    assert case.graph_sum(3.0, max_active=5, retries=2)(case.scores, case.lens).log_z.tolist() == [-np.inf]
    assert asked == [(pytest.approx(np.exp(-3.0 * k)), 5 * k) for k in (1, 2, 4)]


@pytest.mark.parametrize("behind, found", [(0.5, True), (1.5, True), (2.5, False)])
def test_few_states_are_kept_down_to_the_square_of_the_floor(behind: float, found: bool) -> None:
    """Two ways that never meet, of which only the worse one comes to the end."""
    floor = 1e-3
    start, end = np.array([0, 0, 1, 2]), np.array([1, 2, 1, 2])
    pdf, weight = np.array([0, 1, 0, 1]), np.array([1.0, floor**behind, 1.0, 1.0])
    none = np.zeros((0, 0))
    log_z, _ = graph_sums(
        *arrange(start, end, pdf, weight, 3),
        *arrange(end, start, pdf, weight, 3),
        np.array([0.0, 0.0, 1.0]),
        np.ones((4, 2)),
        none,
        floor,
        1 << 30,
        np.zeros((4, 2)),
        none,
    )
    assert log_z == (pytest.approx(behind * np.log(floor)) if found else -np.inf)


def crowd(num_states: int, step: float, frames: int = 4) -> tuple[np.ndarray, tuple, np.ndarray, np.ndarray]:
    """All states lead to all others, and each is less probable by `step` nats than the one before it: dense weights,
    arranged arcs, probabilities of ending, and emissions."""
    rng = np.random.default_rng(0)
    weight = np.exp(-step * np.arange(num_states)) * rng.uniform(0.9, 1.0, (num_states, num_states))
    src, dst = (x.reshape(-1) for x in np.indices(weight.shape))
    arcs = src, dst, dst % 3, weight.reshape(-1)
    arranged = (*arrange(*arcs, num_states), *arrange(dst, src, *arcs[2:], num_states))
    return weight, arranged, np.ones(num_states), rng.uniform(0.5, 1.0, (frames, 3))


@pytest.mark.parametrize(
    "max_active, floor", [(250, 1e-30), (40, 1e-30), (40, np.exp(-5.0))], ids=["many", "fewer", "few within the floor"]
)
def test_no_more_than_max_active_states_are_kept(max_active: int, floor: float) -> None:
    """And these are the most probable ones. With the last floor a hundred states are within it, and two hundred within
    its square, which is asked for where few states are left."""
    weight, arranged, final, emission = crowd(450, 0.05)
    none = np.zeros((0, 0))
    kept, prob, _, first, _, _ = _forward(*arranged[:2], emission, none, floor, max_active)
    assert max_active / 2 < np.diff(first).max() <= max_active
    for t in range(len(emission)):
        here, there = slice(first[t], first[t + 1]), slice(first[t + 1], first[t + 2])
        reached = (prob[here] @ weight[kept[here]]) * emission[t][np.arange(450) % 3]
        left_out = np.setdiff1d(np.arange(450), kept[there])
        assert reached[kept[there]].min() >= reached[left_out].max()
    sums = [
        graph_sums(*arranged, final, emission, none, floor, limit, np.zeros(emission.shape), none)[0]
        for limit in (max_active, 1 << 30)
    ]
    assert sums[0] < sums[1] - 1e-9


def test_threads_change_nothing() -> None:
    import numba

    case = Case(frames=(9, 7, 5, 3))
    one = case.graph_sum(9.0)(case.scores, case.lens)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
        two = case.graph_sum(9.0)(case.scores, case.lens)
    finally:
        numba.set_num_threads(before)
    assert torch.equal(one.log_z, two.log_z) and torch.equal(one.occupancy, two.occupancy)


def test_no_path_is_no_occupancy() -> None:
    lang = small_lang(silence_prob=0.0, states=2)
    hmm = hmm_of(lang, random_tree(lang, 0, 0))
    total = GraphSum(build_decoding_graph(lang, language_model(1), hmm), hmm.transitions.log_probs(), 1.0)
    found = total(torch.zeros(2, 4, hmm.transitions.num_pdfs), torch.tensor([4, 1]))
    assert bool(torch.isfinite(found.log_z[0])) and float(found.log_z[1]) == -np.inf and not found.occupancy[1].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_impossible(value: float) -> None:
    """As in the engine: one of them leaves the utterance its other paths, and a frame of them leaves none."""
    case = Case(frames=(6, 5, 4))
    scores, total = case.scores.clone(), case.graph_sum()
    scores[0, 2, 1] = scores[1, 3] = value
    found = total(scores, case.lens)
    for n, length in enumerate(case.lens.tolist()):
        log_z, occupancy = total._by_engine(scores[n, :length])
        assert float(found.log_z[n]) == pytest.approx(log_z, abs=1e-4)
        torch.testing.assert_close(found.occupancy[n, :length], occupancy, atol=1e-4, rtol=1e-3)
    assert bool(found.occupancy[0].any()) and float(found.occupancy[0, 2, 1]) == 0.0
    assert float(found.log_z[1]) == -np.inf and not found.occupancy[1].any()


def test_occupancies_are_the_derivatives_of_the_sum() -> None:
    case = Case()
    scores, total = case.scores.double(), case.graph_sum()
    found = total(scores, case.lens).occupancy
    for t, p in ((0, 1), (2, 0), (3, 4), (4, 2)):
        moved = [scores.clone() for _ in range(2)]
        moved[0][0, t, p] += 1e-4
        moved[1][0, t, p] -= 1e-4
        high, low = (float(total(m, case.lens).log_z[0]) for m in moved)
        assert (high - low) / 2e-4 == pytest.approx(float(found[0, t, p]), abs=1e-5)


@pytest.mark.parametrize("kind", ["graph", "lattice"])
def test_expected_accuracy_and_its_gradient(kind: str) -> None:
    """Against finite differences; the gradient sums to 0 in each frame."""
    case = Case(frames=(5, 4))
    total = case.graph_sum() if kind == "graph" else case.lattice_sum()
    accuracy = torch.rand(case.scores.shape, generator=torch.Generator().manual_seed(1))
    found = total(case.scores, case.lens, None, accuracy)
    torch.testing.assert_close(found.accuracy, (found.occupancy * accuracy).sum((1, 2)).double(), atol=1e-5, rtol=1e-5)
    assert found.gradient.sum(2).abs().max() < 1e-5 and found.gradient.abs().max() > 0.01
    for t, p in ((0, 1), (2, 0), (3, 4)):
        moved = [case.scores.clone() for _ in range(2)]
        moved[0][0, t, p] += 1e-2
        moved[1][0, t, p] -= 1e-2
        high, low = (float(total(m, case.lens, None, accuracy).accuracy[0]) for m in moved)
        assert (high - low) / 2e-2 == pytest.approx(float(found.gradient[0, t, p]), abs=2e-3)


def test_references_are_found_in_unpruned_lattices_and_missed_in_pruned_ones() -> None:
    case = Case(frames=(6, 6, 6))
    words = [[case.lang.words.id(w) for w in text.split()] for text in ("A B", "C", "A A A A A A A")]
    found = case.lattice_sum()(case.scores, case.lens, words)
    assert found.missing == [2]  # seven words need seven frames
    narrow = case.lattice_sum(
        DecodeOptions(acoustic_scale=1.0, beam=1e4, lattice_beam=1e-3, max_active=100_000, retries=0)
    )
    assert len(narrow(case.scores, case.lens, words).missing) >= 2


def test_a_failed_search_is_an_empty_lattice() -> None:
    """Words of two frames at least in one frame: no path, beside an utterance that has one."""
    lang = small_lang(silence_prob=0.0, states=2)
    hmm = hmm_of(lang, random_tree(lang, 0, 0))
    graph = build_decoding_graph(lang, language_model(1), hmm)
    total = LatticeSum(graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 1.0, WIDE)
    scores = torch.zeros(2, 4, hmm.transitions.num_pdfs)
    found = total(scores, torch.tensor([4, 1]), [[1], [1]])
    assert bool(torch.isfinite(found.log_z[0])) and float(found.log_z[1]) == -np.inf and not found.occupancy[1].any()


def brute_force(arcs: list[tuple[int, int, int, float, float]]) -> list[tuple[list[int], float, float]]:
    """(arc numbers, weight, accuracy) of every path of one lattice, given as (src, dst, label, score, accuracy)."""
    last = max(a[1] for a in arcs)
    done, grown = [], [([], 0, 0.0, 0.0)]
    while grown:
        path, state, score, right = grown.pop()
        if state == last:
            done.append((path, score, right))
            continue
        grown += [(path + [i], a[1], score + a[3], right + a[4]) for i, a in enumerate(arcs) if a[0] == state]
    return done


ARCS = [
    (0, 1, 3, -0.5, 1.0),
    (0, 2, 4, 0.2, 0.0),
    (1, 3, 0, 0.1, 0.5),
    (2, 3, 5, -1.0, 0.25),
    (2, 4, 0, 0.7, 1.0),
    (3, 5, 0, 0.3, 0.0),
    (4, 5, 3, -0.2, 0.0),
]
SPELL = (np.array([0, 0, 0, 0, 1, 2, 4]), np.array([7, 8, 7, 9]))  # label 3: 7, 4: 8, 5: 7 9


def columns(arcs=ARCS) -> tuple[np.ndarray, ...]:
    src, dst, label = (np.array([a[i] for a in arcs], dtype=np.int32) for i in range(3))
    return src, dst, label, *(np.array([a[i] for a in arcs]) for i in (3, 4))


def test_lattice_recursions_against_all_paths() -> None:
    src, dst, _, score, accuracy = columns()
    gamma, derivative, log_z, found = posteriors(src, dst, score, accuracy)
    paths = brute_force(ARCS)
    weights = np.exp([p[1] for p in paths])
    assert log_z == pytest.approx(np.log(weights.sum()))
    weights /= weights.sum()
    mean = sum(w * p[2] for w, p in zip(weights, paths))
    assert found == pytest.approx(mean)
    for a in range(len(src)):
        through = [(w, p[2]) for w, p in zip(weights, paths) if a in p[0]]
        assert gamma[a] == pytest.approx(sum(w for w, _ in through))
        assert derivative[a] == pytest.approx(sum(w * (x - mean) for w, x in through))
    alone, nothing, _, _ = posteriors(src, dst, score, np.zeros(0))
    assert np.array_equal(alone, gamma) and len(nothing) == 0


@pytest.mark.parametrize(
    "words, there",
    [([7], True), ([8, 7, 9], True), ([8, 7], True), ([8], False), ([7, 9], False), ([], False), ([8, 7, 9, 9], False)],
)
def test_contains(words: list[int], there: bool) -> None:
    src, dst, label, _, _ = columns()
    spell_splits = np.array([0, 0, 0, 0, 1, 2, 4])
    assert contains(src, dst, label, spell_splits, SPELL[1], np.array(words, dtype=np.int64)) == there
    assert not contains(src[:0], dst[:0], label[:0], spell_splits, SPELL[1], np.array(words, dtype=np.int64))


def test_a_path_more_is_a_mixture() -> None:
    """Adding the last path of a lattice to the sums of the others gives the sums of all."""
    weights, labels = np.log([0.2, 0.5, 0.3]), torch.tensor([[0, 1], [1, 1], [2, 0]])
    accuracy = torch.tensor([[[0.0, 1.0, 0.5], [0.25, 1.0, 0.0]]])

    def sums(chosen: list[int]) -> Competitors:
        p = torch.tensor(np.exp(weights[chosen]))
        share, hot = (p / p.sum()), torch.nn.functional.one_hot(labels[chosen], 3).double()
        right = (hot * accuracy).sum((1, 2))
        mean = (share * right).sum()
        gradient = (share[:, None, None] * (right - mean)[:, None, None] * hot).sum(0, keepdim=True)
        return Competitors(
            p.sum().log()[None], (share[:, None, None] * hot).sum(0, keepdim=True), [0], mean[None], gradient
        )

    found, everything = sums([0, 1]), sums([0, 1, 2])
    found.add(0, torch.tensor(weights[2]), torch.nn.functional.one_hot(labels[2], 3).double(), accuracy)
    for name in ("log_z", "occupancy", "accuracy", "gradient"):
        torch.testing.assert_close(getattr(found, name), getattr(everything, name))
