"""How a report is made."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReportOptions:
    """What a report shows, and how."""

    pages: int = Field(
        60,
        ge=0,
        description="Utterances with a page of their own: the first ones and the worst of each system; 0: all. The "
        "list has all of them.",
    )
    single: str | None = Field(None, description="Pack this utterance alone into one HTML file, sound included.")
    skip: tuple[str, ...] = Field(
        ("cv/*", "fold*/*"), description="Patterns of directories below EXP that are left out, such as folds."
    )
    audio: Literal["flac", "wav", "opus"] = Field(
        "flac",
        description="Format of the sound: flac and wav keep every sample; opus is smaller, but some browsers lack it.",
    )
    threshold_ms: float = Field(
        20.0, gt=0, description="Boundaries further than this from those of the first alignment are marked."
    )
    title: str | None = Field(None, description="Heading; the name of the recipe when not given.")
