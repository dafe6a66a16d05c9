"""Links between neighbouring voxels: weak where the intensity changes, calibrated to areas in millimetres.

The weights by direction are those of Y. Boykov, V. Kolmogorov, "Computing geodesics and minimal surfaces
via graph cuts", ICCV 2003: what a surface cuts costs its area, by the Cauchy-Crofton formula, whatever the
voxels' size and whichever neighbours are linked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import SphericalVoronoi

from medseg.components import Connectivity, require_connectivity, require_spacing
from medseg.errors import ConfigError, GeometryError, InputError

__all__ = ["Direction", "as_channels", "intensity_step", "link_directions", "link_weights", "linked"]

FloatArray = npt.NDArray[np.float32]
Part = tuple[slice, ...]


class Direction(NamedTuple):
    """Where a voxel is linked to.

    Attributes:
        step: Voxels along each axis.
        area: Of a surface that cuts the link, in mm² for each mm³ of a voxel.
    """

    step: tuple[int, ...]
    area: float


def link_directions(spacing_mm: Sequence[float], connectivity: Connectivity = "faces") -> list[Direction]:
    """The neighbours that a voxel is linked to, each pair once.

    Args:
        spacing_mm: Distance between voxels along each of two or three axes.
        connectivity: Neighbours that share a face, an edge or a corner. More of them measure slanted surfaces
            better: a plane's area is off by up to 33 % and 15 % with faces, by 6 % with corners.

    Raises:
        GeometryError: Not one positive spacing for each axis.
        ConfigError: The connectivity is unknown.

    Example:
        >>> [(way.step, round(way.area, 3)) for way in link_directions((1.0, 1.0, 4.0))]
        [((0, 0, 1), 0.167), ((0, 1, 0), 0.667), ((1, 0, 0), 0.667)]
    """
    axes = len(spacing_mm)
    if axes not in (2, 3):
        raise GeometryError(f"{axes} axes, 2 or 3 are needed", where="spacing_mm")
    spacing = require_spacing(spacing_mm, axes)
    reach = require_connectivity(connectivity, axes)
    steps = [
        step
        for step in itertools.product((-1, 0, 1), repeat=axes)
        if step > (0,) * axes and np.count_nonzero(step) <= reach
    ]
    vectors = np.asarray(steps) * spacing
    lengths = np.linalg.norm(vectors, axis=1)
    angles = _angles(vectors / lengths[:, np.newaxis])
    # Lines of all directions cross a surface twice (in the plane), or pi times (in space), its measure.
    crossings = 2.0 if axes == 2 else math.pi
    areas = angles / (crossings * lengths)
    return [Direction(step, float(area)) for step, area in zip(steps, areas, strict=True)]


def _angles(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much of all directions is nearest to each of these, or to its opposite."""
    count, axes = directions.shape
    if axes == 3:
        sphere = SphericalVoronoi(np.concatenate([directions, -directions]))
        return np.asarray(sphere.calculate_areas()[:count])
    angle = np.arctan2(directions[:, 1], directions[:, 0]) % math.pi
    order = np.argsort(angle)
    turned = angle[order]
    after = np.append(turned[1:], turned[0] + math.pi) - turned
    angles = np.empty(count)
    angles[order] = (after + np.roll(after, 1)) / 2.0
    return angles


def linked(step: Sequence[int]) -> tuple[Part, Part]:
    """Slices of all voxels that have a neighbour one step away, and of those neighbours."""
    here = tuple(slice(max(0, -way), -way if way > 0 else None) for way in step)
    there = tuple(slice(max(0, way), way if way < 0 else None) for way in step)
    return here, there


def link_weights(image: npt.NDArray[Any], way: Direction, contrast: float | None) -> FloatArray:
    """The weights of all links in one direction.

    A link weighs its area times exp(-d² / (2 contrast²)), where d is the difference in intensity across it in
    units of the direction's root mean square, and of several channels d² is the mean.

    Args:
        image: Shape (C, X, Y) or (C, X, Y, Z).
        way: The direction.
        contrast: How many usual differences make a border likely; ``None``: intensities do not count.

    Returns:
        One weight for each voxel that has a neighbour there.
    """
    here, there = linked(way.step)
    exponent = np.zeros(image[0][here].shape, np.float32)
    if contrast is not None:
        for channel in image:
            squares = (channel[there].astype(np.float32) - channel[here]) ** 2
            usual = float(squares.mean(dtype=np.float64)) if squares.size else 0.0
            if usual > 0.0:
                squares *= np.float32(-0.5 / (contrast**2 * usual * len(image)))
                exponent += squares
    np.exp(exponent, out=exponent)
    exponent *= np.float32(way.area)
    return exponent


def intensity_step(image: npt.NDArray[Any]) -> list[float]:
    """Root mean square of the differences between neighbours that share a face, by channel.

    Args:
        image: Shape (C, X, Y) or (C, X, Y, Z).

    Example:
        >>> intensity_step(np.array([[[0.0, 3.0], [4.0, 7.0]]]))
        [3.5355339059327378]
    """
    found = []
    for channel in image:
        total, count = 0.0, 0
        for axis in range(channel.ndim):
            squares = np.diff(channel.astype(np.float32, copy=False), axis=axis) ** 2
            total += float(squares.sum(dtype=np.float64))
            count += squares.size
        found.append(math.sqrt(total / count) if count else 0.0)
    return found


def as_channels(
    image: npt.NDArray[Any], scores: npt.NDArray[Any], spacing_mm: Sequence[float]
) -> npt.NDArray[Any]:
    """The image with a channel axis, when it fits the class scores.

    Args:
        image: Shape (X, Y[, Z]) or (C, X, Y[, Z]).
        scores: Shape (K, X, Y[, Z]).
        spacing_mm: Distance between voxels along each axis.

    Raises:
        GeometryError: Shapes or spacing do not fit.
        ConfigError: There are fewer than two classes.
        InputError: Something is not finite.
    """
    shape = scores.shape[1:]
    require_spacing(spacing_mm, len(shape))
    if len(scores) < 2:
        raise ConfigError(f"scores of {len(scores)} classes, two at least are needed")
    channels = image[np.newaxis] if image.ndim == len(shape) else image
    if channels.shape[1:] != shape:
        raise GeometryError(f"image {image.shape} and scores {scores.shape} differ in shape")
    for name, array in (("image", channels), ("scores", scores)):
        if not all(np.isfinite(part).all() for part in array):
            raise InputError(f"the {name} holds NaN or infinite values", fix="replace them")
    return channels
