"""Kaldi data directories: all files, relative paths, other suffixes, pipes, and what is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import ConfigError, DataError
from pipeline.corpora.kaldi import channel_number
from tests.corpora.made import RATE, Imported, audio, lines, noise


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three utterances of two speakers, audio in a folder beside the data directory."""
    for name in ("s1-a", "s1-b", "s2-a"):
        audio(tmp_path / "corpus" / "WAVE" / f"{name}.wav")
    data = tmp_path / "corpus" / "train"
    lines(data / "wav.scp", "s1-a WAVE/s1-a.wav", "s1-b WAVE/s1-b.wav", "s2-a\tWAVE/s2-a.wav")
    lines(data / "text", "s1-a HELLO WORLD", "s1-b\tHELLO", "s2-a  WORLD   HELLO ")
    lines(data / "utt2spk", "s1-a s1", "s1-b s1", "s2-a s2")
    lines(data / "spk2gender", "s1 f", "s2 m")
    return data


def test_utterances(corpus, tmp_path):
    made = Imported(corpus, tmp_path / "out")
    assert made.texts() == {"s1-a": "HELLO WORLD", "s1-b": "HELLO", "s2-a": "WORLD HELLO"}
    assert made.speakers() == {"s1-a": "s1", "s1-b": "s1", "s2-a": "s2"}
    assert made.cuts["s1-a"].supervisions[0].gender == "female" and made.facts["format"] == "kaldi"
    # Audio that is right stays where it is.
    assert made.cuts["s2-a"].recording.sources[0].source == str(tmp_path / "corpus" / "WAVE" / "s2-a.wav")
    assert not (made.dir / "audio").exists() and made.checked.seconds == pytest.approx(1.5)
    assert (made.samples("s2-a") == noise("s2-a.wav", 0.5)).all()


@pytest.mark.parametrize("suffix", [None, ".opus", "opus"])
def test_other_suffix(corpus, tmp_path, suffix):
    for path in (tmp_path / "corpus" / "WAVE").iterdir():
        path.unlink()
        audio(path.with_suffix(".opus"), format="OGG", subtype="OPUS")
    text = (corpus / "wav.scp").read_text()
    (corpus / "wav.scp").write_text(text.replace(".wav", ".WAV"))
    made = Imported(corpus, tmp_path / "out", suffix=suffix)
    assert len(made.cuts) == 3 and made.facts["converted"] == 3
    assert made.cuts["s1-a"].recording.sources[0].source == str(made.dir / "audio" / "0000" / "s1-a.flac")
    assert made.checked.seconds == pytest.approx(1.5)


def test_suffix_takes_precedence(corpus, tmp_path):
    for path in list((tmp_path / "corpus" / "WAVE").iterdir()):
        audio(path.with_suffix(".flac"), seconds=0.25)
    made = Imported(corpus, tmp_path / "out", suffix="flac")
    assert made.checked.seconds == pytest.approx(0.75)


def test_root(corpus, tmp_path):
    """--root and nothing else is where paths start."""
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "corpus" / "WAVE").rename(elsewhere)
    text = (corpus / "wav.scp").read_text()
    (corpus / "wav.scp").write_text(text.replace("WAVE/", ""))
    assert len(Imported(corpus, tmp_path / "out", root=elsewhere).cuts) == 3
    with pytest.raises(DataError, match=r"no audio: 3\n.*wav.scp:1: no audio file s1-a.wav below .*--root"):
        Imported(corpus, tmp_path / "fails", root=tmp_path)


@pytest.mark.parametrize("name", ["0", "-1", "C", "²", "1" * 5000, ""])
def test_no_channel(name):
    assert channel_number("2", "") == channel_number("b", "") == 1
    with pytest.raises(DataError, match="x:1: channel"):
        channel_number(name, "x:1")


