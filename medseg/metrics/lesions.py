"""How many lesions are found, how many are invented, and how well each is outlined.

A lesion is a connected component of a mask. By default several components may belong together, since one
lesion is often predicted in pieces and neighbours are often predicted as one:

- A reference lesion is **found** if it shares a voxel with the prediction and the union of all predicted
  components that it touches fulfils the criterion (coverage, IoU or Dice of at least a share), or if any
  predicted component lies within a distance.
- A predicted component is **true** if the same holds for it and the reference lesions; otherwise it is
  **invented**. Sensitivity counts reference lesions, precision predicted components.

With ``one_to_one`` each lesion has one partner at most: of all ways to pair those that fulfil the criterion
by themselves, one with most pairs, and among these one with the largest total share (or the smallest total
distance).

What the empty cases give:

| lesions in | sensitivity | precision | F1 | mean Dice |
|---|---|---|---|---|
| neither | NaN | NaN | NaN | NaN |
| the reference alone | 0 | NaN | 0 | 0 |
| the prediction alone | NaN | 0 | 0 | NaN |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from medseg.components import (
    Connectivity,
    bounding_box,
    component_sizes,
    connected_components,
    require_spacing,
    voxels_at_least,
)
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.metrics.component_distances import ROUNDING, centroid_distances, voxel_distances
from medseg.metrics.contingency import Contingency, contingency
from medseg.metrics.matching import assign_pairs

__all__ = ["DistanceCriterion", "Lesion", "LesionScore", "OverlapCriterion", "lesion_metrics"]

Measure = Literal["coverage", "iou", "dice"]
Between = Literal["voxels", "centroids"]


def _check_choice(chosen: str, choices: Any, where: str) -> None:
    if chosen not in get_args(choices):
        raise ConfigError(
            f"'{chosen}' is none of these", where=where, fix=f"use {', '.join(get_args(choices))}"
        )


@dataclass(frozen=True)
class OverlapCriterion:
    """Lesions belong together if they share a voxel and overlap enough.

    Attributes:
        measure: ``"coverage"`` is the covered share of the lesion asked about (of the reference's where
            lesions are paired one to one); ``"iou"`` and ``"dice"`` count what lies beyond it, too.
        at_least: The smallest share, 0 to 1; at 0 any common voxel will do.

    Raises:
        ConfigError: Another measure, or a share that is none.
    """

    measure: Measure = "coverage"
    at_least: float = 0.0

    def __post_init__(self) -> None:
        _check_choice(self.measure, Measure, "measure")
        if not 0 <= self.at_least <= 1:
            raise ConfigError(f"{self.at_least} is no share", where="at_least", fix="give 0 to 1")


@dataclass(frozen=True)
class DistanceCriterion:
    """Lesions belong together if they are near each other.

    Attributes:
        within_mm: The largest distance.
        between: ``"voxels"``: of the two nearest voxels' centres, 0 where lesions overlap; ``"centroids"``.

    Raises:
        ConfigError: Another kind, or a distance that is negative or not finite.
    """

    within_mm: float
    between: Between = "voxels"

    def __post_init__(self) -> None:
        _check_choice(self.between, Between, "between")
        if not 0 <= self.within_mm < math.inf:
            raise ConfigError(f"{self.within_mm} is no distance", where="within_mm", fix="give 0 or more")


@dataclass(frozen=True)
class Lesion:
    """A component of one mask, and what it meets in the other.

    Attributes:
        number: Its number, as ``scipy.ndimage.label`` counts the components of its mask.
        volume_ml: Its volume.
        matched: Whether a reference lesion is found, or a predicted one true.
        dice: With the union of the other mask's components that it touches, or with its one partner; 0 where
            there is none.
        partners: The numbers of the components that these are, or that are near enough.
    """

    number: int
    volume_ml: float
    matched: bool
    dice: float
    partners: tuple[int, ...]


@dataclass(frozen=True)
class LesionScore:
    """All lesions of a reference and its prediction; the module's text says what counts and what is empty.

    Attributes:
        ref_lesions: The reference's lesions, by their number.
        pred_lesions: The prediction's components, by their number.
    """

    ref_lesions: tuple[Lesion, ...]
    pred_lesions: tuple[Lesion, ...]

    @property
    def n_ref(self) -> int:
        """Lesions in the reference."""
        return len(self.ref_lesions)

    @property
    def n_pred(self) -> int:
        """Components in the prediction."""
        return len(self.pred_lesions)

    @property
    def n_found(self) -> int:
        """Reference lesions that are found."""
        return sum(lesion.matched for lesion in self.ref_lesions)

    @property
    def n_missed(self) -> int:
        """Reference lesions that are not found."""
        return self.n_ref - self.n_found

    @property
    def n_invented(self) -> int:
        """Predicted components that belong to no reference lesion."""
        return sum(not lesion.matched for lesion in self.pred_lesions)

    @property
    def sensitivity(self) -> float:
        """The share of the reference lesions that are found; NaN where there are none."""
        return self.n_found / self.n_ref if self.n_ref else math.nan

    @property
    def precision(self) -> float:
        """The share of the predicted components that are true; NaN where there are none."""
        return (self.n_pred - self.n_invented) / self.n_pred if self.n_pred else math.nan

    @property
    def f1(self) -> float:
        """The harmonic mean of sensitivity and precision; 0 where one mask is empty, NaN where both are."""
        if not self.n_ref and not self.n_pred:
            return math.nan
        if not self.n_found or self.n_invented == self.n_pred:
            return 0.0
        return 2 / (1 / self.sensitivity + 1 / self.precision)

    @property
    def mean_dice(self) -> float:
        """Over the reference lesions, missed ones too; NaN where there are none."""
        return math.fsum(lesion.dice for lesion in self.ref_lesions) / self.n_ref if self.n_ref else math.nan


def lesion_metrics(
    pred: npt.NDArray[np.bool_],
    ref: npt.NDArray[np.bool_],
    spacing_mm: Sequence[float],
    *,
    criterion: OverlapCriterion | DistanceCriterion = OverlapCriterion(),
    one_to_one: bool = False,
    connectivity: Connectivity = "corners",
    smallest_volume_ml: float = 0.0,
) -> LesionScore:
    """Compare the lesions of a prediction with those of its reference.

    Args:
        pred: The prediction's mask, shape (X, Y, Z).
        ref: The reference's mask, of the same shape.
        spacing_mm: The voxels' size along X, Y and Z.
        criterion: When two lesions belong together; by default if they share a voxel.
        one_to_one: Whether each lesion has one partner at most.
        connectivity: Voxels are neighbours if they share a face, at least an edge, or at least a corner (6,
            18 or 26 neighbours).
        smallest_volume_ml: Smaller components are taken out of **both** masks before anything is compared: a
            prediction of nothing but such a lesion is invented.

    Raises:
        GeometryError: The shapes differ.
        InputError: Masks that are not boolean or not 3D.
        ConfigError: A connectivity or volume that is none.

    Example:
        >>> ref = np.array([1, 1, 0, 1, 0, 0, 0], dtype=bool).reshape(7, 1, 1)
        >>> pred = np.array([0, 1, 0, 0, 0, 1, 1], dtype=bool).reshape(7, 1, 1)
        >>> score = lesion_metrics(pred, ref, spacing_mm=(1, 1, 1))
        >>> score.n_found, score.n_missed, score.n_invented, score.sensitivity, score.precision
        (1, 1, 1, 0.5, 0.5)
        >>> near = lesion_metrics(pred, ref, spacing_mm=(1, 1, 1), criterion=DistanceCriterion(within_mm=2))
        >>> near.n_found, near.n_invented
        (2, 0)
    """
    spacing = _check(pred, ref, spacing_mm)
    _check_choice(connectivity, Connectivity, "connectivity")
    if not 0 <= smallest_volume_ml < math.inf:
        raise ConfigError(
            f"{smallest_volume_ml} is no volume", where="smallest_volume_ml", fix="give 0 or more"
        )
    voxel_ml = float(spacing.prod()) / 1000
    smallest_voxels = voxels_at_least(smallest_volume_ml, tuple(spacing))
    box = bounding_box(pred | ref) or (slice(0),) * 3
    pred_numbers = _components(pred[box], connectivity, smallest_voxels)
    ref_numbers = _components(ref[box], connectivity, smallest_voxels)
    table = contingency(pred_numbers, ref_numbers)
    pairs, closeness = _candidates(pred_numbers, ref_numbers, table, spacing, criterion)
    if one_to_one:
        pairs = _one_to_one(pairs, closeness, criterion)
        table = table.only(pairs)
    union_criterion = criterion if isinstance(criterion, OverlapCriterion) and not one_to_one else None
    return LesionScore(
        ref_lesions=_lesions(table, pairs, union_criterion, voxel_ml),
        pred_lesions=_lesions(table.swapped(), pairs[:, ::-1], union_criterion, voxel_ml),
    )


def _lesions(
    table: Contingency,
    partners: npt.NDArray[np.int64],
    criterion: OverlapCriterion | None,
    voxel_ml: float,
) -> tuple[Lesion, ...]:
    """The lesions of the table's reference.

    Args:
        table: Which pairs share how many voxels.
        partners: Shape (N, 2), positions in the table of the pairs that belong together.
        criterion: What each lesion and the union of its partners must fulfil; nothing more if left out.
        voxel_ml: The volume of a voxel.
    """
    lesions = len(table.ref_ids)
    other_of_pair, own_of_pair = table.pairs.T
    shared = np.bincount(own_of_pair, weights=table.pair_voxels, minlength=lesions)
    touched = np.bincount(own_of_pair, weights=table.pred_voxels[other_of_pair], minlength=lesions)
    dice = _share("dice", shared, table.ref_voxels, touched)
    matched = np.bincount(partners[:, 1], minlength=lesions) > 0
    if criterion is not None:
        share = _share(criterion.measure, shared, table.ref_voxels, touched)
        matched &= share >= criterion.at_least * (1 - ROUNDING)
    numbers: list[list[int]] = [[] for _ in range(lesions)]
    for other, own in partners.tolist():
        numbers[own].append(int(table.pred_ids[other]))
    return tuple(
        Lesion(
            number=int(table.ref_ids[own]),
            volume_ml=int(table.ref_voxels[own]) * voxel_ml,
            matched=bool(matched[own]),
            dice=float(dice[own]),
            partners=tuple(sorted(numbers[own])),
        )
        for own in range(lesions)
    )


def _share(
    measure: Measure, shared: npt.NDArray[Any], own: npt.NDArray[Any], other: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """How far lesions of ``own`` voxels and what they touch, of ``other`` voxels, are the same."""
    whole = {"coverage": own, "iou": own + other - shared, "dice": (own + other) / 2}[measure]
    share: npt.NDArray[np.float64] = shared / whole
    return share


def _candidates(
    pred_numbers: npt.NDArray[np.int32],
    ref_numbers: npt.NDArray[np.int32],
    table: Contingency,
    spacing_mm: npt.NDArray[np.float64],
    criterion: OverlapCriterion | DistanceCriterion,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """All pairs that overlap, or that are near enough, shape (N, 2), and how close each is, 0 to 1."""
    if isinstance(criterion, OverlapCriterion):
        pred, ref = table.pairs.T
        sizes = table.ref_voxels[ref], table.pred_voxels[pred]
        return table.pairs, _share(criterion.measure, table.pair_voxels, *sizes)
    measure = voxel_distances if criterion.between == "voxels" else centroid_distances
    pairs, distances = measure(pred_numbers, ref_numbers, table, spacing_mm, criterion.within_mm)
    near = distances <= criterion.within_mm * (1 + ROUNDING)
    closeness = 1 - distances[near] / (criterion.within_mm or 1.0)
    return pairs[near], np.maximum(closeness, 0)


def _one_to_one(
    pairs: npt.NDArray[np.int64],
    closeness: npt.NDArray[np.float64],
    criterion: OverlapCriterion | DistanceCriterion,
) -> npt.NDArray[np.int64]:
    """As many of the pairs as possible, those that are closest; each must fulfil the criterion by itself."""
    if isinstance(criterion, OverlapCriterion):
        enough = closeness >= criterion.at_least * (1 - ROUNDING)
        pairs, closeness = pairs[enough], closeness[enough]
    # One pair more always outweighs what all pairs together can gain by being closer.
    return pairs[assign_pairs(pairs, 1 + closeness / (len(closeness) + 1))]


def _check(
    pred: npt.NDArray[Any], ref: npt.NDArray[Any], spacing_mm: Sequence[float]
) -> npt.NDArray[np.float64]:
    """The spacing as an array; whatever cannot be compared is refused."""
    for where, mask in (("pred", pred), ("ref", ref)):
        if mask.dtype != bool or mask.ndim != 3:
            raise InputError(
                f"{mask.dtype} in {mask.ndim} dimensions is no mask",
                where=where,
                fix="give a boolean (X, Y, Z) array, as 'labels == 1'; a slice as (X, Y, 1)",
            )
    if pred.shape != ref.shape:
        raise GeometryError(
            f"shape {pred.shape} of the prediction is not the reference's {ref.shape}",
            where="pred",
            fix="compare masks of the same image",
        )
    return np.array(require_spacing(spacing_mm, 3))


def _components(
    mask: npt.NDArray[np.bool_], connectivity: Connectivity, smallest_voxels: int
) -> npt.NDArray[np.int32]:
    """The mask's components, numbered as ever; those that are too small are background."""
    numbers, count = connected_components(mask, connectivity)
    if smallest_voxels <= 1:
        return numbers
    large = component_sizes(numbers, count) >= smallest_voxels
    kept = np.concatenate([[0], np.where(large, np.arange(1, count + 1), 0)]).astype(np.int32)
    return np.asarray(kept[numbers])
