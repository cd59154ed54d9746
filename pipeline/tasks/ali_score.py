"""How far the boundaries of an alignment lie from gold times, or from another alignment's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.ali import AliSet, Segment
from pipeline.artifacts.lang import SILENCE, without_position
from pipeline.base.errors import DataError, MismatchError
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.score import bootstrap, interval

GAP = "*"


@dataclass(frozen=True)
class Tiers:
    """Times of one utterance in seconds from its start; silence is left out of the words and may be among the
    phones.
    """

    phones: list[Segment]
    words: list[Segment]
    duration: float
    speaker: str = ""


def tiers_of_ali(ali: AliSet) -> dict[str, Tiers]:
    """Tiers of all cuts of an alignment; position markers of phones are taken off."""
    shift = ali.header.frame_shift
    return {
        c: Tiers([_unmarked(p) for p in ali.phones(c)], ali.words(c), len(ali[c].transition_ids) * shift) for c in ali
    }


def _unmarked(phone: Segment) -> Segment:
    return Segment(without_position(phone.symbol), phone.start, phone.duration, phone.confidence)


def tiers_of_data(data_dir: str | Path) -> dict[str, Tiers]:
    """Gold tiers of a data directory; DataError when no utterance has any."""
    from pipeline.artifacts.corpus import iter_cuts

    out = {}
    for _, cut in iter_cuts(data_dir):
        supervision = cut["supervisions"][0]
        tiers = supervision.get("alignment") or {}
        phones, words = (
            [Segment(str(symbol), start, duration) for symbol, start, duration, *_ in tiers.get(name, [])]
            for name in ("phone", "word")
        )
        if phones or words:
            out[cut["id"]] = Tiers(phones, words, float(cut["duration"]), str(supervision.get("speaker", "")))
    if not out:
        raise DataError(f"{data_dir}: no utterance has gold times of phones or words")
    return out


@dataclass
class Boundaries:
    """Differences (ours minus reference, seconds) at the starts and ends of matched symbols, one array per
    utterance.
    """

    starts: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    num_ref: int = 0
    num_ours: int = 0

    @property
    def num_matched(self) -> int:
        return sum(map(len, self.starts))


@dataclass
class AliScore:
    """Figures of one alignment.

    Attributes:
        phones, words: matched boundaries.
        tse: (N', 2) sum of absolute differences of starts and ends in seconds and their number, per utterance that has
            equally many of them on both sides.
        tse_skipped: utterances that have not.
        per_phone: reference phone -> list of (start difference, end difference, reference duration, our duration).
        silence, silence_ref: shares of the time.
        missing: reference utterances that are not aligned.
        groups: speaker of each utterance.
    """

    phones: Boundaries
    words: Boundaries
    tse: np.ndarray
    tse_skipped: int
    per_phone: dict[str, list[tuple[float, float, float, float]]]
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
        raise MismatchError("the alignment and the reference have no utterance in common")
    phones, words = Boundaries(), Boundaries()
    per_phone: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
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
            per_phone[ref.symbol].append((hyp.start - ref.start, hyp.end - ref.end, ref.duration, hyp.duration))
        list(_collect(words, a.words, b.words, lambda r, h: False))
        groups.append(b.speaker or a.speaker)
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
        if last is not None and p.symbol == last.symbol and p.start - last.end < 1e-6:
            out[-1][1] = p.end
        else:
            out.append([p.start, p.end])
        last = p
    return np.array(out, dtype=np.float64).reshape(-1, 2)


def _collect(
    into: Boundaries, ours: Sequence[Segment], ref: Sequence[Segment], also: Callable[[str, str], bool]
) -> Iterator[tuple[Segment, Segment]]:
    """Adds an utterance's matched boundaries to `into` and yields the pairs (reference, ours)."""
    from kaldialign import align

    into.num_ref += len(ref)
    into.num_ours += len(ours)
    pairs = []
    i = j = 0
    for r, h in align([s.symbol for s in ref], [s.symbol for s in ours], GAP) if ref and ours else ():
        if r == h or (r != GAP and h != GAP and also(r, h)):
            pairs.append((ref[i], ours[j]))
        i, j = i + (r != GAP), j + (h != GAP)
    into.starts.append(np.array([h.start - r.start for r, h in pairs]))
    into.ends.append(np.array([h.end - r.end for r, h in pairs]))
    yield from pairs


def figures(score: AliScore, options: AliScoreOptions) -> dict[str, dict[str, Any]]:
    """Metric -> {"value", "low", "high", "counts"}; times in milliseconds, shares in percent; empty tiers give none."""
    groups = score.groups if options.by_speaker else None
    out: dict[str, dict[str, Any]] = {}
    if len(score.tse):
        out["tse_ms"] = {
            **_ratio(score.tse[:, 0], score.tse[:, 1], 1000.0, score.tse_groups if options.by_speaker else None),
            "counts": {"scored": len(score.tse), "skipped": score.tse_skipped, "missing": score.missing},
        }
    for prefix, b in (("", score.phones), ("word_", score.words)):
        if not b.num_matched:
            continue
        counts = {"matched": b.num_matched, "reference": b.num_ref, "ours": b.num_ours, "missing": score.missing}
        both = [np.concatenate(x) for x in zip(b.starts, b.ends)]
        for name, arrays in (("boundary", both), ("start", b.starts), ("end", b.ends)):
            num = np.array([float(len(x)) for x in arrays])
            kind = "" if name == "boundary" else f"{name}_"
            out[f"{prefix}{name}_mae_ms"] = {
                **_ratio(np.array([np.abs(x).sum() for x in arrays]), num, 1000.0, groups),
                "counts": counts,
            }
            for limit in options.tolerances:
                hits = np.array([float((np.abs(x) <= limit + 1e-9).sum()) for x in arrays])
                out[f"{prefix}{kind}within_{round(1000 * limit)}ms"] = {
                    **_ratio(hits, num, 100.0, groups),
                    "counts": counts,
                }
            if name != "boundary":
                out[f"{prefix}{name}_bias_ms"] = {
                    **_ratio(np.array([x.sum() for x in arrays]), num, 1000.0, groups),
                    "counts": counts,
                }
    if score.phones.num_ours:
        out["silence_share"] = {
            "value": 100 * score.silence,
            "low": None,
            "high": None,
            "counts": {"reference": 100 * score.silence_ref},
        }
    return out


def _ratio(num: np.ndarray, den: np.ndarray, scale: float, groups: Sequence[str] | None) -> dict[str, float]:
    low, high = interval(bootstrap(num, den, groups, replications=2000))
    return {"value": scale * float(num.sum() / den.sum()), "low": scale * low, "high": scale * high}


def phone_table(score: AliScore) -> Iterator[str]:
    """Tab-separated lines, one per reference phone: count, errors in ms, mean durations in ms."""
    yield "phone\tcount\tstart_mae_ms\tend_mae_ms\tstart_bias_ms\tend_bias_ms\tduration_ref_ms\tduration_ms"
    for phone, rows in sorted(score.per_phone.items()):
        start, end, ref, ours = 1000 * np.array(rows).T
        values = (np.abs(start).mean(), np.abs(end).mean(), start.mean(), end.mean(), ref.mean(), ours.mean())
        yield f"{phone}\t{len(rows)}\t" + "\t".join(f"{v:.1f}" for v in values)
