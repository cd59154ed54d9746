"""Paired comparisons that carry the seeds and the test set, and what may be said of them.

Two settings are compared on the same speakers with the same seeds. Seeds and speakers are crossed random effects
(Clark 1973; Baayen, Davidson and Bates 2008): with the difference d[s, k] of seed s on speaker k and its mean squares
MS_seed, MS_speaker and MS_rest of a two-way analysis of variance without replication, the mean difference has variance
(MS_seed + MS_speaker - MS_rest) / (S K), at least MS_rest / (S K), and Satterthwaite's degrees of freedom. Of equal
settings this calls 0.5 to 8 % different at a level of 5 % (drawn with 3 to 5 seeds and 10 to 125 speakers; least where
neither matters). A bootstrap over three seeds would draw one of them three times in every ninth draw. Word errors and
times are ratios of sums over speakers, whose influence is taken in first order (the delta method).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

LEVEL = 0.05  # of two-sided tests and of their 95 % intervals
POWER = 0.8  # with which an effect is called detectable
MOST_SEEDS = 100  # that a forecast speaks of

T = TypeVar("T", int, str)
Sums = Mapping[str, Sequence[float]]  # speaker -> (numerator, denominator); the value is the ratio of their sums


@dataclass(frozen=True)
class Effect:
    """A mean difference, first setting minus second, in the unit of the values.

    Attributes:
        mean, error: the difference and its standard error.
        dof: degrees of freedom of t.
        seeds, speakers: that it rests on; no speakers: the values were taken as they are, as if the test set were all
            there is.
        reference: mean value of the second setting.
        seed_variance: part of error ** 2 that goes down with the number of seeds, times that number.
    """

    mean: float
    error: float
    dof: float
    seeds: int
    speakers: int
    reference: float
    seed_variance: float

    def quantile(self, share: float) -> float:
        """Student's t below which `share` of its values lie."""
        from scipy.stats import t

        return float(t.ppf(share, self.dof))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        half = self.quantile(1 - LEVEL / 2) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided probability of a difference as large as this where there is none."""
        from scipy.stats import t

        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * t.sf(abs(self.mean) / self.error, self.dof))

    def detectable(self, level: float = LEVEL) -> float:
        """Smallest true difference that a test like this one at a level notices with a probability of 80 %."""
        return _detectable(level, self.dof) * self.error

    def p_equivalent(self, margin: float) -> float:
        """Probability of a difference as far inside of +-margin as this where the true one is on its edge: the larger
        one of two one-sided tests (Schuirmann 1987).
        """
        from scipy.stats import t

        inside = margin - abs(self.mean)
        if self.error == 0:
            return 0.0 if inside > 0 else 1.0
        return float(t.sf(inside / self.error, self.dof))

    def p_beyond(self, margin: float) -> float:
        """Two-sided probability of a difference as far outside of +-margin where the true one is on its edge."""
        from scipy.stats import t

        outside = abs(self.mean) - margin
        if self.error == 0:
            return 0.0 if outside > 0 else 1.0
        return float(min(2 * t.sf(outside / self.error, self.dof), 1.0))

    def seeds_needed(self, effect: float, level: float = LEVEL) -> int | None:
        """Number of seeds with which a test at a level notices a true difference of `effect` with a probability of
        80 %, other things equal; None: even a hundred would not do, since the speakers are too few.
        """
        return self._seeds(abs(effect), lambda dof: _detectable(level, dof))

    def seeds_to_equal(self, margin: float, level: float = LEVEL) -> int | None:
        """The same of two one-sided tests that find equal what is equal, within +-margin."""
        from scipy.stats import t

        # Without a difference they both reject where |mean| < margin - t error, of which four cases in five are within
        # the 90 % quantile of a t (approximately: the error is drawn, too).
        return self._seeds(margin, lambda dof: float(t.ppf(1 - level, dof) + t.ppf((1 + POWER) / 2, dof)))

    def _seeds(self, size: float, errors: Callable[[float], float]) -> int | None:
        fixed = max(self.error**2 - self.seed_variance / self.seeds, 0.0)
        for seeds in range(2, MOST_SEEDS + 1):
            error = math.sqrt(fixed + self.seed_variance / seeds)
            if errors(max(seeds - 1.0, self.dof)) * error <= size:
                return seeds
        return None


@functools.cache
def _detectable(level: float, dof: float) -> float:
    """True difference, in standard errors, that a two-sided t test at a level notices with a probability of POWER.

    The standard error is drawn as well: of t's denominator 2,000 quantiles stand for its distribution. (scipy's
    noncentral t gives NaN for few degrees of freedom.)
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi2, t

    errors = np.sqrt(chi2.ppf((np.arange(2000) + 0.5) / 2000, dof) / dof)
    bound = float(t.ppf(1 - level / 2, dof)) * errors

    def missing(size: float) -> float:
        return float((ndtr(size - bound) + ndtr(-size - bound)).mean()) - POWER

    most = 2.0 * float(bound.max()) + 4.0
    return float(brentq(missing, 0.0, most))


