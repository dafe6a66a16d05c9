"""Blobs by the Laplacian of Gaussian: where something round stands out, and how large it is.

T. Lindeberg, "Feature detection with automatic scale selection", IJCV 30, 1998: of a ball the Laplacian,
normalised by the square of its deviation, is extreme in the middle, at a deviation of the radius by the root
of the number of axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from medseg.components import require_spacing
from medseg.errors import ConfigError, GeometryError, InputError

__all__ = ["Blob", "find_blobs", "laplacian_of_gaussian"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blob:
    """A round thing that stands out.

    Attributes:
        index: Its middle, in voxels along each axis.
        radius_mm: Of a ball that answers as it does.
        strength: Of its answer, in units of intensity: about 0.9 of the contrast of a ball, 0.7 of a disc.
    """

    index: tuple[int, ...]
    radius_mm: float
    strength: float


def laplacian_of_gaussian(
    image: npt.NDArray[Any], sigma_mm: float, spacing_mm: Sequence[float]
) -> npt.NDArray[np.float32]:
    """The Laplacian of the smoothed image, times the square of the deviation: negative in bright blobs.

    Args:
        image: Shape (X, Y) or (X, Y, Z).
        sigma_mm: Deviation of the Gaussian.
        spacing_mm: Distance between voxels along each axis.

    Returns:
        The image's shape, in its units.

    Raises:
        GeometryError: Not one positive spacing for each axis.

    Example:
        >>> image = np.zeros((9, 9)); image[4, 4] = 1.0
        >>> round(float(laplacian_of_gaussian(image, 1.0, (1.0, 1.0)).min()), 2)
        -0.32
    """
    sigmas = [sigma_mm / length for length in require_spacing(spacing_mm, image.ndim)]
    values = np.asarray(image, np.float32)
    total = np.zeros(image.shape, np.float32)
    for axis in range(image.ndim):
        order = [2 if other == axis else 0 for other in range(image.ndim)]
        # A derivative by voxels, times the square of the deviation in voxels: units cancel.
        total += ndimage.gaussian_filter(values, sigmas, order=order) * np.float32(sigmas[axis] ** 2)
    return total


def find_blobs(
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    *,
    smallest_radius_mm: float,
    largest_radius_mm: float,
    threshold: float,
    scales: int = 6,
    blobs_are: Literal["bright", "dark"] = "bright",
    overlap: float = 0.5,
) -> list[Blob]:
    """Candidates for round structures, such as nodules, the strongest first.

    Args:
        image: Shape (X, Y) or (X, Y, Z).
        spacing_mm: Distance between voxels along each axis.
        smallest_radius_mm: Of the blobs; below the largest spacing corners of voxels are taken for blobs.
        largest_radius_mm: Of the blobs.
        threshold: The least strength, in units of intensity.
        scales: How many radii are tried, from the smallest to the largest, each by the same factor larger.
        blobs_are: Brighter or darker than what is around them.
        overlap: Of two blobs whose middles are nearer than (1 - overlap) times the sum of their radii, the
            stronger stays.

    Returns:
        Blobs at least as strong as the threshold.

    Raises:
        GeometryError: Not one positive spacing for each axis.
        InputError: Intensities are not finite.
        ConfigError: An option is out of range.

    Example:
        >>> x, y = np.mgrid[:21, :21]
        >>> disc = ((x - 8) ** 2 + (y - 12) ** 2 <= 16).astype(float)
        >>> options = {"smallest_radius_mm": 2.0, "largest_radius_mm": 8.0, "threshold": 0.2}
        >>> found = find_blobs(disc, (1.0, 1.0), scales=5, **options)
        >>> [(blob.index, round(blob.radius_mm)) for blob in found]
        [((8, 12), 4)]
    """
    spacing = require_spacing(spacing_mm, image.ndim)
    if not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinite values", fix="replace them")
    if image.ndim not in (2, 3):
        raise GeometryError(f"an image of {image.ndim} axes, (X, Y) or (X, Y, Z) is needed")
    _require_options(smallest_radius_mm, largest_radius_mm, threshold, scales, overlap)
    radii = np.geomspace(smallest_radius_mm, largest_radius_mm, scales).tolist()
    sign = -1.0 if blobs_are == "bright" else 1.0
    answers = (
        sign * laplacian_of_gaussian(image, radius / math.sqrt(image.ndim), spacing) for radius in radii
    )
    found = _peaks(answers, radii, threshold)
    return _apart(sorted(found, key=lambda blob: (-blob.strength, blob.index)), spacing, overlap)


def _require_options(smallest: float, largest: float, threshold: float, scales: int, overlap: float) -> None:
    if not 0.0 < smallest <= largest:
        raise ConfigError(
            f"no blob has a radius from {smallest} to {largest} mm", fix="give 0 < smallest <= largest"
        )
    if scales < 1 or (scales == 1 and smallest != largest):
        raise ConfigError(
            f"{scales} scales from {smallest} to {largest} mm", fix="give more scales, or one radius"
        )
    if not threshold > 0.0 or not 0.0 <= overlap < 1.0:
        raise ConfigError(
            f"threshold={threshold}, overlap={overlap}",
            fix="give a threshold above 0, an overlap from 0 to below 1",
        )


def _peaks(answers: Iterable[FloatArray], radii: Sequence[float], threshold: float) -> list[Blob]:
    """Voxels that are highest among their neighbours in space and in scale; three scales are held."""
    found: list[Blob] = []
    below: FloatArray | None = None
    here: FloatArray | None = None
    for above, radius in zip(itertools.chain(answers, [None]), [math.nan, *radii], strict=True):
        if here is not None:
            size = (3,) * here.ndim
            highest = ndimage.maximum_filter(here, size) == here
            for other in (below, above):
                if other is not None:
                    highest &= ndimage.maximum_filter(other, size) <= here
            for place in np.argwhere(highest & (here >= threshold)):
                index = tuple(int(voxel) for voxel in place)
                found.append(Blob(index, float(radius), float(here[index])))
        below, here = here, above
    return found


def _apart(found: Sequence[Blob], spacing_mm: Sequence[float], overlap: float) -> list[Blob]:
    """The strongest of those that overlap; ``found`` has them in order."""
    if not found:
        return []
    places = np.array([blob.index for blob in found]) * spacing_mm
    radii = np.array([blob.radius_mm for blob in found])
    tree = cKDTree(places)
    left = np.ones(len(found), np.bool_)
    for number in range(len(found)):
        if left[number]:
            reach = (1.0 - overlap) * (radii[number] + radii.max())
            for other in tree.query_ball_point(places[number], reach):
                near = np.linalg.norm(places[other] - places[number])
                if other > number and near < (1.0 - overlap) * (radii[number] + radii[other]):
                    left[other] = False
    return [blob for blob, stays in zip(found, left, strict=True) if stays]
