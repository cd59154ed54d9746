"""The parts of clones: speech, formats, copied recipes."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import yaml

from tests.clones.speech import ROOT, SMALL, recipe_copy, run, speech, timeline, voice, write_audio

RATE = 8000


def test_speech_is_the_same_every_time_and_differs_by_speaker():
    first, again, other = (speech("good morning", voice(number), RATE) for number in (3, 3, 4))
    assert np.array_equal(first, again) and len(other) != len(first)
    assert 0.4 * RATE < len(first) < 2.5 * RATE and np.abs(first).max() < 1
    assert np.abs(first[: RATE // 10]).max() < 0.05 < np.abs(first).max()  # silence, then speech


def test_timeline_places_speech():
    piece = speech("yes", voice(1), RATE)
    track = timeline([(1.0, piece)], RATE, 3.0)
    assert len(track) == 3 * RATE
    loud = np.flatnonzero(np.abs(track) > 0.05)
    assert 1.0 <= loud[0] / RATE and loud[-1] / RATE <= 1.0 + len(piece) / RATE
    with pytest.raises(AssertionError):
        timeline([(2.9, piece)], RATE, 3.0)


@pytest.mark.parametrize(
    ("name", "subtype", "channels"),
    [("a.sph", "ULAW", 2), ("a.sph", "PCM_16", 1), ("a.wav", "PCM_24", 1), ("a.flac", "PCM_16", 2), ("a.mp3", "", 1)],
)
def test_formats(tmp_path, name, subtype, channels):
    samples = speech("no", voice(2), 16000)
    write_audio(tmp_path / "x" / name, np.stack([samples] * channels, axis=1), 16000, subtype)
    read, rate = soundfile.read(str(tmp_path / "x" / name), always_2d=True)
    assert rate == 16000 and read.shape == (len(samples), channels)
    if name.endswith(".sph"):
        assert (tmp_path / "x" / name).read_bytes().startswith(b"NIST_1A\n   1024\n")


def test_recipe_copy(tmp_path):
    """A copy has small models, says so in its conf/ only, and its run.sh works where it stands."""
    recipe = recipe_copy("samromur", tmp_path, {"lang": {"silence_states": 1, "unit": None}})
    assert yaml.safe_load((recipe / "conf" / "nhmm.yaml").read_text())["dim"] == SMALL["nhmm"]["dim"]
    lang = yaml.safe_load((recipe / "conf" / "lang.yaml").read_text())
    assert lang["silence_states"] == 1 and "unit" not in lang
    original = yaml.safe_load((ROOT / "egs" / "samromur" / "conf" / "nhmm.yaml").read_text())
    assert original["dim"] != SMALL["nhmm"]["dim"]
    assert "  0  data" in run(recipe, "./run.sh", "--list")
    assert "not found in" in run(recipe, "./run.sh", "--corpus-root", tmp_path / "nowhere", expect=2)
    with pytest.raises(AssertionError, match="no .*nothing.yaml"):
        recipe_copy("samromur", tmp_path / "other", {"nothing": {}})
