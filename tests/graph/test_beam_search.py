"""The beam search against enumeration of all paths on small random graphs, by blocks and on demand."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import ConfigError
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.on_demand import MixtureScores
from pipeline.graph import search_kernels as kernels
from pipeline.graph.beam_search import Beams, BeamSearch, SearchGraph
from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.graph.lattice_paths import best_labels
from pipeline.graph.lattices import arc_scores
from pipeline.graph.options import DecodeOptions
from pipeline.graph.search import Searcher
from pipeline.graph.search_scores import memory_of
from tests.graph.cases import hmm_of, language_model, random_tree, small_lang

WIDE = Beams(1.0, 1e4, 1e4, 0, 10**6)
PDFS, TIDS = 3, 4
Path = tuple[tuple[int, ...], float]  # places of arcs, total


def random_graph(seed: int, states: int = 5, arcs: int = 12, finals: int = 2) -> tuple[DecodingGraph, np.ndarray]:
    """A graph that nothing is known of but its form, perhaps without a way to the end; and transition scores."""
    rng = np.random.default_rng(seed)
    src = np.append(rng.integers(0, states, arcs), rng.choice(states, finals, replace=False))
    dst = np.append(rng.integers(0, states, arcs), np.full(finals, states))
    pdf = np.append(rng.integers(0, PDFS, arcs), np.full(finals, -1))
    tid = np.append(rng.integers(-1, TIDS, arcs), np.full(finals, -1))
    pdf = np.where(tid >= 0, tid % PDFS, pdf)
    order = np.lexsort((dst, pdf, src))
    words = SymbolTable(["A", "B"])
    label = rng.choice([0, 0, 1, 2, 3], arcs + finals)
    graph = DecodingGraph(
        np.searchsorted(src[order], np.arange(states + 2)).astype(np.int32),
        *(x[order].astype(np.int32) for x in (dst, pdf, tid, label)),
        *(rng.normal(size=(2, arcs + finals)).astype(np.float32)),
        words=words,
        word_sequences=((1, 2),),
        lang_id="l",
        tree_id="t",
        topo_id="o",
        num_pdfs=PDFS,
        num_tids=TIDS,
    )
    return graph, rng.normal(size=TIDS).astype(np.float32)


def all_paths(graph: DecodingGraph, weight: np.ndarray, scores: np.ndarray) -> list[Path]:
    """Every path through the graph with its total."""
    grown: list[tuple[tuple[int, ...], int, float]] = [((), 0, 0.0)]
    for row in scores:
        grown = [
            ((*path, a), int(graph.dst[a]), total + float(weight[a]) + float(row[graph.pdf[a]]))
            for path, state, total in grown
            for a in range(graph.splits[state], graph.splits[state + 1])
            if graph.pdf[a] >= 0
        ]
    return [
        ((*path, a), total + float(weight[a]))
        for path, state, total in grown
        for a in range(graph.splits[state], graph.splits[state + 1])
        if graph.pdf[a] < 0
    ]


def paths_of(lattice: Lattice) -> list[tuple[tuple, float]]:
    """Every path of a lattice: what its arcs are (pdf, tid, label and language model score), and its total."""
    scores, grown, done = arc_scores(lattice, 1.0, 0.0), [((), 0, 0.0)], []
    while grown:
        path, state, total = grown.pop()
        if state == lattice.num_states - 1:
            done.append((path, total))
            continue
        for a in np.flatnonzero(lattice.src == state):
            names = (int(lattice.pdf[a]), int(lattice.tid[a]), int(lattice.label[a]), float(lattice.lm[a]))
            grown.append(((*path, names), int(lattice.dst[a]), total + scores[a]))
    return done


def names_of(graph: DecodingGraph, path: tuple[int, ...]) -> tuple:
    return tuple((int(graph.pdf[a]), int(graph.tid[a]), int(graph.word[a]), float(graph.lm[a])) for a in path)


def search_graph(graph: DecodingGraph, log_probs: np.ndarray, dynamic: bool = False) -> SearchGraph:
    return SearchGraph(graph, log_probs, np.arange(TIDS) % PDFS, 0.7, dynamic)


def run(graph: SearchGraph, scores: np.ndarray, beams: Beams = WIDE) -> Lattice:
    search = BeamSearch(graph, beams)
    search.advance(scores)
    return search.finish()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.0, 6.0))
def test_a_lattice_has_every_path_within_its_beam(seed: int, frames: int, lattice_beam: float) -> None:
    """And only paths of the graph, each with its own score; each arc is on one within the beam."""
    graph, log_probs = random_graph(seed)
    ours = search_graph(graph, log_probs)
    scores = np.random.default_rng(seed + 1).normal(size=(frames, PDFS)).astype(np.float32) * 2
    expected = all_paths(graph, ours.arcs["weight"], scores)
    lattice = run(ours, scores, Beams(1.0, 1e4, lattice_beam, 0, 10**6))
    lattice.validate("lattice")
    assert lattice.complete == bool(expected)
    if not expected:
        assert lattice.partial or not lattice.num_arcs
        return
    best = max(total for _, total in expected)
    found = paths_of(lattice)
    every: dict[tuple, list[float]] = {}
    for path, total in expected:
        every.setdefault(names_of(graph, path), []).append(total)
    for names, total in found:
        assert min(abs(total - x) for x in every[names]) < 1e-4
    assert max(total for _, total in found) == pytest.approx(best, abs=1e-4)
    within = sorted(total for _, total in expected if total >= best - lattice_beam + 1e-4)
    kept = sorted(total for _, total in found)
    assert len(kept) >= len(within) and kept[len(kept) - len(within) :] == pytest.approx(within, abs=1e-4)
    single = run(ours, scores, Beams(1.0, 1e4, None, 0, 10**6))
    single.validate("path")
    assert [total for _, total in paths_of(single)] == pytest.approx([best], abs=1e-4)
    for name in ("acoustic", "graph", "lm"):
        assert np.isfinite(getattr(lattice, name)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_parts_of_scores_are_those_of_their_arcs(seed: int, frames: int) -> None:
    graph, log_probs = random_graph(seed)
    scores = np.random.default_rng(seed).normal(size=(frames, PDFS)).astype(np.float32) - 30
    lattice = run(search_graph(graph, log_probs), scores, Beams(0.1, 1e4, 1e4, 0, 10**6))
    if not lattice.complete:
        return
    emits = lattice.pdf >= 0
    expected = np.where(emits, scores[np.minimum(lattice.frame[lattice.src], frames - 1), lattice.pdf], 0.0)
    assert lattice.acoustic == pytest.approx(expected, abs=1e-4)
    known = {
        (int(graph.pdf[a]), int(graph.tid[a]), int(graph.word[a]), float(graph.lm[a])): float(w)
        for a, w in enumerate(search_graph(graph, log_probs).arcs["weight"])
    }
    for a in range(lattice.num_arcs):
        names = (int(lattice.pdf[a]), int(lattice.tid[a]), int(lattice.label[a]), float(lattice.lm[a]))
        assert lattice.graph[a] == pytest.approx(known[names], abs=1e-5)


def real_case(frames: int = 300, order: int = 2) -> tuple[SearchGraph, np.ndarray]:
    """A small lang with triphones, and scores of many frames."""
    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 1, 1))
    graph = build_decoding_graph(lang, language_model(order), hmm)
    ours = SearchGraph(graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 0.7)
    return ours, 2 * np.random.default_rng(1).standard_normal((frames, graph.num_pdfs)).astype(np.float32)


def same(one: Lattice, other: Lattice) -> bool:
    names = ("frame", "src", "dst", "pdf", "tid", "label", "acoustic", "graph", "lm")
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names) and one.partial == other.partial


@pytest.mark.parametrize("lattice_beam", [None, 4.0])
@pytest.mark.parametrize("sizes", [(1,), (7,), (25,), (26, 3)])
def test_blocks_change_nothing(lattice_beam: float | None, sizes: tuple[int, ...]) -> None:
    graph, scores = real_case()
    beams = Beams(0.5, 6.0, lattice_beam, 5, 60)
    whole = run(graph, scores, beams)
    search, at, turn = BeamSearch(graph, beams), 0, 0
    while at < len(scores):
        search.advance(scores[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
        assert search.alive
    so_far = search.best_so_far()
    assert search.num_frames == 300 and same(search.finish(), whole)
    words = whole.spell(best_of(whole))
    assert len(so_far) >= 30 and so_far[:-5] == words[: len(so_far) - 5]
    search.start()
    search.advance(scores)
    assert same(search.finish(), whole), "the memory of the last utterance shows"


def best_of(lattice: Lattice) -> list[int]:
    floats = (lattice.acoustic * 0.5, lattice.graph, np.zeros(lattice.num_arcs))
    columns = (x.astype(np.float64) for x in floats)
    one = np.ones(1)
    found = best_labels(lattice.src, lattice.dst, lattice.label, *columns, lattice.num_states, one, 0 * one)
    return found[0].tolist()


@pytest.mark.parametrize("lattice_beam", [None, 3.0])
def test_pruning_while_it_runs_loses_nothing(monkeypatch, lattice_beam: float | None) -> None:
    """The same lattice as with one pruning at the end, and a history that does not hold all that was tried."""
    graph, scores = real_case(400)
    beams = Beams(0.5, 8.0, lattice_beam, 0, 10**6)
    monkeypatch.setattr("pipeline.graph.beam_search.CHUNK", 10**9)
    search = BeamSearch(graph, beams)
    search.advance(scores)
    unpruned, late = search.history_bytes, search.finish()
    for chunk in (1, 25):
        monkeypatch.setattr("pipeline.graph.beam_search.CHUNK", chunk)
        search = BeamSearch(graph, beams)
        sizes = []
        for begin in range(0, 400, 50):
            search.advance(scores[begin : begin + 50])
            sizes.append(search.history_bytes)
        assert sizes[-1] < unpruned / 3 and max(np.diff(sizes)) < unpruned / 12
        assert same(search.finish(), late)


def test_the_size_of_a_history_is_that_of_its_arrays() -> None:
    """A single loop: each frame has one link of 16 bytes, one token with two numbers and three numbers of its own."""
    ends = np.array([0, 2, 2], np.int32)
    columns = (np.array(x, np.int32) for x in ([0, 1], [0, -1], [0, -1], [1, 0]))
    graph = DecodingGraph(
        ends,
        *columns,
        *np.zeros((2, 2), np.float32),
        words=SymbolTable(["A"]),
        word_sequences=(),
        lang_id="l",
        tree_id="t",
        topo_id="o",
        num_pdfs=PDFS,
        num_tids=TIDS,
    )
    search = BeamSearch(search_graph(graph, np.zeros(TIDS, np.float32)), Beams(1.0, 1e4, 1e4))
    assert search.history_bytes == 8
    search.advance(np.zeros((7, PDFS), np.float32))
    assert search.history_bytes == 7 * (16 + 8 + 20) + 8


def test_an_hour_in_bounded_memory() -> None:
    """Of the best path alone a frame leaves a token, a link and three numbers."""
    graph, scores = real_case(2000)
    search = BeamSearch(graph, Beams(0.5, 8.0, None, 0, 1000))
    sizes = []
    for _ in range(20):
        search.advance(scores)
        sizes.append(search.history_bytes)
    assert max(np.diff(sizes)) < 60 * 2000
    lattice = search.finish()
    assert lattice.complete and lattice.num_frames == 40_000 and np.isfinite(lattice.acoustic).all()
    repeated = np.tile(scores, (20, 1))
    emits = lattice.pdf >= 0
    assert lattice.acoustic[emits] == pytest.approx(repeated[np.arange(40_000), lattice.pdf[emits]], abs=1e-4)


def test_limits_of_active_tokens() -> None:
    """About max_active where the beam would keep more, however wide it is; about min_active where it would keep
    fewer.
    """
    graph, scores = real_case(60)
    wide = [(Beams(0.5, beam, None, 0, 40), 40, 60) for beam in (1e9, np.inf, 50.0)]
    for beams, low, high in (*wide, (Beams(0.5, 0.01, None, 30, 1000), 30, 60)):
        search, counts = BeamSearch(graph, beams), []
        for row in scores:
            search.advance(row[None])
            counts.append(int(search._search.counts[kernels.LIVING]))
        assert np.median(counts) >= low and max(counts) <= high, counts
    alone = BeamSearch(graph, Beams(0.5, 0.01, None, 0, 1000))
    alone.advance(scores)
    assert search._search.counts[kernels.LIVING] > 3 * alone._search.counts[kernels.LIVING]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1, 2, 9]))
def test_transitions_that_depend_on_the_input(seed: int, frames: int, block: int) -> None:
    """An arc out of a frame scores the transition into the next one; the last frame has none."""
    graph, log_probs = random_graph(seed)
    rng = np.random.default_rng(seed)
    scores, transitions = (rng.normal(size=(frames, n)).astype(np.float32) for n in (PDFS, TIDS))
    search = BeamSearch(search_graph(graph, log_probs, dynamic=True), Beams(0.5, 1e4, 1e4, 0, 10**6))
    for at in range(0, frames, block):
        search.advance(scores[at : at + block], transitions[at : at + block])
    lattice = search.finish()
    weight = graph.lm + graph.lex
    expected = []
    for path, total in all_paths(graph, weight, 0.5 * scores):
        moves = zip(path, range(1, frames))
        expected.append(total + sum(0.7 * float(transitions[t, graph.tid[a]]) for a, t in moves if graph.tid[a] >= 0))
    found = [] if not lattice.complete else list_totals(lattice)
    assert sorted(found) == pytest.approx(sorted(expected), abs=1e-3)


def list_totals(lattice: Lattice) -> list[float]:
    lattice.validate("lattice")
    halved = Lattice(**{**lattice.__dict__, "acoustic": lattice.acoustic * np.float32(0.5)})
    return [total for _, total in paths_of(halved)]


def test_scores_on_demand_are_the_same() -> None:
    """Only what living states need is computed, in blocks, too."""
    graph, _ = real_case(1)
    pdfs, dim = graph.graph.num_pdfs, 4
    rng = np.random.default_rng(0)
    gmms = DiagGmms(
        torch.from_numpy(rng.dirichlet(np.ones(2), pdfs).reshape(-1)).float(),
        torch.from_numpy(rng.normal(size=(2 * pdfs, dim))).float(),
        torch.from_numpy(rng.uniform(0.5, 2.0, (2 * pdfs, dim))).float(),
        torch.arange(0, 2 * pdfs + 1, 2),
    )
    feats = torch.from_numpy(rng.normal(size=(90, dim))).float()
    source = MixtureScores(Evaluator(gmms), feats, np.array([0, 50]), np.array([50, 40]))
    dense = source.dense().numpy()
    beams = Beams(0.5, 6.0, 3.0, 0, 1000)
    for n, length in enumerate((50, 40)):
        whole = run(graph, dense[n, :length], beams)
        search = BeamSearch(graph, beams)
        search.advance_on_demand(source, n, 15)
        search.advance_on_demand(source, n, length - 15)
        found = search.finish()
        assert found.num_arcs == whole.num_arcs > 100
        for name in ("src", "dst", "pdf", "label"):
            assert np.array_equal(getattr(found, name), getattr(whole, name)), name
        assert found.acoustic == pytest.approx(whole.acoustic, abs=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_stand_for_impossible_pdfs(value: float) -> None:
    graph, scores = real_case(30)
    pdf = int(np.bincount(run(graph, scores, Beams(1.0, 1e4, None)).pdf[:-1]).argmax())
    broken, low = scores.copy(), scores.copy()
    broken[:, pdf], low[:, pdf] = value, -np.inf
    lattice = run(graph, broken, Beams(1.0, 1e3, 5.0))
    assert lattice.complete and pdf not in lattice.pdf and same(lattice, run(graph, low, Beams(1.0, 1e3, 5.0)))
    for name in ("acoustic", "graph", "lm"):
        assert np.isfinite(getattr(lattice, name)).all()


def test_code_that_is_compiled_with_scores_on_demand_goes_with_their_source(monkeypatch) -> None:
    """That of all loops which take a source."""
    asked = []
    monkeypatch.setattr("pipeline.hmm.numba_cache.drop_stale_code", lambda *arguments: asked.append(arguments))
    kernels.drop_stale_code.__wrapped__("scores.py")
    ((where, stems, sources),) = asked
    for loop in (kernels.advance, memory_of):
        assert where == str(loop.stats.cache_path) and pathlib.Path(loop.py_func.__code__.co_filename).stem in stems
    assert "scores.py" in sources


@pytest.mark.parametrize("dynamic", [False, True])
def test_arcs_that_are_read_in_slices_are_the_same(monkeypatch, dynamic: bool) -> None:
    whole, _ = real_case(1)
    arguments = np.linspace(-3.0, -1.0, whole.graph.num_tids), np.zeros(whole.graph.num_tids, int), 0.7, dynamic
    arcs = SearchGraph(whole.graph, *arguments).arcs
    monkeypatch.setattr("pipeline.graph.beam_search.SLICE", 7)
    assert len(arcs) > 70 and np.array_equal(SearchGraph(whole.graph, *arguments).arcs, arcs)


def test_where_no_path_is_left_the_result_is_partial() -> None:
    """Frames that hold no number drop everything; what was found before them stays, and more frames change nothing."""
    graph, scores = real_case(30)
    broken = scores.copy()
    broken[12] = np.nan
    search = BeamSearch(graph, Beams(1.0, 1e3, 5.0))
    search.advance(broken)
    assert not search.alive and search.num_frames == 30
    search.advance(scores)
    before = search.best_so_far()
    lattice = search.finish()
    lattice.validate("lattice")
    assert lattice.partial and not lattice.complete and lattice.num_frames == 12 and before
    search.start()
    search.advance(broken[12:])
    nothing = search.finish()
    nothing.validate("nothing")
    assert nothing.partial and not nothing.num_arcs and not nothing.num_frames
    search.start()
    assert not search.finish().num_arcs and search.best_so_far() == []


def test_no_final_state_in_reach() -> None:
    lang = small_lang(silence_prob=0.0, states=2)
    hmm = hmm_of(lang, random_tree(lang, 0, 0))
    graph = build_decoding_graph(lang, language_model(1), hmm)
    ours = SearchGraph(graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf())
    lattice = run(ours, np.zeros((1, graph.num_pdfs), np.float32), Beams(1.0, 1e3, 1e3))
    lattice.validate("lattice")
    assert (
        lattice.partial and lattice.num_frames == 1 and (lattice.pdf[lattice.dst == lattice.num_states - 1] < 0).all()
    )


def test_arrays_grow_in_the_middle_of_a_frame(monkeypatch) -> None:
    """A state with more arcs than there is room for at the start."""
    fan = 9000
    src, dst = (
        np.append(np.zeros(fan, int), np.arange(1, fan + 1)),
        np.append(np.arange(1, fan + 1), np.full(fan, fan + 1)),
    )
    zeros = np.zeros(2 * fan, np.float32)
    graph = DecodingGraph(
        np.searchsorted(src, np.arange(fan + 3)).astype(np.int32),
        dst.astype(np.int32),
        np.repeat([0, -1], fan).astype(np.int32),
        np.full(2 * fan, -1, np.int32),
        np.repeat([1, 0], fan).astype(np.int32),
        zeros,
        zeros,
        words=SymbolTable(["A"]),
        word_sequences=(),
        lang_id="l",
        tree_id="t",
        topo_id="o",
        num_pdfs=1,
        num_tids=0,
    )
    ours = SearchGraph(graph, np.zeros(0, np.float32), np.zeros(0, np.int64))
    for lattice_beam, arcs in ((5.0, 2 * fan), (None, 2)):  # all paths are equally good
        lattice = run(ours, np.zeros((1, 1), np.float32), Beams(1.0, 10.0, lattice_beam, 0, 10**6))
        lattice.validate("lattice")
        assert lattice.complete and lattice.num_arcs == arcs


def test_threads_and_batches_change_nothing(monkeypatch) -> None:
    graph, _ = real_case(1)
    hmm_graph = graph.graph
    lens = torch.tensor([30, 1, 17, 25, 30])
    scores = torch.randn(5, 30, hmm_graph.num_pdfs, generator=torch.Generator().manual_seed(1))
    options = DecodeOptions(acoustic_scale=1.0, beam=8.0, lattice_beam=4.0)
    log_probs = np.random.default_rng(0).normal(size=hmm_graph.num_tids).astype(np.float32)
    tid_pdf = np.zeros(hmm_graph.num_tids, np.int64)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    alone = Searcher(hmm_graph, log_probs, tid_pdf, 1.0, options).search(scores, lens)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("numba.get_num_threads", lambda: 4)
    searcher = Searcher(hmm_graph, log_probs, tid_pdf, 1.0, options)
    for _ in range(3):
        assert all(same(a, b) for a, b in zip(alone, searcher.search(scores, lens)))
    single = [searcher.search(scores[n : n + 1], lens[n : n + 1])[0] for n in range(5)]
    assert all(same(a, b) for a, b in zip(alone, single))


def test_a_graph_of_another_model_is_refused() -> None:
    graph, scores = real_case(3)
    with pytest.raises(AssertionError):
        run(graph, scores[:, :-1])
    with pytest.raises(AssertionError):
        SearchGraph(graph.graph, np.zeros(graph.graph.num_tids + 1, np.float32), np.zeros(graph.graph.num_tids + 1))
    with pytest.raises(AssertionError):
        run(graph, np.ones((3, graph.graph.num_pdfs + 1), np.float32))


def test_k2_s_search_without_k2_is_a_clear_error(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    graph, _ = real_case(1)
    with pytest.raises(ConfigError, match="--search k2 needs the package k2"):
        options = DecodeOptions(search="k2")
        Searcher(graph.graph, np.zeros(graph.graph.num_tids), np.zeros(graph.graph.num_tids, int), 1.0, options)


@pytest.mark.parametrize("lattice_beam", [None, 4.0])
@pytest.mark.parametrize("block", [1, 7, 110])
def test_what_is_settled_stays(lattice_beam: float | None, block: int) -> None:
    """Settled words only get more, begin the best path at any time and the final one, and are those of all tokens."""
    graph, scores = real_case(400)
    search, settled, frames = BeamSearch(graph, Beams(0.5, 6.0, lattice_beam, 5, 60)), [], [0]
    other = BeamSearch(graph, search.beams)  # asked only once
    for at in range(0, 400, block):
        search.advance(scores[at : at + block])
        other.advance(scores[at : at + block])
        words, frame = search.settled()
        assert words[: len(settled)] == settled and frames[-1] <= frame <= min(at + block, 400)
        assert search.best_so_far()[: len(words)] == words
        settled = words
        frames.append(frame)
        if at == 20 * block:
            assert settled == common_words(search)
    assert other.settled() == (settled, frames[-1])
    lattice = search.finish()
    final = lattice.spell(best_of(lattice))
    assert final[: len(settled)] == settled and len(final) - len(settled) < 10 < len(settled)
    assert max(np.diff(frames)) < 400 and frames[-1] > 350
    search.start()
    assert search.settled() == ([], 0)


def common_words(search: BeamSearch) -> list[int]:
    """What the best paths to all living tokens begin with, each path traced on its own: at least what is settled."""
    from pipeline.graph import search_paths

    inner = search._search
    frame, living = (int(inner.counts[i]) for i in (kernels.FRAME, kernels.LIVING))
    traced = []
    for token in range(living):
        arcs = np.empty(frame, np.int64)
        search_paths.trace(inner, token, 0, frame, arcs)
        traced.append(arcs)
    together = np.all([x == traced[0] for x in traced], axis=0)
    same = frame if together.all() else int(together.argmin())
    return search.graph.graph.spell(search.graph.graph.word[traced[0][:same]].tolist())
