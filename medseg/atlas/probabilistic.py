"""A probabilistic atlas: the mean of many images, and where on it each class is to be expected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.atlas.arrays import read_arrays, write_arrays
from medseg.atlas.cache import TransformCache
from medseg.atlas.choices import RegistrationChoice
from medseg.atlas.groupwise import build_template
from medseg.atlas.library import Atlas
from medseg.atlas.transform import Transform
from medseg.errors import BundleError
from medseg.geometry import Grid
from medseg.progress import Progress
from medseg.volume import Volume

__all__ = ["ProbabilisticAtlas"]

_FILE = "atlas.npz"


@dataclass(frozen=True, eq=False)
class ProbabilisticAtlas:
    """A template and the probabilities of classes on it.

    Attributes:
        template: (1, X, Y, Z), the mean of standardised intensities.
        probabilities: (K, X, Y, Z), the mean of the atlases' labels, brought onto the template.
    """

    template: Volume
    probabilities: npt.NDArray[np.float32]

    def brought_by(self, transform: Transform) -> npt.NDArray[np.float32]:
        """The probabilities on an image that a transform leads from; outside the atlas all is background."""
        foreground = Volume(self.probabilities[1:], self.template.grid)
        found = np.empty((len(self.probabilities), *transform.grid.shape), np.float32)
        found[1:] = transform.apply(foreground, outside=0.0).array
        found[0] = np.maximum(1.0 - found[1:].sum(axis=0), 0.0)
        return found

    @classmethod
    def build(
        cls,
        atlases: Sequence[Atlas],
        classes: int,
        choice: RegistrationChoice,
        *,
        affine_rounds: int = 2,
        deformable_rounds: int = 2,
        seed: int = 0,
        cache: TransformCache | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> tuple[ProbabilisticAtlas, tuple[Transform, ...]]:
        """Find the mean of atlases in rounds, and bring their labels onto it; see ``build_template``.

        Returns:
            The atlas, and the transforms from its template to each of ``atlases``.
        """
        template = build_template(
            [atlas.image for atlas in atlases],
            choice,
            affine_rounds=affine_rounds,
            deformable_rounds=deformable_rounds,
            seed=seed,
            cache=cache,
            workers=workers,
            progress=progress,
        )
        total = np.zeros((classes, *template.image.grid.shape), np.float32)
        for atlas, transform in zip(atlases, template.transforms, strict=True):
            total += transform.apply_to_labels(atlas.indices, atlas.image.grid, classes)
        return cls(template.image, total / np.float32(len(atlases))), template.transforms

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
        write_arrays(
            Path(folder) / _FILE,
            image=self.template.array[0],
            affine=self.template.grid.affine,
            probabilities=self.probabilities,
        )

    @classmethod
    def open(cls, folder: str | os.PathLike[str], classes: int) -> ProbabilisticAtlas:
        """What ``save`` wrote.

        Raises:
            BundleError: The file is missing, damaged, or of another number of classes.
        """
        path = Path(folder) / _FILE
        arrays = read_arrays(path, "image", "affine", "probabilities")
        image, probabilities = arrays["image"], arrays["probabilities"]
        if probabilities.shape != (classes, *image.shape):
            raise BundleError(f"does not fit itself, or {classes} classes", where=path, fix="fit it anew")
        return cls(Volume(image[np.newaxis], Grid(image.shape, arrays["affine"])), probabilities)
