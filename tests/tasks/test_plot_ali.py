"""The picture of an alignment is a PNG, and its spectrogram shows a tone at its frequency and time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.corpus import load_cuts, save_data_dir
from pipeline.base.errors import ConfigError, DataError
from pipeline.tasks import plot_ali
from pipeline.tasks.ali_score import Tiers
from pipeline.tasks.plot_ali import SHIFT, plot_alignments, plot_utterances, spectrogram
from tests.feats.test_feats import make_data

RATE = 8000


def tone() -> np.ndarray:
    """A second of silence, then half a second of 1 kHz."""
    t = np.arange(RATE // 2) / RATE
    return np.concatenate([np.zeros(RATE), 0.5 * np.sin(2 * np.pi * 1000 * t)])


def test_spectrogram_shows_a_tone_where_it_is() -> None:
    image = spectrogram(tone(), RATE)
    assert abs(image.shape[1] * SHIFT - 1.5) < 0.02
    bins = np.linspace(0, RATE / 2, len(image))
    assert abs(bins[image[:, int(1.25 / SHIFT)].argmax()] - 1000) < 50
    assert image[:, int(0.5 / SHIFT)].max() < image[:, int(1.25 / SHIFT)].max() - 60


@pytest.mark.parametrize("rate", [11025, 22050, 16000])
def test_time_does_not_drift(rate, monkeypatch) -> None:
    """5 ms are 55.125 samples at 11,025 Hz; a click behind 29 s is seen there, in whatever blocks it is computed."""
    samples = np.zeros(30 * rate, dtype=np.float32)
    samples[29 * rate] = 1.0
    image = spectrogram(samples, rate)
    assert image.shape[1] == 6000 and abs(image.sum(0).argmax() * SHIFT - 29.0) <= 0.01
    monkeypatch.setattr(plot_ali, "BLOCK", 700)
    assert np.array_equal(spectrogram(samples, rate), image)


def test_only_the_part_that_is_drawn_is_computed(tmp_path: Path, monkeypatch) -> None:
    rows = {"ours": Tiers([Segment("a", 1.0, 0.5)], [], 1.5)}
    lengths: list[int] = []
    monkeypatch.setattr(plot_ali, "spectrogram", lambda x, rate: lengths.append(len(x)) or spectrogram(x, rate))
    plot_alignments(tmp_path / "a.png", tone(), RATE, rows, "u", 1.0, 1.25)
    plot_alignments(tmp_path / "a.png", tone(), RATE, rows, "u", 1.0, 9.0)
    assert lengths == [RATE // 4, RATE // 2]
    for part in ((1.5, None), (1.0, 1.0), (1.2, 0.5)):
        with pytest.raises(ConfigError, match="u: nothing to draw from .* s \\(--start, --end\\)"):
            plot_alignments(tmp_path / "a.png", tone(), RATE, rows, "u", *part)


def test_picture_is_written(tmp_path: Path) -> None:
    rows = {
        name: Tiers([Segment("SIL", 0.0, 1.0), Segment("a", 1.0, 0.5)], [Segment("A", 1.0, 0.5)], 1.5)
        for name in ("gold", "ours")
    }
    plot_alignments(tmp_path / "a.png", tone(), RATE, rows, "utterance", 0.2)
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_ids_that_would_share_a_file_are_refused(tmp_path: Path, monkeypatch) -> None:
    data = make_data(tmp_path, seconds=(0.5, 0.5))
    cuts = load_cuts(data)
    for cut, name in zip(cuts, ("a/b", "a_b")):
        cut.id = cut.supervisions[0].id = name
    save_data_dir(tmp_path / "same", cuts)
    row = Tiers([Segment("a", 0.0, 0.5)], [Segment("A", 0.0, 0.5)], 0.5)
    monkeypatch.setattr(plot_ali, "GoldTiers", lambda _: {"a/b": row, "a_b": row})
    with pytest.raises(DataError, match=r"two utterances would be written to a_b\.png"):
        plot_utterances(tmp_path / "same", [], tmp_path, [], 2, 0.0, None)