def paired(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> Effect | None:
    """Compares values by seed, the test set taken as given.

    Args:
        pairs: seed -> value of the first and of the second setting, for each pair of cells that is compared; their
            differences are averaged.
    Returns:
        None where less than two seeds are common to all.
    """
    seeds = _common([first.keys() & second.keys() for first, second in pairs])
    if len(seeds) < 2:
        return None
    differences = np.array([[first[s] - second[s] for s in seeds] for first, second in pairs]).mean(0)  # (S,)
    reference = float(np.mean([[second[s] for s in seeds] for _, second in pairs]))
    variance = float(differences.var(ddof=1))
    error = math.sqrt(variance / len(seeds))
    return Effect(float(differences.mean()), error, len(seeds) - 1.0, len(seeds), 0, reference, variance)


def crossed(pairs: Sequence[tuple[Mapping[int, Sums], Mapping[int, Sums]]]) -> Effect | None:
    """Compares the sums by seed and speaker.

    Args:
        pairs: seed -> sums of the first and of the second setting, for each pair of cells that is compared.
    Returns:
        None where less than two speakers or no seed are common to all. With one seed, the difference speaks of these
        trainings only.
    """
    seeds = _common([first.keys() & second.keys() for first, second in pairs])
    speakers = _common([side[s].keys() for pair in pairs for side in pair for s in seeds])
    if len(speakers) < 2:
        return None
    sides = np.array([[[_influences(side[s], speakers) for s in seeds] for side in pair] for pair in pairs])
    difference = (sides[:, 0] - sides[:, 1]).mean(0)  # (S, K)
    num_seeds, num_speakers = difference.shape
    size, reference, mean = difference.size, float(sides[:, 1].mean()), float(difference.mean())
    by_seed, by_speaker = difference.mean(1), difference.mean(0)
    ms_speaker = num_seeds * float(((by_speaker - mean) ** 2).sum()) / (num_speakers - 1)
    if num_seeds == 1:
        return Effect(mean, math.sqrt(ms_speaker / size), num_speakers - 1.0, 1, num_speakers, reference, 0.0)
    ms_seed = num_speakers * float(((by_seed - mean) ** 2).sum()) / (num_seeds - 1)
    dof_rest = (num_seeds - 1) * (num_speakers - 1)
    ms_rest = float(((difference - by_seed[:, None] - by_speaker + mean) ** 2).sum()) / dof_rest
    variance = max(ms_seed + ms_speaker - ms_rest, ms_rest)
    spread = ms_seed**2 / (num_seeds - 1) + ms_speaker**2 / (num_speakers - 1) + ms_rest**2 / dof_rest
    dof = max(variance**2 / spread, 1.0) if spread > 0 else num_seeds - 1.0
    stays = max(ms_speaker - ms_rest, 0.0) / size  # however many seeds there are
    seed_variance = num_seeds * max(variance / size - stays, 0.0)
    return Effect(mean, math.sqrt(variance / size), dof, num_seeds, num_speakers, reference, seed_variance)


def pooled(pairs: Sequence[tuple[Mapping[int, Sums], Mapping[int, Sums]]]) -> list[tuple[dict, dict]]:
    """Returns the pairs as one where no speaker stands in two of them: folds of a cross-validation make one test set.

    Args:
        pairs: as of ``crossed``, which looks at speakers that all pairs have.
    """
    seeds = _common([first.keys() & second.keys() for first, second in pairs])
    speakers = [set.union(*(set(side[s]) for side in pair for s in seeds)) for pair in pairs if seeds]
    if len(pairs) < 2 or not seeds or len(set.union(*speakers)) < sum(map(len, speakers)):
        return [(dict(first), dict(second)) for first, second in pairs]
    first, second = ({s: {k: v for pair in pairs for k, v in pair[i][s].items()} for s in seeds} for i in (0, 1))
    return [(first, second)]


def _common(keys: Sequence[Set[T]]) -> list[T]:
    return sorted(set.intersection(*map(set, keys))) if keys else []


def _influences(sums: Sums, speakers: Sequence[str]) -> np.ndarray:
    """(K,) numbers whose mean is the ratio of the sums and that vary between speakers as it would."""
    num, den = np.array([sums[k] for k in speakers], dtype=np.float64).T
    total = max(float(den.sum()), 1e-12)
    ratio = float(num.sum()) / total
    return ratio + (num - ratio * den) * len(speakers) / total


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) p values: below a level, this share of what is claimed may be wrong."""
    from scipy.stats import false_discovery_control

    return [float(p) for p in false_discovery_control(p_values)] if p_values else []


def level_of_next(adjusted_values: Sequence[float]) -> float:
    """P value, not adjusted, below which one more of these would be among those whose adjusted one is below LEVEL."""
    below = sum(p < LEVEL for p in adjusted_values)
    return LEVEL * min((below + 1) / max(len(adjusted_values), 1), 1.0)
