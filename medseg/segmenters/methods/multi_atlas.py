"""Multi-atlas segmentation: the most similar labelled images are registered, and their labels fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from medseg.atlas.cache import TransformCache
from medseg.atlas.choices import AffineChoice, DeformableChoice, FusionChoice, RegistrationChoice
from medseg.geometry import Grid
from medseg.io import Case
from medseg.progress import Progress
from medseg.runs import Task
from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.methods.atlas_cases import read_atlases
from medseg.segmenters.methods.base import Running
from medseg.segmenters.methods.fitted import FittedSegmenter
from medseg.segmenters.whole_image import log_probabilities
from medseg.volume import Volume

__all__ = ["MultiAtlasOptions", "MultiAtlasSegmenter"]


class MultiAtlasOptions(Part):
    """What a person chooses.

    Attributes:
        atlases: How many are registered to an image: those most like it after affine registration.
        affine: How all atlases are laid onto one template, and the image as well.
        deformable: How the chosen ones are bent to the image.
        fusion: How their labels become one.
        template_rounds: In how many rounds the template is found that all atlases are laid onto.
        channel: Of the image, from 0: what is registered and compared.
        cache_folder: Where transforms are kept, to be found again by their images and options; nowhere if
            left out.
    """

    atlases: PositiveInt = 20
    affine: AffineChoice = AffineChoice()
    deformable: DeformableChoice = DeformableChoice()
    fusion: FusionChoice = FusionChoice()
    template_rounds: PositiveInt = 2
    channel: int = Field(default=0, ge=0)
    cache_folder: str | None = None

    @property
    def cache(self) -> TransformCache | None:
        """Where transforms are kept."""
        return None if self.cache_folder is None else TransformCache(self.cache_folder)


class MultiAtlasSegmenter(FittedSegmenter):
    """Segments by the labels of atlases.

    Args:
        folder: What ``fit`` wrote.
        task: Classes and channels.
        options: As they were fitted with.
        running: Processes and memory.
        postprocess: What is done to a label map.
    """

    method = "multi-atlas fusion"
    Options: ClassVar[type[Part]] = MultiAtlasOptions

    def __init__(
        self,
        folder: Path,
        task: Task,
        options: MultiAtlasOptions,
        *,
        running: Running,
        postprocess: PostprocessChoice | None = None,
    ) -> None:
        from medseg.atlas.library import AtlasLibrary

        super().__init__(folder, task, options, running=running, postprocess=postprocess)
        self.options = options
        self.jobs = running.jobs
        self.library = AtlasLibrary.open(folder)

    @classmethod
    def fit(
        cls,
        cases: Sequence[Case],
        task: Task,
        options: Part,
        folder: Path,
        *,
        seed: int,
        running: Running,
        progress: Progress,
    ) -> None:
        """Lay the cases onto their mean, and keep them; see ``Method.fit``."""
        from medseg.atlas.library import AtlasLibrary

        chosen = cast(MultiAtlasOptions, options)
        AtlasLibrary.build(
            read_atlases(cases, task, chosen.channel, progress),
            folder,
            chosen.affine,
            rounds=chosen.template_rounds,
            seed=seed,
            cache=chosen.cache,
            workers=running.jobs,
            progress=progress,
        )

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """Logarithms of the fused class probabilities; see ``WholeImageSegmenter``."""
        from medseg.atlas.fuse import fuse
        from medseg.atlas.intensities import standardized

        target = standardized(image, self.options.channel)
        images, probabilities = self.registered(target)
        return log_probabilities(fuse(target.array[0], images, probabilities, self.options.fusion))

    def registered(self, target: Volume) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The chosen atlases on an image's grid.

        Args:
            target: (1, X, Y, Z), as ``standardized`` gives it.

        Returns:
            Their images (N, X, Y, Z), and their class probabilities (N, K, X, Y, Z).
        """
        from medseg.atlas.register import Pair, register_pairs

        options = self.options
        candidates = self.library.select(target, options.atlases, options.affine)
        atlases = [self.library.read(candidate.number) for candidate in candidates]
        pairs = [
            Pair(target, atlas.image, candidate.matrix)
            for atlas, candidate in zip(atlases, candidates, strict=True)
        ]
        # Each atlas is laid onto the image already, by way of the template.
        bent = RegistrationChoice(affine=None, deformable=options.deformable)
        transforms = register_pairs(pairs, bent, cache=options.cache, workers=self.jobs)
        classes, shape = len(self.labels), target.grid.shape
        images = np.empty((len(atlases), *shape), np.float32)
        probabilities = np.empty((len(atlases), classes, *shape), np.float32)
        for number, (atlas, transform) in enumerate(zip(atlases, transforms, strict=True)):
            images[number] = transform.apply(atlas.image).array[0]
            probabilities[number] = transform.apply_to_labels(atlas.indices, atlas.image.grid, classes)
        return images, probabilities

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:
        """Memory beside the image and the scores; see ``WholeImageSegmenter``."""
        count = min(self.options.atlases, len(self.library))
        each = 4 * grid.voxel_count
        return {
            "atlases": count * each * (len(self.labels) + 3),  # images, probabilities, displacements
            "registration": 20 * each,
            "fusion": 8 * each + count * each,
        }
