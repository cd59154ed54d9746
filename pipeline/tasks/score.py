"""Word error rates with counts, bootstrap intervals, alignments of errors, and rows for the tables of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.artifacts.hyp import Hypothesis
from pipeline.base.errors import DataError, MismatchError

GAP = "\t"  # stands for no word in alignments: what no word can be
SHOWN_GAP = "*"
REPLICATIONS = 10_000
# Utterances of one speaker are no independent samples, so speakers are drawn where there are as many as this, else
# utterances: two or three speakers say nothing of how far a figure would change with others.
LEAST_SPEAKERS = 5


@dataclass(frozen=True)
class Errors:
    """Counts of one utterance or of many."""

    words: int
    ins: int
    dels: int
    subs: int

    @property
    def total(self) -> int:
        return self.ins + self.dels + self.subs

    @property
    def wer(self) -> float:
        """Percent; 100 per inserted word when nothing was said."""
        return 100.0 * self.total / max(self.words, 1)

    def line(self) -> str:
        """Kaldi's line: %WER 5.95 [ 46 / 773, 3 ins, 3 del, 40 sub ]; no rate where there is no reference."""
        if not self.words:
            return f"no words in the references, {self.ins} recognised"
        return f"%WER {self.wer:.2f} [ {self.total} / {self.words}, {self.ins} ins, {self.dels} del, {self.subs} sub ]"


def count_errors(hyps: Sequence[Hypothesis]) -> list[Errors]:
    """Errors of each utterance by the shortest edit distance."""
    from kaldialign import edit_distance

    out = []
    for h in hyps:
        d = edit_distance(h.ref, h.hyp)
        out.append(Errors(len(h.ref), d["ins"], d["del"], d["sub"]))
    return out


def total_errors(errors: Sequence[Errors]) -> Errors:
    """Sum over utterances."""
    return Errors(*(sum(getattr(e, name) for e in errors) for name in ("words", "ins", "dels", "subs")))


DRAWS = 1 << 18  # that are held at once


