from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms import Augmenter, augmentation_margin
from medseg.transforms.augmentation.margins import within_turns


def test_margins_by_hand() -> None:
    turn = Augmentation(rotation_degrees=30, scale=0.0, elastic=0.0)
    # Within slices, from the middle of a square of 10: 4.5 (cos 30 + sin 30) - 4.5 = 1.65.
    assert augmentation_margin(turn, (10, 10, 10), (1.0, 1.0, 5.0)) == (2, 2, 0)
    # Rows are 1.5 apart: 4.5 (cos 30 + 1.5 sin 30) - 4.5 = 2.77 voxels of 1 mm.
    assert augmentation_margin(turn, (10, 10, 10), (1.0, 1.5, 5.0)) == (3, 1, 0)
    scale = Augmentation(rotation_degrees=0, scale=0.2, elastic=0.0)
    assert augmentation_margin(scale, (10, 20, 40)) == (1, 2, 4)
    # A quarter of the longest side of 40 mm, of which a tenth: 1 mm.
    bend = Augmentation(spatial_probability=0, elastic=0.1)
    assert augmentation_margin(bend, (41, 41, 6), (1.0, 1.0, 8.0)) == (1, 1, 1)


def test_without_movement_there_is_no_margin() -> None:
    assert augmentation_margin(None, (8, 8, 8)) == (0, 0, 0)
    for still in (
        Augmentation(spatial_probability=0.0, elastic_probability=0.0),
        Augmentation(rotation_degrees=0, scale=0.0, elastic=0.0),
    ):
        assert augmentation_margin(still, (8, 8, 8)) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.3, 5.0])] * 3),
    st.floats(0.0, 180.0),
    st.floats(0.0, 0.5),
    st.floats(0.0, 0.39),
    st.integers(0, 2**32),
)
def test_the_margin_covers_every_draw(
    patch_size: Any, spacing_mm: Any, degrees: float, scale: float, elastic: float, seed: int
) -> None:
    choice = Augmentation(
        spatial_probability=0.9,
        elastic_probability=0.5,
        rotation_degrees=degrees,
        scale=scale,
        elastic=elastic,
    )
    augmenter = Augmenter(
        choice,
        patch_size,
        axcodes="RAS",
        labels=LabelScheme.from_names({1: "one"}),
        ct_channels=[True],
        spacing_mm=spacing_mm,
    )
    rng = np.random.default_rng(seed)
    margin = augmentation_margin(choice, patch_size, spacing_mm)
    for _ in range(20):
        spatial = augmenter.draw(rng).spatial
        assert all(one <= whole for one, whole in zip(spatial.margin, margin, strict=True))


@pytest.mark.parametrize("degrees", [20, 90, 180])
def test_the_margin_of_a_cube_is_that_of_its_furthest_corner(degrees: float) -> None:
    """Among turns about three axes, of which very many are tried."""
    halves = np.array([9.5, 5.5, 2.5])
    angles = np.radians(np.random.default_rng(0).uniform(-degrees, degrees, (20000, 3)))
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * halves
    turned = Rotation.from_euler("XYZ", angles).as_matrix() @ corners.T
    needed = np.abs(turned).max(axis=(0, 2)) - halves
    margin = augmentation_margin(
        Augmentation(rotation_degrees=degrees, scale=0.0, elastic_probability=0.0), (20, 12, 6)
    )
    assert (np.asarray(margin) >= needed).all()
    assert (np.asarray(margin) <= needed + 1.35).all()


def test_turns_are_those_of_scipy_in_millimetres() -> None:
    angles, spacing = [0.3, -0.2, 0.1], np.array([0.5, 0.7, 0.9])
    expected = (
        np.diag(1 / spacing) @ Rotation.from_euler("XYZ", [0.3, 0.2, 0.1]).as_matrix() @ np.diag(spacing)
    )
    # About the second axis angles count from the first axis to the third, against the right hand.
    np.testing.assert_allclose(within_turns(angles, (1, 1, 1), spacing), expected, atol=1e-12)
    np.testing.assert_allclose(within_turns([0, 0, 0], (1.1, 0.9, 1), spacing), np.diag([1.1, 0.9, 1]))


def test_thick_slices_stay_in_their_place(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter(spatial_probability=1.0, scale=0.0, spacing_mm=(1.0, 1.2, 5.0))
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y, z = augmenter.draw(rng).spatial.matrix or ()
        assert z == (0.0, 0.0, 1.0)
        assert x[2] == y[2] == 0.0
        assert x[0] ** 2 + (y[0] * 1.2) ** 2 == pytest.approx(1.0)
    assert math.hypot(x[0], y[0]) != 1.0
