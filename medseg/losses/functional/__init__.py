"""Losses as pure functions of class scores, targets and an optional weight for every voxel.

MONAI has most of these losses, without weights for voxels; its results are the tests' oracle. Scores come
as the network gives them, in any precision: half precisions are computed in float32, where sums over a
million voxels still count each one. Targets given as class indices are never spelt out as one channel a
class, except where distances are needed.

Shapes are (B, C, X, Y[, Z]) for what has a channel per class, (B, 1, X, Y[, Z]) for class indices and
weight maps.
"""

from __future__ import annotations

from medseg.losses.functional.common import (
    REDUCTIONS,
    check_reduction,
    class_masks,
    full_precision,
    reduce_classes,
    reduce_voxels,
    weigh_classes,
)
from medseg.losses.functional.distances import boundary_errors, hausdorff_errors, signed_distances
from medseg.losses.functional.levels import deep_supervision_weights, nearest_resize
from medseg.losses.functional.regions import (
    CLASS_WEIGHTINGS,
    RegionSums,
    generalized_dice,
    region_sums,
    soft_dice,
    soft_jaccard,
    soft_tversky,
)
from medseg.losses.functional.voxels import binary_cross_entropy, cross_entropy

__all__ = [
    "CLASS_WEIGHTINGS",
    "REDUCTIONS",
    "RegionSums",
    "binary_cross_entropy",
    "boundary_errors",
    "check_reduction",
    "class_masks",
    "cross_entropy",
    "deep_supervision_weights",
    "full_precision",
    "generalized_dice",
    "hausdorff_errors",
    "nearest_resize",
    "reduce_classes",
    "reduce_voxels",
    "region_sums",
    "signed_distances",
    "soft_dice",
    "soft_jaccard",
    "soft_tversky",
    "weigh_classes",
]
