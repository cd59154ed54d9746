"""What a page shows and plays of an utterance: the audio file, the outline of the waveform, the spectrogram as PNGs."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

STEP = 0.005  # seconds of a column of the spectrogram
FINE, COARSE, LONG = (
    0.001,
    0.005,
    60.0,
)  # seconds of a pair of the outline, of sound up to LONG seconds and of longer one
WINDOW = 0.025  # seconds
ROWS = 128  # of the spectrogram, from 0 to half the sampling rate
FLOOR = 70.0  # dB below the maximum that are shown
TILE_SECONDS = 20.0  # one picture each: browsers refuse very wide ones
LEVELS = 16  # shades of grey, 4 bits each
SUBTYPES = {"flac": ("FLAC", "PCM_16", "audio/flac"), "wav": ("WAV", "PCM_16", "audio/wav")}
SUBTYPES |= {"opus": ("OGG", "OPUS", "audio/ogg")}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


class Tile(NamedTuple):
    """A stretch of a spectrogram as a PNG file; times in seconds."""

    start: float
    end: float
    png: bytes


def encoded(samples: npt.NDArray[Any], rate: int, form: str) -> tuple[bytes, str]:
    """Sound as an audio file that browsers play.

    Args:
        samples: (T,) float, full scale being 1.
        form: flac, wav or opus; rates that Opus lacks become FLAC.
    Returns:
        the bytes and the media type.
    """
    import soundfile

    if form == "opus" and (rate not in OPUS_RATES or "OPUS" not in soundfile.available_subtypes("OGG")):
        form = "flac"
    container, subtype, media = SUBTYPES[form]
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate, 1, subtype, format=container) as file:
        for first in range(0, len(samples), 10 * rate):  # libsndfile's Opus encoder wants short blocks
            file.write(samples[first : first + 10 * rate])
    return out.getvalue(), media


def outline(samples: npt.NDArray[Any], rate: int) -> tuple[str, float]:
    """Lowest and highest sample of every few milliseconds.

    Args:
        samples: (T,) float, full scale being 1.
    Returns:
        base64 of int8, low and high one after the other, scaled so that the loudest sample is 127; and how many
        seconds a pair stands for.
    """
    step = max(1, round((FINE if len(samples) <= LONG * rate else COARSE) * rate))
    padded = np.pad(np.asarray(samples, dtype=np.float32), (0, -len(samples) % step)).reshape(-1, step)
    pairs = np.stack([padded.min(axis=1), padded.max(axis=1)], axis=1)
    loudest = max(float(np.abs(pairs).max(initial=0.0)), 1e-4)
    return base64.b64encode(np.rint(pairs * (127 / loudest)).astype(np.int8).tobytes()).decode(), step / rate


def tiles(samples: npt.NDArray[Any], rate: int) -> Iterator[Tile]:
    """The spectrogram in stretches of TILE_SECONDS, so that an hour takes no more memory than its samples.

    Args:
        samples: (T,) float, full scale being 1.
    """
    frames = max(1, int(np.ceil(len(samples) / rate / STEP)))
    per_tile = round(TILE_SECONDS / STEP)
    # The loudest of about 2,000 frames from all over tells what is black.
    some = [
        np.arange(first, min(first + per_tile, frames), max(1, frames // 2000)) for first in range(0, frames, per_tile)
    ]
    top = max(float(_decibels(samples, rate, columns).max()) for columns in some)
    for first in range(0, frames, per_tile):
        columns = np.arange(first, min(first + per_tile, frames))
        level = (_decibels(samples, rate, columns) - top) / FLOOR + 1.0
        shades = np.rint(level.clip(0.0, 1.0) * (LEVELS - 1)).astype(np.uint8)
        yield Tile(columns[0] * STEP, (columns[-1] + 1) * STEP, png(LEVELS - 1 - shades.T[::-1]))


def _decibels(samples: npt.NDArray[Any], rate: int, columns: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(frames, ROWS) power in dB; column i is centred in the middle of its STEP."""
    width = max(2, int(WINDOW * rate))
    first = np.rint((columns + 0.5) * STEP * rate).astype(np.int64) - width // 2
    begin, end = int(first[0]), int(first[-1]) + width
    piece = np.asarray(samples[max(begin, 0) : max(end, 0)], dtype=np.float32)
    piece = np.pad(piece, (max(-begin, 0), max(0, end - max(begin, 0) - len(piece))))
    frames = piece[(first - begin)[:, None] + np.arange(width)] * np.hanning(width).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, n=max(2 * ROWS, 1 << (width - 1).bit_length()))) ** 2
    bins = np.linspace(0, power.shape[1] - 1, ROWS + 1).astype(np.int64)
    return (10 * np.log10(np.maximum.reduceat(power, bins[:-1], axis=1) + 1e-10)).astype(np.float32)


def png(shades: npt.NDArray[Any]) -> bytes:
    """A grey PNG of 4 bits a pixel.

    Args:
        shades: (height, width) uint8 from 0, black, to LEVELS - 1, white.
    """
    height, width = shades.shape
    even = np.pad(shades, ((0, 0), (0, width % 2)))
    packed = (even[:, 0::2] << 4) | even[:, 1::2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