def test_segments_and_channels(tmp_path):
    """One stereo file, whose channels are two recordings."""
    data = tmp_path / "data"
    call = audio(tmp_path / "call.wav", seconds=2.0, channels=2)
    lines(data / "wav.scp", f"call {call}")
    lines(data / "reco2file_and_channel", "call-A call A", "call-B call B")
    lines(data / "segments", "x-1 call-A 0.25 1.0", "x-2 call-A 1.0 2.0004", "y-1 call-B 0.5 -1")
    lines(data / "text", "x-1 A", "x-2 B", "y-1 C")
    lines(data / "spk2utt", "x x-1 x-2", "y y-1")
    made = Imported(data, tmp_path / "out")
    both = noise("call.wav", 2.0, channels=2)
    assert made.spans() == {"x-1": (0.25, 1.0), "x-2": (1.0, 2.0), "y-1": (0.5, 2.0)}
    assert (made.samples("x-1") == both[4000:16000, 0]).all() and (made.samples("y-1") == both[8000:, 1]).all()
    assert made.cuts["y-1"].channel == 0 and made.cuts["x-1"].recording.id == "call-A"
    assert made.facts["recordings"] == 2 and made.speakers()["y-1"] == "y"
    # Without the file nothing says which channel is meant.
    (data / "reco2file_and_channel").unlink()
    lines(data / "segments", "x-1 call 0.25 1.0", "x-2 call 1.0 2.0", "y-1 call 0.5 -1")
    with pytest.raises(DataError, match="several channels: 3"):
        Imported(data, tmp_path / "refused")
    made = Imported(data, tmp_path / "chosen", channel=1)
    assert (made.samples("x-1") == both[4000:16000, 1]).all()


def test_channels_that_are_taken_out_already(tmp_path):
    """As Kaldi's recipes for telephone speech have it: sph2pipe -c prints one side of a conversation."""
    data = tmp_path / "data"
    sides = {side: audio(tmp_path / f"{side}.wav") for side in "AB"}
    copy = [lines(tmp_path / "p.py", "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())")]
    run = f"'{sys.executable}' {copy[0]}"
    lines(data / "wav.scp", f"call-A {run} {sides['A']} |", f"call-B {run} {sides['B']} |", f"other-B {sides['B']}")
    lines(data / "reco2file_and_channel", "call-A call A", "call-B call B", "other-B other B")
    lines(data / "text", "call-A ONE", "call-B TWO", "other-B THREE")
    made = Imported(data, tmp_path / "out", allow_commands=True, rate=RATE)
    assert not made.left_out
    for name, side in (("call-A", "A"), ("call-B", "B"), ("other-B", "B")):
        assert (made.samples(name) == noise(f"{side}.wav", 0.5)).all(), name
    # A file of two recordings has to have both.
    lines(data / "wav.scp", f"call {sides['A']}")
    lines(data / "segments", "x call-A 0 0.5", "y call-B 0 0.5")
    lines(data / "text", "x ONE", "y TWO")
    made = Imported(data, tmp_path / "file", max_bad=0.5)
    assert list(made.cuts) == ["x"] and made.left_out["y"][0] == "no such channel"


def test_commands(corpus, tmp_path):
    """Run without a shell, and only if allowed."""
    program = lines(
        tmp_path / "decode.py",
        "import sys",
        "sys.stdout.buffer.write(open(sys.argv[1], 'rb').read()) if len(sys.argv) > 1 else "
        "sys.stdout.buffer.write(sys.stdin.buffer.read())",
    )
    wave = tmp_path / "corpus" / "WAVE"
    run = f"'{sys.executable}' {program}"
    lines(
        corpus / "wav.scp", f"s1-a {run} {wave / 's1-a.wav'} |", f"s1-b {run} {wave / 's1-b.wav'} | {run} |",
        "s2-a WAVE/s2-a.wav",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"no audio: 2\n.*s1-a.* is a command, .*--allow-commands"):
        Imported(corpus, tmp_path / "refused")
    with pytest.raises(ConfigError, match="--allow-commands needs --rate"):
        Imported(corpus, tmp_path / "unknown", allow_commands=True)
    made = Imported(corpus, tmp_path / "out", allow_commands=True, rate=RATE)
    assert (made.samples("s1-a") == noise("s1-a.wav", 0.5)).all()
    assert (made.samples("s1-b") == noise("s1-b.wav", 0.5)).all()
    assert sorted(p.name for p in (made.dir / "audio" / "0000").iterdir()) == ["s1-a.flac", "s1-b.flac"]


def test_a_program_of_a_pipe_may_read_less_than_the_one_before_writes(corpus, tmp_path):
    wav = tmp_path / "corpus" / "WAVE" / "s1-a.wav"
    command = f"cat {wav} /dev/zero | head -c {wav.stat().st_size} |"
    (corpus / "wav.scp").write_text((corpus / "wav.scp").read_text().replace("WAVE/s1-a.wav", command))
    made = Imported(corpus, tmp_path / "out", allow_commands=True, rate=RATE)
    assert (made.samples("s1-a") == noise("s1-a.wav", 0.5)).all()


