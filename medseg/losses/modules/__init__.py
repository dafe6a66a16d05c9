"""Losses as modules, called ``(input, target, weight_map=None)`` with MONAI's options.

``input`` is (B, C, X, Y[, Z]). ``target`` is class indices (B, 1, X, Y[, Z]) with ``to_onehot_y=True``,
and memberships (B, C, X, Y[, Z]) without; ``weight_map`` is (B, 1, X, Y[, Z]). The options' defaults are
MONAI's too: ``softmax`` and ``to_onehot_y`` have to be asked for.
"""

from __future__ import annotations

from medseg.losses.modules.base import SegmentationLoss
from medseg.losses.modules.deep_supervision import DeepSupervisionLoss
from medseg.losses.modules.distances import BoundaryLoss, HausdorffDTLoss
from medseg.losses.modules.regions import DiceLoss, GeneralizedDiceLoss, JaccardLoss, TverskyLoss
from medseg.losses.modules.sums import DiceBoundaryLoss, DiceCELoss, DiceFocalLoss, DiceHausdorffDTLoss
from medseg.losses.modules.voxels import FocalLoss, TopKLoss, WeightedCrossEntropyLoss

__all__ = [
    "BoundaryLoss",
    "DeepSupervisionLoss",
    "DiceBoundaryLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceHausdorffDTLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "HausdorffDTLoss",
    "JaccardLoss",
    "SegmentationLoss",
    "TopKLoss",
    "TverskyLoss",
    "WeightedCrossEntropyLoss",
]
