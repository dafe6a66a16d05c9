from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError
from medseg.training import Budget
from medseg.training.budget import learning_rate_factor


def test_the_first_to_run_out_ends_it() -> None:
    budget = Budget(max_steps=100, max_minutes=10)
    assert budget.progress(10, 5) == 0.5
    assert budget.progress(60, 5) == 0.6
    assert budget.progress(10, 11) == 1.0
    assert budget.progress(101, 0) == 1.0


def test_one_of_the_two_suffices() -> None:
    assert Budget(max_steps=4).progress(1, 1e9) == 0.25
    assert Budget(max_minutes=4).progress(10**9, 1) == 0.25
    assert Budget(max_cpu_minutes=4).progress(10**9, 1e9, 1) == 0.25


def test_a_training_without_end_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="a training needs an end; give --max-steps, --max-minutes or --max-cpu-minutes"
    ):
        Budget()


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_are_positive(steps: int) -> None:
    with pytest.raises(ConfigError, match="--max-steps"):
        Budget(max_steps=steps)


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf])
def test_minutes_are_positive_and_finite(minutes: float) -> None:
    with pytest.raises(ConfigError, match="--max-minutes"):
        Budget(max_minutes=minutes)
    with pytest.raises(ConfigError, match="--max-cpu-minutes"):
        Budget(max_cpu_minutes=minutes)


def test_the_learning_rate_rises_and_falls_as_computed_by_hand() -> None:
    assert learning_rate_factor(0.0, warmup=0.1) == 0.0
    assert learning_rate_factor(0.05, warmup=0.1) == 0.5
    assert learning_rate_factor(0.1, warmup=0.1) == 1.0
    assert learning_rate_factor(0.55, warmup=0.1) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(1.0, warmup=0.1) == 0.0
    assert learning_rate_factor(0.0, warmup=0.0) == 1.0


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9))
def test_the_learning_rate_has_one_summit(first: float, second: float, warmup: float) -> None:
    early, late = sorted((first, second))
    if late < warmup:
        assert learning_rate_factor(early, warmup) <= learning_rate_factor(late, warmup) <= 1.0
    if early >= warmup:
        assert 1.0 >= learning_rate_factor(early, warmup) >= learning_rate_factor(late, warmup) >= 0.0
