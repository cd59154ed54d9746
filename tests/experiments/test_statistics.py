"""Paired tests against scipy's, and against what repeated draws with known variances say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from scipy.stats import ttest_rel

from pipeline.experiments.statistics import Effect, adjusted, crossed, level_of_next, paired, pooled


def test_paired_is_the_paired_t_test() -> None:
    first, second = {1: 9.0, 2: 9.9, 3: 9.4, 7: 1.0}, {1: 10.0, 2: 10.2, 3: 10.4}
    effect = paired([(first, second)])
    theirs = ttest_rel([9.0, 9.9, 9.4], [10.0, 10.2, 10.4])
    assert effect is not None and effect.seeds == 3 and effect.speakers == 0
    assert effect.p == pytest.approx(theirs.pvalue)
    assert effect.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert effect.reference == pytest.approx(10.2)
    assert paired([(first, {1: 2.0})]) is None and paired([]) is None


def test_pairs_are_averaged_by_seed() -> None:
    one, two = ({1: 1.0, 2: 2.0}, {1: 2.0, 2: 4.0}), ({1: 5.0, 2: 5.0, 3: 0.0}, {1: 5.0, 2: 6.0, 3: 9.0})
    effect = paired([one, two])
    assert effect is not None and effect.mean == pytest.approx(-1.0) and effect.seeds == 2
    assert effect.error == pytest.approx(np.std([-0.5, -1.5], ddof=1) / 2**0.5)


def _drawn(rng: np.random.Generator, seeds: int, speakers: int, shift: float = 0.0, spread=(1.0, 2.0, 1.0)) -> tuple:
    """Two settings whose differences have the given spreads between seeds, between speakers and of the rest."""
    seed, speaker, rest = spread
    words = rng.integers(50, 150, speakers)
    base = rng.normal(20, 5, speakers)
    difference = shift + rng.normal(0, seed, (seeds, 1)) + rng.normal(0, speaker, speakers)
    difference = difference + rng.normal(0, rest, (seeds, speakers))
    sides = (base + difference, np.broadcast_to(base, (seeds, speakers)))
    return tuple(
        {s: {f"k{k}": (float(side[s, k] * words[k]), float(words[k])) for k in range(speakers)} for s in range(seeds)}
        for side in sides
    )


@pytest.mark.parametrize("spread", [(1.0, 2.0, 1.0), (2.0, 0.0, 1.0), (0.0, 2.0, 1.0), (0.0, 0.0, 2.0)])
def test_one_in_twenty_equal_pairs_differs_significantly(spread) -> None:
    """Or fewer where neither seeds nor speakers matter much."""
    rng = np.random.default_rng(1)
    found = [crossed([_drawn(rng, 4, 15, spread=spread)]).p < 0.05 for _ in range(1000)]
    least = 0.0 if spread[:2] == (0.0, 0.0) else 0.03
    assert least <= np.mean(found) < 0.075  # the standard error of such a share is 0.007


def test_seeds_alone_would_call_the_speakers_luck_an_effect() -> None:
    """The same draws: paired over seeds, every second pair of equal settings differs; crossed, one in twenty does."""
    rng = np.random.default_rng(2)
    alone, both = [], []
    for _ in range(300):
        first, second = _drawn(rng, 4, 15, spread=(0.2, 2.0, 0.2))
        values = [{s: _ratio(side[s]) for s in side} for side in (first, second)]
        alone.append(paired([(values[0], values[1])]).p < 0.05)
        both.append(crossed([(first, second)]).p < 0.05)
    assert np.mean(alone) > 0.4 and np.mean(both) < 0.09


def test_detectable_differences_are_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    for level in (0.05, 0.01):
        expected = np.mean([crossed([_drawn(rng, 5, 30)]).detectable(level) for _ in range(100)])
        found = [crossed([_drawn(rng, 5, 30, shift=float(expected))]).p < level for _ in range(400)]
        assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def test_detectable_differences_of_few_seeds() -> None:
    """With two degrees of freedom the error itself is so uncertain that quantiles of t added up are a tenth too few."""
    rng, error = np.random.default_rng(6), 1 / math.sqrt(3)
    for level in (0.05, 0.01):
        size = Effect(0.0, error, 2.0, 3, 0, 20.0, 1.0).detectable(level)
        drawn = rng.normal(size, 1.0, (40000, 3))
        t = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(3))
        assert np.mean(np.abs(t) > scipy.stats.t.ppf(1 - level / 2, 2)) == pytest.approx(0.8, abs=0.01)
    many = Effect(0.0, 1.0, 1e6, 3, 0, 20.0, 1.0).detectable()
    assert many == pytest.approx(1.95996 + 0.84162, abs=1e-3)


def test_mean_is_the_difference_of_the_ratios() -> None:
    first, second = _drawn(np.random.default_rng(4), 3, 8, 1.5)
    effect = crossed([(first, second)])
    expected = np.mean([_ratio(first[s]) - _ratio(second[s]) for s in first])
    assert effect is not None and effect.mean == pytest.approx(expected)
    assert (effect.seeds, effect.speakers) == (3, 8)
    one = crossed([({0: first[0]}, second)])
    assert (
        one is not None
        and one.seeds == 1
        and one.dof == 7
        and one.mean == pytest.approx(_ratio(first[0]) - _ratio(second[0]))
    )


def test_common_speakers_only() -> None:
    first, second = _drawn(np.random.default_rng(5), 3, 8)
    fewer = {s: {k: v for k, v in sums.items() if k != "k3"} for s, sums in second.items()}
    assert crossed([(first, fewer)]).speakers == 7
    lonely = {s: {"k1": sums["k1"]} for s, sums in second.items()}
    assert crossed([(first, lonely)]) is None and crossed([(first, {})]) is None and crossed([]) is None


def _ratio(sums: dict) -> float:
    num, den = np.array(list(sums.values())).T
    return float(num.sum() / den.sum())


def test_folds_without_common_speakers_are_one_test_set() -> None:
    """Cross-validation: the difference is that of the errors of all folds, over all of their speakers."""
    rng = np.random.default_rng(0)
    first, second = _drawn(rng, 3, 12)
    names = sorted(first[next(iter(first))])
    folds = [
        tuple({s: {k: v for k, v in side[s].items() if k in part} for s in side} for side in (first, second))
        for part in (names[:5], names[5:9], names[9:])
    ]
    assert crossed(folds) is None
    assert crossed(pooled(folds)) == crossed([(first, second)])
    shared = [(first, second), (second, first)]
    assert pooled(shared) == shared and crossed(pooled(shared)).mean == pytest.approx(0.0)
    assert pooled([]) == []


def test_equivalence_is_two_one_sided_tests() -> None:
    """Within the margin with a probability of error of 5 % exactly where the 90 % interval lies inside of it."""
    effect = Effect(0.4, 0.2, 9.0, 10, 0, 20.0, 0.4)
    edge = 0.4 + effect.quantile(0.95) * 0.2
    assert effect.p_equivalent(edge) == pytest.approx(0.05)
    assert effect.p_equivalent(edge + 0.1) < 0.05 < effect.p_equivalent(edge - 0.1)
    assert effect.p_equivalent(0.3) > 0.5


def test_beyond_a_margin_where_the_interval_is() -> None:
    effect = Effect(-0.9, 0.2, 9.0, 10, 0, 20.0, 0.4)
    edge = -effect.interval[1]
    assert effect.p_beyond(edge) == pytest.approx(0.05) and effect.p_beyond(0.0) == pytest.approx(effect.p)
    assert effect.p_beyond(edge - 0.1) < 0.05 < effect.p_beyond(edge + 0.1) and effect.p_beyond(1.5) == 1.0
    certain = Effect(-0.9, 0.0, 9.0, 10, 0, 20.0, 0.0)
    assert (certain.p_beyond(0.5), certain.p_beyond(1.0)) == (0.0, 1.0)


def test_seeds_needed() -> None:
    all_seeds = Effect(0.4, 0.2, 3.0, 4, 20, 20.0, 4 * 0.2**2)  # no part of the error stays with more seeds
    needed = all_seeds.seeds_needed(0.4)
    assert needed is not None and 6 <= needed <= 12  # (2 + 0.9) * 0.4 / sqrt(n) = 0.4
    assert all_seeds.seeds_needed(4.0) == 2 and all_seeds.seeds_needed(0.001) is None
    all_speakers = Effect(0.4, 0.2, 30.0, 4, 31, 20.0, 0.0)
    assert all_speakers.seeds_needed(0.4) is None
    assert all_seeds.seeds_needed(0.4, 0.01) > needed


def test_seeds_to_find_two_settings_equal() -> None:
    """So many are enough in four cases of five where there is no difference, and one less is not."""
    spread = 0.8
    needed = Effect(0.1, spread / 2, 3.0, 4, 0, 20.0, spread**2).seeds_to_equal(0.7)
    rng = np.random.default_rng(7)

    def found(seeds: int) -> float:
        drawn = rng.normal(0.0, spread, (20000, seeds))
        error = drawn.std(1, ddof=1) / math.sqrt(seeds)
        return float(np.mean(np.abs(drawn.mean(1)) + scipy.stats.t.ppf(0.95, seeds - 1) * error < 0.7))

    assert needed is not None and found(needed - 1) < 0.8 < found(needed) + 0.03
    assert Effect(0.1, 0.2, 30.0, 4, 31, 20.0, 0.0).seeds_to_equal(0.3) is None  # speakers are too few


def test_level_of_the_next_one() -> None:
    """With this p value, and with no larger one, a claim is decided beside the others."""
    others = [0.001, 0.004, 0.3, 0.5, 0.7, 0.8, 0.9]
    level = level_of_next(adjusted([*others, 0.99]))
    assert level == pytest.approx(0.05 * 3 / 8)
    assert adjusted([*others, level * 0.999])[-1] < 0.05 < adjusted([*others, level * 1.001])[-1]
    assert level_of_next([0.01]) == 0.05 and level_of_next([0.9]) == 0.05


def test_no_spread_at_all() -> None:
    same = paired([({1: 1.0, 2: 1.0}, {1: 1.0, 2: 1.0})])
    other = paired([({1: 1.0, 2: 1.0}, {1: 2.0, 2: 2.0})])
    assert same is not None and other is not None
    assert same.p == 1.0 and same.p_equivalent(0.1) == 0.0 and other.p == 0.0 and other.p_equivalent(0.5) == 1.0


def test_adjusted_for_the_number_of_claims() -> None:
    """By hand: sorted p times number over rank, made monotone from the largest on."""
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert adjusted([]) == []
