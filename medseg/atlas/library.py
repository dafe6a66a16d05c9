"""Labelled images that were laid onto one template, so that those most like a new image are found at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.atlas.arrays import REFIT, read_arrays, write_arrays
from medseg.atlas.cache import TransformCache
from medseg.atlas.choices import AffineChoice, DeformableChoice, RegistrationChoice
from medseg.atlas.groupwise import build_template, onto_template, structure_region
from medseg.atlas.register import Pair, register_pairs
from medseg.atlas.selection import most_similar, signatures
from medseg.errors import BundleError
from medseg.files import read_json, write_json
from medseg.geometry import Grid
from medseg.progress import Progress
from medseg.volume import Volume

__all__ = ["Atlas", "AtlasLibrary", "Candidate"]

_LIST, _TEMPLATE, _FOLDER = "atlases.json", "template.npz", "atlases"


@dataclass(frozen=True, eq=False)
class Atlas:
    """A labelled image.

    Attributes:
        name: Of its case.
        image: (1, X, Y, Z), as ``standardized`` gives it.
        indices: Class of each voxel, (X, Y, Z).
    """

    name: str
    image: Volume
    indices: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Candidate:
    """An atlas that was chosen for an image.

    Attributes:
        number: Of the atlas in its library.
        matrix: 4x4, from points of the image to points of the atlas, by way of the template.
    """

    number: int
    matrix: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AtlasLibrary:
    """Atlases in a folder, of which only those that are chosen are read.

    Attributes:
        folder: Where they lie.
        names: Of their cases.
        template: (1, X, Y, Z), their mean.
        matrices: (N, 4, 4), from points of the template to points of each.
        region: (X, Y, Z), where on the template the structures lie, and what is around them.
        signatures: (N, V), the atlases in that region; see ``selection.signatures``.
    """

    folder: Path
    names: tuple[str, ...]
    template: Volume
    matrices: npt.NDArray[np.float64]
    region: npt.NDArray[np.bool_]
    signatures: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, image: Volume, count: int, choice: AffineChoice, *, seed: int = 0) -> list[Candidate]:
        """The atlases most like an image after affine registration, the best first.

        The image alone is registered, onto the template; the atlases were when the library was built.

        Args:
            image: (1, X, Y, Z), as ``standardized`` gives it.
            count: How many.
            choice: Of the affine registration.
            seed: Of what is drawn.
        """
        back, onto = onto_template(image, self.template, self.region, choice, seed=seed)
        (signature,) = signatures(back.apply(image).array, self.region)
        chosen = most_similar(signature, self.signatures, count)
        return [Candidate(int(number), self.matrices[number] @ onto) for number in chosen]

    def read(self, number: int) -> Atlas:
        """One of the atlases.

        Raises:
            BundleError: Its file is missing or damaged.
        """
        arrays = read_arrays(_atlas_path(self.folder, number), "image", "indices", "affine")
        image, indices = arrays["image"].astype(np.float32), arrays["indices"]
        if image.shape != indices.shape:
            raise BundleError("does not fit itself", where=_atlas_path(self.folder, number), fix=REFIT)
        grid = Grid(image.shape, arrays["affine"])
        return Atlas(self.names[number], Volume(image[np.newaxis], grid), indices)

    @classmethod
    def build(
        cls,
        atlases: Sequence[Atlas],
        folder: str | os.PathLike[str],
        choice: AffineChoice,
        *,
        rounds: int = 2,
        seed: int = 0,
        cache: TransformCache | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> AtlasLibrary:
        """Lay atlases onto their mean, at last by their structures alone, and write all of them.

        Args:
            atlases: Labelled everywhere.
            folder: Is made.
            choice: How they are laid onto the mean.
            rounds: In how many rounds the mean is found.
            seed: Of what is drawn.
            cache: Of the transforms.
            workers: Processes.
            progress: Shows how far it is.
        """
        images = [atlas.image for atlas in atlases]
        affine = RegistrationChoice(affine=choice, deformable=DeformableChoice(method="none"))
        template = build_template(
            images, affine, affine_rounds=rounds, seed=seed, cache=cache, workers=workers, progress=progress
        )
        grid = template.image.grid
        foreground = np.zeros(grid.shape, np.float32)
        for atlas, transform in zip(atlases, template.transforms, strict=True):
            mask = Volume((atlas.indices > 0)[np.newaxis].astype(np.float32), atlas.image.grid)
            foreground += transform.apply(mask, outside=0.0).array[0]
        region = structure_region(foreground / len(atlases), grid)
        transforms = register_pairs(
            [
                Pair(template.image, atlas.image, transform.matrix, region)
                for atlas, transform in zip(atlases, template.transforms, strict=True)
            ],
            affine,
            seed=seed,
            cache=cache,
            workers=workers,
            description="structures laid upon each other",
            progress=progress,
        )
        laid = np.empty((len(atlases), *grid.shape), np.float16)
        for number, (atlas, transform) in enumerate(zip(atlases, transforms, strict=True)):
            laid[number] = transform.apply(atlas.image).array[0]
        library = cls(
            folder=Path(folder),
            names=tuple(atlas.name for atlas in atlases),
            template=template.image,
            matrices=np.stack([transform.matrix for transform in transforms]),
            region=region,
            signatures=signatures(laid, region).astype(np.float16),
        )
        library._write(atlases)
        return library

    def _write(self, atlases: Sequence[Atlas]) -> None:
        for number, atlas in enumerate(atlases):
            write_arrays(
                _atlas_path(self.folder, number),
                image=atlas.image.array[0].astype(np.float16),
                indices=atlas.indices,
                affine=atlas.image.grid.affine,
            )
        write_arrays(
            self.folder / _TEMPLATE,
            image=self.template.array[0],
            affine=self.template.grid.affine,
            matrices=self.matrices,
            region=self.region,
            signatures=self.signatures,
        )
        write_json(list(self.names), self.folder / _LIST)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> AtlasLibrary:
        """The library that ``build`` wrote into a folder.

        Raises:
            BundleError: A file is missing or damaged.
        """
        path = Path(folder)
        arrays = read_arrays(path / _TEMPLATE, "image", "affine", "matrices", "region", "signatures")
        names, image = read_json(path / _LIST), arrays["image"]
        fitting = (
            isinstance(names, list)
            and len(names) == len(arrays["matrices"]) == len(arrays["signatures"]) > 0
            and arrays["region"].shape == image.shape
        )
        if not fitting:
            raise BundleError("does not fit its list of atlases", where=path / _TEMPLATE, fix=REFIT)
        return cls(
            folder=path,
            names=tuple(map(str, names)),
            template=Volume(image[np.newaxis], Grid(image.shape, arrays["affine"])),
            matrices=arrays["matrices"],
            region=arrays["region"],
            signatures=arrays["signatures"],
        )


def _atlas_path(folder: Path, number: int) -> Path:
    return folder / _FOLDER / f"{number:04d}.npz"