@pytest.mark.parametrize(
    "command, told",
    [
        ("cat {wav} > {tmp}/stolen; cat {wav} |", "'>' needs a shell"),
        ("cat {wav} && touch {tmp}/stolen |", "needs a shell"),
        ("cat `touch {tmp}/stolen` |", "needs a shell"),
        ("cat $(touch {tmp}/stolen) |", "needs a shell"),
        ("cat {wav} | | cat |", "a program is missing"),
        ("no_such_program {wav} |", "no_such_program"),
        ("cat {tmp}/missing.wav |", "exit status 1"),
        ("cat {tmp}/corpus/train/text |", "not a readable audio file"),
    ],
)
def test_commands_that_do_not_work(corpus, tmp_path, command, told):
    wav = tmp_path / "corpus" / "WAVE" / "s1-a.wav"
    text = (corpus / "wav.scp").read_text().replace("WAVE/s1-a.wav", command.format(wav=wav, tmp=tmp_path))
    (corpus / "wav.scp").write_text(text)
    made = Imported(corpus, tmp_path / "out", allow_commands=True, rate=RATE, max_bad=0.5)
    assert sorted(made.cuts) == ["s1-b", "s2-a"] and told in made.left_out["s1-a"][1]
    assert not (tmp_path / "stolen").exists()


