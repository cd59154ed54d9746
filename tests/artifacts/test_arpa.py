"""ARPA models: probabilities that sum to one, perplexity, round trips and broken files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.artifacts.arpa import BOS, EOS, Arpa, read_sentences, train_kneser_ney, train_unigram
from pipeline.base.errors import DataError

SENTENCES = [s.split() for s in ("A B", "B A C", "C C D", "D", "A A B", "B D", "C", "A Ã à")]
VOCABULARY = ["A", "B", "C", "D", "Ã", "à"]


def model(kind: str) -> Arpa:
    return train_unigram(SENTENCES) if kind == "unigram" else train_kneser_ney(SENTENCES, int(kind[0]))


@pytest.mark.parametrize("kind", ["unigram", "2-gram", "3-gram"])
def test_probabilities_sum_to_one_after_every_history(kind: str) -> None:
    arpa = model(kind)
    for history in ([BOS], ["A"], ["B", "A"], [BOS, "C"], ["D", "D"]):
        assert sum(math.exp(arpa.log_prob(history, w)) for w in [*VOCABULARY, EOS]) == pytest.approx(1.0, abs=1e-5)


def test_maximum_likelihood_and_added_counts() -> None:
    arpa = train_unigram([["A", "A", "B"]])
    assert arpa.log_prob([], "A") == pytest.approx(math.log(2 / 4)) and arpa.log_prob([], EOS) == pytest.approx(
        math.log(1 / 4)
    )
    assert arpa.log_prob([], "C") == -math.inf
    assert train_unigram([["A"]], ["A", "C"], add=0.5).log_prob([], "C") == pytest.approx(math.log(0.5 / 3))


def test_perplexity_counts_ends_and_leaves_unknown_words_out() -> None:
    facts = train_unigram([["A", "A", "B"]]).perplexity([["A", "Q"], ["B"]])
    expected = math.exp(-(math.log(0.5) + 3 * math.log(0.25)) / 4)
    assert facts == {"sentences": 2, "words": 3, "oov": 1, "perplexity": pytest.approx(expected)}


def test_perplexity_agrees_with_kaldingram(tmp_path: Path) -> None:
    from kaldingram.ppl import compute_ppl
    from kaldingram.prune import ArpaParser

    text = [["A", "B", "C"], ["D", "D"], ["C", "A"]]
    arpa = train_kneser_ney([s for s in SENTENCES if "à" not in s], 3)
    arpa.save(tmp_path / "lm")
    theirs = compute_ppl(ArpaParser().loadf(str(tmp_path / "lm"), encoding="utf-8")[0], [" ".join(s) for s in text])
    assert arpa.perplexity(text)["perplexity"] == pytest.approx(theirs["ppl"], rel=1e-4)


@pytest.mark.parametrize("kind", ["unigram", "3-gram"])
def test_round_trip(tmp_path: Path, kind: str) -> None:
    arpa = model(kind)
    arpa.save(tmp_path / "lm.arpa")
    again = Arpa.load(tmp_path / "lm.arpa")
    assert again.by_order == arpa.by_order
    assert again.sentence_log_prob(["A", "B", "D"]) == pytest.approx(arpa.sentence_log_prob(["A", "B", "D"]), abs=1e-5)
    again.save(tmp_path / "again.arpa")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "lm.arpa").read_bytes()


def test_pruning_keeps_a_distribution() -> None:
    arpa, full = train_kneser_ney(SENTENCES * 3, 2, prune=1e-2), train_kneser_ney(SENTENCES * 3, 2)
    assert arpa.by_order[1] < full.by_order[1]
    assert sum(math.exp(arpa.log_prob(["A"], w)) for w in [*VOCABULARY, EOS]) == pytest.approx(1.0, abs=1e-3)


GOOD = "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-99 <s> -0.3\n-0.5 </s>\n-0.4 A -0.2\n\n\\2-grams:\n-0.1 <s> A\n\n\\end\\\n"


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("ngram 1=3", "ngram 1=4", ":10: 3 1-grams where"),
        ("-0.4 A -0.2", "x A -0.2", ":8: 'x' is not a number"),
        ("-0.4 A -0.2", "nan A -0.2", ":8: 'nan' is not a finite"),
        ("-0.4 A -0.2", "0.4 A -0.2", ":8: log10 probability 0.4 is above 0"),
        ("-0.4 A -0.2", "-0.4 A -0.2 7", ":8: expected a probability, 1 words"),
        ("-0.4 A -0.2", "-0.4 </s> -0.2", ":8: the n-gram '</s>' stands twice"),
        ("-0.1 <s> A", "-0.1 <s> B", ":11: the n-gram '<s> B' has no"),
        ("-99 <s> -0.3", "-99 Q -0.3", ":11: the n-gram '<s> A' has no"),
        ("\\end\\", "", ": the file ends before"),
        ("\\2-grams:", "\\3-grams:", ":10: unexpected section"),
        ("ngram 2=1", "ngram two=1", ":3: expected 'ngram 2=COUNT'"),
        ("ngram 1=3", "ngram 1=3\x1c", ":2: expected 'ngram 1=COUNT'"),
        ("\\data\\", "data", ": not an ARPA file"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD, encoding="utf-8")
    assert Arpa.load(path).by_order == [3, 1]
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError) as error:
        Arpa.load(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_text_in_front_may_explain_the_format(tmp_path: Path) -> None:
    """The CMU toolkit writes a sketch of the sections before the data."""
    path = tmp_path / "lm.arpa"
    path.write_text("Formats:\nngram 1=nr\n\\1-grams:\np_1 wd_1 bo_wt_1\n\\end\\\n\n" + GOOD, encoding="utf-8")
    assert Arpa.load(path).probs == _loaded(tmp_path / "plain.arpa").probs


def _loaded(path: Path) -> Arpa:
    path.write_text(GOOD, encoding="utf-8")
    return Arpa.load(path)


def test_texts_without_words_or_with_markers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        list(read_sentences(path))
    path.write_text("A\n<s> A </s>\n", encoding="utf-8")
    with pytest.raises(DataError, match=":2: holds a sentence marker"):
        list(read_sentences(path))
