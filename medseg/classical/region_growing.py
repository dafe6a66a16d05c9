"""Region growing from seeds: neighbours join whose intensity fits.

The two ways are those of ITK's ConnectedThreshold and ConfidenceConnected filters, here with distances in
millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import (
    BoolArray,
    Connectivity,
    connected_components,
    require_connectivity,
    require_mask,
    require_spacing,
)
from medseg.errors import ConfigError, GeometryError, InputError

__all__ = ["ball", "confidence_region", "grow_region"]


def grow_region(
    image: npt.NDArray[Any],
    seeds: BoolArray,
    low: float,
    high: float,
    *,
    spacing_mm: Sequence[float],
    farthest_mm: float | None = None,
    connectivity: Connectivity = "faces",
) -> BoolArray:
    """All voxels of an intensity within bounds that hang together with a seed.

    Args:
        image: Shape (X, Y) or (X, Y, Z).
        seeds: Where to start, same shape; seeds out of bounds do not count.
        low: The least intensity.
        high: The greatest.
        spacing_mm: Distance between voxels along each axis.
        farthest_mm: How far from the nearest seed a voxel may lie, straight through anything; any distance
            if left out.
        connectivity: Neighbours that hang together: those that share a face, an edge or a corner.

    Returns:
        The region, the image's shape; empty if no seed is within bounds.

    Raises:
        GeometryError: Shapes or spacing do not fit.
        InputError: Intensities are not finite, or there is no seed.
        ConfigError: Bounds or options are out of range.

    Example:
        >>> image = np.array([[5, 6, 9, 6, 5]])
        >>> seeds = np.array([[True, False, False, False, False]])
        >>> grow_region(image, seeds, 4, 7, spacing_mm=(1.0, 1.0)).tolist()
        [[True, True, False, False, False]]
    """
    spacing = _checked(image, seeds, spacing_mm)
    if not low <= high:
        raise ConfigError(f"no intensity lies from {low} to {high}", fix="give the lower bound first")
    allowed = (image >= low) & (image <= high)
    if farthest_mm is not None:
        if not farthest_mm >= 0.0:
            raise ConfigError(f"farthest_mm={farthest_mm} is no distance", fix="give a number from 0")
        # A rounding of the distance's last digit shall not decide.
        allowed &= ndimage.distance_transform_edt(~seeds, spacing) <= farthest_mm * (1.0 + 1e-9)
    numbers, count = connected_components(allowed, connectivity)
    reached = np.zeros(count + 1, np.bool_)
    reached[numbers[seeds]] = True
    reached[0] = False
    return np.asarray(reached[numbers])


def confidence_region(
    image: npt.NDArray[Any],
    seeds: BoolArray,
    *,
    spacing_mm: Sequence[float],
    radius_mm: float | None = None,
    deviations: float = 2.5,
    iterations: int = 4,
    farthest_mm: float | None = None,
    connectivity: Connectivity = "faces",
) -> BoolArray:
    """Grow a region whose bounds follow from its own mean and standard deviation, again and again.

    The first bounds are those of a ball around each seed; each iteration then takes mean and deviation of the
    region that it has grown.

    Args:
        image: Shape (X, Y) or (X, Y, Z).
        seeds: Where to start, same shape.
        spacing_mm: Distance between voxels along each axis.
        radius_mm: Of the first balls; the largest spacing if left out.
        deviations: Bounds lie this many standard deviations around the mean.
        iterations: How often the region is grown anew from its own statistics; it ends sooner if nothing
            changes.
        farthest_mm: See :func:`grow_region`.
        connectivity: See :func:`grow_region`.

    Returns:
        The region, the image's shape.

    Raises:
        GeometryError, InputError, ConfigError: As :func:`grow_region`.

    Example:
        >>> image = np.array([[10.0, 10.5, 9.5, 10.2, 30.0, 10.0]])
        >>> seeds = np.array([[False, True, False, False, False, False]])
        >>> confidence_region(image, seeds, spacing_mm=(1.0, 1.0)).tolist()
        [[True, True, True, True, False, False]]
    """
    spacing = _checked(image, seeds, spacing_mm)
    radius = max(spacing) if radius_mm is None else radius_mm
    if not radius >= 0.0 or not deviations > 0.0 or iterations < 0:
        raise ConfigError(
            f"radius_mm={radius}, deviations={deviations}, iterations={iterations}",
            fix="give numbers from 0, and a positive number of deviations",
        )
    members = ndimage.binary_dilation(seeds, ball(radius, spacing)) if radius > 0.0 else seeds
    values = image[members]
    region = np.zeros(image.shape, np.bool_)
    for _ in range(iterations + 1):
        mean, spread = (
            float(values.mean(dtype=np.float64)),
            float(values.std(dtype=np.float64, ddof=_ddof(values))),
        )
        # Seeds are of the region whatever their intensity: bounds are widened to hold them.
        low = min(mean - deviations * spread, float(image[seeds].min()))
        high = max(mean + deviations * spread, float(image[seeds].max()))
        grown = grow_region(
            image, seeds, low, high, spacing_mm=spacing, farthest_mm=farthest_mm, connectivity=connectivity
        )
        if np.array_equal(grown, region):
            break
        region = grown
        values = image[region]
    return region


def ball(radius_mm: float, spacing_mm: Sequence[float]) -> BoolArray:
    """The voxels within a radius of the one in the middle.

    Example:
        >>> ball(1.0, (1.0, 0.5)).astype(int).tolist()
        [[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]
    """
    reach = [int(radius_mm / length * (1.0 + 1e-9)) for length in spacing_mm]
    places = np.ogrid[tuple(slice(-voxels, voxels + 1) for voxels in reach)]
    squares = sum((place * length) ** 2 for place, length in zip(places, spacing_mm, strict=True))
    return np.asarray(squares <= (radius_mm * (1.0 + 1e-9)) ** 2)


def _ddof(values: npt.NDArray[Any]) -> int:
    """One voxel deviates by nothing."""
    return 1 if values.size > 1 else 0


def _checked(image: npt.NDArray[Any], seeds: BoolArray, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    require_mask(seeds)
    if image.shape != seeds.shape:
        raise GeometryError(f"image {image.shape} and seeds {seeds.shape} differ in shape")
    if not seeds.any():
        raise InputError("there is no seed", fix="mark a voxel at least")
    if not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinite values", fix="replace them")
    require_connectivity("faces", image.ndim)
    return require_spacing(spacing_mm, image.ndim)
