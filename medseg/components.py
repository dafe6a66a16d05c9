"""Masks, and their connected components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.errors import ConfigError, GeometryError, InputError

__all__ = [
    "BoolArray",
    "Box",
    "Connectivity",
    "bounding_box",
    "component_sizes",
    "connected_components",
    "require_connectivity",
    "require_mask",
    "require_spacing",
    "voxels_at_least",
]

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Box: TypeAlias = tuple[slice, ...]
Connectivity: TypeAlias = Literal["faces", "edges", "corners"]
"""Voxels belong together that share a face, an edge or a corner (in 3D: 6, 18 and 26 neighbours)."""

_SHARED = {"faces": 1, "edges": 2, "corners": 3}
_CUBIC_MM_PER_ML = 1000.0
_ROUNDING = 1e-9
_COUNTED_AT_A_TIME = 1 << 18


def connected_components(
    mask: BoolArray, connectivity: Connectivity = "faces"
) -> tuple[npt.NDArray[np.int32], int]:
    """Number the connected components of a mask.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).
        connectivity: Which neighbours belong together.

    Returns:
        The number of each voxel's component, 0 outside, and how many there are; they are numbered in the
        order of their first voxels, the last axis running fastest.

    Raises:
        InputError: The mask is not boolean.
        GeometryError: It has neither two nor three axes.
        ConfigError: The connectivity is unknown.

    Example:
        >>> numbers, count = connected_components(np.array([[True, True, False, True]]))
        >>> numbers.tolist(), count
        ([[1, 1, 0, 2]], 2)
    """
    require_mask(mask)
    neighbours = ndimage.generate_binary_structure(mask.ndim, require_connectivity(connectivity, mask.ndim))
    numbers = np.empty(mask.shape, np.int32)
    count = int(ndimage.label(mask, neighbours, output=numbers))
    return numbers, count


def component_sizes(numbers: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """Voxels of components 1 to ``count``."""
    flat = numbers.ravel(order="K")  # in memory's order, so that nothing is copied
    sizes = np.zeros(count + 1, np.int64)
    for start in range(0, flat.size, _COUNTED_AT_A_TIME):  # bincount makes eight bytes of each voxel
        sizes += np.bincount(flat[start : start + _COUNTED_AT_A_TIME], minlength=count + 1)
    return sizes[1:]


def bounding_box(mask: BoolArray) -> Box | None:
    """The smallest box that holds a mask; ``None`` if it is empty.

    Example:
        >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
        (slice(1, 2, None), slice(1, 3, None))
    """
    box: list[slice] = []
    for axis in range(mask.ndim):
        # Each axis is looked at within what the axes before it have left.
        part = mask[tuple(box)]
        others = tuple(other for other in range(mask.ndim) if other != axis)
        held = np.flatnonzero(part.any(axis=others))
        if held.size == 0:
            return None
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(box)


def voxels_at_least(smallest_volume_ml: float, spacing_mm: Sequence[float]) -> int:
    """The least number of voxels that make a volume.

    Example:
        >>> voxels_at_least(0.003, (1.0, 1.0, 1.0)), voxels_at_least(0.0031, (1.0, 1.0, 1.0))
        (3, 4)
    """
    voxels = smallest_volume_ml * _CUBIC_MM_PER_ML / math.prod(spacing_mm)
    return math.ceil(voxels * (1.0 - _ROUNDING))


def require_mask(mask: npt.NDArray[np.bool_]) -> None:
    """Refuse what is no mask in 2D or 3D.

    Raises:
        InputError: It is not boolean.
        GeometryError: It has neither two nor three axes.
    """
    if mask.dtype != np.bool_:
        raise InputError(f"a mask of type {mask.dtype.name}, booleans are needed", fix="compare it first")
    if mask.ndim not in (2, 3):
        raise GeometryError(f"a mask of {mask.ndim} axes, (X, Y) or (X, Y, Z) is needed")


def require_spacing(spacing_mm: Sequence[float], axes: int) -> tuple[float, ...]:
    """Spacing along each axis, checked.

    Raises:
        GeometryError: Not one positive spacing for each axis.
    """
    spacing = tuple(float(length) for length in spacing_mm)
    if len(spacing) != axes or not all(math.isfinite(length) and length > 0.0 for length in spacing):
        raise GeometryError(
            f"{spacing} is no spacing of {axes} axes",
            where="spacing_mm",
            fix="give one positive length for each axis, in millimetres",
        )
    return spacing


def require_connectivity(connectivity: str, axes: int) -> int:
    """Along how many axes neighbours may differ, in a mask of so many axes.

    Raises:
        ConfigError: The connectivity is unknown.
    """
    if connectivity not in _SHARED:
        raise ConfigError(f"unknown connectivity '{connectivity}'", fix="use faces, edges or corners")
    return min(_SHARED[connectivity], axes)
