"""Options of aligning a corpus with a packed model."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base.option_values import Device

Format = Literal["textgrid", "ctm", "json", "supervisions"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignCorpusOptions:
    """What is written, and how it is searched."""

    format: tuple[Format, ...] = Field(
        ("textgrid", "ctm"),
        description="textgrid: one Praat TextGrid per recording with words and phones of each speaker; ctm: words.ctm "
        "and phones.ctm; json: alignment.jsonl, one utterance a line; supervisions: lhotse's supervisions.jsonl.gz.",
    )
    max_failed: float = Field(0.05, ge=0, le=1, description="Share of utterances that may fail before the step does.")
    beam: float = Field(200.0, gt=0, description="See steps/align.py.")
    skip_speech: bool = Field(
        False,
        description="Speech that the text lacks may lie between its words; it is marked <unk>.",
        json_schema_extra={"stamp": "if_set"},
    )
    unknown_words: Literal["error", "skip"] = Field(
        "error",
        description="Words without a pronunciation, such as those of another script; skip: <unk>, any speech, stands "
        "for them.",
        json_schema_extra={"stamp": "if_set"},
    )
    keep: bool = Field(False, description="Keep features, lang and the alignment set beside the files asked for.")
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})
