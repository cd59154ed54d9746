"""Options of grapheme-to-phoneme conversion; imports nothing heavy."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.lexicon_formats import LexiconOptions


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class G2pOptions(LexiconOptions):
    """How the model is trained."""

    order: int = Field(6, ge=1, description="Longest n-grams over joint units of letters and phones.")
    iterations: int = Field(6, ge=1, description="EM iterations that find the units.")
    held_out: int = Field(500, ge=0, description="Words kept out of the training, on which errors are measured.")
    seed: int = Field(1, description="Seed that chooses them.")
