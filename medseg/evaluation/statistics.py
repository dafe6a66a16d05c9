"""How sure a mean is, and whether two methods differ: intervals and paired tests without normality.

Everything is determined by its numbers and its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from medseg.errors import ConfigError, InputError

__all__ = ["FEWEST_NUMBERS", "Interval", "PairedComparison", "bca_interval", "compare_paired", "holm"]

FEWEST_NUMBERS = 3
"""With fewer numbers there is no interval and no test.

Two numbers have three different resamples in all, and no outcome of a test of two pairs has a p-value
below one half.
"""

_MOST_PAIRS_EXACT = 200
"""Up to so many pairs the test's distribution is counted out; beyond, it is as good as normal."""

_NUMBERS_AT_ONCE = 1 << 20
"""Resamples are drawn in parts of about so many numbers, which bounds the memory."""

Statistic = Callable[..., Any]
"""Called as ``statistic(array, axis=-1)``, as ``np.mean``, ``np.median`` and ``np.std`` can be."""


@dataclass(frozen=True)
class Interval:
    """Where a statistic of the whole population probably lies.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Two methods on the same cases, by the differences ``first - second``.

    Attributes:
        n: Pairs, those without a difference among them.
        mean_difference: Mean of the differences; NaN without a pair.
        median_difference: Their median; NaN without a pair.
        interval: Of the mean difference, by ``bca_interval``.
        p_value: Of the Wilcoxon signed-rank test, two-sided; NaN for fewer than ``FEWEST_NUMBERS`` pairs.
        effect_size: Matched-pairs rank-biserial correlation: 1 where the first is larger in every pair,
            -1 where the second is, 0 where neither prevails; NaN for fewer than ``FEWEST_NUMBERS`` pairs.
    """

    n: int
    mean_difference: float
    median_difference: float
    interval: Interval
    p_value: float
    effect_size: float


