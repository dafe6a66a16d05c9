"""Planes in space: the directions of a stack of slices, their order, their distances, their tilt.

All vectors are DICOM's (LPS, millimetres) until ``affine`` gives RAS+.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from medseg.io.dicom.frames import Frame

__all__ = [
    "DUPLICATE_MM",
    "EVEN_POSITION_TOLERANCE",
    "EVEN_ROUNDING_MM",
    "EVEN_STEP_TOLERANCE",
    "Stack",
    "is_complete",
    "is_even",
    "is_usable_length",
    "is_usable_place",
    "missing_slices",
    "step_deviation_mm",
]

FloatArray = npt.NDArray[np.float64]

FARTHEST_MM: Final = 1e5
"""No scanner reaches farther than this; beyond it, numbers are damaged text."""

SMALLEST_LENGTH_MM: Final = 1e-5
"""No voxel is smaller than this, a hundredth of a micrometre."""

DUPLICATE_MM: Final = 0.01
"""Slices closer than this lie at the same position: far below any distance of slices, far above rounding."""

EVEN_STEP_TOLERANCE: Final = 0.02
"""How far a distance between slices may be from their mean, as a part of it, and still be called even."""

EVEN_ROUNDING_MM: Final = 0.02
"""The same in millimetres, whichever is larger: positions written with two decimals differ by so much."""

EVEN_POSITION_TOLERANCE: Final = 0.1
"""How far any slice may lie from where an even volume has it, in slices. Small steps must not add up."""

_MISSING_TOLERANCE: Final = 0.05
"""How far a gap may be from a whole number of slices, per slice."""

_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0])


def is_usable_place(values: Iterable[float] | None) -> bool:
    """Whether a position or direction is there and made of numbers that a patient can have."""
    return values is not None and all(abs(x) <= FARTHEST_MM for x in values)


def is_usable_length(length: float | None) -> bool:
    """Whether a length is there, positive, and one that an image can have."""
    return length is not None and SMALLEST_LENGTH_MM <= length <= FARTHEST_MM


def is_complete(frame: Frame) -> bool:
    """Whether a frame has a usable position, orientation and pixel spacing."""
    return (
        is_usable_place(frame.position)
        and is_usable_place(frame.orientation)
        and frame.spacing is not None
        and all(map(is_usable_length, frame.spacing))
    )


@dataclass(frozen=True)
class Stack:
    """Slices with one orientation and one size, ordered by their position along their normal.

    Attributes:
        frames: In that order; of equal positions, in the order of their files.
        across: Unit vector in which the column index grows.
        down: Unit vector in which the row index grows.
        corners: Centre of the first voxel of each slice, (slices, 3).
    """

    frames: tuple[Frame, ...]
    across: FloatArray
    down: FloatArray
    corners: FloatArray

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Stack:
        """Sort complete frames; the first one's orientation is taken for all."""
        directions = np.asarray(frames[0].orientation, dtype=np.float64).reshape(2, 3)
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        directions = directions / np.where(lengths > 0.0, lengths, 1.0)
        corners = np.array([frame.position for frame in frames], dtype=np.float64)
        order = np.argsort(corners @ np.cross(directions[0], directions[1]), kind="stable")
        return cls(tuple(frames[index] for index in order), directions[0], directions[1], corners[order])

    @cached_property
    def normal(self) -> FloatArray:
        """Unit vector in which the slice index grows: across x down, so that the index is right-handed."""
        normal = np.cross(self.across, self.down)
        return np.asarray(normal / max(float(np.linalg.norm(normal)), 1e-12), dtype=np.float64)

    @cached_property
    def heights(self) -> FloatArray:
        """Of each slice along the normal, from the first, in millimetres."""
        return np.asarray((self.corners - self.corners[0]) @ self.normal, dtype=np.float64)

    @cached_property
    def drift(self) -> FloatArray:
        """Shift of slices in their plane (across, down) in mm, for each mm along the normal."""
        if self.heights[-1] <= 0.0:
            return np.zeros(2)
        return np.asarray(self._shifts[-1] / self.heights[-1], dtype=np.float64)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from slice to slice and the normal."""
        return math.degrees(math.atan(float(np.linalg.norm(self.drift))))

    @property
    def stray_mm(self) -> float:
        """How far any slice lies from where the tilt alone would have shifted it."""
        return float(np.abs(self._shifts - self.heights[:, None] * self.drift).max())

    @property
    def slice_direction(self) -> FloatArray:
        """The way from slice to slice, for each millimetre along the normal."""
        return np.asarray(
            self.normal + self.drift[0] * self.across + self.drift[1] * self.down, dtype=np.float64
        )

    @property
    def _shifts(self) -> FloatArray:
        offsets = self.corners - self.corners[0]
        return np.stack([offsets @ self.across, offsets @ self.down], axis=1)

    def affine(self, slice_step: FloatArray, corner: FloatArray | None = None) -> FloatArray:
        """From (column, row, slice) to RAS+ millimetres, (4, 4).

        Args:
            slice_step: From slice to slice, LPS millimetres.
            corner: Centre of the first voxel; that of the first slice by default.
        """
        between_rows, between_columns = self.frames[0].spacing or (math.nan, math.nan)
        matrix = np.eye(4)
        lps = np.stack(
            [
                self.across * between_columns,
                self.down * between_rows,
                slice_step,
                self.corners[0] if corner is None else corner,
            ],
            axis=1,
        )
        matrix[:3] = _LPS_TO_RAS @ lps
        return matrix


def step_deviation_mm(heights: FloatArray) -> float:
    """The largest difference of a distance between neighbouring slices from their mean."""
    steps = np.diff(heights)
    return float(np.abs(steps - steps.mean()).max()) if len(steps) else 0.0


def is_even(heights: FloatArray) -> bool:
    """Whether slices lie evenly enough to be voxels of a grid.

    Example:
        >>> is_even(np.array([0.0, 2.0, 4.01, 6.0])), is_even(np.array([0.0, 2.0, 4.4, 6.0]))
        (True, False)
    """
    if len(heights) < 3:
        return True
    step = float(heights[-1] - heights[0]) / (len(heights) - 1)
    lattice = heights[0] + step * np.arange(len(heights))
    return (
        step_deviation_mm(heights) <= max(EVEN_STEP_TOLERANCE * step, EVEN_ROUNDING_MM)
        and float(np.abs(heights - lattice).max()) <= EVEN_POSITION_TOLERANCE * step
    )


def missing_slices(heights: FloatArray) -> list[tuple[int, int]]:
    """Gaps of whole slices in what is even otherwise.

    Args:
        heights: Of the slices, increasing, in millimetres.

    Returns:
        For each gap the index of the slice before it and how many slices are missing; empty where slices
        lie evenly, and where they lie so unevenly that it is not known what is missing.

    Example:
        >>> missing_slices(np.array([0.0, 2.0, 4.0, 10.0, 12.0]))
        [(2, 2)]
    """
    steps = np.diff(heights)
    if len(steps) < 2:
        return []
    usual = np.sort(steps)[(len(steps) - 1) // 2]
    wholes = np.maximum(np.round(steps / usual), 1)
    fits = np.abs(steps / usual - wholes) <= _MISSING_TOLERANCE * wholes
    if not fits.all() or (wholes == 1).sum() * 2 < len(steps):
        return []
    return [(int(index), int(wholes[index]) - 1) for index in np.flatnonzero(wholes > 1)]
