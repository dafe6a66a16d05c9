"""MONAI transforms: preprocessing, augmentation and the U-Net's border weights."""

from medseg.transforms.augmentation import augmentation_margin, augmentation_transforms, mirror_axes
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
    "BorderWeightMapd",
    "NormalizeChannelsd",
    "ResampleToSpacingd",
    "augmentation_margin",
    "augmentation_transforms",
    "border_weight_map",
    "border_weight_map_of_classes",
    "class_components",
    "mirror_axes",
    "preprocess",
    "preprocessing_transforms",
    "resample",
    "separate_instances",
]
