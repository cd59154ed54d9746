"""Lattices under another language model, against complete n-best lists ranked by the formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.artifacts.arpa import LOG10, UNK, ZERO, Arpa, train_kneser_ney
from pipeline.artifacts.symbols import SymbolTable
from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.options import DecodeOptions
from tests.graph.cases import SENTENCES, hmm_of, language_model, random_lm, random_tree, small_lang


def lattices_of(left: int, right: int, frames: tuple[int, ...], silence_prob: float = 0.3, states: int = 1):
    from pipeline.graph.search import Searcher

    lang = small_lang(silence_prob=silence_prob, states=states)
    hmm = hmm_of(lang, random_tree(lang, left, right))
    options = DecodeOptions(acoustic_scale=0.5, beam=1e4, lattice_beam=1e4, max_active=100_000)
    graph = build_decoding_graph(lang, language_model(1), hmm)
    searcher = Searcher(graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 0.7, options)
    scores = (
        torch.randn(len(frames), max(frames), hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(3)) * 2
    )
    return lang, searcher.search(scores, torch.tensor(frames))


@pytest.mark.parametrize("left, right, silence_prob", [(0, 0, 0.3), (1, 1, 0.3), (0, 1, 0.0)])
@pytest.mark.parametrize("old_lm", [0.0, 0.4])
def test_best_path_is_that_of_all_sequences(left, right, silence_prob, old_lm) -> None:
    """With right context and no silence the first arc can carry two words."""
    from pipeline.graph.lm_lattice import LatticeRescorer
    from pipeline.graph.nbest import nbest

    lang, lattices = lattices_of(left, right, (5, 4, 2), silence_prob)
    sharp = train_kneser_ney([*SENTENCES, *([["C", "A", "B"]] * 9)], 3)
    rescorer = LatticeRescorer(sharp, lang.words, old_lm)
    changed = 0
    for lm_weight, penalty in ((2.0, 0.0), (0.7, 1.0), (5.0, -1.0)):
        lists = nbest(lattices, 100_000, lm_weight, 1e4)
        found = rescorer.best_words(lattices, lm_weight, penalty)
        for alternatives, words in zip(lists, found):
            totals = {
                a.words: a.acoustic / lm_weight
                + a.graph
                - penalty * len(a.words)
                + (1 - old_lm) * (sharp.sentence_log_prob([lang.words.name(w) for w in a.words]) - a.lm)
                for a in alternatives
            }
            assert len(totals) > 3
            assert totals[tuple(words)] == pytest.approx(max(totals.values()), abs=1e-3)
            changed += (
                tuple(words)
                != max(alternatives, key=lambda a: a.acoustic / lm_weight + a.graph - penalty * len(a.words)).words
            )
    assert changed > 0


def test_the_same_model_again_changes_nothing() -> None:
    from pipeline.graph.lm_lattice import LatticeRescorer

    lang, lattices = lattices_of(1, 1, (6, 5, 3, 1))
    again = LatticeRescorer(language_model(1), lang.words)
    for lm_weight, penalty in ((2.0, 0.0), (0.5, 0.3), (9.0, -0.5)):
        assert again.best_words(lattices, lm_weight, penalty) == lattices.best_words(lm_weight, penalty)


def test_failed_searches_stay_empty() -> None:
    """Words of two frames at least: the second utterance has no path, alone and beside another one."""
    from pipeline.graph.lm_lattice import LatticeRescorer

    for frames in ((5, 1), (1,)):
        lang, lattices = lattices_of(0, 0, frames, silence_prob=0.0, states=2)
        found = LatticeRescorer(language_model(2), lang.words).best_words(lattices, 1.0, 0.0)
        assert [len(words) > 0 for words in found] == [n > 1 for n in frames]


def test_unknown_words_score_as_unk() -> None:
    from pipeline.graph.lm_lattice import LatticeRescorer

    lang, lattices = lattices_of(0, 0, (4,))
    low, high = ({("<s>",): -99.0, ("</s>",): -1.0, ("A",): -1.0, ("<unk>",): p} for p in (-60.0, 20.0))
    a = lang.words.id("A")
    said = [LatticeRescorer(Arpa(1, probs), lang.words).best_words(lattices, 3.0, 0.0)[0] for probs in (low, high)]
    assert set(said[0]) <= {a} and said[1] and a not in said[1]


def log_prob_of(lm, words: list[int]) -> float:
    """Of a sentence under a ``WordLm``."""
    total, (states, _) = 0.0, lm.start()
    for word in words:
        score, after, _ = lm.step(np.array([states]), np.array([word]))
        total, states = total + score[0], after[0]
    return total + lm.end(np.array([states]))[0]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("in_lang", [False, True])
def test_sentences_score_as_in_lists_of_the_n_best(order: int, in_lang: bool) -> None:
    """Words that the model lacks are its <unk>, with all its n-grams, whether or not the lang has it; Q is dropped."""
    from pipeline.graph.lm_lattice import NgramWordLm
    from pipeline.tasks.rescore import _log_prob

    words = SymbolTable(["A", UNK, "D", "B"] if in_lang else ["A", "D", "B"])
    for seed in range(3):
        arpa = random_lm(order, seed, "AB")
        lm, known = NgramWordLm(arpa, words), set(arpa.words())
        for n in range(4):
            for text in itertools.product(range(1, len(words)), repeat=n):
                expected = _log_prob(arpa, known, [words.name(i) for i in text])
                assert log_prob_of(lm, list(text)) == pytest.approx(expected, abs=1e-9), (seed, text)


def test_an_improbable_end_is_no_unknown_word() -> None:
    from pipeline.graph.lm_lattice import NgramWordLm

    probs = {("<s>",): ZERO, ("</s>",): -1.0, ("A",): -0.5, (UNK,): -1.5, ("A", "</s>"): -4.0}
    lm = NgramWordLm(Arpa(2, {n: p * LOG10 for n, p in probs.items()}), SymbolTable(["A"]))
    assert log_prob_of(lm, [1]) == pytest.approx(-4.5 * LOG10)
