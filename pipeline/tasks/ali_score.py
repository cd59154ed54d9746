"""How far the boundaries of an alignment lie from gold times, or from another alignment's."""

from __future__ import annotations

import itertools
import logging
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.lang import SILENCE
from pipeline.base.errors import MismatchError
from pipeline.base.files import atomic_write, write_json
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.ali_formats import OVERLAP
from pipeline.tasks.score import GAP, ratio_interval, result_row, sums_by_speaker
from pipeline.tasks.tiers import Tiers, tiers_of

SHOWN = {
    "tse_ms",
    "boundary_mae_ms",
    "start_mae_ms",
    "end_mae_ms",
    "within_20ms",
    "word_boundary_mae_ms",
    "silence_share",
}
REPORTED = SHOWN | {"within_10ms", "within_50ms", "start_within_20ms", "end_within_20ms", "word_within_20ms"}

LONG, STRETCH = 3000, 1000  # symbols of a long utterance, and of what is matched at once
NEAR = 0.05  # seconds

logger = logging.getLogger("score_ali")


@dataclass
class Boundaries:
    """Differences (ours minus reference, seconds) at the starts and ends of matched symbols, summed by utterance.

    Attributes:
        tolerances: seconds within which a boundary is a hit.
        num_ref, num_ours: symbols on both sides.
    """

    tolerances: tuple[float, ...]
    num_ref: int = 0
    num_ours: int = 0
    _starts: array = field(default_factory=lambda: array("d"))
    _ends: array = field(default_factory=lambda: array("d"))

    def add(self, starts: np.ndarray, ends: np.ndarray) -> None:
        """Adds the differences of an utterance."""
        for into, x in ((self._starts, starts), (self._ends, ends)):
            size = np.abs(x)
            hits = [float((size <= limit + 1e-9).sum()) for limit in self.tolerances]
            into.extend([float(len(x)), float(size.sum()), float(x.sum()), *hits])

    def sums(self) -> dict[str, np.ndarray]:
        """ "boundary", "start", "end" -> (N, 3 + tolerances): number, sum of sizes, sum, and hits of each utterance."""
        start, end = (
            np.array(x, dtype=np.float64).reshape(-1, 3 + len(self.tolerances)) for x in (self._starts, self._ends)
        )
        return {"boundary": start + end, "start": start, "end": end}

    @property
    def num_matched(self) -> int:
        return int(self.sums()["start"][:, 0].sum())


@dataclass
class AliScore:
    """Figures of one alignment.

    Attributes:
        phones, words: matched boundaries.
        tse: (N', 2) sum of absolute differences of starts and ends in seconds and their number, per utterance that has
            equally many of them on both sides.
        tse_skipped: utterances that have not.
        per_phone: reference phone -> (7,) number, and sums of the sizes of the differences of starts and ends, of these
            differences, of the reference's and of our durations; seconds.
        silence, silence_ref: shares of the time.
        missing: reference utterances that are not aligned.
        groups: speaker of each utterance.
    """

    phones: Boundaries
    words: Boundaries
    tse: np.ndarray
    tse_skipped: int
    per_phone: dict[str, np.ndarray]
    silence: float
    silence_ref: float
    missing: int
    groups: list[str]
    tse_groups: list[str]


def score_alignment(ours: Mapping[str, Tiers], reference: Mapping[str, Tiers], options: AliScoreOptions) -> AliScore:
    """Compares all utterances that both sides have.

    TSE (Mann et al. 2023): starts and ends of phones that are not silence, equal neighbours merged, compared one by one
    in utterances where their numbers agree; the others are skipped and counted. Boundaries: phones (and words) are
    matched by edit distance and equal symbols compared.

    Raises:
        MismatchError: nothing in common.
    """
    common = [c for c in reference if c in ours]
    if not common:
        raise MismatchError(
            f"the alignment and the reference have no utterance in common: the one has {_shown(ours)}, the other "
            f"{_shown(reference)}"
        )
    phones, words = Boundaries(options.tolerances), Boundaries(options.tolerances)
    per_phone: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(7))
    tse, tse_groups, groups, skipped = [], [], [], 0
    silent = np.zeros((2, 2))  # ours, reference: silence, duration
    for cut_id in common:
        a, b = ours[cut_id], reference[cut_id]
        mine, gold = _spoken(a.phones, options), _spoken(b.phones, options)
        for row, tiers, spoken in ((0, a, mine), (1, b, gold)):
            silent[row] += (
                (max(0.0, tiers.duration - sum(s.duration for s in spoken)), tiers.duration) if spoken else 0.0
            )
        for ref, hyp in _collect(phones, mine, gold, lambda r, h: h in options.match.get(r, ())):
            start, end = hyp.start - ref.start, hyp.end - ref.end
            per_phone[ref.symbol] += (1, abs(start), abs(end), start, end, ref.duration, hyp.duration)
        list(_collect(words, _folded(a.words), _folded(b.words), lambda r, h: False))
        groups.append(sys.intern(b.speaker or a.speaker))
        if gold:
            stamps = [_stamps(x) for x in (mine, gold)]
            if len(stamps[0]) == len(stamps[1]):
                tse.append((float(np.abs(stamps[0] - stamps[1]).sum()), float(stamps[0].size)))
                tse_groups.append(groups[-1])
            else:
                skipped += 1
    shares = silent[:, 0] / np.maximum(silent[:, 1], 1e-9)
    return AliScore(
        phones,
        words,
        np.array(tse).reshape(-1, 2),
        skipped,
        dict(per_phone),
        float(shares[0]),
        float(shares[1]),
        len(reference) - len(common),
        groups,
        tse_groups,
    )


