"""Elements of surfaces: their codes and areas, against MONAI's table and SciPy's erosion."""

from __future__ import annotations

import itertools
import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from monai.metrics.utils import get_code_to_measure_table
from scipy import ndimage

from medseg.metrics.surface_elements import boundary_voxels, cell_codes, element_areas

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5))


@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0), (30.0, 0.1, 1.0), (1.0, 1.0), (0.4, 2.9), (8.0, 0.2)]
)
def test_areas_are_those_of_monais_table(spacing: tuple[float, ...]) -> None:
    table = get_code_to_measure_table(spacing)[0].numpy()
    bits = 1 << len(spacing)
    # Its codes begin with the highest bit; a pattern read backwards is a mirrored one, of the same area.
    backwards = [int(f"{code:0{bits}b}"[::-1], 2) for code in range(1 << bits)]
    np.testing.assert_allclose(element_areas(spacing)[backwards], table, rtol=1e-6)


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 5.0), (0.4, 2.9)])
def test_a_mask_and_its_complement_share_their_surface(spacing: tuple[float, ...]) -> None:
    areas = element_areas(spacing)
    np.testing.assert_allclose(areas, areas[::-1], rtol=1e-12)
    assert areas[0] == areas[-1] == 0
    assert (areas[1:-1] > 0).all()


def test_areas_by_hand() -> None:
    areas = element_areas((2.0, 3.0, 6.0))
    triangle = math.sqrt((18 / 8) ** 2 + (12 / 8) ** 2 + (6 / 8) ** 2)
    assert areas[1] == pytest.approx(triangle)  # one corner
    assert areas[0b11] == pytest.approx(
        math.sqrt(9**2 + 6**2)
    )  # an edge along the last axis: half of two faces
    assert areas[0b1111] == pytest.approx(18.0)  # the face across the first axis
    assert areas[0b10000001] == pytest.approx(2 * triangle)  # opposite corners
    assert areas[0b10111] == pytest.approx(6 * triangle)  # a corner and its neighbours


def test_areas_cannot_be_changed_by_who_reads_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        element_areas((1.0, 1.0))[0] = 1


@given(mask=MASKS)
@settings(max_examples=60, deadline=None)
def test_codes_say_which_corners_are_inside(mask: np.ndarray) -> None:
    codes = cell_codes(mask)
    padded = np.pad(mask, 1)
    assert codes.shape == tuple(size + 1 for size in mask.shape)
    full = (1 << (1 << mask.ndim)) - 1
    for cell in np.ndindex(codes.shape):
        corners = itertools.product(*((index, index + 1) for index in cell))
        code = sum(int(padded[corner]) << bit for bit, corner in enumerate(corners))
        assert codes[cell] == (0 if code == full else code)


@given(mask=MASKS)
@settings(max_examples=60, deadline=None)
def test_boundary_voxels_are_what_erosion_takes(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(boundary_voxels(mask), mask & ~ndimage.binary_erosion(mask))
