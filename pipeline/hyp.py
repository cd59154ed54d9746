"""Recognised texts beside their references: recogs.jsonl.gz of a decoding directory."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from pipeline.errors import DataError
from pipeline.files import read_jsonl, write_jsonl

RECOGS = "recogs.jsonl.gz"


@dataclass(frozen=True)
class Hypothesis:
    """One utterance: what was said and what was recognised (empty when the search failed)."""

    cut_id: str
    speaker: str
    ref: tuple[str, ...]
    hyp: tuple[str, ...]


def save_hypotheses(path: str | Path, hypotheses: Iterable[Hypothesis]) -> None:
    """Writes one JSON object a line: id, speaker, ref and hyp with words separated by blanks."""
    write_jsonl(path, ({"id": h.cut_id, "speaker": h.speaker, "ref": " ".join(h.ref), "hyp": " ".join(h.hyp)} for h in hypotheses))


def load_hypotheses(path: str | Path) -> list[Hypothesis]:
    """Reads a file of save_hypotheses, or the one in a decoding directory.

    Raises:
        DataError: with file and line, for a missing key or an id that stands twice.
    """
    p = Path(path)
    p = p / RECOGS if p.is_dir() else p
    out: dict[str, Hypothesis] = {}
    for line_no, row in enumerate(read_jsonl(p), 1):
        try:
            hyp = Hypothesis(str(row["id"]), str(row["speaker"]), tuple(row["ref"].split()), tuple(row["hyp"].split()))
        except (KeyError, TypeError, AttributeError) as e:
            raise DataError(f"{p}:{line_no}: not a recognised utterance ({e!r})") from None
        if hyp.cut_id in out:
            raise DataError(f"{p}:{line_no}: utterance {hyp.cut_id!r} stands twice")
        out[hyp.cut_id] = hyp
    if not out:
        raise DataError(f"{p}: no utterances")
    return list(out.values())
