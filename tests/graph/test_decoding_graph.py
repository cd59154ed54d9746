"""HLG against brute force over word sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.arpa import Arpa
from pipeline.artifacts.lang import Lang
from pipeline.base.errors import DataError
from pipeline.graph.beam_search import Beams, BeamSearch, SearchGraph
from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.lattices import Lattices
from tests.graph.cases import best_path, brute_force, hmm_of, language_model, random_tree, small_lang

CONTEXTS = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2)]


def check_best_paths(left: int, right: int, order: int, lang: Lang) -> None:
    """The best path of random scores is the best of all word sequences, each scored on its own training graph."""
    arpa, hmm = language_model(order), hmm_of(lang, random_tree(lang, left, right, seed=order), seed=order)
    graph, grammar = build_decoding_graph(lang, arpa, hmm), grammar_from_arpa(arpa, lang.words)
    rng = np.random.default_rng(10 * left + right)
    seen = set()
    for frames in (2, 3, 5, 6, 6, 7):
        scores = (3 * rng.standard_normal((frames, hmm.transitions.num_pdfs))).astype(np.float32)
        expected = brute_force(lang, grammar, hmm, scores, transition_scale=0.7)
        if not expected:
            continue
        words, total = best_path(graph, hmm, scores, 0.7)
        if len(words) <= 3:
            assert total == pytest.approx(max(expected.values()), abs=1e-3), (words, frames)
            assert expected[tuple(words)] == pytest.approx(total, abs=1e-3)
            seen.add(tuple(words))
        else:  # brute force does not try that many words
            assert total >= max(expected.values()) - 1e-3
    assert len(seen) >= 2


@pytest.mark.parametrize("left,right", CONTEXTS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_best_path_is_that_of_brute_force(left: int, right: int, order: int) -> None:
    check_best_paths(
        left, right, order, small_lang(silence_prob=0.0 if order == 3 else 0.3, states=1 if order == 1 else 2)
    )


@pytest.mark.parametrize("left,right", [(2, 1), (2, 2)])
@pytest.mark.parametrize("silence_prob", [0.0, 0.3])
def test_wide_contexts_reach_over_several_words(left: int, right: int, silence_prob: float) -> None:
    """Words of one phone: a window of five phones spans up to five words and the silences between them."""
    check_best_paths(left, right, 2, small_lang(silence_prob=silence_prob, states=1))


@pytest.mark.parametrize(
    "left,right,position", [(0, 0, "word_end"), (1, 1, "word_end"), (0, 2, "word_end"), (1, 1, "full")]
)
def test_phones_that_know_their_position(left: int, right: int, position: str) -> None:
    check_best_paths(left, right, 2, small_lang(states=1, position=position))


def test_two_words_on_the_first_arc_are_both_put_out() -> None:
    lang = small_lang(silence_prob=0.0, states=1)
    hmm = hmm_of(lang, random_tree(lang, 0, 1))
    graph = build_decoding_graph(lang, language_model(2), hmm)
    a = lang.words.id("A")
    assert (a, a) in graph.word_sequences
    label = len(lang.words) + graph.word_sequences.index((a, a))
    assert graph.spell([0, label, 0, a]) == [a, a, a]
    assert graph.words_per_label()[label] == 2
    inner = graph.word[graph.splits[1] :]
    assert inner.max() < len(lang.words), "only arcs that leave the start may carry sequences"


def test_save_and_load_give_the_same_graph(tmp_path: Path) -> None:
    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 1, 1))
    graph = build_decoding_graph(lang, language_model(2), hmm)
    graph.save(tmp_path, {"lm_id": "x"})
    again = DecodingGraph.load(tmp_path)
    for name in ("splits", "dst", "pdf", "tid", "word", "lm", "lex"):
        assert np.array_equal(getattr(graph, name), getattr(again, name)), name
    assert again.word_sequences == graph.word_sequences and again.tree_id == hmm.tree.id


@pytest.mark.parametrize("damage", ["truncate", "missing", "range"])
def test_damaged_graph_is_refused(tmp_path: Path, damage: str) -> None:
    lang = small_lang()
    graph = build_decoding_graph(lang, language_model(1), hmm_of(lang, random_tree(lang, 0, 0)))
    if damage == "range":
        graph.dst[3] = graph.num_states
    graph.save(tmp_path)
    if damage == "truncate":
        (tmp_path / "graph.safetensors").write_bytes((tmp_path / "graph.safetensors").read_bytes()[:200])
    if damage == "missing":
        (tmp_path / "graph.safetensors").unlink()
    with pytest.raises(DataError, match="graph"):
        DecodingGraph.load(tmp_path)


def test_language_model_without_a_common_word_is_refused() -> None:
    lang = small_lang()
    with pytest.raises(DataError, match="no word in common"):
        build_decoding_graph(
            lang, Arpa(1, {("<s>",): -99.0, ("</s>",): -0.7, ("Q",): -0.7}), hmm_of(lang, random_tree(lang, 0, 0))
        )


def test_dynamic_labels_score_like_static_ones() -> None:
    """With the same transition scores in every frame. The last arc of a path moves into no frame and has none."""
    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 1, 1))
    graph, log_probs = build_decoding_graph(lang, language_model(2), hmm), hmm.transitions.log_probs()
    scores = np.random.default_rng(3).standard_normal((7, hmm.transitions.num_pdfs)).astype(np.float32)
    search = BeamSearch(
        SearchGraph(graph, log_probs, hmm.transitions.tid_pdf(), 0.7, dynamic=True), Beams(1.0, 1e4, 1e4, 0, 10**6)
    )
    search.advance(scores, np.tile(log_probs, (7, 1)))
    dynamic = search.finish()
    search = BeamSearch(SearchGraph(graph, log_probs, hmm.transitions.tid_pdf(), 0.7), Beams(1.0, 1e4, 1e4, 0, 10**6))
    search.advance(scores)
    static = search.finish()
    words = []
    for lattice, own in ((static, 1.0), (dynamic, 0.0)):
        # Static weights hold the transition of the last frame's arc, too: take it off.
        last = (lattice.frame[lattice.src] == 6) & (lattice.tid >= 0)
        graph_scores = lattice.graph - np.where(last, own * 0.7 * log_probs[lattice.tid], 0.0).astype(np.float32)
        words.append(Lattices([replace(lattice, graph=graph_scores)]).best_words_of([(1.0, 0.0), (0.5, 0.3)]))
    assert words[0] == words[1] and words[0][0] != [[]]
