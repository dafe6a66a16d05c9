"""MONAI transforms: preprocessing and augmentation."""

from medseg.transforms.preprocessing import (
    NormalizeChannelsd,
    ResampleToSpacingd,
    preprocess,
    preprocessing_transforms,
)
from medseg.transforms.resampling import resample

__all__ = ["NormalizeChannelsd", "ResampleToSpacingd", "preprocess", "preprocessing_transforms", "resample"]
