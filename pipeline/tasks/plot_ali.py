"""Pictures of alignments: a spectrogram with the tiers of several alignments below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.lang import SILENCE
from pipeline.tasks.ali_score import Tiers

WINDOW, SHIFT = 0.025, 0.005  # seconds, of the spectrogram
FLOOR = 70.0  # dB below the maximum that are shown


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """Power spectrum in dB.

    Args:
        samples: (num_samples,) audio.
        rate: samples per second.
    Returns:
        (frequencies, frames) float; frame i is centred at i * SHIFT seconds.
    """
    width, step = int(WINDOW * rate), int(SHIFT * rate)
    padded = np.pad(np.asarray(samples, dtype=np.float64), width // 2)
    count = max(1, 1 + (len(padded) - width) // step)
    frames = padded[np.arange(width)[None] + step * np.arange(count)[:, None]] * np.hanning(width)
    power = np.abs(np.fft.rfft(frames, n=2 ** int(np.ceil(np.log2(width))))) ** 2
    return 10 * np.log10(power + 1e-10).T


def plot_alignments(
    path: str | Path,
    samples: np.ndarray,
    rate: int,
    rows: Mapping[str, Tiers],
    title: str = "",
    start: float = 0.0,
    end: float | None = None,
) -> None:
    """Writes a PNG: spectrogram above, one row of phones per alignment, the words of the first that has any at the
    bottom.

    Args:
        samples, rate: audio of the utterance.
        rows: name of the alignment -> its tiers; boundaries of the first row are drawn through all rows.
        title: above the picture.
        start, end: part of the utterance in seconds.
    """
    from matplotlib.figure import Figure

    end = len(samples) / rate if end is None else end
    words = next((t.words for t in rows.values() if t.words), [])
    figure = Figure(
        figsize=(min(40.0, max(8.0, 5.0 * (end - start))), 3.0 + 0.5 * (len(rows) + 1)), layout="constrained"
    )
    heights = [5.0] + [1.0] * (len(rows) + 1)
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    image = spectrogram(samples, rate)
    axes[0].imshow(
        image,
        origin="lower",
        aspect="auto",
        cmap="gray_r",
        vmin=image.max() - FLOOR,
        vmax=image.max(),
        extent=(0.0, image.shape[1] * SHIFT, 0.0, rate / 2000),
    )
    axes[0].set_ylabel("kHz")
    axes[0].set_title(title)
    first = next(iter(rows.values()))
    edges = sorted({t for p in first.phones for t in (p.start, p.end)})
    for axis, (name, tiers) in zip(axes[1:], rows.items()):
        _draw(axis, name, tiers.phones, start, end)
        for t in edges:
            axis.axvline(t, color="tab:red", linewidth=0.6, linestyle=":")
    _draw(axes[-1], "words", words, start, end)
    axes[-1].set_xlim(start, end)
    axes[-1].set_xlabel("seconds; dotted: boundaries of the first row")
    figure.savefig(str(path), dpi=100, format="png")


def _draw(axis, name: str, segments: Sequence[Segment], start: float, end: float) -> None:
    axis.set_yticks([])
    axis.set_ylim(0, 1)
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    for s in segments:
        if s.end <= start or s.start >= end:
            continue
        silent = s.symbol == SILENCE
        axis.axvspan(s.start, s.end, facecolor="0.92" if silent else "white", edgecolor="black", linewidth=0.8)
        if not silent:
            axis.text(
                (max(s.start, start) + min(s.end, end)) / 2,
                0.5,
                s.symbol,
                ha="center",
                va="center",
                fontsize=8,
                clip_on=True,
            )
