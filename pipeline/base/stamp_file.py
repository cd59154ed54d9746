"""What stamp.json holds, as far as anything is asked of it; written by ``pipeline.base.stamp``."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from pipeline.base.records import OPEN


@dataclass(frozen=True, config=OPEN)
class StampInput:
    """An input: its path from the directory of the stamp, and what it was."""

    path: str
    id: str


@dataclass(frozen=True, config=OPEN)
class StampFile:
    """A stamp of any version; see ``pipeline.base.stamp.Work``."""

    identity: str
    id: str
    command: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, StampInput] = field(default_factory=dict)
    sources: dict[str, str] | None = None
    code: dict[str, str | None] = field(default_factory=dict)
    device: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
