"""Statistics: published and hand-worked examples, brute force, SciPy, and what intervals promise."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg.errors import ConfigError, InputError
from medseg.evaluation import statistics
from medseg.evaluation.statistics import Interval, bca_interval, compare_paired, holm

NAN = math.nan
properties = settings(max_examples=40, deadline=None)
scores = st.lists(st.integers(-20, 20).map(lambda number: number / 4), min_size=3, max_size=12)

# Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, table 14.1: 26 spatial test scores
SPATIAL = [
    48,
    36,
    20,
    29,
    42,
    42,
    20,
    42,
    22,
    41,
    45,
    14,
    6,
    0,
    33,
    28,
    34,
    4,
    32,
    24,
    47,
    41,
    24,
    26,
    30,
    41,
]

# Darwin's fifteen pairs of maize plants, crossed minus self-fertilised height in eighths of an inch
MAIZE = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


# Intervals


def test_the_published_interval_of_a_variance() -> None:
    assert np.var(SPATIAL) == pytest.approx(171.5, abs=0.05)
    # The book's own drawings gave 115.8 to 259.6 at 90 %.
    found = bca_interval(SPATIAL, np.var, level=0.9, resamples=4000)
    assert ends(found) == pytest.approx((115.8, 259.6), rel=0.03)


def efron_one_by_one(numbers: list[float], drawings: list[list[float]], level: float) -> tuple[float, float]:
    """The interval of a mean from given drawings, each step of the formula by itself."""
    normal, mean = NormalDist(), np.mean(numbers)
    means = sorted(float(np.mean(drawing)) for drawing in drawings)
    share = sum(1.0 if value < mean else 0.5 if value == mean else 0.0 for value in means) / len(means)
    z0 = normal.inv_cdf(share)
    without = [np.mean(numbers[:index] + numbers[index + 1 :]) for index in range(len(numbers))]
    centre = np.mean(without)
    a = sum((centre - value) ** 3 for value in without)
    a /= 6 * sum((centre - value) ** 2 for value in without) ** 1.5
    found = []
    for probability in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + normal.inv_cdf(probability)
        position = normal.cdf(z0 + z / (1 - a * z)) * (len(means) - 1)
        lower = math.floor(position)
        upper = min(lower + 1, len(means) - 1)
        found.append(means[lower] + (position - lower) * (means[upper] - means[lower]))
    return found[0], found[1]


def test_the_formula_step_by_step() -> None:
    numbers = [0.25, 0.5, 0.75, 0.875, 1.0, 4.0]
    positions = np.random.default_rng(7).integers(0, 6, (500, 6))
    drawings = [[numbers[position] for position in row] for row in positions]
    found = bca_interval(numbers, resamples=500, seed=7, level=0.9)
    assert ends(found) == pytest.approx(efron_one_by_one(numbers, drawings, 0.9), rel=1e-12)


def test_many_drawings_come_close_to_all_there_are() -> None:
    numbers = [1.0, 2.0, 4.0, 8.0, 16.0]
    everything = [list(drawing) for drawing in itertools.product(numbers, repeat=5)]
    found = bca_interval(numbers, resamples=40_000, level=0.8)
    assert ends(found) == pytest.approx(efron_one_by_one(numbers, everything, 0.8), rel=0.02)


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_it_agrees_with_scipy(statistic: statistics.Statistic, level: float) -> None:
    numbers = np.random.default_rng(1).exponential(size=25)
    generator = np.random.default_rng(11)
    theirs = stats.bootstrap(
        (numbers,), statistic, n_resamples=999, confidence_level=level, method="BCa", random_state=generator
    ).confidence_interval
    found = bca_interval(numbers, statistic, level=level, resamples=999, seed=11)
    assert ends(found) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda generator: generator.normal(0.8, 0.1, 20), 0.8),
        (lambda generator: generator.beta(8, 2, 30), 0.8),
        (lambda generator: generator.exponential(2.0, 40), 2.0),
    ],
    ids=["normal", "scores", "distances"],
)
def test_nineteen_of_twenty_intervals_hold_the_truth(draw, mean: float) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    intervals = [bca_interval(draw(generator), resamples=600, seed=seed) for seed in range(400)]
    held = sum(interval.low <= mean <= interval.high for interval in intervals)
    assert 0.90 <= held / 400 <= 0.98


@properties
@given(scores, st.integers(0, 5))
@example([-1.25, 0.0, -0.5], 1)  # a third of the drawings are the sample in another order
def test_properties_of_intervals(numbers: list[float], seed: int) -> None:
    found = bca_interval(numbers, resamples=200, seed=seed)
    assert found == bca_interval(numbers, resamples=200, seed=seed)
    assert min(numbers) <= found.low <= found.high <= max(numbers)
    wider = bca_interval(numbers, resamples=200, seed=seed, level=0.99)
    assert wider.low <= found.low <= found.high <= wider.high
    doubled = bca_interval([2 * number + 8 for number in numbers], resamples=200, seed=seed)
    assert ends(doubled) == pytest.approx((2 * found.low + 8, 2 * found.high + 8), abs=1e-9)


def test_seeds_give_intervals_of_their_own() -> None:
    numbers = np.random.default_rng(0).random(20)
    assert bca_interval(numbers, seed=1) != bca_interval(numbers, seed=2)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param([], (NAN, NAN), id="none"),
        pytest.param([0.5], (NAN, NAN), id="one"),
        pytest.param([0.5, 0.75], (NAN, NAN), id="two"),
        pytest.param([0.5, 0.5], (NAN, NAN), id="two equal ones"),
        pytest.param([0.75] * 3, (0.75, 0.75), id="equal"),
        pytest.param([0.0] * 50, (0.0, 0.0), id="zeros"),
    ],
)
def test_where_there_is_no_interval(numbers: list[float], expected: tuple[float, float]) -> None:
    np.testing.assert_equal(ends(bca_interval(numbers)), expected)


def test_a_statistic_that_no_single_number_moves_is_not_accelerated() -> None:
    found = bca_interval([1.0] * 9 + [5.0], np.median, resamples=500)
    assert ends(found) == (1.0, 1.0)


def test_a_statistic_that_all_drawings_miss_has_no_interval() -> None:
    def above(array: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(array.mean(axis=axis) + (array.ndim > 1))

    np.testing.assert_equal(ends(bca_interval([1.0, 1.25, 1.5], above)), (NAN, NAN))


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).random(23)
    whole = bca_interval(numbers, resamples=101)
    monkeypatch.setattr(statistics, "_NUMBERS_AT_ONCE", 50)
    assert bca_interval(numbers, resamples=101) == whole


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bca_interval([1.0, NAN, 2.0]), InputError, "numbers: a number is NaN or infinite"),
        (lambda: bca_interval([1.0, math.inf, 2.0]), InputError, "NaN or infinite"),
        (lambda: bca_interval([[1.0, 2.0]]), InputError, r"shape \(1, 2\) is no list"),
        (lambda: bca_interval([1.0], level=95), ConfigError, "level 95"),
        (lambda: bca_interval([1.0], level=0.0), ConfigError, "level 0.0"),
        (lambda: bca_interval([1.0], resamples=0), ConfigError, "0 resamples"),
        (lambda: compare_paired([1.0], [1.0, 2.0]), InputError, "1 scores of the first and 2 of the second"),
        (lambda: compare_paired([1.0], [NAN]), InputError, "second: a number is NaN"),
        (lambda: compare_paired([NAN], [1.0]), InputError, "first: a number is NaN"),
        (lambda: compare_paired([1.0], [1.0], level=1.0), ConfigError, "level 1.0"),
        (lambda: holm([0.5, 1.5]), InputError, "not between 0 and 1"),
        (lambda: holm([-0.1]), InputError, "not between 0 and 1"),
    ],
)
def test_what_is_refused(call, error: type[Exception], words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        call()


# Several tests


def test_holm_by_hand() -> None:
    # Sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04, raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ((), ()),
        ((0.04,), (0.04,)),
        ((0.6, 0.7), (1.0, 1.0)),
        ((0.02, 0.02, 0.02), (0.06, 0.06, 0.06)),
        ((0.01, NAN, 0.03), (0.02, NAN, 0.03)),
        ((NAN,), (NAN,)),
        ((0.0, 1.0), (0.0, 1.0)),
    ],
)
def test_every_outcome_of_holm(raw: tuple[float, ...], corrected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(holm(raw), corrected, rtol=1e-12)


@properties
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_its_steps_do(raw: list[float]) -> None:
    corrected = holm(raw)
    assert all(one >= other for one, other in zip(corrected, raw, strict=True))
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(sorted(range(len(raw)), key=raw.__getitem__)):
            if raw[index] * (len(raw) - step) > level:
                break
            rejected.add(index)
        assert {index for index, value in enumerate(corrected) if value <= level} == rejected


# Pairs


def test_darwins_maize() -> None:
    found = compare_paired(MAIZE, np.zeros(15))
    # Ranks of -48 and -67 are 10 and 14: W- = 24, W+ = 96 of 120 in all.
    assert (found.n, found.median_difference) == (15, 24.0)
    assert found.mean_difference == pytest.approx(314 / 15)
    assert found.effect_size == pytest.approx((96 - 24) / 120)
    assert found.p_value == stats.wilcoxon(MAIZE).pvalue == 0.041259765625


@pytest.mark.parametrize(
    ("differences", "p_value", "effect"),
    [
        pytest.param([1, 2, 3, 4, 5], 2 / 32, 1.0, id="all larger"),
        pytest.param([-1, -2, -3, -4, -5], 2 / 32, -1.0, id="all smaller"),
        # W- = 1: signs of (none), (1) give 0 and 1, 2 of 32 on each side
        pytest.param([-1, 2, 3, 4, 5], 4 / 32, 13 / 15, id="one against"),
        # ranks 1.5, 1.5, 3: W+ = 4.5 from {1.5, 3} twice, 6 from all three; 3 of 8, doubled
        pytest.param([-1, 1, 2], 6 / 8, 3 / 6, id="tie"),
        # ranks 1.5 and 1.5 of the zeros drop out; 3, 4, 5 all positive: 1 of 8, doubled
        pytest.param([0, 0, 1, 2, 3], 2 / 8, 12 / 15, id="zeros"),
        pytest.param([0, 0, 0], 1.0, 0.0, id="no difference at all"),
        pytest.param([-1, 1, -2, 2], 1.0, 0.0, id="balanced"),
        pytest.param([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 1.0, 10 / 55, id="one among many equal"),
    ],
)
def test_tests_by_hand(differences: list[float], p_value: float, effect: float) -> None:
    found = compare_paired(differences, np.zeros(len(differences)))
    assert (found.p_value, found.effect_size) == pytest.approx((p_value, effect), rel=1e-14)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_pairs_make_no_test(count: int) -> None:
    found = compare_paired([2.0] * count, [1.0] * count)
    assert found.n == count
    expected = 1.0 if count else NAN
    np.testing.assert_equal((found.mean_difference, found.median_difference), (expected, expected))
    np.testing.assert_equal((found.p_value, found.effect_size, *ends(found.interval)), (NAN,) * 4)


def p_value_over_all_signs(differences: np.ndarray) -> float:
    moving = differences != 0
    ranks = stats.rankdata(np.abs(differences))[moving]
    signs = np.array(list(itertools.product((0, 1), repeat=ranks.size)))
    sums, observed = signs @ ranks, ranks[differences[moving] > 0].sum()
    return min(1.0, 2 * min(np.mean(sums <= observed), np.mean(sums >= observed)))


@properties
@given(st.lists(st.integers(-4, 4), min_size=3, max_size=9))
def test_ties_and_zeros_by_brute_force(differences: list[int]) -> None:
    found = compare_paired(differences, np.zeros(len(differences)), resamples=50)
    assert found.p_value == pytest.approx(p_value_over_all_signs(np.array(differences)), rel=1e-12)


@pytest.mark.parametrize("count", [3, 8, 25, 50])
def test_the_exact_test_agrees_with_scipy(count: int) -> None:
    generator = np.random.default_rng(count)
    first, second = generator.normal(0.3, 1.0, count), generator.normal(0.0, 1.0, count)
    theirs = stats.wilcoxon(first, second, method="exact")
    found = compare_paired(first, second, resamples=50)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-10)
    total = count * (count + 1) / 2
    assert abs(found.effect_size) == pytest.approx(1 - 2 * theirs.statistic / total)


@pytest.mark.parametrize("steps", [4, 1_000_000], ids=["ties and zeros", "no ties"])
def test_many_pairs_agree_with_scipy(steps: int) -> None:
    generator = np.random.default_rng(0)
    differences = generator.integers(-steps, steps + 2, 260)
    theirs = stats.wilcoxon(differences, zero_method="pratt", correction=False, method="approx")
    found = compare_paired(differences, np.zeros(260), resamples=50)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-10)


def test_exact_and_normal_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(2).normal(0.1, 1.0, 200)
    exact = compare_paired(differences, np.zeros(200), resamples=50).p_value
    monkeypatch.setattr(statistics, "_MOST_PAIRS_EXACT", 199)
    assert compare_paired(differences, np.zeros(200), resamples=50).p_value == pytest.approx(exact, rel=0.02)


@properties
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=12))
def test_properties_of_pairs(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T / 16
    there, back = compare_paired(first, second, resamples=50), compare_paired(second, first, resamples=50)
    assert (there.p_value, there.effect_size) == (back.p_value, -back.effect_size)
    assert there.mean_difference == -back.mean_difference
    assert -1.0 <= there.effect_size <= 1.0
    assert 0.0 < there.p_value <= 1.0
    assert there.interval == bca_interval(first - second, resamples=50)
    turned = compare_paired(first[::-1], second[::-1], resamples=50)
    assert (turned.p_value, turned.effect_size) == (there.p_value, there.effect_size)
