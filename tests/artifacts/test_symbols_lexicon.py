"""Symbol tables and lexicons: round trips, and every kind of broken file."""

from __future__ import annotations

import pytest

from pipeline.artifacts.lexicon import Lexicon, Pronunciation, grapheme_lexicon
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError


def test_symbol_table_round_trip(tmp_path):
    table = SymbolTable(["SIL", "AH", "B"])
    assert [table.id(n) for n in ("<eps>", "SIL", "AH", "B")] == [0, 1, 2, 3]
    assert table.name(2) == "AH" and len(table) == 4 and "C" not in table
    table.save(tmp_path / "phones.txt")
    assert SymbolTable.load(tmp_path / "phones.txt") == table
    first = (tmp_path / "phones.txt").read_bytes()
    SymbolTable.load(tmp_path / "phones.txt").save(tmp_path / "phones.txt")
    assert (tmp_path / "phones.txt").read_bytes() == first


@pytest.mark.parametrize(
    "text, message",
    [
        ("<eps> 0\nA\n", r"phones.txt:2: expected 'symbol id'"),
        ("<eps> 0\nA 2\n", r"phones.txt:2: id 2 where 1 was due"),
        ("A 0\n", r"phones.txt:1: the first symbol must be '<eps>'"),
        ("<eps> 0\nA 1\nA 2\n", r"symbol 'A' stands twice"),
    ],
)
def test_broken_symbol_table(tmp_path, text, message):
    (tmp_path / "phones.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        SymbolTable.load(tmp_path / "phones.txt")


def test_symbol_lookups_name_the_culprit():
    table = SymbolTable(["A"])
    with pytest.raises(DataError, match="'B' is not in the table"):
        table.id("B")
    with pytest.raises(DataError, match="outside 0..1"):
        table.name(2)


def test_lexicon_round_trip_keeps_variants_and_probabilities(tmp_path):
    lexicon = Lexicon(
        [Pronunciation("A", ("AH",), 1.0), Pronunciation("A", ("EY",), 0.1 + 0.2), Pronunciation("BE", ("B", "IY"))]
    )
    lexicon.save(tmp_path / "lexiconp.txt")
    again = Lexicon.load(tmp_path / "lexiconp.txt")
    assert again.entries == lexicon.entries
    assert again.words() == ["A", "BE"] and again.phones() == ["AH", "B", "EY", "IY"]


@pytest.mark.parametrize(
    "probs, text, message",
    [
        (False, "A AH\nB\n", r"lex.txt:2: word 'B' has no phones"),
        (True, "A 1.0 AH\nB 1.0\n", r"lex.txt:2: word 'B' has no phones"),
        (True, "A AH\n", r"lex.txt:1: 'AH' is not a probability"),
        (True, "A 1.5 AH\n", r"lex.txt:1: probability 1.5 is outside"),
        (True, "A nan AH\n", r"lex.txt:1: probability nan is outside"),
        (False, "A AH\nA AH\n", r"lex.txt:2: same word and phones as line 1"),
        (False, "A AH\n\nB B\n", r"lex.txt:2: empty line"),
        (False, "", r"lex.txt: the lexicon is empty"),
    ],
)
def test_broken_lexicon_names_file_and_line(tmp_path, probs, text, message):
    (tmp_path / "lex.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        Lexicon.load(tmp_path / "lex.txt", probs=probs)


def test_grapheme_lexicon_lowers_and_drops():
    lexicon = grapheme_lexicon(["IT'S", "CO-OP"], drop="-")
    assert lexicon.by_word["IT'S"][0].phones == ("i", "t", "'", "s")
    assert lexicon.by_word["CO-OP"][0].phones == ("c", "o", "o", "p")
    with pytest.raises(DataError, match="'-' has no graphemes"):
        grapheme_lexicon(["-"], drop="-")
