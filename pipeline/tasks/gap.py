"""Which share of the gap between two systems a third one closes: (E_first - E) / (E_first - E_best) by word errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.artifacts.hyp import Hypothesis
from pipeline.base.errors import MismatchError
from pipeline.tasks.score import count_errors, ratio_interval, result_row, sums_by_speaker

logger = logging.getLogger(__name__)

METRIC = "gap_closed"


def gap_row(
    row_id: str, part: str, first: Sequence[Hypothesis], best: Sequence[Hypothesis], hyps: Sequence[Hypothesis]
) -> dict[str, Any] | None:
    """The row of the share closed in percent, with a 95 % interval over speakers where there are enough; None where the
    best makes no fewer errors than the first.

    It is above 100 where the system is better than the best, and negative where it is worse than the first.

    Args:
        first, best: ends of the gap, for instance 10 % and all of the data labelled.
    Raises:
        MismatchError: other utterances or references.
    """
    errors = [_errors(first, other) for other in (first, best, hyps)]
    closed, gap = errors[0] - errors[2], errors[0] - errors[1]
    if gap.sum() <= 0:
        logger.warning("%s on %s: there is no gap, %d errors and %d", row_id, part, errors[0].sum(), errors[1].sum())
        return None
    speakers = [h.speaker for h in first]
    low, high = ratio_interval(closed, gap, speakers)
    counts = {"errors_first": int(errors[0].sum()), "errors_best": int(errors[1].sum()), "errors": int(errors[2].sum())}
    counts |= {"utterances": len(first), "speakers": len(set(speakers))}
    groups = sums_by_speaker(closed, gap, speakers, 100.0)
    return result_row(row_id, part, METRIC, 100 * closed.sum() / gap.sum(), low, high, counts, groups=groups)


def _errors(first: Sequence[Hypothesis], other: Sequence[Hypothesis]) -> np.ndarray:
    """(N,) errors of each utterance, in the order of the first system."""
    found = {h.cut_id: h for h in other}
    if {h.cut_id for h in first} != set(found) or any(h.ref != found[h.cut_id].ref for h in first):
        raise MismatchError("the systems were not scored on the same utterances and references")
    return np.array([e.total for e in count_errors([found[h.cut_id] for h in first])])
