"""MONAI transforms: preprocessing, augmentation and the U-Net's border weights."""

from medseg.transforms.augmentation import (
    Augmentd,
    Augmenter,
    PatchDraw,
    augment_batch,
    augment_patch,
    augmentation_margin,
    mirror_axes,
)
from medseg.transforms.border_weights import (
    BorderWeightMapd,
    border_weight_map,
    border_weight_map_of_classes,
    class_components,
    separate_instances,
)
from medseg.transforms.preprocessing import (
    NormalizeChannelsd,
    ResampleToSpacingd,
    preprocess,
    preprocessing_transforms,
)
from medseg.transforms.resampling import resample

__all__ = [
    "Augmentd",
    "Augmenter",
    "BorderWeightMapd",
    "NormalizeChannelsd",
    "PatchDraw",
    "ResampleToSpacingd",
    "augment_batch",
    "augment_patch",
    "augmentation_margin",
    "border_weight_map",
    "border_weight_map_of_classes",
    "class_components",
    "mirror_axes",
    "preprocess",
    "preprocessing_transforms",
    "resample",
    "separate_instances",
]