def _shown(tiers: Mapping[str, Tiers]) -> str:
    names = [repr(name) for name, _ in zip(tiers, range(2))]
    return ", ".join([*names, "..."] if len(tiers) > len(names) else names) or "none"


def _folded(words: Sequence[Segment]) -> list[Segment]:
    """Words without their case, which programs and labellers keep or drop as they please."""
    return [Segment(w.symbol.casefold(), w.start, w.duration, w.confidence) for w in words]


def _spoken(phones: Sequence[Segment], options: AliScoreOptions) -> list[Segment]:
    if options.words_only:
        return []
    named = (Segment(options.same.get(p.symbol, p.symbol), p.start, p.duration, p.confidence) for p in phones)
    return [p for p in named if p.symbol != SILENCE and p.symbol not in options.drop]


def _stamps(phones: Sequence[Segment]) -> np.ndarray:
    """(M, 2) starts and ends after merging touching neighbours of the same phone, as a change of label per frame sees
    them.
    """
    out: list[list[float]] = []
    last = None
    for p in phones:
        if last is not None and p.symbol == last.symbol and -2 * OVERLAP < p.start - last.end < 1e-6:
            out[-1][1] = p.end
        else:
            out.append([p.start, p.end])
        last = p
    return np.array(out, dtype=np.float64).reshape(-1, 2)


def _collect(
    into: Boundaries, ours: Sequence[Segment], ref: Sequence[Segment], also: Callable[[str, str], bool]
) -> Iterator[tuple[Segment, Segment]]:
    """Adds an utterance's matched boundaries to `into` and yields the pairs (reference, ours)."""
    into.num_ref += len(ref)
    into.num_ours += len(ours)
    pairs = [(ref[i], ours[j]) for i, j in paired(ref, ours, also)]
    into.add(np.array([h.start - r.start for r, h in pairs]), np.array([h.end - r.end for r, h in pairs]))
    yield from pairs


def paired(
    ref: Sequence[Segment], ours: Sequence[Segment], also: Callable[[str, str], bool] = lambda r, h: False
) -> Iterator[tuple[int, int]]:
    """Positions of symbols as ``matched`` finds them, in memory that does not grow with the square of the length: long
    sequences are divided where three symbols in a row are the same on both sides at about the same time.
    """
    names = [[s.symbol for s in side] for side in (ref, ours)]
    places = [(0, 0), (len(ref), len(ours))]
    if names[0] != names[1] and max(map(len, names)) > LONG:
        places[1:1] = _meetings(ref, ours)
    for (a, c), (b, d) in itertools.pairwise(places):
        yield from ((a + i, c + j) for i, j in matched(names[0][a:b], names[1][c:d], also))


def _meetings(ref: Sequence[Segment], ours: Sequence[Segment]) -> Iterator[tuple[int, int]]:
    """Positions of symbols on both sides before which they may be divided, about every STRETCH symbols; without any for
    as many more, where times are the same.
    """
    starts = np.array([s.start for s in ours])
    at = last = 0
    while at + STRETCH < len(ref):
        first, end = at + STRETCH, min(at + 2 * STRETCH, len(ref) - 1)
        near = ((i, int(np.searchsorted(starts, ref[i].start - NEAR))) for i in range(first, end))
        meeting = next(((i, k) for i, j in near for k in range(max(j, last, 1), j + 3) if _meet(ref, ours, i, k)), None)
        at, last = meeting or (end, max(last, int(np.searchsorted(starts, ref[end].start))))
        yield at, last


def _meet(ref: Sequence[Segment], ours: Sequence[Segment], i: int, j: int) -> bool:
    return (
        j + 1 < len(ours)
        and abs(ref[i].start - ours[j].start) <= NEAR
        and all(ref[i + n].symbol == ours[j + n].symbol for n in (-1, 0, 1))
    )


