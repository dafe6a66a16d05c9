"""From stored values to what they measure (PS3.3 C.11.1): exact, in the smallest type that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.values import scaled_dtype

__all__ = ["MeasuredStack"]

_INTEGERS = tuple(np.dtype(name) for name in ("uint8", "int16", "uint16", "int32", "uint32"))
"""What integers may become; signed 16 bit goes before unsigned, since more programs read it."""

_LARGEST_FACTOR = 2**20
"""With whole slopes and intercepts below it, 32-bit values stay exact in float64; others are not met."""


class MeasuredStack:
    """Planes gathered one by one into an array of measured values, ``slope * stored + intercept``.

    Where all slopes and intercepts are whole numbers, values stay integers: of the size that they are stored
    in wherever they fit, whether signed or not, else of the next. Otherwise they are float32, or float64
    where that is needed to keep stored values apart.

    Args:
        slopes: RescaleSlope of each plane.
        intercepts: RescaleIntercept of each plane.
        rows: Voxels along a column.
        columns: Voxels along a row.

    Example:
        >>> stack = MeasuredStack([1.0], [-1024.0], 1, 2)
        >>> stack.put(0, np.array([[0, 4095]], np.uint16))
        >>> stack.finished()
        array([[[-1024,  3071]]], dtype=int16)
    """

    def __init__(self, slopes: Sequence[float], intercepts: Sequence[float], rows: int, columns: int) -> None:
        self._slopes = slopes
        self._intercepts = intercepts
        self._shape = (len(slopes), rows, columns)
        self._whole = all(
            value.is_integer() and abs(value) < _LARGEST_FACTOR for value in {*slopes, *intercepts}
        )
        self._values = np.empty(0)
        self._low, self._high = 0, 0

    def put(self, index: int, plane: npt.NDArray[Any]) -> None:
        """Take in one plane of stored values, shape (rows, columns)."""
        as_integers = self._whole and plane.dtype.kind in "iu"
        slope, intercept = self._slopes[index], self._intercepts[index]
        needed = plane.dtype if as_integers else scaled_dtype(plane.dtype, slope, intercept)
        if self._values.size == 0:
            self._values = np.empty(self._shape, needed)
        elif not np.can_cast(needed, self._values.dtype):  # slices of one series stored in different ways
            self._values = self._values.astype(np.promote_types(needed, self._values.dtype))
        if not as_integers:
            plain = (slope, intercept) == (1.0, 0.0)
            self._values[index] = plane if plain else plane.astype(np.float64) * slope + intercept
            return
        ends = [int(slope) * int(end) + int(intercept) for end in (plane.min(), plane.max())]
        self._low, self._high = min(self._low, *ends), max(self._high, *ends)
        self._values[index] = plane

    def finished(self) -> npt.NDArray[Any]:
        """All planes' values: shape (slices, rows, columns). The stack must not be used afterwards."""
        stored = self._values
        if stored.dtype.kind == "f" or not self._whole:
            return stored
        target = next(
            (kind for kind in _INTEGERS if kind.itemsize >= stored.dtype.itemsize and self._fits(kind)),
            np.dtype(np.float64),
        )
        in_place = target.itemsize == stored.dtype.itemsize and target.kind != "f"
        measured = stored.view(target) if in_place else np.empty(self._shape, target)
        for index, plane in enumerate(measured):
            if not in_place:
                plane[...] = stored[index]
            # Whole numbers of 16 bits are exact modulo 2^16 on the way, where the result fits into 16 bits.
            slope, intercept = np.array([self._slopes[index], self._intercepts[index]], np.int64).astype(
                target
            )
            if slope != 1:
                plane *= slope
            if intercept != 0:
                plane += intercept
        return measured

    def _fits(self, kind: np.dtype[Any]) -> bool:
        limits = np.iinfo(kind)
        return bool(limits.min <= self._low and self._high <= limits.max)
