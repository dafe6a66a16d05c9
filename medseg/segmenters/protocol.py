"""What every method of segmentation can do, from a network to an atlas."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from medseg.inference import Stage
from medseg.io import Case
from medseg.labels import LabelScheme
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.segmentation_plan import SegmentationPlan
from medseg.volume import Slices, Volume

__all__ = ["CaseLike", "Segmenter"]

CaseLike: TypeAlias = Volume | Case | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""An image: in memory, as a case, as one file, or as one file per channel."""


class Segmenter(Protocol):
    """Turns images into label maps. Whoever predicts, evaluates or compares knows nothing more."""

    @property
    def labels(self) -> LabelScheme:
        """The classes that it tells apart."""
        ...

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels that an image must have, in order."""
        ...

    @property
    def postprocess(self) -> PostprocessChoice:
        """What is done to a label map before it is given or written; of it, scores know ``refine`` alone."""
        ...

    def plan(self, image: Slices, axis: int | None = None) -> SegmentationPlan:
        """How an image would be gone through, and what memory that takes.

        Args:
            image: One channel for each of ``channel_names``.
            axis: The image's axis along which its scores must be readable; chosen if left out.

        Raises:
            ConfigError: The method does not fit the mode that was asked for.
            ResourceError: It does not fit into memory; the error names the least that would do.
        """
        ...

    def scores(self, image: Slices, plan: SegmentationPlan | None = None) -> Stage:
        """Class scores on the image's own grid, one channel per class, computed as they are read in slabs.

        Args:
            image: One channel for each of ``channel_names``.
            plan: As ``plan`` gave it for this image; made if left out.

        Raises:
            InputError: Voxels are not finite.
            ResourceError: Whole slabs of scores do not fit into memory.
        """
        ...

    def parts(self, image: Slices, plan: SegmentationPlan | None = None) -> Iterator[Stage]:
        """Scores of one part of the image after the other, each to be read before the next is asked for.

        One part is all of it, unless memory is so tight that the plane is gone through in tiles.

        Args:
            image: One channel for each of ``channel_names``.
            plan: As ``plan`` gave it for this image; made if left out.

        Raises:
            InputError: Voxels are not finite.
        """
        ...

    def segment(self, case: CaseLike) -> Volume:
        """The label map of an image, shape (1, X, Y, Z), on the image's own grid.

        Args:
            case: The image.

        Raises:
            InputError: It cannot be read, is not finite, or has other channels.
            GeometryError: Its geometry is invalid, or its channels lie on different grids.
        """
        ...
