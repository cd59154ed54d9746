"""Change of the sampling rate, block by block, so that recordings of any length take the same memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

ZERO_CROSSINGS = 24  # of the filter on each side, at the lower of the two rates
BETA = 8.0  # of its Kaiser window: 80 dB stopband
_BLOCK = 1 << 16  # input samples, about


def resample(blocks: Iterable[npt.NDArray[Any]], old: int, new: int) -> Iterator[npt.NDArray[Any]]:
    """Audio at another rate, by a polyphase filter (scipy.signal.resample_poly) over overlapping blocks.

    Args:
        blocks: float (t,) that come one after the other, T samples in all.
        old, new: rates in Hz.
    Yields:
        float blocks, ceil(T new / old) samples in all; the values do not depend on how the input is cut into blocks.
    """
    if old == new:
        yield from blocks
        return
    from scipy.signal import firwin, resample_poly

    divisor = math.gcd(old, new)
    up, down = new // divisor, old // divisor
    half = ZERO_CROSSINGS * max(up, down)
    # float32 keeps float32; a filter of doubles would turn the signal into doubles.
    taps = firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", BETA)).astype(np.float32)
    around = math.ceil(half / up / down) * down  # input samples that the filter reaches, in whole steps of `down`
    size = max(_BLOCK // down, 1) * down

    buffer = np.zeros(around, dtype=np.float32)  # silence before the first sample
    for block in blocks:
        buffer = np.concatenate([buffer, block.astype(np.float32)])
        while len(buffer) >= size + 2 * around:
            part = resample_poly(buffer[: size + 2 * around], up, down, window=taps)
            yield part[around // down * up : (around + size) // down * up]
            buffer = buffer[size:]
    left = len(buffer) - around
    if left > 0:
        buffer = np.concatenate([buffer, np.zeros(around, dtype=np.float32)])
        part = resample_poly(buffer, up, down, window=taps)
        yield part[around // down * up :][: -(-left * up // down)]
