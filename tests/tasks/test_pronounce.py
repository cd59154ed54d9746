"""Words of a corpus and a lexicon that spells them otherwise, lacks some, or is of no use."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.base.errors import ConfigError, DataError
from pipeline.tasks.pronounce import letters, pronounce_words
from pipeline.tasks.train_options import PronounceOptions

OPTIONS = PronounceOptions()


def lexicon(path, words):
    """Words of capitals whose phones are their letters, doubled where they are vowels."""
    path.write_text("".join(f"{w} {' '.join(c + c if c in 'AEIOU' else c for c in w)}\n" for w in words))
    return path


def test_letters_without_a_lexicon():
    made = pronounce_words(Counter(["Ça", "l'eau", "A-b", "क्या", "2"]), None, OPTIONS)
    assert made.unit == "grapheme" and made.g2p is None and not made.further.entries
    said = {e.word: "".join(e.phones) for e in made.lexicon.entries}
    assert said == {"Ça": "ça", "l'eau": "leau", "A-b": "ab", "क्या": "क्या", "2": "2"}
    assert letters("l'eau", "'") == tuple("l'eau")
    with pytest.raises(DataError, match=r"2 words have no letters \(&, --\)"):
        pronounce_words(Counter(["a", "--", "&"]), None, OPTIONS)


def test_case_and_punctuation_do_not_matter_and_other_words_are_predicted(tmp_path):
    consonants, vowels = "BDFGKLMNPRSTVZ", "AEIO"
    words = [c + v + d for c in consonants for v in vowels for d in "LNRT"]
    words += [f"{one}{two}" for one in ("BAL", "DEN", "LEB", "NAD") for two in words if two[0] in "BDLN"]
    path = lexicon(tmp_path / "lexicon.txt", [*words, "QUX"])
    made = pronounce_words(Counter({"bal": 3, "Den,": 2, "balbed": 1}), path, OPTIONS)
    said = {e.word: " ".join(e.phones) for e in made.lexicon.entries}
    assert said["bal"] == "B AA L" and said["Den,"] == "D EE N"
    assert made.unit == "phone" and made.predicted == ("balbed",)
    # Only phones of the corpus's own words can be trained: B, AA, L, D, EE, N.
    phones = {p for e in made.lexicon.entries for p in e.phones}
    assert phones <= {"B", "AA", "L", "D", "EE", "N"}
    assert "BAN" in made.further and "QUX" not in made.further and "ZIT" not in made.further
    assert {e.word for e in made.all_entries().entries} >= {"bal", "BAN"}


def test_lexicons_that_are_of_no_use(tmp_path):
    path = lexicon(tmp_path / "lexicon.txt", ["BAL", "DEN"])
    with pytest.raises(DataError, match=r"lacks 2 of 3 words \(66.7%\), 1 of 2 different ones: kot 2. Is it a lexicon"):
        pronounce_words(Counter({"bal": 1, "kot": 2}), path, OPTIONS)
    with pytest.raises(DataError, match="lacks kot, and its 1 entries over the same phones are too few"):
        pronounce_words(Counter({"bal": 3, "kot": 1}), path, OPTIONS)
    assert pronounce_words(Counter({"bal": 3}), path, OPTIONS).g2p is None


def test_espeak_in_place_of_a_lexicon(tmp_path):
    made = pronounce_words(Counter(["Straße", "über", "Computer"]), None, PronounceOptions(espeak="de"))
    said = {e.word: e.phones for e in made.lexicon.entries}
    assert said["Straße"] == ("ʃ", "t", "ɾ", "ɑː", "s", "ə") and said["über"] == ("yː", "b", "ɜ")
    assert made.unit == "phone" and not any(c in "ˈˌ()_" for phones in said.values() for p in phones for c in p)
    (other,) = pronounce_words(Counter(["über"]), None, PronounceOptions(espeak="sv")).lexicon.entries
    assert other.phones != said["über"]


def test_espeak_says_what_it_cannot():
    with pytest.raises(ConfigError, match="'xx'.*, de, .*, sw,"):
        pronounce_words(Counter(["a"]), None, PronounceOptions(espeak="xx"))
    with pytest.raises(DataError, match=r"1 words \(-\)"):
        pronounce_words(Counter(["a", "-"]), None, PronounceOptions(espeak="de"))


def test_espeak_and_a_lexicon_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--lexicon and --espeak"):
        pronounce_words(Counter(["BAL"]), lexicon(tmp_path / "l.txt", ["BAL"]), PronounceOptions(espeak="de"))
