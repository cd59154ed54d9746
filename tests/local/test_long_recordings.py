"""What recipes of long recordings share: checks before lhotse's recipes, pairs of files, copies of channels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts, save_data_dir
from pipeline.base.errors import DataError
from tests.clones.speech import speech, timeline, voice, write_audio

LINE = re.compile(r"\w+ \d+")


def test_lines_are_looked_at_before_lhotse(tmp_path):
    from long_recordings import with_lhotse

    (tmp_path / "good.txt").write_text("a 1\n\nb 2\n")
    (tmp_path / "bad.txt").write_text("a 1\nb\n")
    assert with_lhotse(lambda: 7, [tmp_path / "good.txt"], LINE, "'NAME NUMBER'") == 7
    with pytest.raises(DataError, match=r"bad.txt:2: needs 'NAME NUMBER', found 'b'"):
        with_lhotse(lambda: 7, [tmp_path / "good.txt", tmp_path / "bad.txt"], LINE, "'NAME NUMBER'")
    with pytest.raises(DataError, match=r"lhotse cannot read the corpus \(KeyError: 'x'\)"):
        with_lhotse(lambda: {}["x"], [tmp_path / "good.txt"], LINE, "'NAME NUMBER'")


def test_a_few_files_may_be_alone(caplog):
    from long_recordings import compare_names

    audio = {f"n{i}": Path(f"n{i}.sph") for i in range(200)}
    texts = {name: path.with_suffix(".txt") for name, path in audio.items() if name != "n7"}
    assert compare_names(audio, texts) == sorted(texts) and "n7.sph has no transcript: 1 of 200" in caplog.text
    with pytest.raises(DataError, match="n7.sph has no transcript: 1 of 200"):
        compare_names(audio, texts, max_missing=0.0)
    with pytest.raises(DataError, match="n0.sph has no transcript: 100 of 200"):
        compare_names(audio, dict(list(texts.items())[100:] + [("n7", Path("x"))]))


def test_channels_are_copied_once(tmp_path):
    from long_recordings import Source, Stretch, cuts_of

    sides = [timeline([(0.5, speech(word, voice(i), 16000))], 16000, 2.0, i) for i, word in enumerate(("yes", "no"))]
    for i, side in enumerate(sides):
        write_audio(tmp_path / f"{i}.wav", side, 16000)
    sources = {"call-A": Source(tmp_path / "0.wav"), "call-B": Source(tmp_path / "1.wav")}
    stretches = [
        Stretch("u1", "call-A", "a", 0.4, 1.4, "yes", "t:1"),
        Stretch("u2", "call-A", "a", 1.4, 2.3, "x", "t:2"),
    ]
    out = tmp_path / "out"
    save_data_dir(out, cuts_of(stretches, sources, 8000, "English", out, out))
    first, last = load_cuts(out, check_audio=True)
    assert sorted(path.name for path in (out / "audio").iterdir()) == [
        "call-A.flac"
    ]  # what no stretch needs is not copied
    assert (first.sampling_rate, first.num_samples, last.end) == (8000, 8000, 2.0)  # the end is that of the recording
    for wrong, message in (
        (Stretch("u1", "call-A", "a", 0.0, 1.0, "x", "t:3"), r"t:3: utterance 'u1' stands in t:1 already"),
        (
            Stretch("u3", "call-A", "a", 1.9, 2.6, "x", "t:3"),
            r"t:3: 'u3' spans \[1.9, 2.6\] s of 2.000 s of audio in .*0.wav",
        ),
        (Stretch("u3", "call-A", "a", 2.0, 2.2, "x", "t:3"), r"t:3: 'u3' spans"),
    ):
        with pytest.raises(DataError, match=message):
            list(cuts_of([stretches[0], wrong], sources, 8000, "English", out, out))


def test_compressed_sphere_is_refused_by_name(tmp_path):
    from long_recordings import Source, Stretch, cuts_of

    write_audio(tmp_path / "a.sph", speech("yes", voice(1), 8000), 8000, "ULAW")
    raw = (tmp_path / "a.sph").read_bytes()
    head = raw[:1024].replace(b"-s4 ulaw", b"-s27 ulaw,embedded-shorten-v2.00")[:1024]
    (tmp_path / "a.sph").write_bytes(head + raw[1024:])
    stretch = Stretch("u", "a", "s", 0.0, 0.3, "yes", "t:1")
    with pytest.raises(DataError, match=r"a.sph: SPHERE coded as ulaw,embedded-shorten-v2.00, which sph2pipe"):
        list(cuts_of([stretch], {"a": Source(tmp_path / "a.sph")}, 8000, "English", tmp_path / "o", tmp_path / "o"))
