"""Distances between surfaces: Hausdorff and its percentiles, average symmetric and normalised distance.

Two surfaces to choose from. ``"area"``: marching cubes between the voxels' centres, each element weighed by
its area in mm^2 (in 2D, by its length in mm), as Nikolov 2018 (arXiv:1809.04430) and the surface-distance
package define it. ``"voxels"``: the outermost voxels of each mask, all of the same weight, as MONAI defines
it. Beyond the image is outside, so a structure that the image cuts off has a surface there. Distances run
from an element to the nearest element of the other surface, and are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.components import bounding_box, require_spacing
from medseg.errors import ConfigError, GeometryError, InputError, did_you_mean
from medseg.labels import BACKGROUND, LabelScheme
from medseg.metrics.surface_boxes import boxes_of_labels, union
from medseg.metrics.surface_elements import boundary_voxels, cell_codes, element_areas
from medseg.metrics.surface_nearest import DirectedDistances, distances_between

__all__ = [
    "DirectedDistances",
    "SurfaceDistances",
    "SurfaceKind",
    "SurfaceScore",
    "surface_distances",
    "surface_metrics",
    "surface_metrics_of_labels",
]

SurfaceKind = Literal["area", "voxels"]
"""What the elements of a surface are, and what they weigh."""

Mask = npt.NDArray[np.bool_]

_KINDS = ("area", "voxels")
_ROUNDING = 1e-10
"""Of a surface's area: sums of areas that should be equal differ by less."""


@dataclass(frozen=True)
class SurfaceDistances:
    """How far two surfaces are from each other, everywhere.

    Attributes:
        pred_to_ref: From the prediction's surface to the reference's.
        ref_to_pred: From the reference's surface to the prediction's.
        surface: What the surfaces are made of.
    """

    pred_to_ref: DirectedDistances
    ref_to_pred: DirectedDistances
    surface: SurfaceKind = "area"

    @property
    def is_defined(self) -> bool:
        """Whether there are two surfaces, and so distances between them."""
        return all(len(there.mm) and math.isfinite(there.mm[-1]) for there in self._directions)

    def hausdorff_mm(self, percentile: float = 100.0) -> float:
        """The larger of the two directed distances that a percentage of each surface keeps.

        Of areas, the smallest distance that at least this percentage of the surface does not exceed; of
        voxels, interpolated between two of them, as ``numpy.percentile`` does it.

        Args:
            percentile: 0 to 100; 100 is the Hausdorff distance itself.

        Returns:
            NaN unless both surfaces exist.

        Raises:
            ConfigError: Not a percentage.
        """
        _check_percentile(percentile)
        if not self.is_defined:
            return math.nan
        keep = _area_percentile if self.surface == "area" else _count_percentile
        return max(keep(there, percentile) for there in self._directions)

    def directed_means_mm(self) -> tuple[float, float]:
        """The mean distance from prediction to reference, and from reference to prediction; NaN likewise."""
        if not self.is_defined:
            return math.nan, math.nan
        ahead, back = (float(there.mm @ there.area / there.area.sum()) for there in self._directions)
        return ahead, back

    def assd_mm(self) -> float:
        """Average symmetric surface distance: the mean over both surfaces together (Heimann 2009).

        Returns:
            NaN unless both surfaces exist.
        """
        if not self.is_defined:
            return math.nan
        total = sum(float(there.mm @ there.area) for there in self._directions)
        return total / sum(float(there.area.sum()) for there in self._directions)

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface distance: the part of both surfaces within a tolerance of the other.

        Args:
            tolerance_mm: DirectedDistances up to and including it are tolerated.

        Returns:
            0 to 1; 0 where only one of the surfaces exists, NaN where neither does.

        Raises:
            ConfigError: The tolerance is negative or not finite.
        """
        _check_tolerance(tolerance_mm)
        total = sum(float(there.area.sum()) for there in self._directions)
        within = sum(float(there.area[there.mm <= tolerance_mm].sum()) for there in self._directions)
        return within / total if total else math.nan

    @property
    def _directions(self) -> tuple[DirectedDistances, DirectedDistances]:
        return self.pred_to_ref, self.ref_to_pred


@dataclass(frozen=True)
class SurfaceScore:
    """How far the surfaces of a prediction and of its reference are apart, in a few numbers.

    Attributes:
        hd_mm: Hausdorff distance. NaN unless ``status`` is ``"ok"``, as all distances.
        hd95_mm: The percentile of it that was asked for, 95 unless said otherwise.
        assd_mm: Average symmetric surface distance.
        nsd: Normalised surface distance at the tolerance that was asked for, 0 to 1; 0 where the structure
            is missed or spurious, NaN where it is absent.
        status: ``"ok"`` in both masks, ``"missed"`` in the reference alone, ``"spurious"`` in the prediction
            alone, ``"absent"`` in neither.
    """

    hd_mm: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    status: Literal["ok", "missed", "spurious", "absent"]


def surface_distances(
    pred: Mask, ref: Mask, spacing_mm: Sequence[float], *, surface: SurfaceKind = "area"
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Args:
        pred: The prediction, boolean, shape (X, Y) or (X, Y, Z).
        ref: The reference, boolean, of the same shape.
        spacing_mm: Between voxel centres, one for each axis, in millimetres.
        surface: ``"area"`` or ``"voxels"``.

    Raises:
        InputError: A mask is not boolean.
        GeometryError: The shapes differ, are not 2D or 3D, or do not fit the spacing.
        ConfigError: There is no such kind of surface.

    Example:
        >>> one, other = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
        >>> one[2:4, 2:4] = other[2:4, 5:7] = True
        >>> distances = surface_distances(one, other, (1.0, 2.0))
        >>> distances.hausdorff_mm(), distances.nsd(tolerance_mm=6.0)
        (6.0, 1.0)
    """
    for name, mask in (("pred", pred), ("ref", ref)):
        if mask.dtype != np.bool_:
            raise InputError(f"holds {mask.dtype}, a mask is boolean", where=name, fix="compare with a label")
    spacing = _checked_spacing(pred, ref, spacing_mm)
    _check_kind(surface)
    box = union(bounding_box(pred), bounding_box(ref))
    return _measure(None if box is None else (pred[box], ref[box]), spacing, surface)


