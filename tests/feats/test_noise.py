"""Noise: its loudness and colour, and what becomes of words and times."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
import soundfile

from pipeline.artifacts.corpus import Span, audio_recording, load_cuts, save_data_dir, utterance, validate_data_dir
from pipeline.base.errors import DataError
from pipeline.feats import noise
from pipeline.feats.noise import add_noise, babble, coloured, mix, reverberate
from pipeline.feats.options import NoiseOptions


@pytest.fixture
def data_dir(tmp_path):
    """Three tones of half a second."""
    cuts = []
    for i in range(3):
        path = tmp_path / f"{i}.flac"
        soundfile.write(
            str(path), (4000 * np.sin(np.arange(8000) * (0.1 + 0.2 * i))).astype(np.int16), 16000, subtype="PCM_16"
        )
        cuts.append(utterance(f"u{i}", audio_recording(f"u{i}", path), "A", "s", [Span("A", 0.1, 0.2)]))
    save_data_dir(tmp_path / "data", cuts)
    return tmp_path / "data"


@pytest.mark.parametrize("snr", [-5.0, 0.0, 15.0])
def test_ratio_of_powers(snr):
    rng = np.random.default_rng(0)
    speech, noise = 0.05 * rng.standard_normal(5000), rng.standard_normal(5000)
    added = mix(speech, noise, snr) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-6)
    assert np.abs(mix(10 * speech / np.abs(speech).max(), noise, snr)).max() <= 1.0


def test_colours():
    """From one octave to the next pink noise keeps its power, white noise doubles it."""
    for exponent, step in ((0.0, 2.0), (1.0, 1.0)):
        power = np.abs(np.fft.rfft(coloured(1 << 16, exponent, np.random.default_rng(0)))) ** 2
        octaves = [power[1 << k : 2 << k].sum() for k in range(8, 14)]
        assert np.mean(np.diff(np.log2(octaves))) == pytest.approx(np.log2(step), abs=0.1)


def test_voices_are_equally_loud():
    rng = np.random.default_rng(0)
    loud, quiet = np.sin(np.arange(4000) * 0.1), 0.01 * np.sin(np.arange(4000) * 0.5)
    spectrum = np.abs(np.fft.rfft(babble([loud, quiet], 8000, rng)))
    peaks = [
        spectrum[k - 20 : k + 20].max() for k in (round(8000 * 0.1 / (2 * np.pi)), round(8000 * 0.5 / (2 * np.pi)))
    ]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.3)


@pytest.mark.parametrize("kind", ["babble", "pink", "white"])
def test_copies(data_dir, tmp_path, kind):
    facts = add_noise(
        data_dir, tmp_path / "out", tmp_path / "out", NoiseOptions(kind=kind, copies=2, min_snr=0, max_snr=10)
    )
    assert facts == {"utterances": 9} == {"utterances": validate_data_dir(tmp_path / "out", decode=True).num_utterances}
    cuts, clean = load_cuts(tmp_path / "out"), load_cuts(data_dir)
    cut = cuts["u1_noise2"]
    assert (
        cut.supervisions[0].speaker == "s_noise2"
        and cut.supervisions[0].alignment == clean["u1"].supervisions[0].alignment
    )
    assert cut.num_samples == 8000 and not np.array_equal(cut.load_audio(), cuts["u1_noise1"].load_audio())
    added = cut.load_audio() - clean["u1"].load_audio()
    assert 0 < 10 * np.log10(np.mean(clean["u1"].load_audio() ** 2) / np.mean(added**2)) < 10.1
    add_noise(
        data_dir,
        tmp_path / "again",
        tmp_path / "again",
        NoiseOptions(kind=kind, copies=2, min_snr=0, max_snr=10, keep=False),
    )
    again = load_cuts(tmp_path / "again")
    assert len(again) == 6 and np.array_equal(again["u1_noise2"].load_audio(), cut.load_audio())


def test_babble_is_the_voices_of_others(data_dir, tmp_path, monkeypatch):
    """Never that of the utterance itself; one utterance alone has no others."""
    heard = []
    plain = noise.babble
    monkeypatch.setattr(noise, "babble", lambda voices, *more: heard.append(voices) or plain(voices, *more))
    add_noise(data_dir, tmp_path, tmp_path, NoiseOptions(kind="babble", copies=20, voices=3, keep=False))
    cuts = list(load_cuts(data_dir))
    own = [cut.load_audio()[0] for cut in cuts for _ in range(20)]
    assert len(heard) == len(own) == 60
    for voices, speech in zip(heard, own):
        assert len(voices) == 3 and not any(np.array_equal(voice, speech) for voice in voices)
    assert {round(float(np.abs(v).sum()), 3) for voices in heard for v in voices} == {
        round(float(np.abs(speech).sum()), 3) for speech in own
    }
    alone = tmp_path / "alone"
    save_data_dir(alone, cuts[:1])
    with pytest.raises(DataError, match="voices of other utterances"):
        add_noise(alone, tmp_path / "more", tmp_path / "more", NoiseOptions(kind="babble"))


def test_limits_the_wrong_way_round():
    with pytest.raises(pydantic.ValidationError, match="greater than max_snr"):
        NoiseOptions(min_snr=10, max_snr=0)
    with pytest.raises(pydantic.ValidationError, match="none needs rt60"):
        NoiseOptions(kind="none")


@pytest.mark.parametrize("drr", [-5.0, 10.0])
def test_reverberation_falls_by_60_db_in_its_time(drr):
    """Of an impulse: direct sound first, at its ratio, and energy left (Schroeder 1965) that falls in a straight line."""
    impulse = np.zeros(9000)
    impulse[100] = 1.0
    heard = reverberate(impulse, 8000.0, drr, np.random.default_rng(0))
    response = heard[100:] / heard[100]
    assert np.allclose(heard[:100], 0, atol=1e-12) and np.sum(heard**2) == pytest.approx(1.0)
    assert -10 * np.log10(np.sum(response[1:] ** 2)) == pytest.approx(drr, abs=0.01)
    left = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1])
    slope = np.polyfit(np.arange(500, 4500), left[500:4500], 1)[0]
    assert slope * 8000 == pytest.approx(-60, rel=0.05)


def test_a_room_is_linear_and_leaves_loudness():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4000))
    both, one, other = (reverberate(s, 1500.0, 0.0, np.random.default_rng(1)) for s in (first + second, first, second))
    scale = [np.linalg.lstsq(np.stack([one, other], 1), both, rcond=None)[0]]
    np.testing.assert_allclose(np.stack([one, other], 1) @ scale[0], both, atol=1e-9)
    assert np.mean(one**2) == pytest.approx(np.mean(first**2))


def test_copies_of_a_room_without_noise(data_dir, tmp_path):
    options = NoiseOptions(kind="none", rt60=0.3, keep=False)
    assert add_noise(data_dir, tmp_path / "out", tmp_path / "out", options) == {"utterances": 3}
    heard = load_cuts(tmp_path / "out")["u0_noise1"].load_audio()[0]
    dry = load_cuts(data_dir)["u0"].load_audio()[0]
    assert np.mean(heard**2) == pytest.approx(np.mean(dry**2), rel=0.01) and np.corrcoef(heard, dry)[0, 1] < 0.99
