"""k2 as an oracle and as a backend: what our search, decoding and graphs find, k2 finds too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.artifacts.hyp import load_nbest
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import LatticeSet
from pipeline.artifacts.posteriors import PosteriorSet
from pipeline.base.errors import DataError
from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.lm_lattice import LatticeRescorer
from pipeline.graph.options import DecodeOptions
from pipeline.graph.search import Searcher
from pipeline.hmm import Graphs, convert, full_sum
from pipeline.tasks.ali_formats import read_ctm
from tests.graph.cases import best_path, hmm_of, language_model, random_tree, small_lang
from tests.graph.test_beam_search import paths_of, real_case
from tests.tasks.test_decode import FRAMES, WIDE, TableScorer, data, decode, directory, rows_of, system  # noqa: F401

k2 = pytest.importorskip("k2")


def test_decoding_recognises_the_same(data) -> None:
    """With another language model, static and input-dependent transitions, failures counted."""
    lang, hmm, graph = system(silence_prob=0.0)
    data({**FRAMES, "short": 1})
    rescorer = LatticeRescorer(language_model(3), lang.words)
    for transitions in (None, torch.from_numpy(hmm.transitions.log_probs())):
        scorer = TableScorer(hmm, transitions)
        for second in (None, rescorer):
            ours, theirs = (
                decode.decode(scorer, graph, "data", dataclasses.replace(WIDE, search=s), [(2.0, 0.5)], second)
                for s in ("ours", "k2")
            )
            assert ours.found == theirs.found and ours.failed == theirs.failed == ["short"]


def test_all_that_decoding_writes_is_the_same(directory) -> None:
    """Lattices, lists, posteriors, confidences."""
    more = dict(nbest=5, posteriors=True, lattices=True, confidences=True)
    one, other = (directory(search, search=search, **more) for search in ("ours", "k2"))
    assert all(rows_of(one)[m]["value"] == rows_of(other)[m]["value"] for m in ("wer", "oracle_wer"))
    heard, others = read_ctm(one / "words.ctm"), read_ctm(other / "words.ctm")
    assert heard.keys() == others.keys() and len(heard) == 4
    for cut_id, segments in heard.items():
        assert [s.symbol for s in segments] == [s.symbol for s in others[cut_id]]
        for a, b in zip(segments, others[cut_id]):
            assert (a.start, a.end, a.confidence) == pytest.approx((b.start, b.end, b.confidence), abs=2e-3)
    for x, y in zip(load_nbest(one), load_nbest(other)):
        assert [a.words for a in x.alternatives] == [a.words for a in y.alternatives]
        for a, b in zip(x.alternatives, y.alternatives):
            assert (a.acoustic, a.graph, a.lm) == pytest.approx((b.acoustic, b.graph, b.lm), abs=5e-3)
    for cut_id in FRAMES:
        mine, theirs = PosteriorSet(one)[cut_id], PosteriorSet(other)[cut_id]
        assert mine.frame.tolist() == theirs.frame.tolist() and mine.pdf.tolist() == theirs.pdf.tolist()
        assert mine.share == pytest.approx(theirs.share, abs=1e-3)
        lattices = [LatticeSet(out / "lattices")[cut_id] for out in (one, other)]
        assert lattices[0].num_arcs == lattices[1].num_arcs


def test_scores_that_are_no_numbers_count_alike() -> None:
    graph, scores = real_case(12)
    log_probs, tid_pdf = np.zeros(graph.graph.num_tids, np.float32), np.zeros(graph.graph.num_tids, np.int64)
    broken = torch.from_numpy(np.stack([scores, scores, scores]))
    broken[0, :, 0], broken[1, :, 1], broken[2, 7] = np.nan, np.inf, np.nan
    found = []
    for search in ("ours", "k2"):
        options = DecodeOptions(acoustic_scale=0.5, beam=1e3, lattice_beam=5.0, max_active=100_000, search=search)
        lattices = Searcher(graph.graph, log_probs, tid_pdf, 1.0, options).search(broken, torch.tensor([12, 12, 12]))
        assert lattices.empty() == [2] and 0 not in lattices[0].pdf
        found.append(lattices.best_words(2.0, 0.0))
    assert found[0] == found[1] and found[0][0] and not found[0][2]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("left, right", [(0, 0), (1, 1), (0, 2)])
def test_lattices_are_the_same(left: int, right: int, order: int) -> None:
    """The same lattices, path by path, of both searches behind one interface."""
    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, left, right))
    graph = build_decoding_graph(lang, language_model(order), hmm)
    scores = torch.randn(3, 6, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(order)) * 2 - 40
    lens, found = torch.tensor([6, 2, 5]), {}
    for search in ("ours", "k2"):
        options = DecodeOptions(acoustic_scale=0.5, beam=1e3, lattice_beam=6.0, max_active=100_000, search=search)
        arguments = graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 0.7, options
        found[search] = Searcher(*arguments).search(scores, lens)
        static = found[search]
        transitions = torch.from_numpy(hmm.transitions.log_probs()).expand(3, 6, -1)
        dynamic = Searcher(*arguments, dynamic=True).search(scores, lens, transitions)
        for one, other in zip(static, dynamic):
            assert max(t for _, t in paths_of(one)) > -1e9 and other.pdf.max() < graph.num_pdfs
    assert found["ours"].best_words_of([(2.0, 0.0), (1.0, 0.5)]) == found["k2"].best_words_of([(2.0, 0.0), (1.0, 0.5)])
    for ours, theirs in zip(found["ours"], found["k2"]):
        theirs.validate("k2")
        best = max(t for _, t in halved(ours))
        for one, other in ((ours, theirs), (theirs, ours)):
            every = {}
            for names, total in halved(other):
                every.setdefault(names, []).append(total)
            for names, total in halved(one):
                if total > best - 5.99:
                    assert min(abs(total - x) for x in every[names]) < 1e-3


def halved(lattice: Lattice) -> list[tuple[tuple, float]]:
    return paths_of(Lattice(**{**lattice.__dict__, "acoustic": lattice.acoustic * np.float32(0.5)}))


@pytest.mark.parametrize("dynamic", [False, True])
def test_best_paths_of_graphs_have_the_same_words_and_scores(dynamic: bool) -> None:
    """By k2's functions alone on the graph that it gets."""
    from pipeline.graph.search_k2 import graph_fsa

    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 1, 1))
    graph, transitions = build_decoding_graph(lang, language_model(2), hmm), hmm.transitions
    log_probs = transitions.log_probs()
    for seed in range(6):
        scores = np.random.default_rng(seed).standard_normal((7, transitions.num_pdfs)).astype(np.float32)
        columns = scores
        if dynamic:
            columns = np.concatenate([scores[:, transitions.tid_pdf()] + 0.7 * log_probs, scores], axis=1)
        padded = torch.nn.functional.pad(torch.from_numpy(columns)[None], (1, 0), value=-torch.inf).float()
        dense = k2.DenseFsaVec(padded, torch.tensor([[0, 0, 7]], dtype=torch.int32))
        fsa = graph_fsa(graph, log_probs, 0.7, dynamic=dynamic)
        best = k2.shortest_path(k2.intersect_dense_pruned(fsa, dense, 1e4, 1e4, 0, 10**6), use_double_scores=True)
        words, total = best_path(graph, hmm, scores, 0.7)
        assert graph.spell(best.aux_labels.tolist()) == words
        assert float(best.get_tot_scores(True, False)[0]) == pytest.approx(total, abs=1e-3)


def test_graphs_of_the_engine_there_and_back():
    from pipeline.graph.hmm_k2 import from_k2, to_k2

    graphs = Graphs.cat([convert.linear([[0, 1, 2], [1]], num_pdfs=4), convert.ctc([[1, 1]], num_pdfs=4)])
    back = from_k2(to_k2(graphs), num_pdfs=4, num_tids=0)
    emissions, lengths = torch.randn(3, 9, 4), torch.tensor([9, 5, 7])
    torch.testing.assert_close(full_sum(back, emissions, lengths), full_sum(graphs, emissions, lengths))
    with pytest.raises(DataError, match="label 0"):
        from_k2(to_k2(graphs, offset=0))