def surface_metrics(
    pred: Mask,
    ref: Mask,
    spacing_mm: Sequence[float],
    *,
    percentile: float = 95.0,
    tolerance_mm: float = 1.0,
    surface: SurfaceKind = "area",
) -> SurfaceScore:
    """Score the surface of a mask against the reference's.

    Args:
        pred: The prediction, boolean, shape (X, Y) or (X, Y, Z).
        ref: The reference, boolean, of the same shape.
        spacing_mm: Between voxel centres, one for each axis, in millimetres.
        percentile: Of ``hd95_mm``, 0 to 100.
        tolerance_mm: Of ``nsd``.
        surface: ``"area"`` or ``"voxels"``.

    Raises:
        InputError: A mask is not boolean.
        GeometryError: The shapes differ, are not 2D or 3D, or do not fit the spacing.
        ConfigError: An option is out of its range.

    Example:
        >>> ref = np.zeros((8, 8, 8), bool)
        >>> ref[2:5, 2:5, 2:5] = True
        >>> score = surface_metrics(np.roll(ref, 1, axis=0), ref, (1.5, 1.0, 1.0))
        >>> score.hd_mm, score.status
        (1.5, 'ok')
    """
    _check_percentile(percentile)
    _check_tolerance(tolerance_mm)
    distances = surface_distances(pred, ref, spacing_mm, surface=surface)
    return _score(distances, percentile, tolerance_mm)


def surface_metrics_of_labels(
    pred: npt.NDArray[Any],
    ref: npt.NDArray[Any],
    labels: LabelScheme | Sequence[int],
    spacing_mm: Sequence[float],
    *,
    percentile: float = 95.0,
    tolerance_mm: float = 1.0,
    surface: SurfaceKind = "area",
) -> dict[int, SurfaceScore]:
    """Score the surfaces of all structures of a label map, each within its own bounding box.

    Args:
        pred: Label values of the prediction, shape (X, Y) or (X, Y, Z).
        ref: Label values of the reference, of the same shape.
        labels: The classes, or the values of the foreground. Whatever else the maps hold is outside.
        spacing_mm: Between voxel centres, one for each axis, in millimetres.
        percentile: Of ``hd95_mm``, 0 to 100.
        tolerance_mm: Of ``nsd``.
        surface: ``"area"`` or ``"voxels"``.

    Returns:
        A score for each value of the foreground, in the order of ``labels``.

    Raises:
        InputError: A map holds no numbers.
        GeometryError: The shapes differ, are not 2D or 3D, or do not fit the spacing.
        ConfigError: An option is out of its range.

    Example:
        >>> ref = np.zeros((6, 6, 6), np.int16)
        >>> ref[1:3, 1:5, 1:5], ref[3:5, 1:5, 1:5] = 7, 300
        >>> scores = surface_metrics_of_labels(np.where(ref == 7, 7, 0), ref, [7, 300], (1.0, 1.0, 1.0))
        >>> scores[7].nsd, scores[300].nsd, scores[300].status
        (1.0, 0.0, 'missed')
    """
    for name, array in (("pred", pred), ("ref", ref)):
        if array.dtype.kind not in "biuf":
            raise InputError(f"holds {array.dtype}, no label values", where=name, fix="give numbers")
    spacing = _checked_spacing(pred, ref, spacing_mm)
    _check_kind(surface)
    _check_percentile(percentile)
    _check_tolerance(tolerance_mm)
    values = labels.values if isinstance(labels, LabelScheme) else [int(value) for value in labels]
    values = [value for value in dict.fromkeys(values) if value != BACKGROUND]
    boxes = zip(boxes_of_labels(pred, values), boxes_of_labels(ref, values), strict=True)
    scores = {}
    for value, (pred_box, ref_box) in zip(values, boxes, strict=True):
        box = union(pred_box, ref_box)
        masks = None if box is None else (pred[box] == value, ref[box] == value)
        scores[value] = _score(_measure(masks, spacing, surface), percentile, tolerance_mm)
    return scores


