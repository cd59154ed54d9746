"""Pictures of alignments: a spectrogram with the tiers of several alignments below it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import AliSet, Segment
from pipeline.artifacts.lang import SILENCE
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import FileNames
from pipeline.tasks.tiers import AliTiers, GoldTiers, Tiers

WINDOW, SHIFT = 0.025, 0.005  # seconds, of the spectrogram
FLOOR = 70.0  # dB below the maximum that are shown
BLOCK = 4096  # frames whose spectra are computed at once


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """Power spectrum in dB.

    Args:
        samples: (num_samples,) audio.
        rate: samples per second.
    Returns:
        (frequencies, frames) float32; frame i is centred at i * SHIFT seconds.
    """
    width = int(WINDOW * rate)
    padded = np.pad(samples, (width // 2, width))
    # The places are rounded one by one: SHIFT need not be a whole number of samples, and a rounded step would drift.
    first = np.rint(np.arange(max(1, round(len(samples) / rate / SHIFT))) * SHIFT * rate).astype(np.int64)
    out = []
    for some in np.split(first, range(BLOCK, len(first), BLOCK)):
        frames = padded[np.arange(width)[None] + some[:, None]] * np.hanning(width)
        power = np.abs(np.fft.rfft(frames, n=2 ** int(np.ceil(np.log2(width))))) ** 2
        out.append((10 * np.log10(power + 1e-10)).astype(np.float32))
    return np.concatenate(out).T


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
        start, end: part of the utterance in seconds, the only one whose spectrum is computed.
    Raises:
        ConfigError: no such part.
    """
    from matplotlib.figure import Figure

    seconds = len(samples) / rate
    end = seconds if end is None else min(end, seconds)
    if not start < end:
        raise ConfigError(f"{title}: nothing to draw from {start:g} to {end:g} s (--start, --end)")
    words = next((t.words for t in rows.values() if t.words), [])
    figure = Figure(
        figsize=(min(40.0, max(8.0, 5.0 * (end - start))), 3.0 + 0.5 * (len(rows) + 1)), layout="constrained"
    )
    heights = [5.0] + [1.0] * (len(rows) + 1)
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    begin = int(start * rate)
    image = spectrogram(samples[begin : max(int(end * rate), begin + 1)], rate)
    left = begin / rate - SHIFT / 2  # of the column that is centred at the first sample
    axes[0].imshow(
        image,
        origin="lower",
        aspect="auto",
        cmap="gray_r",
        vmin=image.max() - FLOOR,
        vmax=image.max(),
        extent=(left, left + image.shape[1] * SHIFT, 0.0, rate / 2000),
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


def plot_utterances(
    data: Path, alis: Sequence[Path], out_dir: Path, utts: Sequence[str], count: int, start: float, end: float | None
) -> int:
    """Writes pictures of some utterances under the gold times of the data, if there are any.

    Args:
        utts: ids; none: the first `count` that all alignments have.
    Returns:
        number of pictures.
    """
    from pipeline.artifacts.corpus import as_cut, iter_cuts

    tiers: dict[str, Mapping[str, Tiers]] = {}
    with contextlib.suppress(DataError):  # real corpora have no gold times
        tiers["gold"] = GoldTiers(data)
    distinct = len({ali.name for ali in alis}) == len(alis) and "gold" not in {ali.name for ali in alis}
    for ali in alis:
        tiers[ali.name if distinct else str(ali)] = AliTiers(AliSet.load(ali))
    drawn: set[str] = set()
    files = FileNames(out_dir, ".png")
    for _, entry in iter_cuts(data):
        name = entry["id"]
        wanted = name in utts if utts else len(drawn) < count
        if not wanted or not all(name in t for t in tiers.values()):
            continue
        cut = as_cut(entry)
        plot_alignments(
            out_dir / files.of(name),
            cut.load_audio()[0],
            cut.sampling_rate,
            {label: t[name] for label, t in tiers.items()},
            f"{name}: {cut.supervisions[0].text}",
            start,
            end,
        )
        drawn.add(name)
    missing = [name for name in utts if name not in drawn]
    if missing:
        raise DataError(f"utterance {missing[0]!r} is not in {data} and all of the alignments")
    return len(drawn)
