"""Random changes to training patches, as MONAI transforms that can be replayed from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    Transform,
)

from medseg.labels import LabelScheme
from medseg.runs import Augmentation

__all__ = ["augmentation_margin", "augmentation_transforms", "mirror_axes"]

_BLUR_SIGMA_VOXELS = (0.5, 1.0)
_ANISOTROPY = 2.0
"""Patches are not turned in a plane whose voxels are so much longer than wide: turned voxel by voxel, their
content would be sheared, as no body is."""


def mirror_axes(choice: Augmentation, axcodes: str, labels: LabelScheme) -> tuple[int, ...]:
    """The axes along which patches are mirrored, none of which puts a label on the wrong side.

    Example:
        >>> kidneys = LabelScheme.from_names({1: "left kidney", 2: "right kidney"})
        >>> mirror_axes(Augmentation(mirror="all"), "RAS", kidneys)
        (1, 2)
    """
    wanted = {"left_right": "LR", "all": "LRAPSI", "none": ""}[choice.mirror]
    return tuple(
        axis
        for axis, code in enumerate(axcodes)
        if code in wanted and not (code in "LR" and labels.has_sides)
    )


def _turns(first: int, second: int, spacing_mm: Sequence[float] | None) -> bool:
    """Whether patches are turned in the plane of two axes."""
    if first == second:
        return False
    if spacing_mm is None:
        return True
    short, long = sorted((spacing_mm[first], spacing_mm[second]))
    return long < _ANISOTROPY * short


def augmentation_margin(
    choice: Augmentation | None, patch_size: Sequence[int], spacing_mm: Sequence[float] | None = None
) -> tuple[int, ...]:
    """Voxels to read around a patch on either side, so that a rotated, scaled patch is filled with image.

    The corners of a patch turned by the largest angle about one axis are covered; those turned about three
    axes at once are mostly.

    Args:
        choice: What will be drawn.
        patch_size: Voxels per axis.
        spacing_mm: Spacing per axis; equal along all of them if left out.
    """
    if choice is None or choice.spatial_probability == 0.0:
        return tuple(0 for _ in patch_size)
    margins = []
    for axis, size in enumerate(patch_size):
        widest = max((patch_size[other] for other in range(3) if _turns(axis, other, spacing_mm)), default=0)
        # Turned by this angle, a side and the widest across it reach furthest.
        angle = min(math.radians(choice.rotation_degrees), math.atan2(widest, size))
        needed = (size * math.cos(angle) + widest * math.sin(angle)) * (1.0 + choice.scale)
        margins.append(max(0, math.ceil((needed - size) / 2)))
    return tuple(margins)


def augmentation_transforms(
    choice: Augmentation,
    patch_size: Sequence[int],
    *,
    axcodes: str,
    labels: LabelScheme,
    spacing_mm: Sequence[float] | None = None,
    image_key: str = "image",
    label_key: str | None = "label",
    weight_key: str | None = None,
) -> Compose:
    """Augmentation of a patch that was read with ``augmentation_margin`` around it.

    Seed it with ``set_random_state(seed)`` before a call, and the same call gives the same patch.

    Args:
        choice: What is drawn, and how far.
        patch_size: Shape (X, Y, Z) of the patches that come out.
        axcodes: Orientation of the patches.
        labels: The classes: where any has a side, left and right are never mirrored.
        spacing_mm: Spacing per axis; equal along all of them if left out. Where slices are thick, patches are
            turned within them alone.
        image_key: Key of the image (C, X, Y, Z).
        label_key: Key of the class indices (1, X, Y, Z); ``None`` where there is no label.
        weight_key: Key of weights (1, X, Y, Z) that are moved along, and become 0 where nothing was read;
            ``None`` where there are none.

    Returns:
        A transform of dictionaries.
    """
    image = [image_key]
    modes = {image_key: "bilinear", label_key: "nearest", weight_key: "bilinear"}
    moved = [key for key in modes if key is not None]
    angle = math.radians(choice.rotation_degrees)
    planes = ((1, 2), (0, 2), (0, 1))  # of a turn about each axis
    angles = tuple(angle if _turns(*plane, spacing_mm) else 0.0 for plane in planes)
    low, high = choice.gamma_range
    transforms: list[Transform] = [
        RandAffined(
            moved,
            prob=choice.spatial_probability,
            spatial_size=tuple(patch_size),
            rotate_range=angles,
            scale_range=(choice.scale, choice.scale, choice.scale),
            mode=[modes[key] for key in moved],
            padding_mode="zeros",
        )
    ]
    transforms += [
        RandFlipd(moved, prob=0.5, spatial_axis=axis) for axis in mirror_axes(choice, axcodes, labels)
    ]
    transforms += [
        RandGaussianNoised(
            image, prob=choice.noise_probability, mean=0.0, std=choice.noise_std, sample_std=True
        ),
        RandGaussianSmoothd(
            image,
            prob=choice.blur_probability,
            sigma_x=_BLUR_SIGMA_VOXELS,
            sigma_y=_BLUR_SIGMA_VOXELS,
            sigma_z=_BLUR_SIGMA_VOXELS,
        ),
        RandScaleIntensityd(image, prob=choice.brightness_probability, factors=choice.brightness),
        RandAdjustContrastd(
            image, prob=choice.gamma_probability, gamma=(low, high), invert_image=False, retain_stats=True
        ),
    ]
    return Compose(transforms)
