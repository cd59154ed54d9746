"""Folders of audio with transcripts beside it, in lists, or in names."""

from __future__ import annotations

import os

import pydantic
import pytest

from pipeline.base.errors import DataError
from pipeline.corpora.options import ImportOptions
from tests.corpora.made import Imported, audio, lines, noise


def test_speaker_folders(tmp_path):
    """Folders are speakers; .lab and .txt, capitals in suffixes, several lines, other encodings."""
    top = tmp_path / "corpus"
    audio(top / "anna" / "one.wav")
    lines(top / "anna" / "one.lab", "hello world")
    audio(top / "anna" / "two.WAV")
    lines(top / "anna" / "two.TXT", "hello", "", " again ")
    audio(top / "ben" / "day1" / "one.flac")
    (top / "ben" / "day1" / "one.txt").write_bytes("\ufeffgrüß\r\ngott".encode("utf-16-le"))
    lines(top / "README.txt", "about")
    made = Imported(top, tmp_path / "out")
    assert made.texts() == {"anna-one": "hello world", "anna-two": "hello again", "ben-day1-one": "grüß gott"}
    assert made.speakers() == {"anna-one": "anna", "anna-two": "anna", "ben-day1-one": "day1"}
    assert not made.left_out and made.facts["format"] == "folder"
    named = Imported(top, tmp_path / "named", name_pattern="^(?P<speaker>[^/]+)/")
    assert named.speakers()["ben-day1-one"] == "ben"


def test_flat_folder(tmp_path):
    """Nobody is named: each file is of a speaker of its own. A folder of transcripts may be apart from the audio."""
    for name in ("a", "b.c"):
        audio(tmp_path / "flat" / f"{name}.wav")
        lines(tmp_path / "flat" / f"{name}.txt", f"text {name}")
    made = Imported(tmp_path / "flat", tmp_path / "out")
    assert made.texts() == {"a": "text a", "b.c": "text b.c"} and made.speakers() == {"a": "a", "b.c": "b.c"}
    audio(tmp_path / "wav48" / "p225" / "p225_001.flac")
    lines(tmp_path / "txt" / "p225" / "p225_001.txt", "Please call Stella.")
    lines(tmp_path / "txt" / "p225" / "p225_002.txt", "Ask her.")
    made = Imported(tmp_path / "txt", tmp_path / "apart", root=tmp_path / "wav48", max_bad=0.5)
    assert made.texts() == {"p225-p225_001": "Please call Stella."} and made.speakers() == {"p225-p225_001": "p225"}
    assert made.left_out["p225-p225_002"][0] == "no audio"


def test_lists_of_transcripts(tmp_path):
    """LibriSpeech's tree."""
    folder = tmp_path / "corpus" / "dev" / "84" / "121123"
    for i in range(3):
        audio(folder / f"84-121123-000{i}.flac")
    lines(folder / "84-121123.trans.txt", "84-121123-0000 GO", "84-121123-0001 DO YOU", "84-121123-0009 NO")
    made = Imported(
        tmp_path / "corpus", tmp_path / "out", max_bad=0.5, name_pattern=r"(?P<speaker>\d+)/\d+/[^/]*$"
    )  # fmt: skip
    assert set(made.texts().values()) == {"GO", "DO YOU"} and set(made.speakers().values()) == {"84"}
    kinds = {name.rsplit("-", 1)[1]: kind for name, (kind, _) in made.left_out.items()}
    assert kinds == {"0002": "no transcript", "0009": "no audio"}


def test_text_in_names(tmp_path):
    """Digits by file name, written out."""
    for name in ("7_jackson_32", "0_theo_1", "3_jackson_0", "readme"):
        audio(tmp_path / "digits" / f"{name}.wav")
    pattern = r"^(?P<text>\d)_(?P<speaker>[a-z]+)_\d+$"
    made = Imported(tmp_path / "digits", tmp_path / "out", name_pattern=pattern, digits="en", max_bad=0.5)
    assert made.texts() == {"7_jackson_32": "seven", "0_theo_1": "zero", "3_jackson_0": "three"}
    assert made.speakers()["0_theo_1"] == "theo" and made.left_out["readme"][0] == "name without a pattern"
    made = Imported(
        tmp_path / "digits", tmp_path / "words", name_pattern="^(?P<text>[0-9a-z_]+)$", replace=("0=NO", "readme=YES")
    )
    assert made.texts()["0_theo_1"] == "NO theo 1" and made.texts()["readme"] == "YES"


