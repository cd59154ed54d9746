"""What transition probabilities say about the durations of phones, against measured ones."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import HEADER, AliSet, Segment
from pipeline.artifacts.lang import SILENCE, position_of, without_position
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.model_meta import SCORING, load_meta
from pipeline.base.errors import DataError, MismatchError
from pipeline.tasks.ali_score import Tiers
from pipeline.tasks.tiers import ChangedTiers

MIN_COUNT = 5  # phones that are rarer in the reference are left out


def frame_shift_of(directory: Path) -> float:
    """Seconds per frame of an alignment set or of a model that scores frames."""
    if (directory / HEADER).is_file():
        return AliSet.load(directory).header.frame_shift
    return load_meta(directory, *SCORING).frame_shift


def implied_seconds(hmm: HmmDir, frame_shift: float) -> dict[str, float]:
    """Mean duration of each phone by its HMM: the sum over its states of shift / forward probability.

    States with several pdfs (tied states) count with the mean of their durations, phones with position markers with
    the mean over their positions.
    """
    t = hmm.transitions
    position = position_of(hmm.phones)
    found: dict[str, list[float]] = defaultdict(list)
    for phone in np.unique(t.phone):
        mine = t.phone == phone
        states = [(frame_shift / t.forward_prob[mine & (t.state == s)]).mean() for s in np.unique(t.state[mine])]
        found[without_position(t.phones.name(int(phone)), position)].append(float(sum(states)))
    return {phone: float(np.mean(seconds)) for phone, seconds in found.items()}


def measured_seconds(tiers: Mapping[str, Tiers]) -> dict[str, tuple[float, int]]:
    """Phone, without position markers -> mean duration in seconds and number of instances."""
    seconds: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for tier in tiers.values():
        for segment in tier.phones:
            seconds[segment.symbol] += segment.duration
            count[segment.symbol] += 1
    position = position_of(count)
    total: dict[str, float] = defaultdict(float)
    times: Counter[str] = Counter()
    for symbol, number in count.items():
        phone = without_position(symbol, position)
        total[phone] += seconds[symbol]
        times[phone] += number
    return {phone: (total[phone] / times[phone], times[phone]) for phone in times}


def compare_durations(implied: Mapping[str, float], measured: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Figures over the speech phones that both sides have, weighted with their counts in the reference.

    Returns:
        implied_speech_ms, measured_speech_ms: means; duration_mae_ms: mean absolute difference of the phones' means;
        duration_correlation: between the phones' means (0 when one side does not vary); implied_silence_ms and, if the
        reference has silences, measured_silence_ms; phones: how many were compared.
    Raises:
        MismatchError: no phone in common.
    """
    common = sorted(p for p in implied if p != SILENCE and measured.get(p, (0.0, 0))[1] >= MIN_COUNT)
    if not common:
        raise MismatchError(
            f"no phone of the model is in the reference at least {MIN_COUNT} times; do both use the same phones?"
        )
    ours, theirs = np.array([implied[p] for p in common]), np.array([measured[p][0] for p in common])
    weight = np.array([measured[p][1] for p in common], dtype=np.float64)
    weight /= weight.sum()
    figures = {
        "implied_speech_ms": 1000 * float(weight @ ours),
        "measured_speech_ms": 1000 * float(weight @ theirs),
        "duration_mae_ms": 1000 * float(weight @ np.abs(ours - theirs)),
        "duration_correlation": _correlation(ours, theirs, weight),
        "phones": float(len(common)),
    }
    if SILENCE in implied:
        figures["implied_silence_ms"] = 1000 * implied[SILENCE]
    if SILENCE in measured:
        figures["measured_silence_ms"] = 1000 * measured[SILENCE][0]
    return figures


def _correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Weighted correlation, 0 when there is no variance up to rounding."""
    x, y = x - weight @ x, y - weight @ y
    spread = np.sqrt((weight @ x**2) * (weight @ y**2))
    return float(weight @ (x * y) / spread) if spread > 1e-12 else 0.0


def gold_silences(tiers: Mapping[str, Tiers]) -> Mapping[str, Tiers]:
    """The same tiers with the gaps between phones as silences, where the reference itself names none.

    Raises:
        DataError: the reference has no phones.
    """
    if not any(tier.phones for tier in tiers.values()):
        raise DataError("the reference has no times of phones")
    if any(segment.symbol == SILENCE for tier in tiers.values() for segment in tier.phones):
        return tiers

    def with_gaps(cut_id: str, tier: Tiers) -> Tiers:
        ends = [0.0, *itertools.accumulate((s.end for s in tier.phones), max)]  # of several speakers, the last one's
        starts = [*(s.start for s in tier.phones), tier.duration]
        gaps = [Segment(SILENCE, end, start - end) for end, start in zip(ends, starts) if start - end > 1e-3]
        return Tiers([*tier.phones, *gaps], tier.words, tier.duration, tier.speaker)

    return ChangedTiers(tiers, with_gaps)
