from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.io.dicom.segmentations.planes import Lattice, even_grid, nearest_planes

AXIAL = Lattice(4, 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.5, 0.25), None)


def stack(*heights_mm: float) -> np.ndarray:
    return np.array([(10.0, 20.0, height) for height in heights_mm])


def test_planes_are_ordered_by_position_and_affines_are_ras() -> None:
    grid, planes = even_grid(AXIAL, stack(6.0, 2.0, 4.0), "f")
    assert planes.tolist() == [2, 0, 1]
    assert grid.shape == (3, 4, 3)
    expected = [[-0.25, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2, 2], [0, 0, 0, 1]]
    assert np.allclose(grid.affine, expected)


def test_missing_planes_stay_empty() -> None:
    grid, planes = even_grid(AXIAL, stack(0.0, 2.0, 8.0), "f")
    assert (grid.shape[2], grid.spacing_mm[2], planes.tolist()) == (5, 2.0, [0, 1, 4])


def test_the_declared_spacing_tells_missing_planes_where_all_gaps_are_wide() -> None:
    declared = dataclasses.replace(AXIAL, slice_spacing_mm=2.5)
    grid, planes = even_grid(declared, stack(0.0, 5.0), "f")
    assert (grid.shape[2], grid.spacing_mm[2], planes.tolist()) == (3, 2.5, [0, 2])


def test_a_wrong_declared_spacing_does_not_count() -> None:
    declared = dataclasses.replace(AXIAL, slice_spacing_mm=5.0)
    grid, _ = even_grid(declared, stack(0.0, 1.25, 2.5), "f")
    assert grid.spacing_mm[2] == 1.25


def test_several_frames_may_lie_on_one_plane() -> None:
    _, planes = even_grid(AXIAL, stack(2.0, 4.0, 2.0), "f")
    assert planes.tolist() == [0, 1, 0]


def test_a_tilted_gantry_gives_a_sheared_grid() -> None:
    positions = stack(0.0, 2.0, 4.0)
    positions[:, 1] += [0.0, 0.5, 1.0]
    grid, _ = even_grid(AXIAL, positions, "f")
    assert not grid.is_orthogonal
    assert np.allclose(grid.to_world((0, 0, 2)), (-10, -21, 4))


@pytest.mark.parametrize(
    ("lattice", "positions", "what"),
    [
        (AXIAL, stack(0.0, 2.0, 5.0, 7.5), "not evenly spaced"),
        (AXIAL, stack(0.0, 2.0, float("nan")), "not finite"),
        (AXIAL, stack(0.0, 1.0, 1e9), "not evenly spaced"),
        (AXIAL, stack(0.0), "thickness"),
        (AXIAL, stack(0.0, 2.0, 4.0) + np.array([[0, 0, 0], [0, 0.3, 0], [0, 0, 0]]), "beside its place"),
        (dataclasses.replace(AXIAL, orientation=(1, 0, 0, 0.1, 1, 0)), stack(0.0, 2.0), "unit vectors"),
        (dataclasses.replace(AXIAL, orientation=(1, 0, 0, 1, 0, 0)), stack(0.0, 2.0), "right angles"),
        (dataclasses.replace(AXIAL, spacing_mm=(0.0, 1.0)), stack(0.0, 2.0), "pixel spacing"),
    ],
)
def test_what_is_no_stack_is_refused(lattice: Lattice, positions: np.ndarray, what: str) -> None:
    with pytest.raises(GeometryError, match=what):
        even_grid(lattice, positions, "f")


def test_frames_find_their_planes_on_another_grid() -> None:
    grid, _ = even_grid(AXIAL, stack(0.0, 2.0, 4.0, 6.0), "f")
    assert nearest_planes(grid, AXIAL, stack(4.01, 2.0), "f").tolist() == [2, 1]


@pytest.mark.parametrize(
    ("lattice", "positions"),
    [
        (AXIAL, stack(3.0)),
        (AXIAL, stack(8.0)),
        (AXIAL, stack(-2.0)),
        (AXIAL, stack(2.0) + np.array([0.2, 0, 0])),
        (dataclasses.replace(AXIAL, rows=5), stack(2.0)),
        (dataclasses.replace(AXIAL, spacing_mm=(0.6, 0.25)), stack(2.0)),
        (dataclasses.replace(AXIAL, orientation=(0, 1, 0, 1, 0, 0)), stack(2.0)),
    ],
)
def test_frames_beside_the_grid_are_refused(lattice: Lattice, positions: np.ndarray) -> None:
    grid, _ = even_grid(AXIAL, stack(0.0, 2.0, 4.0, 6.0), "f")
    with pytest.raises(GeometryError, match="do not lie on the grid"):
        nearest_planes(grid, lattice, positions, "f")
