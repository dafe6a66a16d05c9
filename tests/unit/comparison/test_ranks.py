"""Ranks over bootstrapped cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.comparison import rank_methods
from medseg.errors import InputError


def test_every_drawing_of_three_cases_counts_as_often_as_chance_has_it() -> None:
    """Against all 27 drawings, in which ``a`` and ``b`` are ranked by hand."""
    numbers = {"a": [0.9, 0.5, 0.6], "b": [0.6, 0.8, 0.6]}
    wins = ties = 0
    for drawing in itertools.product(range(3), repeat=3):
        difference = sum(numbers["a"][case] - numbers["b"][case] for case in drawing)
        ties += math.isclose(difference, 0.0, abs_tol=1e-9)
        wins += difference > 1e-9
    ranks = rank_methods(numbers, resamples=20_000)
    error = 4.0 * math.sqrt(0.25 / 20_000)
    assert ties > 0
    assert ranks["a"].probabilities[0] == pytest.approx((wins + ties) / 27, abs=error)
    assert ranks["b"].probabilities[1] == pytest.approx(wins / 27, abs=error)
    assert ranks["a"].mean == pytest.approx((wins + 1.5 * ties + 2 * (27 - wins - ties)) / 27, abs=error)
    assert (ranks["a"].rank, ranks["b"].rank) == (1.5, 1.5)


def test_distances_are_better_the_smaller_they_are() -> None:
    numbers = {"near": [1.0, 2.0, 1.5], "far": [3.0, 4.0, 5.0], "between": [2.5, 2.5, 2.5]}
    by_distance = rank_methods(numbers, smaller_is_better=True)
    by_score = rank_methods(numbers)
    assert [by_distance[name].rank for name in numbers] == [1.0, 3.0, 2.0]
    assert [by_score[name].rank for name in numbers] == [3.0, 1.0, 2.0]
    assert by_distance["near"].probabilities == (1.0, 0.0, 0.0)


SCORES = st.integers(2, 4).flatmap(
    lambda methods: st.integers(1, 6).flatmap(
        lambda cases: st.lists(
            st.lists(st.floats(0.0, 1.0), min_size=cases, max_size=cases),
            min_size=methods,
            max_size=methods,
        )
    )
)


@settings(max_examples=30, deadline=None)
@given(SCORES)
def test_ranks_add_up_and_do_not_depend_on_the_order_of_methods(scores: list[list[float]]) -> None:
    numbers = {f"m{row}": values for row, values in enumerate(scores)}
    ranks = rank_methods(numbers, resamples=50)
    count = len(numbers)
    assert sum(entry.rank for entry in ranks.values()) == pytest.approx(count * (count + 1) / 2)
    assert sum(entry.mean for entry in ranks.values()) == pytest.approx(count * (count + 1) / 2)
    for entry in ranks.values():
        assert sum(entry.probabilities) == pytest.approx(1.0)
        assert 1.0 <= entry.low <= entry.high <= count
    again = rank_methods(dict(reversed(numbers.items())), resamples=50)
    assert all(again[name] == entry for name, entry in ranks.items())


def test_one_case_is_always_drawn() -> None:
    ranks = rank_methods({"a": [0.2], "b": [0.3]})
    assert (ranks["b"].low, ranks["b"].high) == (1.0, 1.0)
    assert rank_methods({}) == {}


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(InputError, match="not scored on the same cases"):
        rank_methods({"a": [0.1], "b": [0.1, 0.2]})
    with pytest.raises(InputError, match="is not finite"):
        rank_methods({"a": [0.1, np.nan], "b": [0.1, 0.2]})
