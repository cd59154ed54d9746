"""Speed perturbation: audio, times and ids."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from pipeline.artifacts.corpus import Span, audio_recording, load_cuts, save_data_dir, utterance, validate_data_dir
from pipeline.base.errors import ConfigError
from pipeline.feats.augment import perturb_speed


@pytest.fixture
def data_dir(tmp_path):
    """A tone of 1,000 Hz from 0.4 to 0.6 s, where the gold word stands."""
    signal = np.zeros(16000)
    signal[6400:9600] = 8000 * np.sin(2 * np.pi * 1000 * np.arange(3200) / 16000)
    path = tmp_path / "a.flac"
    soundfile.write(str(path), signal.astype(np.int16), 16000, subtype="PCM_16")
    spans = [Span("A", 0.4, 0.2)]
    save_data_dir(tmp_path / "data", [utterance("s-1", audio_recording("s-1", path), "A", "s", spans, spans)])
    return tmp_path / "data"


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_audio_and_times_move_together(data_dir, tmp_path, factor):
    perturb_speed(data_dir, tmp_path / "out", [factor])
    assert validate_data_dir(tmp_path / "out").num_utterances == 1
    cut = load_cuts(tmp_path / "out")[f"s-1_sp{factor}"]
    assert cut.supervisions[0].speaker == f"s_sp{factor}" and cut.supervisions[0].text == "A"
    assert cut.duration == pytest.approx(1 / factor, abs=1e-4)
    for tier in ("word", "phone"):
        item = cut.supervisions[0].alignment[tier][0]
        assert item.start == pytest.approx(0.4 / factor, abs=1e-4) and item.duration == pytest.approx(
            0.2 / factor, abs=1e-4
        )
    audio = cut.load_audio()[0]
    assert len(audio) == cut.num_samples
    loud = np.flatnonzero(np.abs(audio) > 0.02) / 16000
    assert loud[0] == pytest.approx(item.start, abs=0.002) and loud[-1] == pytest.approx(item.end, abs=0.002)
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    assert spectrum.argmax() * 16000 / len(audio) == pytest.approx(1000 * factor, rel=0.01)


def test_factor_one_keeps_the_utterance(data_dir, tmp_path):
    facts = perturb_speed(data_dir, tmp_path / "out", [0.9, 1.0, 1.1])
    assert facts == {"utterances": 3}
    cuts = load_cuts(tmp_path / "out")
    assert set(cuts.ids) == {"s-1", "s-1_sp0.9", "s-1_sp1.1"}
    assert cuts["s-1"].to_dict() == load_cuts(data_dir)["s-1"].to_dict()


@pytest.mark.parametrize("factors", [[], [1.0, 1.0], [0.1], [3.0]])
def test_wrong_factors(data_dir, tmp_path, factors):
    with pytest.raises(ConfigError, match="are not different speeds"):
        perturb_speed(data_dir, tmp_path / "out", factors)
