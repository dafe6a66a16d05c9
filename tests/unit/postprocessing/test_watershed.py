"""Watersheds against hand-made fields and scikit-image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import h_maxima

from medseg.postprocessing.watershed import Passes, ascend, assign, dominant_peaks, find_passes

Field = npt.NDArray[np.float32]


def smooth_field(seed: int, shape: tuple[int, ...] = (16, 15, 14)) -> Field:
    noise = np.random.default_rng(seed).normal(size=shape)
    return (ndimage.gaussian_filter(noise, 1.5) * 10.0 + 20.0).astype(np.float32)


def test_each_voxel_goes_the_steepest_way() -> None:
    field = np.array([[5.0, 4.0, 3.0, 4.5, 6.0]], np.float32)

    basins, heights = ascend(field, field > 0, (1.0, 1.0))

    assert basins.tolist() == [[1, 1, 2, 2, 2]]
    assert heights.tolist() == [5.0, 6.0]


def test_slopes_are_those_per_millimetre() -> None:
    field = np.full((3, 5), -1.0, np.float32)
    field[:, 0] = 6.0, 2.0, 1.0  # from the corner one may climb along either axis
    field[2, :3] = 1.0, 2.5, 5.0
    mask = field > 0.0

    steep_along_rows = ascend(field, mask, (1.0, 5.0))[0]
    steep_along_columns = ascend(field, mask, (5.0, 1.0))[0]

    assert steep_along_rows[2, 0] == steep_along_rows[0, 0] != steep_along_rows[2, 2]
    assert steep_along_columns[2, 0] == steep_along_columns[2, 2] != steep_along_columns[0, 0]


def test_a_plateau_is_one_top() -> None:
    basins, heights = ascend(np.full((4, 5, 6), 3.0, np.float32), np.ones((4, 5, 6), bool), (1, 1, 1))

    assert heights.tolist() == [3.0]
    assert (basins == 1).all()


def test_nothing_goes_outside_of_the_mask() -> None:
    mask = np.array([[True, True, False, True, True]])
    field = np.where(mask, np.array([[2.0, 1.0, 9.0, 1.0, 3.0]]), -1.0).astype(np.float32)

    basins, _ = ascend(field, mask, (1.0, 1.0))

    assert basins.tolist() == [[1, 1, 0, 2, 2]]


def test_seeds_keep_their_numbers() -> None:
    seeds = np.array([[0, 2, 0, 0, 1, 0, 0]], np.int32)
    field = -np.array([[1, 0, 1, 1, 0, 1, 5]], np.float32)
    field[0, 5] = -6.0  # beyond it a top of its own

    basins, heights = ascend(field, np.ones_like(seeds, bool), (1.0, 1.0), seeds)

    assert basins.tolist() == [[2, 2, 2, 1, 1, 1, 3]]
    assert heights.tolist() == [0.0, 0.0, -5.0]


@pytest.mark.parametrize("seed", range(3))
def test_passes_are_those_of_a_search_over_all_neighbours(seed: int) -> None:
    field = smooth_field(seed, (7, 6, 5))
    basins, _ = ascend(field, field > 19.0, (1.0, 1.0, 1.0))
    expected: dict[tuple[int, int], float] = {}
    for index in np.ndindex(*field.shape):
        for step in np.ndindex(3, 3, 3):
            other = tuple(np.add(index, step) - 1)
            if min(other) < 0 or any(np.greater_equal(other, field.shape)):
                continue
            one, two = int(basins[index]), int(basins[other])
            if 0 < one < two:
                height = float(min(field[index], field[other]))
                expected[one, two] = max(height, expected.get((one, two), -np.inf))

    passes = list(find_passes(field, basins))

    assert {(one, two): height for one, two, height in passes} == expected
    assert len(passes) == len(expected)
    assert [height for *_, height in passes] == sorted((height for *_, height in passes), reverse=True)


@pytest.mark.parametrize("depth", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_dominant_peaks_are_the_h_maxima(seed: int, depth: float) -> None:
    field = smooth_field(seed)
    mask = np.ones(field.shape, bool)
    basins, heights = ascend(field, mask, (1.0, 1.0, 1.0))

    stands = dominant_peaks(heights, find_passes(field, basins), depth)

    maxima = h_maxima(field.astype(np.float64), depth, footprint=np.ones((3, 3, 3)))
    assert sorted(basins[maxima > 0].tolist()) == (np.flatnonzero(stands) + 1).tolist()
    assert 0 < stands.sum() < stands.size


def test_a_chain_of_small_tops_joins_over_the_highest_passes() -> None:
    passes = Passes(np.array([1, 2, 3]), np.array([2, 3, 4]), np.array([5.0, 4.0, 1.0], np.float32))

    assert assign(passes, np.array([True, False, False, True])).tolist() == [0, 1, 1, 1, 2]
    assert assign(passes, np.array([False, False, False, True])).tolist() == [0, 1, 1, 1, 1]
    assert assign(passes, np.array([False, False, False, False])).tolist() == [0, 0, 0, 0, 0]


@given(st.integers(0, 1000), st.floats(0.1, 10.0), st.floats(0.0, 3.0))
@settings(max_examples=15, deadline=None)
def test_units_of_height_and_length_do_not_matter(seed: int, unit: float, depth: float) -> None:
    field = smooth_field(seed, (9, 8, 7))
    mask = np.ones(field.shape, bool)
    basins, heights = ascend(field, mask, (1.0, 2.0, 3.0))
    scaled = (field * np.float32(2.0)).astype(np.float32)
    others, _ = ascend(scaled, mask, (unit, 2 * unit, 3 * unit))

    np.testing.assert_array_equal(basins, others)
    stands = dominant_peaks(heights, find_passes(field, basins), depth)
    twice = dominant_peaks(heights * 2, find_passes(scaled, basins), 2 * depth)
    np.testing.assert_array_equal(stands, twice)
