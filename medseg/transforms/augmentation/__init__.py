"""Random changes to training patches: drawn as plain numbers, then applied by pure functions."""

from medseg.transforms.augmentation.applying import augment_batch, augment_patch
from medseg.transforms.augmentation.dictionary import Augmentd
from medseg.transforms.augmentation.drawing import Augmenter
from medseg.transforms.augmentation.draws import (
    BiasFieldDraw,
    ElasticDraw,
    GammaDraw,
    GhostingDraw,
    IntensityDraw,
    MotionDraw,
    NoiseDraw,
    PatchDraw,
    SpatialDraw,
)
from medseg.transforms.augmentation.margins import augmentation_margin
from medseg.transforms.augmentation.mirroring import mirror_axes

__all__ = [
    "Augmentd",
    "Augmenter",
    "BiasFieldDraw",
    "ElasticDraw",
    "GammaDraw",
    "GhostingDraw",
    "IntensityDraw",
    "MotionDraw",
    "NoiseDraw",
    "PatchDraw",
    "SpatialDraw",
    "augment_batch",
    "augment_patch",
    "augmentation_margin",
    "mirror_axes",
]
