from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError
from medseg.training.draws import ANYWHERE, Draw, PatchDraws, class_weights

# Three cases, two classes: the second lives in the last case alone.
HOLDS = np.array([[False, True, False], [False, True, False], [False, True, True]])


def _draws(fraction: float = 0.5, weights: tuple[float, ...] = (0.0, 1.0, 1.0), seed: int = 1) -> PatchDraws:
    return PatchDraws(HOLDS, fraction, weights, seed)


@settings(max_examples=50, deadline=None)
@given(
    fraction=st.integers(0, 100).map(lambda percent: percent / 100),
    start=st.integers(0, 10**9),
    batch=st.integers(1, 8),
)
def test_every_batch_has_its_share_of_classes(fraction: float, start: int, batch: int) -> None:
    draws = _draws(fraction)
    centred = sum(draws[number].group != ANYWHERE for number in range(start, start + batch))
    assert abs(centred - batch * Fraction(fraction).limit_denominator(1000)) < 1


@settings(max_examples=30, deadline=None)
@given(
    fraction=st.floats(0.0, 0.95),
    seed=st.integers(0, 2**32 - 1),
    holds=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_patches_of_anywhere_take_each_case_once_a_pass(
    fraction: float, seed: int, holds: list[list[bool]]
) -> None:
    draws = PatchDraws(np.array(holds), fraction, (0.0, 1.0, 2.0), seed)
    found: list[int] = []
    number = 0
    while len(found) < 3 * len(holds):
        draw = draws[number]
        number += 1
        if draw.group == ANYWHERE:
            found.append(draw.case)
        else:
            assert holds[draw.case][draw.group]
    for start in range(0, len(found), len(holds)):
        assert sorted(found[start : start + len(holds)]) == list(range(len(holds)))


def test_a_number_names_a_draw_whatever_came_before() -> None:
    numbers = [0, 1, 2, 17, 1000, 99_999]
    expected = {number: _draws()[number] for number in numbers}
    draws = _draws()
    assert {number: draws[number] for number in reversed(numbers)} == dict(reversed(expected.items()))
    assert [_draws(seed=2)[number] for number in range(20)] != [_draws()[number] for number in range(20)]


def test_classes_come_by_weight_and_rare_ones_from_the_cases_that_hold_them() -> None:
    draws = _draws(1.0, (0.0, 1.0, 3.0))
    found = Counter(draws[number] for number in range(3000))
    assert found[Draw(2, 2)] / 3000 == pytest.approx(0.75, abs=0.03)
    for case in range(3):
        assert found[Draw(case, 1)] / 3000 == pytest.approx(0.25 / 3, abs=0.02)
    assert set(found) == {Draw(2, 2), Draw(0, 1), Draw(1, 1), Draw(2, 1)}


def test_a_class_that_all_cases_hold_takes_them_in_turn() -> None:
    draws = _draws(1.0, (0.0, 1.0, 0.0))
    for start in range(0, 30, 3):
        assert sorted(draws[start + place].case for place in range(3)) == [0, 1, 2]


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
def test_without_a_class_to_centre_on_patches_are_of_anywhere(weights: tuple[float, ...]) -> None:
    draws = PatchDraws(HOLDS, 1.0, weights, seed=0)
    assert [draws[number].group for number in range(6)] == [ANYWHERE] * 6
    assert sorted(draws[number].case for number in range(3)) == [0, 1, 2]


@pytest.mark.parametrize("sampling", [(1.0,), (1.0, -0.1), (1.0, float("nan")), (1.0, float("inf"))])
def test_weights_that_are_none_are_refused(sampling: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="are no weights of 2 classes"):
        class_weights(sampling, 3)
    assert class_weights((1.0, 0.5), 3) == (0.0, 1.0, 0.5)
