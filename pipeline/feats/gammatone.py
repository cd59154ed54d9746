"""Gammatone features as a lhotse extractor.

Gammatone filters on the Greenwood scale, full-wave rectification, a Hann window per frame and 10th-root compression
(Schlueter et al., "Gammatone features and feature combination", ICASSP 2007); Mann et al. 2023 use 40 or 50 filters,
without the cepstral transform of the former. The delay of each filter is taken out, so that the bands are aligned in
time. Frames are placed as in lhotse's other extractors: frame i is centred at (i + 1/2) frame_shift, with the signal
mirrored at both ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lhotse.features.base import FeatureExtractor, register_extractor

_ORDER = 4  # of the filters
_IMPULSE_SECONDS = 0.04  # length of the filters' impulse responses
_FFT_SIZE = 4096  # of the blocks in which the signal is filtered; much greater than the filters at usual sampling rates
_FLOOR = 1e-5  # of the mean amplitude, below the 16-bit step
_COMPRESSION = 0.1


@dataclass
class GammatoneConfig:
    """Frequencies in Hz, times in seconds; ``high_freq`` of 0 or less counts from half the sampling rate."""

    sampling_rate: int = 16000
    num_filters: int = 50
    frame_length: float = 0.025
    frame_shift: float = 0.01
    low_freq: float = 100.0
    high_freq: float = -500.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> GammatoneConfig:
        return GammatoneConfig(**data)


def greenwood_frequencies(low: float, high: float, number: int) -> np.ndarray:
    """Centre frequencies in Hz, (number,), at equal distances on the human basilar membrane.

    f = 165.4 (10^(2.1 x) - 0.88) with x from 0 to 1 along the membrane (Greenwood 1990).
    """
    ends = np.log10(np.array([low, high]) / 165.4 + 0.88) / 2.1
    return 165.4 * (10 ** (2.1 * np.linspace(ends[0], ends[1], number)) - 0.88)


def _frames(signal: torch.Tensor, window: int, shift: int) -> torch.Tensor:
    """Cut a signal (num_samples,) into (T, window) with T = round(num_samples / shift), mirrored at both ends."""
    num_frames = (len(signal) + shift // 2) // shift
    left = (window - shift) // 2
    right = max((num_frames - 1) * shift + window - left - len(signal), 0)
    assert max(left, right) <= len(signal), (left, right, len(signal))
    padded = torch.cat([signal[:left].flip(0), signal, signal[len(signal) - right :].flip(0)])
    return padded.unfold(0, window, shift)[:num_frames]


def gammatone_filters(config: GammatoneConfig) -> np.ndarray:
    """Impulse responses t^3 exp(-2 pi b t) cos(2 pi f t) with b = 1.019 ERB(f), gain 1 at f; float64 (F, samples)."""
    high = config.high_freq if config.high_freq > 0 else config.sampling_rate / 2 + config.high_freq
    centres = greenwood_frequencies(config.low_freq, high, config.num_filters)[:, None]
    time = np.arange(1, round(_IMPULSE_SECONDS * config.sampling_rate) + 1)[None] / config.sampling_rate
    bandwidth = 1.019 * 24.7 * (4.37 * centres / 1000 + 1)
    filters = time ** (_ORDER - 1) * np.exp(-2 * np.pi * bandwidth * time) * np.cos(2 * np.pi * centres * time)
    gain = np.abs(np.sum(filters * np.exp(-2j * np.pi * centres * time), axis=1, keepdims=True))
    return filters / gain


def group_delays(config: GammatoneConfig) -> np.ndarray:
    """Delay of the filters in samples, int64 (F,): the centre of mass of the envelope t^3 exp(-2 pi b t) lies at 4 /
    (2 pi b).
    """
    high = config.high_freq if config.high_freq > 0 else config.sampling_rate / 2 + config.high_freq
    centres = greenwood_frequencies(config.low_freq, high, config.num_filters)
    bandwidth = 1.019 * 24.7 * (4.37 * centres / 1000 + 1)
    return np.round(_ORDER / (2 * np.pi * bandwidth) * config.sampling_rate).astype(np.int64)


@register_extractor
class Gammatone(FeatureExtractor):
    """Rectified gammatone filter outputs, smoothed over the window and compressed; (T, num_filters)."""

    name = "gammatone"
    config_type = GammatoneConfig

    def __init__(self, config: GammatoneConfig | None = None) -> None:
        super().__init__(config=config)
        cfg = self.config
        filters = torch.from_numpy(gammatone_filters(cfg)).float()
        self._taps = filters.shape[1]
        self._spectra = torch.fft.rfft(filters, _FFT_SIZE)  # (F, _FFT_SIZE / 2 + 1)
        self._delays = group_delays(cfg).tolist()
        assert self._taps < _FFT_SIZE // 2, (self._taps, cfg.sampling_rate)
        window = torch.hann_window(round(cfg.frame_length * cfg.sampling_rate), periodic=False)
        self._window = window / window.sum()

    @property
    def frame_shift(self) -> float:
        return self.config.frame_shift

    def feature_dim(self, sampling_rate: int) -> int:
        return self.config.num_filters

    def extract(self, samples: np.ndarray | torch.Tensor, sampling_rate: int) -> np.ndarray | torch.Tensor:
        """Features of mono samples (T,) or (1, T) in -1 .. 1, in the type of the input."""
        assert sampling_rate == self.config.sampling_rate, (sampling_rate, self.config.sampling_rate)
        signal = torch.as_tensor(samples, dtype=torch.float32).reshape(-1)
        shift = round(self.frame_shift * sampling_rate)
        step = _FFT_SIZE - self._taps + 1  # overlap-save: each block gives this many valid samples
        num_blocks = -(-(len(signal) + self._taps) // step)
        padded = torch.nn.functional.pad(signal, (self._taps - 1, num_blocks * step - len(signal)))
        blocks = torch.fft.rfft(padded.unfold(0, _FFT_SIZE, step))  # (blocks, _FFT_SIZE / 2 + 1)
        rows = []
        for spectrum, delay in zip(self._spectra, self._delays):  # one filter at a time bounds the memory
            output = torch.fft.irfft(blocks * spectrum, _FFT_SIZE)[:, self._taps - 1 :].reshape(-1)
            envelope = output[delay : delay + len(signal)].abs()
            rows.append(_frames(envelope, len(self._window), shift) @ self._window)  # (T,)
        feats = torch.stack(rows, dim=1).clamp(min=_FLOOR) ** _COMPRESSION  # (T, F)
        return feats if isinstance(samples, torch.Tensor) else feats.numpy()