@pytest.mark.parametrize("pattern", ["(", "(?P<word>.)", "(.)"])
def test_bad_patterns(pattern):
    with pytest.raises(pydantic.ValidationError, match="regular expression|needs groups"):
        ImportOptions(name_pattern=pattern)


def test_what_is_wrong(tmp_path):
    """Labels with times are no words; audio and transcripts without the other."""
    top = tmp_path / "corpus"
    for name in ("good", "htk", "alone", "latin", "empty", "seconds"):
        audio(top / f"{name}.wav")
    lines(top / "good.lab", "fine 1 2 3")
    lines(top / "htk.lab", "0 3100000 sil", "3100000 4000000 ah")
    lines(top / "seconds.lab", "0.00 0.31 sil", "0.31 0.40 ah")
    lines(top / "lost.lab", "words")
    lines(top / "empty.lab")
    (top / "latin.lab").write_bytes(b"caf\xe9")
    made = Imported(top, tmp_path / "out", max_bad=0.9)
    assert made.texts() == {"good": "fine 1 2 3"}
    assert {name: kind for name, (kind, _) in made.left_out.items()} == {
        "htk": "transcript that cannot be read", "seconds": "transcript that cannot be read",
        "alone": "no transcript", "lost": "no audio", "latin": "transcript that cannot be read", "empty": "no words",
    }  # fmt: skip
    assert "has times and labels" in made.left_out["htk"][1] and "not UTF-8" in made.left_out["latin"][1]
    latin = Imported(top, tmp_path / "latin", max_bad=0.9, encoding="latin-1")
    assert latin.texts()["latin"] == "café"


def test_a_suffix_that_only_some_have(tmp_path):
    """What has neither that suffix nor a transcript is no utterance."""
    for name in ("a.flac", "b.wav", "c.wav"):
        audio(tmp_path / "corpus" / name)
    lines(tmp_path / "corpus" / "a.txt", "hello")
    lines(tmp_path / "corpus" / "c.txt", "no flac")
    made = Imported(tmp_path / "corpus", tmp_path / "out", suffix=".flac", max_bad=0.5)
    assert made.texts() == {"a": "hello"} and list(made.left_out) == ["c"]


def test_links_to_folders(tmp_path):
    """They are followed, unless they lead back up: then every utterance would stand there forty times."""
    audio(tmp_path / "elsewhere" / "a.wav")
    lines(tmp_path / "elsewhere" / "a.txt", "hello")
    (tmp_path / "corpus" / "day").mkdir(parents=True)
    (tmp_path / "corpus" / "anna").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "day" / "all").symlink_to("..")
    (tmp_path / "elsewhere" / "latest").symlink_to(".")
    assert list(Imported(tmp_path / "corpus", tmp_path / "out").cuts) == ["anna-a"]


def test_names_that_are_not_utf8(tmp_path):
    for name in ("a", os.fsdecode(b"caf\xe9")):
        (audio(tmp_path / "x.wav")).rename(tmp_path / f"{name}.wav")
        lines(tmp_path / f"{name}.txt", "hello")
    made = Imported(tmp_path, tmp_path / "out", max_bad=0.5)
    assert list(made.cuts) == ["a"] and made.facts["left_out"] == {"name that is not UTF-8": 1}


def test_audio_alone(tmp_path):
    audio(tmp_path / "corpus" / "a.wav")
    with pytest.raises(DataError, match="no format of a corpus.*--name-pattern reads transcripts from file names"):
        Imported(tmp_path / "corpus", tmp_path / "out")


def test_the_same_recording_twice(tmp_path):
    """Of a.mp3 and a.wav the better one is taken."""
    audio(tmp_path / "corpus" / "a.mp3", format="MP3", subtype="MPEG_LAYER_III")
    audio(tmp_path / "corpus" / "a.wav")
    lines(tmp_path / "corpus" / "a.txt", "once")
    made = Imported(tmp_path / "corpus", tmp_path / "out")
    assert (made.samples("a") == noise("a.wav", 0.5)).all()
