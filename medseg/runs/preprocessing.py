"""What is done to an image before a network sees it, as pure data.

The order is fixed: orientation, then normalisation, then resampling, so that statistics are those of the
stored voxels. ``medseg.transforms`` turns the specification into MONAI transforms.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medseg.geometry import Grid, parse_axcodes

__all__ = ["Normalization", "PreprocessingSpec"]


class Normalization(BaseModel):
    """How the intensities of one channel are brought to a common scale.

    Attributes:
        scheme: ``"zscore"``: mean 0 and standard deviation 1 over the image, or with ``background`` over the
            body. ``"clip_zscore"``: clipped to ``lower`` and ``upper``, then ``mean`` subtracted and divided
            by ``std``, all four known from the training data, as suits CT. ``"none"``: left as stored.
        lower: Lowest intensity kept, in stored units.
        upper: Highest intensity kept, in stored units.
        mean: Subtracted, in stored units.
        std: Divided by, in stored units.
        background: With ``"zscore"``: voxels of exactly this stored value are no part of the body, as in
            skull-stripped images. They have no say in mean and deviation, and are shifted and scaled like
            all others. In an image whose other voxels are all alike, they count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scheme: Literal["zscore", "clip_zscore", "none"]
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = Field(default=None, gt=0.0)
    background: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Normalization:
        numbers = (self.lower, self.upper, self.mean, self.std)
        if self.scheme == "clip_zscore":
            if None in numbers:
                raise ValueError("clip_zscore needs lower, upper, mean and std")
            if self.lower is not None and self.upper is not None and self.lower >= self.upper:
                raise ValueError("lower must be below upper")
        elif any(number is not None for number in numbers):
            raise ValueError(f"{self.scheme} takes no numbers")
        if self.background is not None and self.scheme != "zscore":
            raise ValueError(f"{self.scheme} takes no background")
        return self


class PreprocessingSpec(BaseModel):
    """The whole of preprocessing.

    Attributes:
        axcodes: Orientation that the network sees.
        spacing_mm: Spacing that the network sees, along the axes of ``axcodes``; ``None`` keeps each image's.
        normalization: One entry per channel.

    Example:
        >>> import numpy as np
        >>> spec = PreprocessingSpec(spacing_mm=(1, 1, 2), normalization=[Normalization(scheme="zscore")])
        >>> spec.network_grid(Grid((5, 8, 8), np.diag([2.0, -1.0, 1.0, 1.0]))).shape
        (9, 8, 5)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    axcodes: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    normalization: tuple[Normalization, ...] = Field(min_length=1)

    @field_validator("axcodes")
    @classmethod
    def _axcodes(cls, value: str) -> str:
        return parse_axcodes(value)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.normalization)

    def network_grid(self, native: Grid) -> Grid:
        """The grid on which a network sees an image that is stored on ``native``."""
        oriented = native.reoriented(self.axcodes)
        return oriented if self.spacing_mm is None else oriented.resampled(self.spacing_mm)
