"""G against kaldilm and against the model's own probabilities."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.arpa import LOG10, UNK, ZERO, Arpa
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError
from pipeline.graph.grammar import Grammar, grammar_from_arpa
from tests.graph.cases import best_in_grammar, language_model, random_lm, score_in_grammar, small_lang

SCRIPT = """
import sys, kaldilm
print(kaldilm.arpa2fst(sys.argv[1], disambig_symbol='#0', read_symbol_table=sys.argv[2]))
"""


def kaldi_grammar(arpa: Path, words: Path) -> Grammar:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(arpa), str(words)], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    arcs = [r for r in rows if len(r) >= 4]
    num_words = sum(1 for _ in open(words, encoding="utf-8")) - 3
    states = 1 + max(int(x) for r in arcs for x in r[:2])
    backoff, weight, final = np.full(states, -1), np.zeros(states), np.full(states, -np.inf)
    for r in arcs:
        if int(r[2]) == num_words:
            backoff[int(r[0])], weight[int(r[0])] = int(r[1]), -float(r[4]) if len(r) > 4 else 0.0
    for r in rows:
        if len(r) < 4:
            final[int(r[0])] = -float(r[1]) if len(r) > 1 else 0.0
    kept = [r for r in arcs if int(r[2]) != num_words]
    columns = [np.array([int(r[i]) for r in kept]) for i in (0, 1, 2)]
    return Grammar(
        *columns, np.array([-float(r[4]) if len(r) > 4 else 0.0 for r in kept]), backoff, weight, final, int(rows[0][0])
    )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_kaldilm(tmp_path: Path, order: int) -> None:
    pytest.importorskip("kaldilm")
    lang, arpa = small_lang(), language_model(order)
    arpa.save(tmp_path / "lm.arpa")
    names = [*lang.words, "#0", "<s>", "</s>"]
    (tmp_path / "words.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)), encoding="utf-8")
    ours, theirs = grammar_from_arpa(arpa, lang.words), kaldi_grammar(tmp_path / "lm.arpa", tmp_path / "words.txt")
    assert len(ours.word) == len(theirs.word) and (ours.backoff >= 0).sum() == (theirs.backoff >= 0).sum()
    ids = list(range(1, len(lang.words)))
    for text in [[]] + [[a] for a in ids] + [[a, b] for a in ids for b in ids] + [[1, 2, 3, 4], [4, 3, 2, 1, 1]]:
        assert best_in_grammar(ours, text) == pytest.approx(best_in_grammar(theirs, text), abs=1e-4), text


def test_unigram_paths_have_the_models_probability() -> None:
    lang, arpa = small_lang(), language_model(1)
    grammar = grammar_from_arpa(arpa, lang.words)
    for text in (["A"], ["B", "D"], ["C", "C", "A"]):
        ids = [lang.words.id(w) for w in text]
        assert best_in_grammar(grammar, ids) == pytest.approx(arpa.sentence_log_prob(text))


def test_words_outside_the_vocabulary_are_dropped_and_named() -> None:
    lang, arpa = small_lang(), language_model(2)
    arpa.probs[("Q",)] = -3.0
    arpa.probs[("A", "Q")] = -1.0
    grammar = grammar_from_arpa(arpa, lang.words)
    assert grammar.dropped == ("Q",)
    assert len(grammar.word) == len(grammar_from_arpa(language_model(2), lang.words).word)


def test_histories_that_only_dropped_words_extend_cost_their_back_off() -> None:
    probs = {("<s>",): ZERO, ("</s>",): -1.0, ("A",): -0.5, ("B",): -0.4, ("Q",): -0.8, ("A", "Q"): -0.05}
    arpa = Arpa(2, {n: p * LOG10 for n, p in probs.items()}, {("A",): -1.0 * LOG10})
    grammar = grammar_from_arpa(arpa, SymbolTable(["A", "B"]))
    assert score_in_grammar(grammar, [1, 2]) == pytest.approx((-0.5 - 1.0 - 0.4 - 1.0) * LOG10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_sentences_have_the_models_probability_where_the_lang_lacks_words(order: int, seed: int) -> None:
    """Random models with words, and <unk>, that the lang lacks."""
    lang, arpa = small_lang(), random_lm(order, seed)
    grammar = grammar_from_arpa(arpa, lang.words)
    assert grammar.dropped == ("Q", UNK)
    for n in range(4):
        for text in itertools.product("ABC", repeat=n):
            found = score_in_grammar(grammar, [lang.words.id(w) for w in text])
            assert found == pytest.approx(arpa.sentence_log_prob(text)), text


def test_a_model_without_words_of_the_lang_is_refused() -> None:
    arpa = random_lm(2, 0, words="")
    for words in (["A"], ["A", UNK]):
        with pytest.raises(DataError, match="no word in common"):
            grammar_from_arpa(arpa, SymbolTable(words))
