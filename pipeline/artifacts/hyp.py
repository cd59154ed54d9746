"""Recognised texts beside their references: recogs.jsonl.gz, nbest.jsonl.gz and tried.jsonl.gz of a decoding
directory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.files import read_jsonl, write_jsonl

RECOGS = "recogs.jsonl.gz"
NBEST = "nbest.jsonl.gz"
TRIED = "tried.jsonl.gz"


@dataclass(frozen=True)
class Hypothesis:
    """One utterance: what was said and what was recognised (empty when the search failed), with the probability of each
    recognised word to be right (None: not computed).
    """

    cut_id: str
    speaker: str
    ref: tuple[str, ...]
    hyp: tuple[str, ...]
    confidence: tuple[float, ...] | None = None

    def row(self) -> dict[str, Any]:
        """As it stands in a file."""
        row = {"id": self.cut_id, "speaker": self.speaker, "ref": " ".join(self.ref), "hyp": " ".join(self.hyp)}
        more = {} if self.confidence is None else {"confidence": [round(c, 4) for c in self.confidence]}
        return {**row, **more}

    @classmethod
    def of_row(cls, row: Any) -> Hypothesis:
        """From what ``row`` gives; KeyError, TypeError, AttributeError or ValueError for anything else."""
        confidence = row.get("confidence")
        if confidence is not None:
            confidence = tuple(float(c) for c in confidence)
            if len(confidence) != len(row["hyp"].split()) or not all(0.0 <= c <= 1.0 for c in confidence):
                raise ValueError("confidences are not one number from 0 to 1 per word")
        ref, hyp = tuple(row["ref"].split()), tuple(row["hyp"].split())
        return cls(str(row["id"]), str(row["speaker"]), ref, hyp, confidence)


def save_hypotheses(path: str | Path, hypotheses: Iterable[Hypothesis]) -> None:
    """Writes one JSON object a line: id, speaker, ref and hyp with words separated by blanks, and where known
    confidence, a list.
    """
    write_jsonl(path, (h.row() for h in hypotheses))


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
            hyp = Hypothesis.of_row(row)
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise DataError(f"{p}:{line_no}: not a recognised utterance ({e!r})") from None
        if hyp.cut_id in out:
            raise DataError(f"{p}:{line_no}: utterance {hyp.cut_id!r} stands twice")
        out[hyp.cut_id] = hyp
    if not out:
        raise DataError(f"{p}: no utterances")
    return list(out.values())


@dataclass(frozen=True)
class Alternative:
    """One word sequence that an utterance may be (words as ids or as strings).

    Attributes:
        acoustic: unscaled acoustic score (natural log, up to a constant of the utterance).
        graph: language model, pronunciations, silence and transitions.
        lm: the language model's share of `graph`.
    """

    words: tuple[Any, ...]
    acoustic: float
    graph: float
    lm: float


@dataclass(frozen=True)
class NBest:
    """The alternatives of one utterance, best first; none when the search failed."""

    cut_id: str
    speaker: str
    ref: tuple[str, ...]
    alternatives: tuple[Alternative, ...]


def save_nbest(path: str | Path, lists: Iterable[NBest]) -> None:
    """Writes one JSON object a line: id, speaker, ref, and nbest, a list of [text, acoustic, graph, lm]."""
    write_jsonl(
        path,
        (
            {
                "id": x.cut_id,
                "speaker": x.speaker,
                "ref": " ".join(x.ref),
                "nbest": [
                    [" ".join(a.words), round(a.acoustic, 4), round(a.graph, 5), round(a.lm, 5)] for a in x.alternatives
                ],
            }
            for x in lists
        ),
    )


def load_nbest(path: str | Path) -> list[NBest]:
    """Reads a file of save_nbest, or the one in a decoding directory; DataError with file and line."""
    p = Path(path)
    p = p / NBEST if p.is_dir() else p
    out: dict[str, NBest] = {}
    for line_no, row in enumerate(read_jsonl(p), 1):
        try:
            alternatives = tuple(
                Alternative(tuple(text.split()), float(a), float(g), float(lm)) for text, a, g, lm in row["nbest"]
            )
            found = NBest(str(row["id"]), str(row["speaker"]), tuple(row["ref"].split()), alternatives)
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise DataError(f"{p}:{line_no}: not an n-best list ({e!r})") from None
        if found.cut_id in out or not all(math.isfinite(x) for a in alternatives for x in (a.acoustic, a.graph, a.lm)):
            raise DataError(f"{p}:{line_no}: utterance {found.cut_id!r} stands twice or has a score that is no number")
        out[found.cut_id] = found
    if not out:
        raise DataError(f"{p}: no utterances")
    return list(out.values())


def save_tried(path: str | Path, found: Mapping[tuple[float, float], Iterable[Hypothesis]]) -> None:
    """Writes what was recognised with all weights: per utterance id, speaker, ref and tried, a list of [LM weight,
    penalty, text].

    Args:
        found: (LM weight, word penalty) -> hypotheses, the same utterances in the same order for all weights.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for same in zip(*found.values()):
            tried = [[weight, penalty, " ".join(h.hyp)] for (weight, penalty), h in zip(found, same)]
            yield {"id": same[0].cut_id, "speaker": same[0].speaker, "ref": " ".join(same[0].ref), "tried": tried}

    write_jsonl(path, rows())


def load_tried(path: str | Path) -> dict[tuple[float, float], list[Hypothesis]]:
    """Reads a file of save_tried, or the one in a decoding directory.

    Raises:
        DataError: with file and line, for a missing key or utterances with different weights.
    """
    p = Path(path)
    p = p / TRIED if p.is_dir() else p
    out: dict[tuple[float, float], list[Hypothesis]] = {}
    for line_no, row in enumerate(read_jsonl(p), 1):
        try:
            texts = {(float(weight), float(penalty)): tuple(text.split()) for weight, penalty, text in row["tried"]}
            found = {
                w: Hypothesis(str(row["id"]), str(row["speaker"]), tuple(row["ref"].split()), t)
                for w, t in texts.items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise DataError(f"{p}:{line_no}: not the texts of an utterance ({e!r})") from None
        if line_no == 1:
            out = {w: [] for w in found}
        if not found or set(found) != set(out):
            raise DataError(f"{p}:{line_no}: other weights than in the first line")
        for w, hyp in found.items():
            out[w].append(hyp)
    if not out:
        raise DataError(f"{p}: no utterances")
    return out
