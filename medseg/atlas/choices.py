"""What a person chooses about registration and fusion: parts of the recipes of atlas methods."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medseg.runs.part import Part

__all__ = ["AffineChoice", "DeformableChoice", "FusionChoice", "RegistrationChoice"]

Metric = Literal["correlation", "mutual_information"]


class AffineChoice(Part):
    """Affine registration, from coarse to fine.

    Attributes:
        metric: ``"correlation"`` within one modality, ``"mutual_information"`` (Mattes) across.
        initial: What is laid upon each other at first: the images' centres, or the centres of mass of their
            intensities.
        shrink: Of each level, every how many voxels one is looked at, along each axis.
        smoothing_mm: Of each level, the standard deviation of the Gaussian before.
        iterations: Of each level, at most.
        sampling: The part of the voxels that the metric looks at, drawn by the seed if below 1.
    """

    metric: Metric = "correlation"
    initial: Literal["centre", "moments"] = "centre"
    shrink: tuple[PositiveInt, ...] = (2,)
    smoothing_mm: tuple[float, ...] = (1.0,)
    iterations: PositiveInt = 30
    sampling: float = Field(default=1.0, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if not self.shrink or len(self.shrink) != len(self.smoothing_mm) or min(self.smoothing_mm) < 0.0:
            raise ValueError("'shrink' and 'smoothing_mm' need a number for each level, from 0 up")
        return self


class DeformableChoice(Part):
    """Registration that bends, after the affine one, from coarse to fine.

    Attributes:
        method: ``"demons"``: symmetric forces; ``"diffeomorphic_demons"``: each update is a flow that cannot
            fold; ``"bspline"``: a grid of control points; ``"none"``: the affine transform is all.
        shrink: Of each level, every how many voxels one is looked at.
        iterations: Of each level.
        field_smoothing_voxels: Standard deviation of the Gaussian that smooths the field after each
            iteration; of demons.
        match_histograms: Whether the moving image first gets the fixed one's histogram; of demons, which
            compare intensities as they are.
        control_spacing_mm: Between control points; of B-splines.
        metric: Of B-splines.
    """

    method: Literal["demons", "diffeomorphic_demons", "bspline", "none"] = "demons"
    shrink: tuple[PositiveInt, ...] = (2, 1)
    iterations: tuple[PositiveInt, ...] = (30, 20)
    field_smoothing_voxels: PositiveFloat = 1.1
    match_histograms: bool = True
    control_spacing_mm: PositiveFloat = 10.0
    metric: Metric = "correlation"

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if not self.shrink or len(self.shrink) != len(self.iterations):
            raise ValueError("'shrink' and 'iterations' need a number for each level")
        return self


class RegistrationChoice(Part):
    """How one image is brought onto another.

    Attributes:
        affine: At first; ``None`` where images are laid upon each other already.
        deformable: After it.
    """

    affine: AffineChoice | None = AffineChoice()
    deformable: DeformableChoice = DeformableChoice()


class FusionChoice(Part):
    """How the labels of several atlases become one.

    Attributes:
        method: ``"majority"``, ``"local"`` (by the similarity of patches), ``"staple"`` or ``"joint"``.
        patch_radius: Voxels around one that make its patch; of local and joint fusion.
        search_radius: How far around a voxel an atlas's most similar patch is looked for; of joint fusion.
        vote_radius: How far from a patch's centre its labels count; of joint fusion.
        beta: Power that differences are raised to: the higher, the more the most similar atlases count.
        alpha: Added to the diagonal of the joint error matrix: the higher, the more equal the weights.
    """

    method: Literal["majority", "local", "staple", "joint"] = "joint"
    patch_radius: int = Field(default=2, ge=0, le=8)
    search_radius: int = Field(default=1, ge=0, le=4)
    vote_radius: int = Field(default=2, ge=0, le=8)
    beta: int = Field(default=2, ge=1, le=8)
    alpha: PositiveFloat = 0.05
