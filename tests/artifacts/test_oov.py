"""Unknown words: counts, near matches, ways out."""

from __future__ import annotations

import logging

import pytest

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.oov import NearWords, UnknownWords
from pipeline.base.errors import DataError

NEAR = {
    "hello": ("HELLO", "--case upper"),
    "WORLD": ("world", "--case lower"),
    "Paris": ("pARIS", "--case"),
    "cafe\u0301": ("café", "Unicode form"),
    "don’t": ("don't", "--apostrophes"),
    "IT’S": ("it's", "--apostrophes, --case"),
    "end,": ("end", "--punctuation strip"),
    "“So": ("so", "--punctuation strip, --case"),
    "naive": ("naïve", "accents"),
    "cooperate": ("co-operate", "accents, hyphens"),
}


def test_near_words():
    near = NearWords(word for word, _ in NEAR.values())
    for word, (other, told) in NEAR.items():
        found = near.find(word)
        assert found is not None and found.word == other and told in found.difference, (word, found)
    assert near.find("nothing") is None and near.find("…") is None


def test_report(tmp_path, caplog):
    words = UnknownWords({"HELLO", "WORLD", "don't"}, "lexicon.txt")
    for text in ("hello world", "hello don’t HELLO", "xyzzy plugh xyzzy"):
        words.add(text.split())
    assert words.num_words == 8 and words.share == 7 / 8
    with caplog.at_level(logging.INFO):
        words.log(tmp_path / "oov.tsv")
    (record,) = caplog.records
    told = record.getMessage()
    assert record.levelno == logging.WARNING
    assert told.startswith("7 of 8 words (87.5%), 5 of 6 different ones, are not in lexicon.txt; ")
    assert (
        "3 of them are there and differ in capitals and small letters (--case upper): hello (HELLO), world (WORLD)"
        in told
    )
    assert "1 of them are there and differ in the apostrophe (--apostrophes): don’t (don't)" in told
    assert "the most frequent of the others: xyzzy 2, plugh 1" in told
    for way in ("steps/train_g2p.py", "--oov-word '<UNK>'", "--unit grapheme"):
        assert way in told
    rows = [line.split("\t") for line in (tmp_path / "oov.tsv").read_text(encoding="utf-8").splitlines()]
    assert {row[0] for row in rows} == {"hello", "world", "don’t", "xyzzy", "plugh"} and rows[0][1] == "2"


def test_few_are_no_warning_and_none_no_report(caplog):
    words = UnknownWords({"a"}, "x")
    words.add(["a"] * 99 + ["b"])
    with caplog.at_level(logging.INFO):
        words.log()
    assert caplog.records[0].levelno == logging.INFO and "1 of 100 words (1.0%)" in caplog.text
    clean = UnknownWords({"a"}, "x")
    clean.add(["a"])
    assert clean.report() == ""


def test_a_lang_names_the_word_that_looks_the_same():
    lang = make_lang(Lexicon([Pronunciation("café", ("k",)), Pronunciation("TEA", ("t",))]))
    with pytest.raises(
        DataError, match=r"x: word 'cafe\u0301' is not in the lexicon, which has 'café'; .*Unicode form"
    ):
        lang.word_ids("cafe\u0301", "x")
    with pytest.raises(DataError, match=r"word 'tea' is not in the lexicon, which has 'TEA'; .*--case upper"):
        lang.word_ids("tea", "x")
    with pytest.raises(DataError, match=r"word 'milk' is not in the lexicon$"):
        lang.word_ids("milk", "x")
