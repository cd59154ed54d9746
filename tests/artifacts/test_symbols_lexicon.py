"""Symbol tables and lexicons: round trips, and every kind of broken file."""

from __future__ import annotations

import pytest

from pipeline.artifacts.lexicon import Lexicon, LexiconFile, Pronunciation, grapheme_lexicon
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
    "text, message",
    [
        ("A 1.0 AH\nB 1.0\n", r"lex.txt:2: word 'B' has no phones"),
        ("A 1.0 AH\nB\n", r"lex.txt:2: word 'B' has no probability and no phones"),
        ("A AH\n", r"lex.txt:1: 'AH' is not a probability"),
        ("A 1.5 AH\n", r"lex.txt:1: probability 1.5 is outside"),
        ("A nan AH\n", r"lex.txt:1: probability nan is outside"),
        ("A 1 AH\nA 1 AH\n", r"lex.txt:2: same word and phones as line 1"),
        ("A 1 AH\n\nB 1 B\n", r"lex.txt:2: empty line"),
        ("10\u00a0000 1 T EH N\n", r"lex.txt:1: holds U\+00A0"),
        ("A 1 A\u200bH\n", r"lex.txt:1: holds U\+200B"),
        ("", r"lex.txt: the lexicon is empty"),
    ],
)
def test_broken_lexicon_names_file_and_line(tmp_path, text, message):
    (tmp_path / "lex.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Lexicon.load(tmp_path / "lex.txt")


@pytest.mark.parametrize("char", ["\u00a0", "\u3000", "\u0085", "\x0b", "\r", "\0", "\u200b", "\u00ad", "\ufeff"])
def test_no_artifact_takes_an_exotic_blank_for_one(tmp_path, char):
    """Lexicon, symbols, language model, text: refused with line and code point."""
    from pipeline.artifacts.arpa import Arpa, read_sentences

    told = rf":\d+: holds U\+{ord(char):04X}"
    arpa = f"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n-1\tA{char}B\n\n\\end\\\n"
    for name, text, load in (
        ("lexiconp.txt", f"A{char}B 1 AH\n", Lexicon.load),
        ("words.txt", f"<eps> 0\nA{char}B 1\n", SymbolTable.load),
        ("lm.arpa", arpa, Arpa.load),
        ("text", f"fine\nA{char}B C\n", lambda path: list(read_sentences(path))),
    ):
        (tmp_path / name).write_bytes(text.encode())
        with pytest.raises(DataError, match=name + told):
            load(tmp_path / name)
    with pytest.raises(DataError, match="holds"):
        SymbolTable([f"A{char}B"])
    with pytest.raises(DataError, match="which is no grapheme"):
        grapheme_lexicon([f"a{char}b"])


def test_a_lexicon_read_word_by_word_is_the_whole_one(tmp_path):
    lines = "A 1.0 a\nB 0.5 b\nA 0.25 e\nB 1.0 b e\nC 1.0 c\n"
    (tmp_path / "lexiconp.txt").write_text(lines)
    whole, file = Lexicon.load(tmp_path / "lexiconp.txt"), LexiconFile(tmp_path / "lexiconp.txt")
    assert dict(file) == whole.by_word and list(file) == whole.words() and len(file) == 3
    assert "A" in file and "a" not in file
    (tmp_path / "lexiconp.txt").write_text(lines + "A 1.0 a\nD 1.0\n")
    broken = LexiconFile(tmp_path / "lexiconp.txt")
    assert broken["B"] == whole.by_word["B"]
    with pytest.raises(DataError, match="lexiconp.txt:1: word 'A' has a pronunciation twice"):
        broken["A"]
    with pytest.raises(DataError, match="lexiconp.txt:7: word 'D' has no phones"):
        broken["D"]


def test_graphemes_are_composed():
    assert grapheme_lexicon(["İŞ", "cafe\u0301"]).entries[0].phones == ("i", "ş")
    assert grapheme_lexicon(["cafe\u0301"]).entries[0].phones == ("c", "a", "f", "é")


def test_an_apostrophe_is_one_grapheme():
    """However a text writes it; of words the spelling stays."""
    words = ["don't", "don\u2019t", "DON\u02bcT"]
    entries = grapheme_lexicon(words).entries
    assert {e.phones for e in entries} == {("d", "o", "n", "'", "t")} and [e.word for e in entries] == words
    for drop in ("'", "\u2019"):
        assert {e.phones for e in grapheme_lexicon(words, drop).entries} == {("d", "o", "n", "t")}


def test_grapheme_lexicon_lowers_and_drops():
    lexicon = grapheme_lexicon(["IT'S", "CO-OP"], drop="-")
    assert lexicon.by_word["IT'S"][0].phones == ("i", "t", "'", "s")
    assert lexicon.by_word["CO-OP"][0].phones == ("c", "o", "o", "p")
    with pytest.raises(DataError, match="'-' has no graphemes"):
        grapheme_lexicon(["-"], drop="-")
