"""LM weights and word penalties of decoding: choosing them by the errors, alone or over several directories."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.hyp import Hypothesis, load_tried
from pipeline.base.errors import DataError
from pipeline.base.files import read_json
from pipeline.tasks.decoded import BEST, warn_at_the_edge, write_best
from pipeline.tasks.score import Errors

logger = logging.getLogger(__name__)

Weights = tuple[float, float]  # LM weight, word penalty


def choose_weights(errors: Mapping[Weights, Errors]) -> Weights:
    """The weights with the fewest errors; of equal ones those with the least penalty, of these the middle LM weight."""
    fewest = min(e.total for e in errors.values())
    best = [w for w, e in errors.items() if e.total == fewest]
    least = min(abs(penalty) for _, penalty in best)
    equal = sorted(w for w in best if abs(w[1]) == least)
    return equal[(len(equal) - 1) // 2]


def read_weights(directory: str | Path) -> Weights:
    """LM weight and word penalty that another decoding directory chose."""
    path = Path(directory) / BEST
    facts = read_json(path)
    try:
        return float(facts["lm_weight"]), float(facts["word_penalty"])
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"{path}: names no weights ({e!r})") from None


def pooled(directories: Sequence[str | Path]) -> dict[Weights, list[Hypothesis]]:
    """What several decoding directories (``DecodeOptions.tried``) recognised with all weights, as if it were one.

    Held-out folds of the training speakers make one large development set this way.

    Raises:
        DataError: directories that tried different weights or have an utterance in common.
    """
    out: dict[Weights, list[Hypothesis]] = {}
    home: dict[str, str | Path] = {}
    for directory in directories:
        found = load_tried(directory)
        if out and set(found) != set(out):
            raise DataError(f"{directory} and {directories[0]} tried different weights")
        for hyp in next(iter(found.values())):
            if hyp.cut_id in home:
                raise DataError(f"utterance {hyp.cut_id!r} is in {home[hyp.cut_id]} and in {directory}")
            home[hyp.cut_id] = directory
        out = {w: [*out.get(w, ()), *hyps] for w, hyps in found.items()}
    return out


def choose_and_write(
    found: Mapping[Weights, Iterable[Hypothesis]],
    out_dir: str | Path,
    refine: Callable[[Weights, Sequence[Hypothesis]], list[Hypothesis]] | None = None,
) -> tuple[list[Hypothesis], dict[str, Any]]:
    """Chooses the weights with the fewest errors and writes recogs.jsonl.gz, errs.txt, wer.txt and best.json for them.

    Args:
        found: LM weight and word penalty -> hypotheses.
        refine: see ``write_best``.
    Returns:
        The hypotheses and facts for the stamp.
    """

    def describe(weights: Weights) -> dict[str, Any]:
        return {"lm_weight": weights[0], "word_penalty": weights[1]}

    hyps, best, errors = write_best(found, out_dir, choose_weights, describe, describe, refine)
    totals = [(w, e.total) for w, e in errors.items()]
    warn_at_the_edge([(w[0], n) for w, n in totals], best[0], "LM weight", "--lm-weights")
    warn_at_the_edge([(w[1], n) for w, n in totals], best[1], "word penalty", "--word-penalties")
    logger.info("%s (LM weight %g, word penalty %g)", errors[best].line(), *best)
    return hyps, {"wer": errors[best].wer, **describe(best), "utterances": len(hyps)}
