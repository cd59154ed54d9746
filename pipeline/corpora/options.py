"""Options of the import of corpora; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.artifacts.text_norm import TextOptions

Format = Literal["auto", "kaldi"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImportOptions(TextOptions):
    """How a corpus is read, and what becomes of its audio and text."""

    format: Format = Field("auto", description="Format of SOURCE; auto: the one that its files show.")
    suffix: str | None = Field(
        None,
        description="Suffix of the audio files, such as .flac, in place of the one that SOURCE names; none: any other "
        "suffix of audio is looked for where the named file is missing.",
    )
    allow_commands: bool = Field(
        False,
        description="Run the commands that SOURCE has in place of audio files (Kaldi's 'sph2pipe .. |'), without a "
        "shell; needs --rate.",
    )
    rate: int | None = Field(
        None, ge=1000, le=192_000, description="Sampling rate in Hz; none: the one that most files have."
    )
    channel: int | Literal["mean"] | None = Field(
        None,
        description="Channel of files that have several, from 0, or mean; none: the one that SOURCE names, and files "
        "with several are refused where it names none.",
    )
    max_bad: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of utterances that may be left out (OUT/left_out.txt) before the step fails.",
    )
    encoding: str | None = Field(
        None,
        description="Encoding of texts, such as latin-1; none: UTF-8, or UTF-16 where a file begins with its mark.",
    )
    num_jobs: int = Field(2, ge=1, description="Threads.", json_schema_extra={"stamp": False})

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                "".encode(value)
            except LookupError:
                raise ValueError("no such encoding") from None
        return value
