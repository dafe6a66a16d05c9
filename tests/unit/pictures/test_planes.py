"""Planes as a radiologist sees them: what is where on the screen, which slice, which window."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.geometry import Grid
from medseg.pictures.planes import PLANES, best_slices, first_channel, intensity_window
from medseg.volume import Volume

AXIAL, CORONAL, SAGITTAL = PLANES


def test_the_patients_directions_are_at_the_edges_that_the_letters_say() -> None:
    grid = Grid((4, 5, 6), np.eye(4))
    ends = {"R": (0, 3), "L": (0, 0), "A": (1, 4), "P": (1, 0), "S": (2, 5), "I": (2, 0)}
    for plane in PLANES:
        edges = (np.s_[:, 0], np.s_[:, -1], np.s_[0, :], np.s_[-1, :])
        for letter, edge in zip(plane.letters, edges, strict=True):
            array = np.zeros(grid.shape)
            axis, index = ends[letter]
            array[(slice(None),) * axis + (index,)] = 1.0
            pixels = plane.cut(array, 2)
            assert pixels[edge].all(), f"{plane.name}: {letter}"
            assert pixels.sum() == pixels[edge].size


def test_size_on_the_screen_is_that_of_the_patient() -> None:
    grid = Grid((10, 20, 5), np.diag([2.0, 1.0, 7.0, 1.0]))
    assert [plane.size_mm(grid) for plane in PLANES] == [(20.0, 20.0), (20.0, 35.0), (20.0, 35.0)]
    assert [plane.cut(np.zeros(grid.shape), 0).shape for plane in PLANES] == [(20, 10), (5, 10), (5, 20)]


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL"])
def test_volumes_are_turned_to_ras(axcodes: str) -> None:
    array = np.arange(24.0).reshape(1, 2, 3, 4)
    volume = Volume(array, Grid((2, 3, 4), np.eye(4))).reoriented(axcodes)
    np.testing.assert_array_equal(first_channel(volume), array[0])


def test_the_slice_that_shows_most_of_every_class_is_chosen() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:18, 2:18, 10] = 1  # large and flat
    labels[5, 5, 4:15] = 2  # thin and long
    assert best_slices(labels) == (5, 5, 10)


def test_of_equal_slices_the_middle_one_is_chosen() -> None:
    labels = np.zeros((9, 9, 12), np.uint8)
    labels[2:7, 3:6, 4:9] = 7
    assert best_slices(labels) == (4, 4, 6)


def test_without_structures_the_middle_is_shown() -> None:
    assert best_slices(np.zeros((4, 5, 6), np.uint8)) == (2, 2, 3)


def test_the_window_ignores_what_is_not_finite_and_the_tails() -> None:
    image = np.linspace(0.0, 100.0, 1000).reshape(10, 10, 10)
    image[0, 0, 0], image[0, 0, 1], image[0, 0, 2] = np.nan, np.inf, 1e9
    low, high = intensity_window(image)
    assert 0.0 <= low < 2.0
    assert 98.0 < high <= 100.0


def test_the_window_is_drawn_about_the_structures() -> None:
    rng = np.random.default_rng(0)
    image, labels = np.full((40, 40, 40), -1000.0), np.zeros((40, 40, 40), np.uint8)
    image[8:32, 8:32, 8:32] = 50.0
    labels[10:30, 10:30, 10:30] = 1
    image += rng.normal(0.0, 10.0, image.shape)
    low, high = intensity_window(image, labels)
    assert -400.0 < low < 0.0
    assert 50.0 < high < 500.0
    assert intensity_window(image)[0] < -900.0


@pytest.mark.parametrize("value", [5.0, np.nan])
def test_a_constant_image_has_a_window_too(value: float) -> None:
    labels = np.ones((3, 3, 3), np.uint8)
    low, high = intensity_window(np.full((3, 3, 3), value), labels)
    assert np.isfinite([low, high]).all()
    assert low < high
