"""N-best lists of lattices against brute force over word sequences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.options import DecodeOptions
from tests.graph.cases import best_in_grammar, brute_force, hmm_of, language_model, random_tree, small_lang


@pytest.mark.parametrize("left,right,num", [(0, 0, 30), (1, 1, 6)])
def test_lists_are_those_of_brute_force(left: int, right: int, num: int) -> None:
    from pipeline.graph.nbest import nbest
    from pipeline.graph.search import Searcher

    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, left, right))
    arpa = language_model(2)
    grammar = grammar_from_arpa(arpa, lang.words)
    options = DecodeOptions(acoustic_scale=0.5, beam=1e4, lattice_beam=1e4, max_active=10_000)
    searcher = Searcher(
        build_decoding_graph(lang, arpa, hmm), hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 0.7, options
    )
    scores = torch.randn(3, 6, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(left)) * 2
    lens = torch.tensor([6, 1, 5])  # the second is too short for any word, but not for silence
    lists = nbest(searcher.search(scores, lens), num, 2.0, 1e4)
    assert [a.words for a in lists[1]] == [()]
    for i in (0, 2):
        found = {a.words: a.acoustic / 2.0 + a.graph for a in lists[i]}
        frames = scores[i, : int(lens[i])].numpy()
        expected = brute_force(lang, grammar, hmm, frames * np.float32(0.5), 3, 0.7)
        best = sorted(expected, key=expected.get, reverse=True)[:num]
        assert len(best) > 4 and list(found) == best
        assert [found[w] for w in best] == pytest.approx([expected[w] for w in best], abs=2e-3)
        for a in lists[i]:
            assert a.lm <= best_in_grammar(grammar, list(a.words)) + 1e-4


def test_beam_drops_the_rest() -> None:
    from pipeline.graph.nbest import nbest
    from pipeline.graph.search import Searcher

    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 0, 0))
    options = DecodeOptions(acoustic_scale=0.5, beam=1e4, lattice_beam=1e4, max_active=10_000)
    searcher = Searcher(
        build_decoding_graph(lang, language_model(2), hmm),
        hmm.transitions.log_probs(),
        hmm.transitions.tid_pdf(),
        1.0,
        options,
    )
    lattices = searcher.search(
        torch.randn(1, 6, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(1)), torch.tensor([6])
    )
    wide, narrow = nbest(lattices, 50, 2.0, 1e4)[0], nbest(lattices, 50, 2.0, 2.0)[0]
    totals = [a.acoustic / 2.0 + a.graph for a in wide]
    assert 0 < len(narrow) < len(wide) and [a.words for a in narrow] == [
        a.words for a, t in zip(wide, totals) if t >= totals[0] - 2.0
    ]


def test_lists_under_their_own_language_model_keep_their_order() -> None:
    """A unigram's share of the graph score is its sentence probability, so rescoring with it changes nothing."""
    from pipeline.artifacts.hyp import NBest
    from pipeline.graph.nbest import nbest
    from pipeline.graph.search import Searcher
    from pipeline.tasks.rescore import rescore

    lang, arpa = small_lang(), language_model(1)
    hmm = hmm_of(lang, random_tree(lang, 1, 1))
    options = DecodeOptions(acoustic_scale=0.5, beam=1e4, lattice_beam=1e4, max_active=10_000)
    searcher = Searcher(
        build_decoding_graph(lang, arpa, hmm), hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 1.0, options
    )
    scores = torch.randn(2, 6, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(5))
    lattices = searcher.search(scores, torch.tensor([6, 5]))
    lists = []
    for i, found in enumerate(nbest(lattices, 40, 2.0, 1e4)):
        named = tuple(dataclasses.replace(a, words=tuple(lang.words.name(w) for w in a.words)) for a in found)
        assert [a.lm for a in named] == pytest.approx([arpa.sentence_log_prob(a.words) for a in named], abs=1e-4)
        lists.append(NBest(str(i), "s", (), named))
    assert [h.hyp for h in rescore(lists, arpa, [(2.0, 0.0)])[2.0, 0.0]] == [x.alternatives[0].words for x in lists]


def test_weights_that_are_tried_in_turns_change_nothing(monkeypatch) -> None:
    """Of long recordings a few weights at a time, here one or two."""
    from tests.graph.test_lm_lattice import lattices_of

    weights = [(w, p) for w in (0.3, 1.0, 4.0) for p in (-2.0, 0.7, 3.0)]
    _, lattices = lattices_of(1, 1, (6, 4, 1))
    together = lattices.best_words_of(weights)
    assert len({str(texts) for texts in together}) > 2
    for most in (1, 2 * lattices[0].num_states):
        monkeypatch.setattr("pipeline.graph.lattices.MOST_CELLS", most)
        assert lattices.best_words_of(weights) == together


def test_best_paths_under_many_weights_are_those_of_the_lists() -> None:
    """The best of all word sequences, one pair of weights after the other; failed searches stay empty."""
    from pipeline.graph.nbest import nbest
    from tests.graph.test_lm_lattice import lattices_of

    weights = [(w, p) for w in (0.3, 1.0, 4.0, 20.0) for p in (-2.0, 0.0, 0.7, 3.0)]
    for left, right, states, frames in ((0, 0, 1, (6, 4, 1)), (1, 1, 1, (5, 4, 2)), (0, 1, 2, (8, 6, 1))):
        _, lattices = lattices_of(left, right, frames, silence_prob=0.0 if states == 2 else 0.3, states=states)
        found = lattices.best_words_of(weights)
        different = {tuple(map(tuple, texts)) for texts in found}
        assert len(different) > 2
        for (lm_weight, penalty), texts in zip(weights, found):
            for words, alternatives in zip(texts, nbest(lattices, 100_000, lm_weight, 1e4)):
                totals = {a.words: a.acoustic / lm_weight + a.graph - penalty * len(a.words) for a in alternatives}
                assert (not totals and not words) or totals[tuple(words)] == pytest.approx(
                    max(totals.values()), abs=1e-4
                )
            assert texts == lattices.best_words_of([(lm_weight, penalty)])[0] == lattices.best_words(lm_weight, penalty)
        assert lattices.empty() == ([2] if states == 2 else [])
