"""Options of the synthetic corpus."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TinyOptions:
    """Size and sound of the synthetic corpus of egs/tiny."""

    num_train: int = Field(default=400, ge=1, description="Training utterances.")
    num_dev: int = Field(default=60, ge=1, description="Development utterances, by voices of their own.")
    num_test: int = Field(default=60, ge=1, description="Test utterances, by voices of their own.")
    num_lm_sentences: int = Field(default=4000, ge=0, description="Further sentences of the grammar in lm_text.txt.")
    sampling_rate: int = Field(default=16000, ge=8000, le=22050, description="Sampling rate in Hz.")
    pause_probability: float = Field(default=0.12, ge=0, le=1, description="Probability of a pause between two words.")
    pause_seconds: tuple[float, float] = Field(
        default=(0.10, 0.35), description="Shortest and longest pause between words."
    )
    edge_seconds: tuple[float, float] = Field(
        default=(0.10, 0.25), description="Shortest and longest silence at both ends."
    )
    snr_db: tuple[float, float] = Field(
        default=(25.0, 40.0), description="Lowest and highest ratio of speech to noise in dB."
    )
    seed: int = Field(default=1, description="Seed of sentences, voices, pauses and noise.")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LargeTestOptions(TinyOptions):
    """The larger test part of the same corpus; the other options have to be those that the corpus was made with."""

    num_utterances: int = Field(default=3000, ge=1, description="Utterances of the larger test part.")
    drawn_voices: int = Field(
        default=0, ge=0, description="Voices that are drawn at random; 0: 24 of espeak's own, in no other part."
    )