def bca_interval(
    numbers: npt.ArrayLike,
    statistic: Statistic = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A bootstrap confidence interval, bias-corrected and accelerated (BCa).

    The numbers are drawn again with replacement, many times, and the statistic of each drawing taken. The
    interval is cut from these by quantiles, which are moved by how far their median lies from the statistic
    (bias) and by how much its spread changes with its value (acceleration, from leaving out one number at a
    time): B. Efron, "Better bootstrap confidence intervals", JASA 82, 1987.

    Args:
        numbers: What was observed, shape (n,), all of them finite: leave out what has no value and say so.
        statistic: What is asked for; called as ``statistic(array, axis=-1)``.
        level: How often such an interval shall hold the truth, between 0 and 1.
        resamples: How many drawings.
        seed: Of the drawings; the same seed gives the same interval.

    Returns:
        The interval. Both ends are NaN for fewer than ``FEWEST_NUMBERS`` numbers, and where all drawings lie
        on one side of the statistic, whose bias then has no bound. Both are the statistic itself where all
        numbers are equal.

    Raises:
        InputError: A number is NaN or infinite, or they do not form a list.
        ConfigError: ``level`` or ``resamples`` is out of range.

    Example:
        >>> interval = bca_interval([0.71, 0.83, 0.86, 0.9, 0.92, 0.95])
        >>> round(interval.low, 2), round(interval.high, 2)
        (0.78, 0.91)
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level {level} of an interval", where="level", fix="choose it between 0 and 1")
    if resamples < 1:
        raise ConfigError(f"{resamples} resamples", where="resamples", fix="ask for 1 at least, better 2000")
    sample = _finite(numbers, "numbers")
    if sample.size < FEWEST_NUMBERS:
        return Interval(math.nan, math.nan)
    observed = float(statistic(sample, axis=-1))
    if (sample == sample[0]).all():
        return Interval(observed, observed)
    drawn = _statistics_of(statistic, sample, _resamples(sample.size, resamples, seed))
    below = _share_below(drawn, observed)
    if below in (0.0, 1.0):
        return Interval(math.nan, math.nan)
    bias = float(ndtri(below))
    acceleration = _acceleration(_statistics_of(statistic, sample, _leaving_one_out(sample.size)))
    tail = float(ndtri((1.0 - level) / 2.0))
    low, high = (
        float(ndtr(bias + (bias + end) / (1.0 - acceleration * (bias + end)))) for end in (tail, -tail)
    )
    ends = np.quantile(drawn, (low, high))
    return Interval(float(ends[0]), float(ends[1]))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct the p-values of several tests, so that the chance of any false alarm stays at the level.

    The smallest p-value is multiplied by the number m of tests, the next by m - 1, and so on; none becomes
    smaller than the one before it or larger than 1: S. Holm, "A simple sequentially rejective multiple test
    procedure", Scand. J. Statist. 6, 1979. Tests may depend on each other in any way.

    Args:
        p_values: One for each test. NaN stands for a test that could not be made: it stays NaN and does not
            count among the m.

    Returns:
        The corrected p-values, in the order given.

    Raises:
        InputError: A p-value is not between 0 and 1.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, dtype=np.float64)
    made = ~np.isnan(raw)
    if ((raw[made] < 0.0) | (raw[made] > 1.0)).any():
        raise InputError("a p-value is not between 0 and 1", where="p_values", fix="give probabilities")
    order = np.flatnonzero(made)[np.argsort(raw[made], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    corrected = np.full(raw.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return tuple(corrected.tolist())


def compare_paired(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedComparison:
    """Compare two methods by their scores on the same cases.

    The test is F. Wilcoxon's (Biometrics Bulletin 1, 1945): are positive and negative differences equally
    large in rank? Equal absolute differences share the mean of their ranks. Pairs without a difference are
    ranked with all others and then belong to neither side (J. W. Pratt, JASA 54, 1959): leaving them out
    altogether would let a few differing cases speak for many equal ones. The p-value is exact, ties and
    zeros included, for up to 200 pairs (every way to deal out the signs counts once), and from the normal
    approximation, without correction for continuity, beyond.

    The effect size is the difference of the two rank sums over the sum of all ranks (D. S. Kerby, Compr.
    Psychol. 3, 2014), those of pairs without a difference included.

    Args:
        first: Scores of one method, shape (n,), all of them finite: give the pairs in which both have one.
        second: Scores of the other on the same cases, in the same order.
        level: Of the interval, between 0 and 1.
        resamples: Of the interval.
        seed: Of the interval.

    Returns:
        Differences are ``first - second``. For fewer than ``FEWEST_NUMBERS`` pairs interval, p-value and
        effect size are NaN. With so few pairs no difference can be shown: p below 0.05 takes six at least.

    Raises:
        InputError: The lengths differ, or a number is NaN or infinite.
        ConfigError: ``level`` or ``resamples`` is out of range.

    Example:
        >>> found = compare_paired([0.9, 0.8, 0.85, 0.7, 0.95, 0.6], [0.8, 0.75, 0.82, 0.5, 0.93, 0.59])
        >>> found.p_value, found.effect_size
        (0.03125, 1.0)
    """
    one, other = _finite(first, "first"), _finite(second, "second")
    if one.size != other.size:
        raise InputError(
            f"{one.size} scores of the first and {other.size} of the second are no pairs",
            fix="give both scores of each case",
        )
    differences = one - other
    interval = bca_interval(differences, level=level, resamples=resamples, seed=seed)
    testable = differences.size >= FEWEST_NUMBERS
    ranks = _ranks(np.abs(differences))
    in_favour = float(ranks[differences > 0.0].sum())
    against = float(ranks[differences < 0.0].sum())
    return PairedComparison(
        n=differences.size,
        mean_difference=float(differences.mean()) if differences.size else math.nan,
        median_difference=float(np.median(differences)) if differences.size else math.nan,
        interval=interval,
        p_value=_two_sided(ranks[differences != 0.0], in_favour) if testable else math.nan,
        effect_size=(in_favour - against) / float(ranks.sum()) if testable else math.nan,
    )


def _finite(numbers: npt.ArrayLike, where: str) -> npt.NDArray[np.float64]:
    sample = np.asarray(numbers, dtype=np.float64)
    if sample.ndim != 1:
        raise InputError(f"an array of shape {sample.shape} is no list of numbers", where=where)
    if not np.isfinite(sample).all():
        raise InputError(
            "a number is NaN or infinite", where=where, fix="leave out what has no value, and say how many"
        )
    return sample


# The bootstrap


def _resamples(size: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """Positions drawn with replacement, each row a drawing, in parts of bounded size."""
    generator = np.random.default_rng(seed)
    rows = max(1, _NUMBERS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        yield generator.integers(0, size, (min(rows, resamples - start), size))


def _leaving_one_out(size: int) -> Iterator[npt.NDArray[np.intp]]:
    """All positions but one in each row, in parts of bounded size."""
    others = np.arange(size - 1)
    rows = max(1, _NUMBERS_AT_ONCE // size)
    for start in range(0, size, rows):
        left_out = np.arange(start, min(start + rows, size))[:, np.newaxis]
        yield others + (others >= left_out)


def _statistics_of(
    statistic: Statistic, sample: npt.NDArray[np.float64], positions: Iterator[npt.NDArray[np.intp]]
) -> npt.NDArray[np.float64]:
    return np.concatenate([np.asarray(statistic(sample[rows], axis=-1), np.float64) for rows in positions])


def _share_below(drawn: npt.NDArray[np.float64], observed: float) -> float:
    """The share of drawings below what was observed; those that equal it count half."""
    # The same numbers in another order may sum to another last bit: they are equal all the same.
    rounding = 1e-12 * max(abs(observed), float(np.abs(drawn).max()))
    below = np.count_nonzero(drawn < observed - rounding)
    not_above = np.count_nonzero(drawn <= observed + rounding)
    return float(below + not_above) / (2 * drawn.size)


def _acceleration(leaving_one_out: npt.NDArray[np.float64]) -> float:
    """A sixth of the skewness of the numbers' influence; 0 where no number has any."""
    influence = leaving_one_out.mean() - leaving_one_out
    spread = float((influence**2).sum())
    return float((influence**3).sum()) / (6.0 * spread**1.5) if spread > 0.0 else 0.0


# The signed-rank test


def _ranks(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal numbers share the mean of theirs."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2.0)[which]
    return mean_ranks


def _two_sided(ranks: npt.NDArray[np.float64], in_favour: float) -> float:
    """How probable a sum of positive ranks at least as far from its mean is, were all signs tossed up."""
    if ranks.size == 0:
        return 1.0
    if ranks.size > _MOST_PAIRS_EXACT:
        distance = abs(in_favour - ranks.sum() / 2.0) / math.sqrt(float((ranks**2).sum()) / 4.0)
        return float(2.0 * ndtr(-distance))
    probabilities = _rank_sum_probabilities(ranks)
    doubled = round(2.0 * in_favour)
    one_sided = min(float(probabilities[: doubled + 1].sum()), float(probabilities[doubled:].sum()))
    return min(1.0, 2.0 * one_sided)


def _rank_sum_probabilities(ranks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Entry s: the probability that the positive ranks' sum is s / 2, as mean ranks come in halves."""
    steps = np.rint(2.0 * ranks).astype(np.intp)
    probabilities = np.zeros(int(steps.sum()) + 1)
    probabilities[0] = 1.0
    for step in steps:
        probabilities[step:] = (probabilities[step:] + probabilities[:-step]) / 2.0
        probabilities[:step] /= 2.0
    return probabilities
