"""NIST's .stm and .ctm."""

from __future__ import annotations

import pytest

from pipeline.base.errors import DataError
from tests.corpora.made import Imported, audio, lines, noise


def test_stm(tmp_path):
    top = tmp_path / "corpus"
    audio(top / "wav" / "call.wav", seconds=3.0, channels=2)
    lines(
        top / "ref.stm", ";; a comment", "call A anna 0.5 1.25 <o,f0,female> Hello there", "call 2 ben 1.0 2.0 hi",
        "call A anna 2.0 2.5 <o,f0,female> IGNORE_TIME_SEGMENT_IN_SCORING", "call A anna 2.5 2.4 x",
        "call A anna soon 2.4 x", "call A", "other A carl 0 1 x", "call C carl 0 1 x",
    )  # fmt: skip
    made = Imported(top, tmp_path / "out", max_bad=0.9)
    both = noise("call.wav", 3.0, channels=2)
    assert made.texts() == {"anna-call-00000500-00001250": "Hello there", "ben-call-2-00001000-00002000": "hi"}
    assert (made.samples("anna-call-00000500-00001250") == both[8000:20000, 0]).all()
    assert (made.samples("ben-call-2-00001000-00002000") == both[16000:32000, 1]).all()
    reasons = "\n".join(reason for _, reason in made.left_out.values())
    for told in ("IGNORE_TIME", ":5: 'x' spans [2.5, 2.4]", "'soon' and '2.4' are no times", ":7: needs 'recording",
                 "no audio file other", "channel 'C'"):  # fmt: skip
        assert told in reasons, reasons
    assert len(made.left_out) == 6


def test_ctm(tmp_path):
    """Words are divided at pauses; their times go along."""
    audio(tmp_path / "talk.flac", seconds=4.0)
    path = lines(
        tmp_path / "talk.ctm", "talk 1 0.10 0.30 hello 0.99", "talk 1 0.45 0.25 world 0.98", "talk 1 1.50 0.20 again",
        "talk 1 1.70 0.30 and", "talk 1 3.00 0.95 again",
    )  # fmt: skip
    made = Imported(path, tmp_path / "out")
    assert made.texts() == {
        "talk-1-00000100-00000700": "hello world", "talk-1-00001500-00002000": "again and",
        "talk-1-00003000-00003950": "again",
    }  # fmt: skip
    assert made.spans() == {
        "talk-1-00000100-00000700": (0.0, 0.95), "talk-1-00001500-00002000": (1.25, 2.25),
        "talk-1-00003000-00003950": (2.75, 4.0),
    }  # fmt: skip
    words = made.cuts["talk-1-00001500-00002000"].supervisions[0].alignment["word"]
    assert [(w.symbol, w.start, w.duration) for w in words] == [("again", 0.25, 0.2), ("and", 0.45, 0.3)]
    one = Imported(path, tmp_path / "long", pause=2.0)
    assert one.texts() == {"talk-1-00000100-00003950": "hello world again and again"}


def test_ctm_without_pauses(tmp_path):
    """After 30 s any gap ends an utterance, of which each side gets half."""
    audio(tmp_path / "talk.flac", seconds=60.0)
    words = [f"talk 1 {i * 0.5:.2f} 0.{50 if i != 64 else 46} word" for i in range(118)]
    made = Imported(lines(tmp_path / "talk.ctm", *words), tmp_path / "out")
    (_, end), (begin, _) = made.spans().values()
    assert (end, begin) == (pytest.approx(32.48), pytest.approx(32.48))
    assert sum(len(text.split()) for text in made.texts().values()) == 118


def test_ctm_whose_words_overlap(tmp_path):
    audio(tmp_path / "talk.flac", seconds=4.0)
    path = lines(tmp_path / "talk.ctm", "talk 1 0.10 0.90 hello", "talk 1 0.45 0.25 world", "talk 1 x 0.2 bad")
    made = Imported(path, tmp_path / "out", max_bad=0.5)
    (cut,) = made.cuts.values()
    assert cut.supervisions[0].text == "hello world" and not cut.supervisions[0].alignment
    assert made.facts["bad_times"] == 1 and "no times in seconds" in made.left_out["talk"][1]


def test_both(tmp_path):
    lines(tmp_path / "a.ctm", "a 1 0 1 x")
    lines(tmp_path / "a.stm", "a 1 s 0 1 x")
    with pytest.raises(DataError, match="has .stm and .ctm files"):
        Imported(tmp_path, tmp_path / "out", format="timed_words")
