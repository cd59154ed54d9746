"""Options of feature extraction and of added noise; how features are loaded is ``artifacts.features``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")
_DEFAULT_DIM = {"mfcc": 13, "fbank": 80, "gammatone": 50}


def cache_field() -> Any:
    """The option --cache-mib of all steps that read features in passes."""
    text = "MiB of features that stay in memory, where those of a whole data set fit; otherwise the frames of a batch "
    text += "are read when it is made. Training graphs may take a quarter of it beside them."
    return Field(2048, ge=0, description=text, json_schema_extra={"stamp": False})


@dataclass(frozen=True, config=_STRICT)
class FeatureOptions:
    """How features are computed from audio; the sampling rate comes from the data."""

    type: Literal["mfcc", "fbank", "gammatone"] = Field("mfcc", description="Kind of features; fbank is log-mel.")
    dim: int | None = Field(
        None, ge=1, description="Features per frame; by default 13 (mfcc), 80 (fbank), 50 (gammatone)."
    )
    num_mel_bins: int = Field(23, ge=3, description="Mel filters below the cepstrum of mfcc.")
    frame_shift: float = Field(0.01, gt=0, description="Time between frames in seconds.")
    window: float = Field(0.025, gt=0, description="Length of the window in seconds.")
    low_freq: float | None = Field(
        None, ge=0, description="Lower end of the filters in Hz; by default 20, for gammatone 100."
    )
    high_freq: float | None = Field(
        None,
        description="Upper end of the filters in Hz; 0 or less counts from half the sampling rate; by default "
        "-400, for gammatone -500.",
    )
    dither: float = Field(
        1.0, ge=0, description="Noise added to the audio, in steps of 16 bits; the seed is the utterance id."
    )
    precision: Literal["float32", "float16"] = Field("float32", description="Precision of the stored numbers.")

    @model_validator(mode="after")
    def _check(self) -> FeatureOptions:
        if self.window < self.frame_shift:
            raise ValueError(f"window {self.window} s is shorter than frame_shift {self.frame_shift} s")
        if self.type == "mfcc" and self.feature_dim > self.num_mel_bins:
            raise ValueError(f"dim {self.feature_dim} is greater than num_mel_bins {self.num_mel_bins}")
        return self

    @property
    def band(self) -> tuple[float, float]:
        """Lower and upper end of the filters as in the options, with the defaults of the type filled in."""
        low, high = (100.0, -500.0) if self.type == "gammatone" else (20.0, -400.0)
        return (low if self.low_freq is None else self.low_freq, high if self.high_freq is None else self.high_freq)

    @property
    def feature_dim(self) -> int:
        """Features per frame, with the default of the type filled in."""
        return self.dim or _DEFAULT_DIM[self.type]


@dataclass(frozen=True, config=_STRICT)
class NoiseOptions:
    """Which noise is added, and how loud, and how long the room reverberates."""

    kind: Literal["babble", "pink", "white", "none"] = Field(
        "babble", description="babble: other utterances of the same data at once; none: reverberation alone."
    )
    voices: int = Field(5, ge=1, description="babble: utterances at once.")
    min_snr: float = Field(5.0, description="Smallest ratio of signal to noise in dB.")
    max_snr: float = Field(20.0, description="Largest ratio of signal to noise in dB.")
    rt60: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Seconds in which the reverberation of the speech falls by 60 dB; 0: none.",
        json_schema_extra={"stamp": "if_set"},
    )
    drr: float = Field(
        0.0,
        ge=-30,
        le=60,
        description="Ratio of direct to reverberant sound in dB.",
        json_schema_extra={"stamp": "if_set"},
    )
    copies: int = Field(1, ge=1, le=20, description="Noisy copies of each utterance.")
    keep: bool = Field(True, description="The utterances without noise are kept.")
    seed: int = Field(1, ge=0, description="Seed of everything random.")

    @model_validator(mode="after")
    def _check(self) -> NoiseOptions:
        if self.min_snr > self.max_snr:
            raise ValueError(f"min_snr {self.min_snr} is greater than max_snr {self.max_snr}")
        if self.kind == "none" and not self.rt60:
            raise ValueError("kind none needs rt60: the copies would be the originals")
        return self


@dataclass(frozen=True, config={"extra": "forbid"})
class SharOptions:
    """How a data directory is divided into shards."""

    shard_size: int = Field(1000, ge=1, description="Utterances of a shard.")