def _measure(
    pred_and_ref: tuple[Mask, Mask] | None, spacing_mm: tuple[float, ...], surface: SurfaceKind
) -> SurfaceDistances:
    """Between masks that are cropped already; nothing where both are empty."""
    if pred_and_ref is None:
        nothing = DirectedDistances(np.empty(0), np.empty(0))
        return SurfaceDistances(nothing, nothing, surface)
    # The axis that lies densest in memory goes last, whichever that is: the distances do not change.
    strides = pred_and_ref[1].strides
    axes = sorted(range(len(strides)), key=lambda axis: abs(strides[axis]), reverse=True)
    pred, ref = (np.ascontiguousarray(mask.transpose(axes)) for mask in pred_and_ref)
    spacing = tuple(spacing_mm[axis] for axis in axes)
    if surface == "area":
        areas, elements_of = element_areas(spacing), cell_codes
    else:
        areas, elements_of = np.array([0.0, 1.0]), boundary_voxels
    ahead, back = distances_between(elements_of(pred), elements_of(ref), areas, spacing)
    return SurfaceDistances(ahead, back, surface)


def _score(distances: SurfaceDistances, percentile: float, tolerance_mm: float) -> SurfaceScore:
    in_pred, in_ref = (len(there.mm) > 0 for there in (distances.pred_to_ref, distances.ref_to_pred))
    return SurfaceScore(
        hd_mm=distances.hausdorff_mm(),
        hd95_mm=distances.hausdorff_mm(percentile),
        assd_mm=distances.assd_mm(),
        nsd=distances.nsd(tolerance_mm),
        status=("ok" if in_ref else "spurious") if in_pred else ("missed" if in_ref else "absent"),
    )


def _area_percentile(there: DirectedDistances, percentile: float) -> float:
    up_to = np.cumsum(there.area)
    asked = (percentile / 100 - _ROUNDING) * up_to[-1]
    return float(there.mm[np.searchsorted(up_to, asked)] if percentile < 100 else there.mm[-1])


def _count_percentile(there: DirectedDistances, percentile: float) -> float:
    up_to = np.cumsum(there.area)
    rank = percentile / 100 * (up_to[-1] - 1)
    low = math.floor(rank)
    last = len(up_to) - 1
    at_low, at_high = (there.mm[min(np.searchsorted(up_to, i, side="right"), last)] for i in (low, low + 1))
    return float(at_low + (at_high - at_low) * (rank - low))


def _checked_spacing(
    pred: npt.NDArray[Any], ref: npt.NDArray[Any], spacing_mm: Sequence[float]
) -> tuple[float, ...]:
    if pred.shape != ref.shape:
        raise GeometryError(
            f"shape {pred.shape} of the prediction is not the reference's {ref.shape}",
            fix="compare masks of the same image",
        )
    if ref.ndim not in (2, 3):
        raise GeometryError(f"has {ref.ndim} axes, surfaces need 2 or 3", where="ref", fix="give one image")
    return require_spacing(spacing_mm, ref.ndim)


def _check_kind(surface: str) -> None:
    if surface not in _KINDS:
        raise ConfigError(
            f"unknown kind of surface '{surface}'", where="surface", fix=did_you_mean(surface, _KINDS)
        )


def _check_percentile(percentile: float) -> None:
    if not 0 <= percentile <= 100:
        raise ConfigError(f"{percentile} is not a percentile", where="percentile", fix="give one of 0 to 100")


def _check_tolerance(tolerance_mm: float) -> None:
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(
            f"{tolerance_mm} mm cannot be tolerated", where="tolerance_mm", fix="give 0 or a finite length"
        )
