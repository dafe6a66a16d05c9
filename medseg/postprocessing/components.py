"""Connected components of masks: the largest, those that are large enough, and holes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    "fill_holes",
    "keep_components",
    "largest_component",
    "remove_small",
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
    neighbours = ndimage.generate_binary_structure(mask.ndim, _shared(connectivity, mask.ndim))
    numbers = np.empty(mask.shape, np.int32)
    count = int(ndimage.label(mask, neighbours, output=numbers))
    return numbers, count


def largest_component(mask: BoolArray, connectivity: Connectivity = "faces") -> BoolArray:
    """Keep the component that has most voxels; of equal ones, the first.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).
        connectivity: Which neighbours belong together.

    Raises:
        InputError, GeometryError, ConfigError: As ``connected_components``.

    Example:
        >>> largest_component(np.array([[True, False, True, True]])).tolist()
        [[False, False, True, True]]
    """
    return keep_components(mask, connectivity, lambda sizes: np.arange(sizes.size) == sizes.argmax())


def remove_small(
    mask: BoolArray,
    spacing_mm: Sequence[float],
    smallest_volume_ml: float,
    connectivity: Connectivity = "faces",
) -> BoolArray:
    """Drop components of less than a volume.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).
        spacing_mm: Distance between voxels along each axis; in 2D, an image is taken for 1 mm thick.
        smallest_volume_ml: The smallest that stays.
        connectivity: Which neighbours belong together.

    Raises:
        GeometryError: Not one positive spacing for each axis, or as ``connected_components``.
        InputError, ConfigError: As ``connected_components``.

    Example:
        >>> mask = np.array([[[True, False, True, True]]])
        >>> remove_small(mask, (10.0, 10.0, 5.0), smallest_volume_ml=1.0).tolist()
        [[[False, False, True, True]]]
    """
    require_mask(mask)
    smallest = voxels_at_least(smallest_volume_ml, require_spacing(spacing_mm, mask.ndim))
    return keep_components(mask, connectivity, lambda sizes: sizes >= smallest)


def fill_holes(mask: BoolArray) -> BoolArray:
    """Fill what the mask encloses: outside voxels from which no way over faces leads to the image's edge.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).

    Raises:
        InputError: The mask is not boolean.
        GeometryError: It has neither two nor three axes.

    Example:
        >>> ring = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=bool)
        >>> fill_holes(ring).astype(int).tolist()
        [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    """
    require_mask(mask)
    filled = mask.copy()
    box = bounding_box(mask)
    if box is not None:
        inside = np.ascontiguousarray(mask[box])
        numbers, count = connected_components(~inside)
        # The box fits tightly, so what reaches its surface goes on outside of it, or leaves the image.
        is_open = np.zeros(count + 1, np.bool_)
        for axis in range(mask.ndim):
            for side in (0, -1):
                is_open[numbers.take(side, axis)] = True
        is_open[0] = True
        filled[box] = inside | ~is_open[numbers]
    return filled


def keep_components(
    mask: BoolArray, connectivity: Connectivity, wanted: Callable[[npt.NDArray[np.int64]], BoolArray]
) -> BoolArray:
    """Keep components by their sizes.

    Args:
        mask: Shape (X, Y) or (X, Y, Z).
        connectivity: Which neighbours belong together.
        wanted: From the components' sizes in voxels to which of them stay.
    """
    require_mask(mask)
    _shared(connectivity, mask.ndim)
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        numbers, count = connected_components(np.ascontiguousarray(mask[box]), connectivity)
        stays = np.concatenate([[False], wanted(component_sizes(numbers, count))])
        kept[box] = stays[numbers]
    return kept


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
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        held = np.flatnonzero(mask.any(axis=others))
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


def _shared(connectivity: str, axes: int) -> int:
    """Along how many axes neighbours may differ.

    Raises:
        ConfigError: The connectivity is unknown.
    """
    if connectivity not in _SHARED:
        raise ConfigError(f"unknown connectivity '{connectivity}'", fix="use faces, edges or corners")
    return min(_SHARED[connectivity], axes)


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
        raise GeometryError(f"spacing_mm {spacing} is not one positive length for each of {axes} axes")
    return spacing
