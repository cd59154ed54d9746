"""Ranks n-best lists anew with another language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.artifacts.arpa import LOG10, UNK, ZERO, Arpa
from pipeline.artifacts.hyp import Hypothesis, NBest
from pipeline.base.errors import DataError


def rescore(
    lists: Sequence[NBest], arpa: Arpa, weights: Sequence[tuple[float, float]], old_lm: float = 0.0
) -> dict[tuple[float, float], list[Hypothesis]]:
    """Best alternatives of all lists for every pair of weights.

    An alternative's total is acoustic / lm_weight + graph + (1 - old_lm) * (new - old language model) - penalty *
    words.

    Args:
        lists: n-best lists of a decoding directory.
        arpa: the new language model; words that it lacks score as its <unk>, or as zero probability.
        weights: pairs of LM weight and word penalty.
        old_lm: share of the old log score that stays.
    """
    if not any(x.alternatives for x in lists):
        raise DataError("the n-best lists are all empty")
    known = set(arpa.words())
    out: dict[tuple[float, float], list[Hypothesis]] = {w: [] for w in weights}
    for x in sorted(lists, key=lambda x: x.cut_id):
        texts = [a.words for a in x.alternatives]
        table = np.array([(a.acoustic, a.graph, a.lm, len(a.words)) for a in x.alternatives], dtype=np.float64).reshape(
            -1, 4
        )
        new = np.array([_log_prob(arpa, known, t) for t in texts])
        for lm_weight, penalty in weights:
            best: tuple[str, ...] = ()
            if texts:
                acoustic, graph, old, count = table.T
                best = texts[
                    int(np.argmax(acoustic / lm_weight + graph + (1 - old_lm) * (new - old) - penalty * count))
                ]
            out[lm_weight, penalty].append(Hypothesis(x.cut_id, x.speaker, x.ref, best))
    return out


def _log_prob(arpa: Arpa, known: set[str], words: Sequence[str]) -> float:
    return max(arpa.sentence_log_prob([w if w in known else UNK for w in words]), ZERO * LOG10 * (len(words) + 1))
