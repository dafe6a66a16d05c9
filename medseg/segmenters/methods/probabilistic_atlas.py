"""Segmentation by a probabilistic atlas: where classes are expected, and what intensities say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from medseg.atlas.cache import TransformCache
from medseg.atlas.choices import AffineChoice, DeformableChoice, RegistrationChoice
from medseg.atlas.intensity_model import IntensityChoice
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

if TYPE_CHECKING:
    from medseg.atlas.library import Atlas
    from medseg.atlas.probabilistic import ProbabilisticAtlas
    from medseg.atlas.transform import Transform

__all__ = ["ProbabilisticAtlasOptions", "ProbabilisticAtlasSegmenter", "build_atlas"]

_CERTAIN = 0.999
"""Where the prior is surer of the background, intensities are not asked."""


class ProbabilisticAtlasOptions(Part):
    """What a person chooses.

    Attributes:
        affine: How images and template are laid upon each other.
        deformable: How they are bent.
        affine_rounds: Rounds in which the template is found with affine registration alone.
        deformable_rounds: Rounds after these.
        intensities: The model of intensities and neighbours; ``None`` leaves the prior as it is.
        channel: Of the image, from 0: what is registered, and whose intensities are modelled.
        cache_folder: Where transforms are kept, to be found again by their images and options; nowhere if
            left out.
    """

    affine: AffineChoice = AffineChoice()
    deformable: DeformableChoice = DeformableChoice(iterations=(40, 30))
    affine_rounds: PositiveInt = 2
    deformable_rounds: int = Field(default=2, ge=0)
    intensities: IntensityChoice | None = IntensityChoice()
    channel: int = Field(default=0, ge=0)
    cache_folder: str | None = None

    @property
    def registration(self) -> RegistrationChoice:
        """Both parts of it."""
        return RegistrationChoice(affine=self.affine, deformable=self.deformable)

    @property
    def cache(self) -> TransformCache | None:
        """Where transforms are kept."""
        return None if self.cache_folder is None else TransformCache(self.cache_folder)


def build_atlas(
    atlases: Sequence[Atlas],
    task: Task,
    options: ProbabilisticAtlasOptions,
    *,
    seed: int,
    running: Running,
    progress: Progress,
) -> tuple[ProbabilisticAtlas, tuple[Transform, ...]]:
    """The probabilistic atlas of labelled cases, as options have it; see ``ProbabilisticAtlas.build``.

    Args:
        atlases: The cases.
        task: Classes and channels.
        options: Registration and rounds.
        seed: Of what registration draws.
        running: Processes.
        progress: Shows how far it has come.

    Returns:
        The atlas, and the transforms from its template to each of the cases.
    """
    from medseg.atlas.probabilistic import ProbabilisticAtlas

    return ProbabilisticAtlas.build(
        atlases,
        len(task.labels),
        options.registration,
        affine_rounds=options.affine_rounds,
        deformable_rounds=options.deformable_rounds,
        seed=seed,
        cache=options.cache,
        workers=running.jobs,
        progress=progress,
    )


class ProbabilisticAtlasSegmenter(FittedSegmenter):
    """Segments by a probabilistic atlas.

    Args:
        folder: What ``fit`` wrote.
        task: Classes and channels.
        options: As they were fitted with.
        running: Memory.
        postprocess: What is done to a label map.
    """

    method = "a probabilistic atlas"
    Options: ClassVar[type[Part]] = ProbabilisticAtlasOptions

    def __init__(
        self,
        folder: Path,
        task: Task,
        options: ProbabilisticAtlasOptions,
        *,
        running: Running,
        postprocess: PostprocessChoice | None = None,
    ) -> None:
        from medseg.atlas.probabilistic import ProbabilisticAtlas

        super().__init__(folder, task, options, running=running, postprocess=postprocess)
        self.options = options
        self.atlas = ProbabilisticAtlas.open(folder, len(self.labels))

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
        """Find the cases' mean, and bring their labels onto it; see ``Method.fit``."""
        chosen = cast(ProbabilisticAtlasOptions, options)
        atlases = read_atlases(cases, task, chosen.channel, progress)
        atlas, _ = build_atlas(atlases, task, chosen, seed=seed, running=running, progress=progress)
        atlas.save(folder)

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """Logarithms of the class probabilities; see ``WholeImageSegmenter``."""
        return log_probabilities(self.posterior(image)[0])

    def posterior(self, image: Volume) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Class probabilities of an image, and the affine map that the template was laid upon it by.

        Args:
            image: (C, X, Y, Z), finite.

        Returns:
            (K, X, Y, Z), of sum 1, and 4x4, from points of the image to points of the template.
        """
        from medseg.atlas.groupwise import onto_template, structure_region
        from medseg.atlas.intensities import standardized
        from medseg.atlas.intensity_model import classify
        from medseg.atlas.register import Pair, register

        options = self.options
        target = standardized(image, options.channel)
        template, cache = self.atlas.template, options.cache
        region = structure_region(1.0 - self.atlas.probabilities[0], template.grid)
        _, onto = onto_template(target, template, region, options.affine, cache=cache)
        bent = RegistrationChoice(affine=None, deformable=options.deformable)
        transform = register(Pair(target, template, onto), bent, cache=cache)
        prior = self.atlas.brought_by(transform)
        region = prior[0] < _CERTAIN
        if options.intensities is None or not region.any():
            return prior, transform.matrix
        spacing = image.grid.spacing_mm
        found = classify(target.array, prior, options.intensities, spacing_mm=spacing, region=region)
        return found.probabilities, transform.matrix

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:
        """Memory beside the image and the scores; see ``WholeImageSegmenter``."""
        each = 8 * grid.voxel_count
        return {"registration": 10 * each, "intensities": each * (6 * len(self.labels) + 8)}
