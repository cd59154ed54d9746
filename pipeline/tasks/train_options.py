"""Options of what makes models of one's own data; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.lexicon_formats import LexiconOptions
from pipeline.base.option_values import Device
from pipeline.tasks.corpus_options import Format

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class SplitOptions:
    """Which share of a corpus is held out."""

    dev: float = Field(0.1, gt=0, lt=0.5, description="Share of the speech that is dev.")
    test: float = Field(0.1, gt=0, lt=0.5, description="Share of the speech that is test.")
    seed: int = Field(1, ge=0, description="Seed of the choice.")
    folds: int = Field(
        0,
        ge=0,
        description="Cross-validation: the speakers are dealt into so many folds of about equal length, and --dev and "
        "--test do not count; 0: none.",
        json_schema_extra={"stamp": "if_set"},
    )
    fold: int = Field(
        0,
        ge=0,
        description="With --folds: the fold, from 0, that is test; the next one is dev.",
        json_schema_extra={"stamp": "if_set"},
    )

    def __post_init__(self) -> None:
        if self.folds in (1, 2):
            raise ValueError(f"folds: {self.folds} leave nothing for training; at least 3 are needed")
        if self.fold >= max(self.folds, 1):
            raise ValueError(f"fold: {self.fold} is none of {self.folds} folds, which count from 0")


@dataclass(frozen=True, config=_STRICT)
class LabelledOptions:
    """Which part of a corpus keeps its transcripts."""

    share: float = Field(0.1, gt=0, lt=1, description="Share of the speakers who keep them.")
    seed: int = Field(1, ge=0, description="Seed of the choice.")


@dataclass(frozen=True, config=_STRICT)
class SelectOptions:
    """Which utterances are chosen."""

    share: float = Field(0.1, gt=0, lt=1, description="Share of the speech, by time.")
    by: Literal["nearest", "diverse"] = Field(
        "nearest",
        description="nearest: those most like an utterance of --target, by the cosine of their means without that of "
        "DATA; diverse: each the farthest from all before it (Sener and Savarese 2018).",
    )
    batch_frames: int = Field(
        20_000, gt=0, description="Feature frames per batch; bounds the memory.", json_schema_extra={"stamp": False}
    )
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})


@dataclass(frozen=True, config=_STRICT)
class HoldOutOptions:
    """Which words are held out."""

    share: float = Field(0.1, gt=0, lt=1, description="Share of the different words.")
    most: int = Field(8, ge=1, description="Utterances in which such a word occurs at most.")
    seed: int = Field(1, ge=0, description="Seed of the choice.")


@dataclass(frozen=True, config=_STRICT)
class PseudoOptions:
    """Which recognised texts serve as transcripts."""

    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Utterances whose words have a lower mean confidence are left out."
    )


@dataclass(frozen=True, config=_STRICT)
class PronounceOptions(LexiconOptions):
    """Where pronunciations come from."""

    espeak: str | None = Field(
        None,
        description="Language by whose rules espeak-ng pronounces all words, such as de, fr or sw, in symbols of the "
        "International Phonetic Alphabet; in place of a lexicon.",
    )


@dataclass(frozen=True, config=_STRICT)
class TrainAlignerOptions(PronounceOptions):
    """How an aligner is trained on a corpus, and what is written of it."""

    language: str | None = Field(
        None,
        description="Code of the language, such as en or is: numbers in digits are written out, where it is known.",
    )
    num_gauss: int | None = Field(
        None, ge=1, description="Gaussians of each of the two models; none: from the hours of speech."
    )
    format: tuple[Format, ...] = Field(("textgrid", "ctm"), description="What is written, see fullsum align.")
    max_failed: float = Field(0.05, ge=0, le=1, description="Share of utterances that may fail before the step does.")
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})
