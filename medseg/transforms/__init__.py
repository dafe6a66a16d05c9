"""MONAI transforms: preprocessing and augmentation."""

from medseg.transforms.augmentation import augmentation_margin, augmentation_transforms, mirror_axes
from medseg.transforms.preprocessing import (
    NormalizeChannelsd,
    ResampleToSpacingd,
    preprocess,
    preprocessing_transforms,
)
from medseg.transforms.resampling import resample

__all__ = [
    "NormalizeChannelsd",
    "ResampleToSpacingd",
    "augmentation_margin",
    "augmentation_transforms",
    "mirror_axes",
    "preprocess",
    "preprocessing_transforms",
    "resample",
]
