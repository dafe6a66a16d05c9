"""The part of a recipe that says how training patches are changed at random."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from medseg.runs.part import Part

__all__ = ["Augmentation"]

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Augmentation(Part):
    """Random changes to training patches; each is drawn with its own probability.

    Lengths in voxels are those of the finest axis, and as long in millimetres along the others. Intensities
    are the normalised ones; what changes them is drawn for each channel by itself.

    Attributes:
        spatial_probability: Rotation and scaling together.
        rotation_degrees: Largest rotation about each axis.
        scale: Largest relative change of size.
        elastic_probability: Elastic deformation.
        elastic: Largest movement of the points that a deformation hangs on, as part of the distance between
            them, which is about a quarter of the patch's longest side. Below 0.4 nothing folds over.
        mirror: Along which axes patches are flipped, each with probability 1/2: ``"left_right"``, since the
            body is nearly symmetric that way alone, ``"all"`` or ``"none"``.
        mirror_sides: What flipping left/right does where labels have sides. ``"swap"``: left and right labels
            are exchanged; refused if one of them has no partner. ``"never"``: such data are not flipped
            left/right. ``"auto"``: swapped if each has its partner, else not flipped. ``"keep"``: labels stay
            as they are; refused if any has a side.
        noise_probability: Gaussian noise.
        noise_std: Largest standard deviation.
        blur_probability: Gaussian blur.
        blur_sigma_voxels: Smallest and largest standard deviation.
        low_resolution_probability: Larger voxels, and interpolation back.
        low_resolution_voxels: Largest side of such a voxel.
        brightness_probability: Intensities times 1 +- ``brightness``.
        brightness: Largest relative change.
        contrast_probability: Distances to the mean times 1 +- ``contrast``, within the range that there was.
        contrast: Largest relative change.
        gamma_probability: Gamma between ``gamma_range``.
        gamma_range: Lowest and highest exponent.
        gamma_inverted: Part of those that are applied to the negative.
        bias_field_probability: Smooth change of brightness, as a coil makes it. Not in CT.
        bias_field: Logarithm of the largest factor.
        ghosting_probability: Faint copies of the image along an axis within the slices. Not in CT.
        ghosting: Largest part of the periodic lines of k-space that is lost.
        motion_probability: The patient moves while k-space is acquired. Not in CT.
        motion_voxels: Largest movement.
    """

    spatial_probability: Probability = 0.5
    rotation_degrees: float = Field(default=20.0, ge=0.0, le=180.0)
    scale: float = Field(default=0.2, ge=0.0, lt=1.0)
    elastic_probability: Probability = 0.1
    elastic: float = Field(default=0.15, ge=0.0, lt=0.4)
    mirror: Literal["left_right", "all", "none"] = "left_right"
    mirror_sides: Literal["auto", "swap", "never", "keep"] = "auto"
    noise_probability: Probability = 0.15
    noise_std: float = Field(default=0.15, ge=0.0)
    blur_probability: Probability = 0.1
    blur_sigma_voxels: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.0)
    low_resolution_probability: Probability = 0.1
    low_resolution_voxels: float = Field(default=2.0, ge=1.0)
    brightness_probability: Probability = 0.2
    brightness: float = Field(default=0.25, ge=0.0, lt=1.0)
    contrast_probability: Probability = 0.1
    contrast: float = Field(default=0.25, ge=0.0, lt=1.0)
    gamma_probability: Probability = 0.2
    gamma_range: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    gamma_inverted: Probability = 0.25
    bias_field_probability: Probability = 0.05
    bias_field: float = Field(default=0.4, ge=0.0)
    ghosting_probability: Probability = 0.02
    ghosting: float = Field(default=0.6, ge=0.0, le=1.0)
    motion_probability: Probability = 0.02
    motion_voxels: float = Field(default=2.0, ge=0.0)

    @field_validator("gamma_range", "blur_sigma_voxels")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the lower end is above the upper one")
        return value

    @property
    def moves(self) -> bool:
        """Whether any patch is turned, scaled or deformed."""
        turns = self.spatial_probability > 0.0 and (self.rotation_degrees, self.scale) != (0.0, 0.0)
        return turns or (self.elastic_probability > 0.0 and self.elastic > 0.0)
