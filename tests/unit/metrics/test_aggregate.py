"""Aggregation: numbers without a value are counted, never averaged away or in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medseg.metrics import summarize


def test_undefined_numbers_are_counted_and_kept_out_of_the_mean() -> None:
    found = summarize([1.0, math.nan, 0.0, 0.5, math.nan])
    assert (found.mean, found.median, found.min, found.n_valid, found.n_undefined) == (0.5, 0.5, 0.0, 3, 2)
    assert found.std == pytest.approx(0.5)
    assert (found.max, found.quartiles) == (1.0, (0.25, 0.75))


def test_one_number_has_no_spread() -> None:
    found = summarize([0.25])
    assert (found.mean, found.median, found.min, found.n_valid) == (0.25, 0.25, 0.25, 1)
    assert (found.max, found.quartiles) == (0.25, (0.25, 0.25))
    assert math.isnan(found.std)


@pytest.mark.parametrize("numbers", [[], [math.nan]])
def test_without_a_value_there_is_no_mean(numbers: list[float]) -> None:
    found = summarize(numbers)
    assert math.isnan(found.mean)
    assert math.isnan(found.median)
    assert math.isnan(found.min)
    assert math.isnan(found.max)
    np.testing.assert_equal(found.quartiles, (math.nan, math.nan))
    assert (found.n_valid, found.n_undefined) == (0, len(numbers))


def test_it_agrees_with_numpy() -> None:
    numbers = np.random.default_rng(0).random(101)
    found = summarize(iter(numbers))
    assert (found.mean, found.median, found.min) == (numbers.mean(), np.median(numbers), numbers.min())
    assert found.std == np.std(numbers, ddof=1)
    assert found.max == numbers.max()
    assert found.quartiles == tuple(np.percentile(numbers, (25, 75)))
