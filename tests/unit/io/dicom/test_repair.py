"""Slices brought onto a grid, against values that are linear in space and against SciPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.io.dicom.frames import Frame, Series
from medseg.io.dicom.repair import repaired, shifted
from medseg.io.dicom.verdict import DicomVolume, Finding, Reason, Status, Verdict

SERIES = Series("1.2.3", "1.2", None, "1.2.840.10008.5.1.4.1.1.2", "CT")
ROWS, COLUMNS = 9, 7


def volume(
    positions: list[tuple[float, float, float]],
    grid: Grid,
    *reasons: Reason,
    status: Status = Status.REPAIRED,
) -> DicomVolume:
    """Axial slices, 2 mm between rows and 1 mm between columns, whose first voxels lie at ``positions``."""
    frame = Frame(
        path=Path("a.dcm"),
        sop_instance_uid="1.2.3.4",
        number=0,
        tile=None,
        series=SERIES,
        rows=ROWS,
        columns=COLUMNS,
        samples=1,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        position=(0.0, 0.0, 0.0),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing=(2.0, 1.0),
    )
    frames = tuple(replace(frame, position=position) for position in positions)
    verdict = Verdict(tuple(Finding(reason, status, "so it is") for reason in reasons))
    return DicomVolume(SERIES, frames, verdict, grid=grid)


def axial(slices: int, step_mm: float, shape: tuple[int, int] = (COLUMNS, ROWS)) -> Grid:
    """From the origin, as DICOM has it: columns to the left, rows to the back, slices to the head."""
    return Grid((*shape, slices), np.diag([-1.0, -2.0, step_mm, 1.0]))


def linear(positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A value that is linear in millimetres (LPS), so that linear interpolation gives it exactly."""
    return 3.0 * positions[..., 0] - 5.0 * positions[..., 1] + 2.0 * positions[..., 2] + 100.0


def sampled(volume: DicomVolume) -> np.ndarray[Any, Any]:
    """``linear`` at the voxels of the volume's frames, (slices, rows, columns)."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    in_plane = np.stack([1.0 * columns, 2.0 * rows, np.zeros_like(rows)], -1)
    return linear(np.stack([np.array(frame.position) + in_plane for frame in volume.frames]))


def on_grid(grid: Grid) -> np.ndarray[Any, Any]:
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return linear(grid.to_world(indices) * [-1, -1, 1]).transpose(2, 1, 0)


def test_nothing_to_repair_gives_the_same_array() -> None:
    made = volume([(0, 0, 0), (0, 0, 3)], axial(2, 3.0))
    stack = sampled(made)
    assert repaired(stack, made) is stack


def test_a_remark_alone_repairs_nothing() -> None:
    made = volume([(0, 0, 0), (0, 0, 3.1)], axial(2, 3.0), Reason.UNEVEN_SPACING, status=Status.OK)
    stack = sampled(made)
    assert repaired(stack, made) is stack


@pytest.mark.parametrize("reason", [Reason.GANTRY_TILT, Reason.SHEARED])
def test_tilt_is_undone_exactly_where_slices_reach(reason: Reason) -> None:
    positions = [(0.0, 0.7 * k, 3.0 * k) for k in range(5)]
    made = volume(positions, axial(5, 3.0), reason)
    stack = sampled(made)
    found = repaired(stack, made)
    wanted = on_grid(axial(5, 3.0))
    for k in range(5):
        first_row = int(np.ceil(0.7 * k / 2.0))  # above it, the slice has not begun
        np.testing.assert_allclose(found[k, first_row:], wanted[k, first_row:], atol=1e-9)
        np.testing.assert_array_equal(found[k, :first_row], stack.min())


def test_tilt_onto_a_larger_grid_loses_nothing() -> None:
    positions = [(0.0, 2.0 * k, 3.0 * k) for k in range(4)]
    made = volume(positions, axial(4, 3.0, (COLUMNS, ROWS + 3)), Reason.GANTRY_TILT)
    stack = sampled(made)
    found = repaired(stack, made)
    for k in range(4):
        np.testing.assert_array_equal(found[k, k : k + ROWS], stack[k])


def test_noise_of_positions_does_not_blur() -> None:
    positions = [(0.003 * (-1) ** k, 2.0 * k + 0.004, 3.0 * k) for k in range(4)]
    made = volume(positions, axial(4, 3.0, (COLUMNS, ROWS + 3)), Reason.GANTRY_TILT)
    stack = np.random.default_rng(0).integers(-1000, 2000, (4, ROWS, COLUMNS)).astype(np.int16)
    found = repaired(stack, made)
    for k in range(4):
        np.testing.assert_array_equal(found[k, k : k + ROWS], stack[k])


@pytest.mark.parametrize("reason", [Reason.UNEVEN_SPACING, Reason.MISSING_SLICES])
def test_slices_are_interpolated_along_the_normal(reason: Reason) -> None:
    made = volume([(0, 0, z) for z in (0.0, 3.0, 9.0, 10.0, 15.0)], axial(6, 3.0), reason)
    np.testing.assert_allclose(repaired(sampled(made), made), on_grid(axial(6, 3.0)), atol=1e-9)


def test_slices_that_lie_on_the_grid_stay_as_they_are() -> None:
    made = volume([(0, 0, z) for z in (0.0, 3.0, 9.01)], axial(4, 3.0), Reason.MISSING_SLICES)
    stack = np.random.default_rng(0).integers(-1000, 2000, (3, ROWS, COLUMNS)).astype(np.int16)
    found = repaired(stack, made)
    np.testing.assert_array_equal(found[[0, 1, 3]], stack)
    np.testing.assert_array_equal(found[2], np.rint(stack[1] * (1 - 1 / 2.0033333) + stack[2] / 2.0033333))
    assert found.dtype == np.int16


def test_tilt_and_a_missing_slice_at_once() -> None:
    positions = [(0.0, 2.0 * k, 3.0 * k) for k in (0, 1, 3)]
    grid = axial(4, 3.0, (COLUMNS, ROWS + 3))
    made = volume(positions, grid, Reason.GANTRY_TILT, Reason.MISSING_SLICES)
    found = repaired(sampled(made), made)
    np.testing.assert_allclose(found[:, 3:ROWS], on_grid(grid)[:, 3:ROWS], atol=1e-9)


def test_what_cannot_be_brought_onto_the_grid() -> None:
    with pytest.raises(GeometryError, match="the grid has"):
        repaired(np.zeros((2, ROWS, COLUMNS)), volume([(0, 0, 0), (0, 0, 3)], axial(3, 3.0)))
    with pytest.raises(GeometryError, match="no grid"):
        repaired(np.zeros((1, ROWS, COLUMNS)), replace(volume([(0, 0, 0)], axial(1, 3.0)), grid=None))


@settings(deadline=None)
@given(
    down=st.floats(-12, 12, allow_nan=False),
    right=st.floats(-12, 12, allow_nan=False),
    seed=st.integers(0, 2**32 - 1),
)
def test_shift_against_scipy(down: float, right: float, seed: int) -> None:
    down, right = round(down, 1), round(right, 1)  # finer ones may count as whole voxels
    plane = np.random.default_rng(seed).normal(size=(ROWS, COLUMNS))
    wanted = ndimage.shift(plane, (down, right), order=1, mode="constant", cval=-9.0)
    np.testing.assert_allclose(shifted(plane, (down, right), plane.shape, -9.0), wanted, atol=1e-9)