def matched(
    ref: Sequence[str], ours: Sequence[str], also: Callable[[str, str], bool] = lambda r, h: False
) -> list[tuple[int, int]]:
    """Positions (in ref, in ours) of symbols that edit distance puts beside each other and that are equal.

    Args:
        also: whether two symbols that differ count as equal.
    """
    from kaldialign import align

    if list(ref) == list(ours):  # as mostly; edit distance takes memory in the square of the length
        return [(i, i) for i in range(len(ref))]
    pairs = []
    i = j = 0
    for r, h in align(list(ref), list(ours), GAP) if ref and ours else ():
        if r == h or (r != GAP and h != GAP and also(r, h)):
            pairs.append((i, j))
        i, j = i + (r != GAP), j + (h != GAP)
    return pairs


def figures(score: AliScore, options: AliScoreOptions) -> dict[str, dict[str, Any]]:
    """Metric -> {"value", "low", "high", "counts", "groups"}; times in milliseconds, shares in percent; none of empty
    tiers.
    """
    groups = score.groups
    out: dict[str, dict[str, Any]] = {}
    if len(score.tse):
        out["tse_ms"] = {
            **_ratio(score.tse[:, 0], score.tse[:, 1], 1000.0, score.tse_groups),
            "counts": {"scored": len(score.tse), "skipped": score.tse_skipped, "missing": score.missing},
        }
    for prefix, b in (("", score.phones), ("word_", score.words)):
        if not b.num_matched:
            continue
        counts = {"matched": b.num_matched, "reference": b.num_ref, "ours": b.num_ours, "missing": score.missing}
        for name, sums in b.sums().items():
            kind, num = "" if name == "boundary" else f"{name}_", sums[:, 0]
            out[f"{prefix}{name}_mae_ms"] = {**_ratio(sums[:, 1], num, 1000.0, groups), "counts": counts}
            for i, limit in enumerate(options.tolerances):
                key = f"{prefix}{kind}within_{round(1000 * limit)}ms"
                out[key] = {**_ratio(sums[:, 3 + i], num, 100.0, groups), "counts": counts}
            if name != "boundary":
                out[f"{prefix}{name}_bias_ms"] = {**_ratio(sums[:, 2], num, 1000.0, groups), "counts": counts}
    if score.phones.num_ours:
        out["silence_share"] = {
            "value": 100 * score.silence,
            "low": None,
            "high": None,
            "counts": {"reference": 100 * score.silence_ref},
        }
    return out


def _ratio(num: np.ndarray, den: np.ndarray, scale: float, speakers: Sequence[str]) -> dict[str, Any]:
    low, high = ratio_interval(num, den, speakers, scale, replications=2000)
    value = scale * float(num.sum() / den.sum())
    groups = sums_by_speaker(num, den, speakers, scale)
    return {"value": value, "low": low, "high": high, "groups": groups}


def phone_table(score: AliScore) -> Iterator[str]:
    """Tab-separated lines, one per reference phone: count, errors in ms, mean durations in ms."""
    yield "phone\tcount\tstart_mae_ms\tend_mae_ms\tstart_bias_ms\tend_bias_ms\tduration_ref_ms\tduration_ms"
    for phone, (count, *sums) in sorted(score.per_phone.items()):
        yield f"{phone}\t{count:.0f}\t" + "\t".join(f"{1000 * v / count:.1f}" for v in sums)


def score_directory(
    ali_dir: Path, reference: Path, out_dir: Path, options: AliScoreOptions, row_id: str | None, part: str
) -> dict[str, float]:
    """Compares an alignment with another one or with gold times and writes score.json, phones.tsv (and results.json).

    Args:
        ali_dir, reference: see ``tiers_of``.
        row_id: id of the rows in results.json; None: none are written. part: part that the rows name.
    Returns:
        the figures, for the stamp.
    """
    score = score_alignment(tiers_of(ali_dir, options.label_rate), tiers_of(reference, options.label_rate), options)
    metrics = figures(score, options)
    for name in sorted(SHOWN & set(metrics)):
        m = metrics[name]
        spread = "" if m["low"] is None else f" [{m['low']:.2f}, {m['high']:.2f}]"
        counts = ", ".join(f"{k} {v:.6g}" for k, v in m["counts"].items())
        logger.info("%s %.2f%s  %s", name, m["value"], spread, counts)
    plain = {name: {key: v for key, v in m.items() if key != "groups"} for name, m in metrics.items()}
    write_json(out_dir / "score.json", plain)
    with atomic_write(out_dir / "phones.tsv") as f:
        f.writelines(line + "\n" for line in phone_table(score))
    if row_id is not None:
        rows = [
            result_row(row_id, part, name, m["value"], m["low"], m["high"], m["counts"], groups=m.get("groups"))
            for name, m in metrics.items()
            if name in REPORTED
        ]
        write_json(out_dir / "results.json", rows)
    return {name: m["value"] for name, m in metrics.items()}
