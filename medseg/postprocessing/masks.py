"""What stays of a mask: its largest component, those that are large enough; and what fills its holes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from medseg.components import (
    BoolArray,
    Connectivity,
    bounding_box,
    component_sizes,
    connected_components,
    require_connectivity,
    require_mask,
    require_spacing,
    voxels_at_least,
)

__all__ = ["fill_holes", "keep_components", "largest_component", "remove_small"]


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
    require_connectivity(connectivity, mask.ndim)
    kept = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        numbers, count = connected_components(np.ascontiguousarray(mask[box]), connectivity)
        stays = np.concatenate([[False], wanted(component_sizes(numbers, count))])
        kept[box] = stays[numbers]
    return kept