BROKEN = {
    "no recording": ("wav.scp", "s1-a WAVE/s1-a.wav\n", "", ("s1-a", "no audio", "text:1: 's1-a' has no recording")),
    "no transcript": ("text", "s1-b\tHELLO\n", "", ("s1-b", "no transcript", "wav.scp:2: 's1-b' has no line")),
    "only an id": ("text", "s1-b\tHELLO\n", "s1-b\n", ("s1-b", "no words", "text:2: the transcript of 's1-b'")),
    "no file": ("wav.scp", "WAVE/s1-a.wav", "WAVE/s1-x.wav", ("s1-a", "no audio", "wav.scp:1: no audio file WAVE/s1-x")),
    "archive": ("wav.scp", "WAVE/s1-a.wav", "a.ark:17", ("s1-a", "no audio", "wav.scp:1: a.ark:17 is a place in an")),
    "no path": ("wav.scp", "s1-a WAVE/s1-a.wav", "s1-a", ("s1-a", "no audio", "wav.scp:1: 's1-a' has no audio file")),
    "stdin": ("wav.scp", "WAVE/s1-a.wav", "-", ("s1-a", "no audio", "has no audio file, but '-'")),
    "line twice": ("wav.scp", "s1-b W", "s1-a W", ("s1-a", "stands twice", "wav.scp:2: 's1-a'")),
    "text twice": ("text", "s1-b\t", "s1-a ", ("s1-a", "stands twice", "text:2: 's1-a' stands in")),
    "NUL": ("text", "s1-b\tHELLO", "s1-b HE\0LLO", ("s1-b", "control characters", "text:2: transcript of 's1-b': holds U+0000")),
    "blank in id": ("text", "s1-b\t", "s1-b\u00a0", ("s1-b\u00a0HELLO", "odd id", "holds U+00A0 (no-break space)")),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_utterances_are_left_out(corpus, tmp_path, name):
    file, old, new, (utt, kind, told) = BROKEN[name]
    text = (corpus / file).read_text()
    assert old in text
    (corpus / file).write_text(text.replace(old, new))
    made = Imported(corpus, tmp_path / "out", max_bad=0.9)
    found = made.left_out[utt.encode("unicode_escape").decode() if not utt.isprintable() else utt]
    assert found[0] == kind and told in found[1], made.left_out
    assert "s2-a" in made.cuts and len(made.cuts) >= 1
    with pytest.raises(DataError, match=r"cannot be imported, more than the allowed share of 5% \(--max-bad\)"):
        Imported(corpus, tmp_path / "refused")


SEGMENTS = {
    "x 0.1": "needs 'utterance recording start end'",
    "s1-a 0.3 0.2": "needs 'utterance recording start end'",
    "s1-a nan 0.2": "needs 'utterance",
    "s1-a 0.1 inf": "needs 'utterance",
    "s1-a -0.1 0.2": "needs 'utterance",
    "s1-x 0.1 0.2": "recording 's1-x' is not in wav.scp",
    "s1-a 0.1 1.1": "spans [0.1, 1.1] s of a recording of 0.500 s",
    "s1-a 0.6 -1": "spans [0.6, end] s of a recording of 0.500 s",
    "s1-a 0.10 0.11": "spans [0.1, 0.11] s",
}


@pytest.mark.parametrize("rest", SEGMENTS)
def test_broken_segments(corpus, tmp_path, rest):
    lines(corpus / "segments", f"s1-a {rest}", "s1-b s1-b 0 0.5", "s2-a s2-a 0.0 0.55")
    made = Imported(corpus, tmp_path / "out", max_bad=0.5)
    assert SEGMENTS[rest] in made.left_out["s1-a"][1] and "segments:1" in made.left_out["s1-a"][1]
    assert made.spans() == {"s1-b": (0.0, 0.5), "s2-a": (0.0, 0.5)}


def test_files_that_cannot_be_read_at_all(corpus, tmp_path):
    (corpus / "spk2gender").write_text("s1 x\n")
    with pytest.raises(DataError, match="spk2gender:1: gender 'x'"):
        Imported(corpus, tmp_path / "a")
    (corpus / "spk2gender").unlink()
    (corpus / "text").write_bytes("s1-a caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="text.*not UTF-8; --encoding"):
        Imported(corpus, tmp_path / "b")
    made = Imported(corpus, tmp_path / "c", encoding="latin-1", max_bad=0.9)
    assert made.texts() == {"s1-a": "café"}
    (corpus / "text").unlink()
    with pytest.raises(DataError, match="has no file 'text'"):
        Imported(corpus, tmp_path / "d")


@pytest.mark.parametrize("encoding, mark", [("utf-8", "\ufeff"), ("utf-16-le", "\ufeff"), ("utf-16-be", "\ufeff")])
def test_marks_and_line_ends(corpus, tmp_path, encoding, mark):
    """Byte order marks and CRLF in any file."""
    for name in ("wav.scp", "text", "utt2spk", "spk2gender"):
        text = (corpus / name).read_text()
        (corpus / name).write_bytes((mark + text.replace("\n", "\r\n")).encode(encoding))
    made = Imported(corpus, tmp_path / "out")
    assert made.texts() == {"s1-a": "HELLO WORLD", "s1-b": "HELLO", "s2-a": "WORLD HELLO"}
    assert set(made.speakers().values()) == {"s1", "s2"}


def test_ids_with_slashes_and_their_like(tmp_path):
    """They become safe and stay different."""
    names = ["a/b", "a_b", "a\\b", "é", "e\u0301"]
    for i in range(len(names)):
        audio(tmp_path / f"{i}.wav")
    lines(tmp_path / "wav.scp", *(f"{name} {i}.wav" for i, name in enumerate(names)))
    lines(tmp_path / "text", *(f"{name} WORD{i}" for i, name in enumerate(names)))
    lines(tmp_path / "utt2spk", *(f"{name} {'x/y' if i < 2 else 'x_y'}" for i, name in enumerate(names)))
    made = Imported(tmp_path, tmp_path / "out")
    assert made.texts() == {"a_b": "WORD0", "a_b_2": "WORD1", "a_b_3": "WORD2", "é": "WORD3", "é_2": "WORD4"}
    assert made.speakers()["a_b"] == made.speakers()["a_b_2"] == "x_y" and made.speakers()["é"] == "x_y_2"
    rows = (made.dir / "new_ids.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "a_b\t'a/b'" and len(rows) == made.facts["new_ids"] == 4


def test_resampling_is_asked_for(corpus, tmp_path):
    audio(tmp_path / "corpus" / "WAVE" / "s2-a.wav", rate=44100)
    with pytest.raises(DataError, match=r"another sampling rate: 1\n.*44100 Hz, most files have 16000 Hz; --rate"):
        Imported(corpus, tmp_path / "refused")
    made = Imported(corpus, tmp_path / "out", rate=8000)
    assert made.checked.sampling_rate == 8000 and made.checked.seconds == pytest.approx(1.5, abs=1e-3)
    made = Imported(corpus, tmp_path / "some", max_bad=0.4)
    assert sorted(made.cuts) == ["s1-a", "s1-b"] and made.left_out["s2-a"][0] == "another sampling rate"
    assert np.abs(made.samples("s1-a")).max() > 8000