def bootstrap(
    numerator: np.ndarray,
    denominator: np.ndarray,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    replications: int = REPLICATIONS,
) -> np.ndarray:
    """Ratios of sums over resampled utterances, cf. Bisani and Ney 2004.

    Args:
        numerator, denominator: (N,) per utterance, for instance errors and words.
        groups: (N,) names; whole groups are drawn instead of utterances (speakers, whose utterances are no independent
            samples).
        seed: of the draws, so that two systems can be compared on the same ones.
    Returns:
        (replications,) ratios.
    """
    num: np.ndarray = np.asarray(numerator, dtype=np.float64)
    den: np.ndarray = np.asarray(denominator, dtype=np.float64)
    if groups is not None:
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        num, den = np.bincount(index, num), np.bincount(index, den)
    rng = np.random.default_rng(seed)
    ratios = np.empty(replications)
    at_once = max(1, DRAWS // max(len(num), 1))
    for first in range(0, replications, at_once):  # bounds the memory; the draws are the same however they are divided
        draws = rng.integers(0, len(num), size=(min(at_once, replications - first), len(num)))
        ratios[first : first + len(draws)] = num[draws].sum(1) / np.maximum(den[draws].sum(1), 1e-12)
    return ratios


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """Central 95 % of bootstrap ratios."""
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def by_speaker(names: Sequence[str]) -> Sequence[str] | None:
    """The speakers' names as groups for the bootstrap and for sums; None where there are less than LEAST_SPEAKERS."""
    return names if len(set(names)) >= LEAST_SPEAKERS else None


def ratio_interval(
    numerator: np.ndarray,
    denominator: np.ndarray,
    speakers: Sequence[str],
    scale: float = 100.0,
    replications: int = REPLICATIONS,
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a ratio of sums, in percent by default, over speakers where there are enough; none where draws
    whose sum of denominators is not positive are not rare: their ratios mean nothing, and neither would an interval.
    """
    groups = by_speaker(speakers)
    if np.min(denominator, initial=1.0) <= 0:
        sums = bootstrap(denominator, np.ones(len(denominator)), groups, replications=replications)
        if (sums <= 0).mean() >= 0.01:
            return None, None
    low, high = interval(bootstrap(numerator, denominator, groups, replications=replications))
    return scale * low, scale * high


def shown_interval(low: float | None, high: float | None) -> str:
    """An interval in percent for the user."""
    if low is None or high is None:
        return "no 95 % interval: too few utterances have words in the reference"
    return f"95 % interval {low:.2f} to {high:.2f}"


def sums_by_speaker(
    numerator: np.ndarray, denominator: np.ndarray, names: Sequence[str], scale: float
) -> dict[str, list[float]] | None:
    """Speaker -> [scale * sum of numerators, sum of denominators], for tests that take speakers as random; None where
    there are less than LEAST_SPEAKERS.
    """
    groups = by_speaker(names)
    if groups is None:
        return None
    unique, index = np.unique(np.asarray(groups), return_inverse=True)
    num, den = np.bincount(index, scale * np.asarray(numerator)), np.bincount(index, np.asarray(denominator))
    return {str(k): [round(float(n), 6), round(float(d), 6)] for k, n, d in zip(unique, num, den)}


def wer_interval(hyps: Sequence[Hypothesis], errors: Sequence[Errors]) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the word error rate in percent, see ``ratio_interval``."""
    wrong, words = np.array([e.total for e in errors]), np.array([e.words for e in errors])
    return ratio_interval(wrong, words, [h.speaker for h in hyps])


def compare(first: Sequence[Hypothesis], second: Sequence[Hypothesis]) -> dict[str, float | None]:
    """Paired comparison of two systems on the same utterances, over speakers where there are enough.

    Returns:
        wer_first, wer_second, difference (second minus first, percent absolute) with low and high as
        ``ratio_interval`` gives them, and p_better, the share of bootstrap draws in which the second has fewer errors.
    """
    other = {h.cut_id: h for h in second}
    if {h.cut_id for h in first} != set(other) or any(h.ref != other[h.cut_id].ref for h in first):
        raise MismatchError("the two systems were not scored on the same utterances and references")
    paired = [other[h.cut_id] for h in first]
    a, b = count_errors(first), count_errors(paired)
    delta = np.array([y.total - x.total for x, y in zip(a, b)])
    words, speakers = np.array([e.words for e in a]), [h.speaker for h in first]
    low, high = ratio_interval(delta, words, speakers)
    wer_first, wer_second = total_errors(a).wer, total_errors(b).wer
    return {
        "wer_first": wer_first,
        "wer_second": wer_second,
        "difference": wer_second - wer_first,
        "low": low,
        "high": high,
        "p_better": float((bootstrap(delta, words, by_speaker(speakers)) < 0).mean()),
    }


def error_report(hyps: Sequence[Hypothesis]) -> Iterator[str]:
    """Lines of errs.txt: alignment of every utterance and the most frequent errors, as icefall writes them."""
    from kaldialign import align

    subs: Counter[tuple[str, str]] = Counter()
    ins: Counter[str] = Counter()
    dels: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    details = []
    for h in hyps:
        pairs = align(h.ref, h.hyp, GAP)
        for ref, hyp in pairs:
            if ref == hyp:
                correct[ref] += 1
            elif ref == GAP:
                ins[hyp] += 1
            elif hyp == GAP:
                dels[ref] += 1
            else:
                subs[ref, hyp] += 1
        details.append(f"{h.cut_id}:\t" + " ".join(r if r == p else f"({_shown(r)}->{_shown(p)})" for r, p in pairs))
    errors = Errors(sum(len(h.ref) for h in hyps), sum(ins.values()), sum(dels.values()), sum(subs.values()))
    yield errors.line()
    sections = "PER-UTT DETAILS, SUBSTITUTIONS, DELETIONS, INSERTIONS, PER-WORD STATS"
    yield f"{sum(correct.values())} words correct; sections: {sections}"
    yield "\nPER-UTT DETAILS: word, or (reference->recognised) with * for none"
    yield from details
    yield "\nSUBSTITUTIONS: count reference -> recognised"
    yield from (f"{n}\t{ref} -> {hyp}" for (ref, hyp), n in _ranked(subs))
    yield "\nDELETIONS: count reference"
    yield from (f"{n}\t{word}" for word, n in _ranked(dels))
    yield "\nINSERTIONS: count recognised"
    yield from (f"{n}\t{word}" for word, n in _ranked(ins))
    yield "\nPER-WORD STATS: word, errors, correct, in references, in recognised"
    yield from _word_stats(correct, subs, ins, dels)


def _shown(word: str) -> str:
    return SHOWN_GAP if word == GAP else word


def _ranked(counts: Counter) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _word_stats(correct: Counter, subs: Counter, ins: Counter, dels: Counter) -> Iterator[str]:
    in_ref, in_hyp = Counter(correct) + dels, Counter(correct) + ins
    wrong = dels + ins
    for (ref, hyp), n in subs.items():
        in_ref[ref] += n
        in_hyp[hyp] += n
        wrong[ref] += n
        wrong[hyp] += n
    for word in sorted(in_ref | in_hyp, key=lambda w: (-wrong[w], w)):
        yield f"{word}\t{wrong[word]} {correct[word]} {in_ref[word]} {in_hyp[word]}"


def result_row(
    row_id: str,
    part: str,
    metric: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    counts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    groups: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """One row of results.json, which utils/results.py collects; it takes command, commit and device from the stamp.

    Args:
        row_id: name of the system, such as mono or hybrid_gmm.
        value, low, high: figure and 95 % interval.
        config: settings that made the figure; none: the options in the stamp.
        groups: what sums_by_speaker gives; the value is the ratio of their sums.
    """
    row = {
        "id": row_id,
        "part": part,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "counts": dict(counts or {}),
        "config": dict(config or {}),
        "groups": dict(groups or {}),
    }
    return {k: v for k, v in row.items() if v not in (None, {})}


def wer_row(
    row_id: str, part: str, hyps: Sequence[Hypothesis], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The row of a word error rate with its counts, its interval and its sums by speaker."""
    errors = count_errors(hyps)
    total = total_errors(errors)
    low, high = wer_interval(hyps, errors)
    speakers = [h.speaker for h in hyps]
    counts = {"errors": total.total, "utterances": len(hyps), "speakers": len(set(speakers)), **asdict(total)}
    wrong, words = np.array([e.total for e in errors]), np.array([e.words for e in errors])
    groups = sums_by_speaker(wrong, words, speakers, 100.0)
    return result_row(row_id, part, "wer", total.wer, low, high, counts, config, groups)


def unknown_word_rows(row_id: str, part: str, hyps: Sequence[Hypothesis], known: Set[str]) -> list[dict[str, Any]]:
    """Rows about words that are not in `known`, such as a lexicon or the texts of the training.

    Returns:
        oov_found: percent of such words in the references that were recognised, with its interval if enough utterances
        have any; oov_right: percent
        of such words in the recognised texts that were said, where there are any.
    Raises:
        DataError: no reference has such a word.
    """
    from kaldialign import align

    said, written, found = np.zeros((3, len(hyps)))
    for i, h in enumerate(hyps):
        said[i] = sum(word not in known for word in h.ref)
        written[i] = sum(word not in known for word in h.hyp)
        found[i] = sum(ref == hyp and ref not in known for ref, hyp in align(h.ref, h.hyp, GAP))
    if not said.any():
        raise DataError("no reference has a word that is not known")
    speakers = [h.speaker for h in hyps]
    rows = []
    for metric, total in (("oov_found", said), ("oov_right", written)):
        if total.any():
            low, high = ratio_interval(found, total, speakers)
            counts = {"correct": int(found.sum()), "words": int(total.sum())}
            groups = sums_by_speaker(found, total, speakers, 100.0)
            value = 100 * float(found.sum() / total.sum())
            rows.append(result_row(row_id, part, metric, value, low, high, counts, groups=groups))
    return rows
