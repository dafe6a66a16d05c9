"""What every method of segmentation can do, from a network to an atlas."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from medseg.inference import Stage
from medseg.io import Case
from medseg.labels import LabelScheme
from medseg.volume import Volume

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

    def scores(self, image: Volume) -> Stage:
        """Class scores on the image's own grid, one channel per class, read in slabs.

        Args:
            image: Finite voxels, one channel for each of ``channel_names``.
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
