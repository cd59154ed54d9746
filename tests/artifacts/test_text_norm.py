"""Transcripts normalised: each option, what no option may change, and the report."""

from __future__ import annotations

import unicodedata

import hypothesis.strategies as st
import pydantic
import pytest
from hypothesis import given

from pipeline.artifacts.text_norm import TextNormaliser, TextOptions, set_case, spell_numbers, strip_punctuation
from pipeline.base.errors import ConfigError, DataError


def normalised(text: str, **options) -> str:
    return TextNormaliser(TextOptions(**options))(text, "text:1")


@pytest.mark.parametrize(
    "before, after",
    [
        ("\ufeffhello  world\r", "hello world"),
        ("10\u00a0000 a\u3000b\u2028c\u0085d\x0be", "10 000 a b c d e"),
        ("co\u00adop \u200bx\u200d y\u200f", "coop x y"),
        ("cafe\u0301", "café"),
        ("He said: “Don’t—ever.” 12", "He said: “Don’t—ever.” 12"),  # kept unless asked
    ],
)
def test_always(before, after):
    assert normalised(before) == after


@pytest.mark.parametrize("char", ["\0", "\x07", "\x7f", "\ufffd", "\ud800"])
def test_control_characters(char):
    with pytest.raises(DataError, match=rf"text:1: holds U\+{ord(char):04X}"):
        normalised(f"a{char}b")


@pytest.mark.parametrize(
    "before, after",
    [
        ("Hello, world!", "Hello world"),
        ("“don’t” 'tis the dogs' rock-n-roll -- a-", "don’t tis the dogs rock-n-roll a"),
        ("wait…what? and/or yes,no", "wait what and or yes no"),
        ("<unk> [noise] (really) {LG}", "<unk> [noise] really {LG}"),
        ("¿Qué? «oui» 。你好！", "Qué oui 你好"),
        ("5 % of A&B", "5 of A B"),
        ("Ça va? naïve-e\u0302tre", "Ça va naïve-être"),
        ("हिन्दी, में", "हिन्दी में"),
        ("--- ...", ""),
    ],
)
def test_punctuation(before, after):
    assert normalised(before, punctuation="strip") == after


@pytest.mark.parametrize(
    "before, language, after",
    [
        ("21 and 1,234.5", "en", "twenty one and one thousand two hundred and thirty four point five"),
        ("the 1st, 22ND", "en", "the first , twenty second"),
        ("the 1st, 1,000", "en-GB", "the first , one thousand"),
        ("1.234,5 und 3", "de", "eintausendzweihundertvierunddreißig Komma fünf und drei"),
        ("10\u00a0000", "fr", "dix mille"),
        ("007 B2B 10:30", "en", "zero zero seven B two B ten : thirty"),
        ("12345678901234567", "en", "one two three four five six seven eight nine zero one two three four five six seven"),
        ("24.12.2020", "de", "vierundzwanzig zwölf zweitausendzwanzig"),
        ("١٢", "en", "twelve"),
        ("3,14", "tr", "üç bir dört"),
        ("none", "en", "none"),
    ],
)  # fmt: skip
def test_numbers(before, language, after):
    assert normalised(before, digits=language) == after


def test_unknown_language_of_numbers():
    with pytest.raises(ConfigError, match="--digits xx: num2words does not know"):
        TextNormaliser(TextOptions(digits="xx"))


@pytest.mark.parametrize(
    "before, case, language, after",
    [
        ("Straße ÉTÉ ΣΑΣ", "lower", None, "straße été σας"),
        ("Straße été", "upper", None, "STRASSE ÉTÉ"),
        ("İSTANBUL IŞIK", "lower", "tr", "istanbul ışık"),
        ("istanbul ışık", "upper", "tr-TR", "İSTANBUL IŞIK"),
        ("İSTANBUL IS", "lower", None, "istanbul is"),
    ],
)
def test_case(before, case, language, after):
    assert normalised(before, case=case, language=language) == after


@given(st.text(), st.sampled_from(["lower", "upper"]))
def test_case_is_composed(text, case):
    assert unicodedata.is_normalized("NFC", set_case(text, case))
    assert "i\u0307" not in set_case(f"{text}İx", case)


def test_apostrophes():
    assert normalised("don’t donʼt don´t don`t", apostrophes="ascii") == "don't don't don't don't"
    assert normalised("don't", apostrophes="typographic") == "don’t"


def test_characters_as_words():
    assert normalised("我们hello世界 42", tokens="characters") == "我 们 hello 世 界 42"
    assert normalised("ฉันรักเธอ", tokens="characters") == "ฉั น รั ก เ ธ อ"  # tone marks and vowels above stay
    assert normalised("きょうは<unk>です", tokens="characters", replace=("x=y",)).startswith("き ょ う は")
    assert normalised("the cat", tokens="characters") == "the cat"


def test_replace():
    assert normalised("0 1 0x", replace=("0=NO", "1=YES")) == "NO YES 0x"
    assert normalised("a uh b", replace=("uh=",)) == "a b"
    with pytest.raises(pydantic.ValidationError, match="OLD=NEW"):
        TextOptions(replace=("a",))


def test_report():
    normalise = TextNormaliser(TextOptions(case="upper", punctuation="strip"))
    for text in ("Hello, you", "HELLO", "it's 5", "hi 50%"):
        normalise(text, "x")
    counts = normalise.report.counts
    assert counts["upper case"] == 3 and counts["punctuation"] == 1
    assert counts["symbols that may be spoken left out"] == 1
    assert counts["left as they are: words with digits (--digits LANGUAGE writes them out)"] == 2
    assert any("'Hello you' -> 'HELLO YOU'" in line for line in normalise.report.lines())
    assert not any("punctuation (--punct" in kind for kind in counts)


@given(st.text(alphabet="ab’'-,. %<>[]0\u00a0\u200b", max_size=30))
def test_result_is_stable(text):
    """What has been normalised stays as it is, whatever the options."""
    for options in (TextOptions(), TextOptions(punctuation="strip", case="upper", digits="en", apostrophes="ascii")):
        once = TextNormaliser(options)(text, "x")
        assert TextNormaliser(options)(once, "x") == once and " ".join(once.split()) == once


@given(st.text(alphabet="abé’'- ", max_size=30))
def test_inner_apostrophes_and_hyphens_stay(text):
    words = strip_punctuation(text).split()
    assert all(word[0] not in "’'-" and word[-1] not in "’'-" for word in words)
    assert "".join(c for word in words for c in word if c.isalpha()) == "".join(c for c in text if c.isalpha())


@given(st.integers(0, 10**14))
def test_integers_are_one_number(number):
    from num2words import num2words

    expected = num2words(number, lang="en").replace(",", "").replace("-", " ")
    assert spell_numbers(f"{number:,}" if number > 999 else str(number), "en") == expected
