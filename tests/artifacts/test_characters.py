"""Blanks, invisible and control characters: the whole of Unicode against its categories."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from pipeline.artifacts.characters import (
    control_character,
    named,
    odd_character,
    plain_blanks,
    problem_of,
    split_fields,
    without_format,
)
from pipeline.base.errors import DataError

# Visible although of category Cf: signs that stand before numbers in Arabic, Syriac and Kaithi, Egyptian joiners.
VISIBLE = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
SHORTHAND = range(0x1BCA0, 0x1BCA4)


@pytest.fixture(scope="module")
def every() -> list[str]:
    return [chr(code) for code in range(sys.maxunicode + 1)]


def test_odd_characters_are_those_of_unicode(every):
    """All control, separator and format characters, and no letter, mark, number, sign or punctuation."""
    for char in every:
        category, code = unicodedata.category(char), ord(char)
        odd = odd_character(f"a{char}b") is not None
        if category in ("Cc", "Zs", "Zl", "Zp", "Cs"):
            assert odd == (char not in " \t\n"), named(char)
        elif category == "Cf" and code not in VISIBLE and code not in SHORTHAND:
            assert odd, named(char)
        elif category[0] in "LNPS" and code != 0xFFFD:
            assert not odd, named(char)


def test_each_odd_character_is_dropped_a_blank_or_refused(every):
    odd = [char for char in every if odd_character(char)]
    for char in odd:
        kinds = [without_format(char)[1] > 0, plain_blanks(char)[1] > 0, control_character(char) is not None]
        assert sum(kinds) == 1, named(char)
    for char in every:
        if char.isspace() and char not in " \t\n" and unicodedata.category(char) != "Cc":
            assert plain_blanks(char) == (" ", 1), named(char)


@pytest.mark.parametrize(
    "char", ["\u00a0", "\u3000", "\u0085", "\x0b", "\r", "\0", "\u200b", "\u200f", "\u00ad", "\ufeff"]
)
def test_fields(char):
    """The examples of bug reports; the message has place and code point."""
    assert split_fields(" 10\t000  T EH\tN ", "x") == ["10", "000", "T", "EH", "N"]
    with pytest.raises(DataError, match=rf"lexicon.txt:7: holds U\+{ord(char):04X} \("):
        split_fields(f"10{char}000 T EH N", "lexicon.txt:7")


def test_problems():
    assert problem_of("café naïve ’t") is None and problem_of("") is None
    assert problem_of("cafe\u0301") == "is not in Unicode's form NFC"
    assert problem_of("a\u200bb") == "holds U+200B (zero width space)"
    assert named("\ud800") == "U+D800 (no character)" and named("\x07") == "U+0007 (control character)"
