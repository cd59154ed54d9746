"""Options of the import of corpora; imports nothing heavy."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.artifacts.lexicon_formats import FormatName
from pipeline.artifacts.text_norm import TextOptions

CorpusFormat = Literal["auto", "kaldi", "folder", "textgrid", "elan", "subtitles", "timed_words", "lhotse", "table"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImportOptions(TextOptions):
    """How a corpus is read, and what becomes of its audio and text."""

    format: CorpusFormat = Field("auto", description="Format of SOURCE; auto: the one that its files show.")
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
    name_pattern: str | None = Field(
        None,
        description="Regular expression on the path of an audio file below SOURCE, without its suffix, with groups "
        "speaker and text: '(?P<text>[0-9])_(?P<speaker>[a-z]+)_' reads both from 7_jackson_32.wav. Without speaker "
        "that is the folder of the file.",
    )
    columns: tuple[str, ...] = Field(
        (),
        description="Columns of a table, KIND=NAME each, or KIND=NUMBER from 1 where there is no heading; kinds are "
        "audio, text, speaker, id, start, end, duration, channel, gender, language. Usual names are known.",
    )
    delimiter: str | None = Field(
        None, description="Character between columns of a table, or tab; none: the one that the first line shows."
    )
    tiers: tuple[str, ...] = Field(
        (), description="Tiers of TextGrids and .eaf files whose intervals are utterances; none named: all."
    )
    pause: float = Field(
        0.5,
        gt=0,
        le=60,
        description="Seconds without a word that end an utterance of a .ctm file.",
    )
    lexicon_format: FormatName = Field(
        "auto",
        description="Format of the file of --lexicon, see steps/make_lang.py.",
        json_schema_extra={"stamp": "if_set"},
    )
    encoding: str | None = Field(
        None,
        description="Encoding of texts, such as latin-1; none: UTF-8, or UTF-16 where a file begins with its mark.",
    )
    num_jobs: int = Field(2, ge=1, description="Threads.", json_schema_extra={"stamp": False})

    @field_validator("columns")
    @classmethod
    def _kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        kinds = ["audio", "text", "speaker", "id", "start", "end", "duration", "channel", "gender", "language"]
        for entry in value:
            kind, _, name = entry.partition("=")
            if kind not in kinds or not name or name == "0":
                raise ValueError(f"{entry!r} is not KIND=NAME with a kind of {', '.join(kinds)}")
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and value != "tab" and (len(value) != 1 or value in '"\r\n'):
            raise ValueError("needs one character, or tab")
        return value

    @field_validator("name_pattern")
    @classmethod
    def _groups(cls, value: str | None) -> str | None:
        try:
            groups = set(re.compile(value or "").groupindex)
        except re.error as err:
            raise ValueError(f"no regular expression: {err}") from None
        if groups - {"speaker", "text"} or (value is not None and not groups):
            raise ValueError("needs groups (?P<speaker>..) or (?P<text>..), and no others with names")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                "".encode(value)
            except LookupError:
                raise ValueError("no such encoding") from None
        return value


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ValidateOptions(ImportOptions):
    """How a corpus is read to be checked: as ``fullsum align`` and ``fullsum train`` read it."""

    punctuation: Literal["keep", "strip"] = Field(
        "strip",
        description="As fullsum align and fullsum train have it: punctuation and symbols become blanks, but for "
        "apostrophes and hyphens inside words; keep: as fullsum import has it.",
    )
