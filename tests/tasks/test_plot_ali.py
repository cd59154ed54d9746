"""The picture of an alignment is a PNG, and its spectrogram shows a tone at its frequency and time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import Segment
from pipeline.tasks.ali_score import Tiers
from pipeline.tasks.plot_ali import SHIFT, plot_alignments, spectrogram

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


def test_picture_is_written(tmp_path: Path) -> None:
    rows = {
        name: Tiers([Segment("SIL", 0.0, 1.0), Segment("a", 1.0, 0.5)], [Segment("A", 1.0, 0.5)], 1.5)
        for name in ("gold", "ours")
    }
    plot_alignments(tmp_path / "a.png", tone(), RATE, rows, "utterance", 0.2)
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
