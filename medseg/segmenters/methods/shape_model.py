"""Segmentation by a shape model that is fitted to what a probabilistic atlas makes of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeFloat

from medseg.atlas.shape_fit import ShapeChoice
from medseg.geometry import Grid
from medseg.io import Case
from medseg.progress import Progress
from medseg.runs import Task
from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.methods.atlas_cases import read_atlases
from medseg.segmenters.methods.base import Running
from medseg.segmenters.methods.fitted import FittedSegmenter
from medseg.segmenters.methods.probabilistic_atlas import (
    ProbabilisticAtlasOptions,
    ProbabilisticAtlasSegmenter,
    build_atlas,
)
from medseg.segmenters.whole_image import log_probabilities
from medseg.volume import Volume

__all__ = ["ShapeModelOptions", "ShapeModelSegmenter"]


class ShapeModelOptions(Part):
    """What a person chooses.

    Attributes:
        atlas: The probabilistic atlas that says where classes are, and whose template shapes are laid onto.
        shape: How shapes are learnt and fitted.
        use: ``"regulariser"``: the atlas's probabilities times the shape's; ``"alone"``: the shape's.
        weight: Of the shape as a regulariser: the power that its probabilities are raised to.
    """

    atlas: ProbabilisticAtlasOptions = ProbabilisticAtlasOptions()
    shape: ShapeChoice = ShapeChoice()
    use: Literal["regulariser", "alone"] = "regulariser"
    weight: NonNegativeFloat = 0.3

    @property
    def channel(self) -> int:
        """Of the image: that of the atlas."""
        return self.atlas.channel


class ShapeModelSegmenter(FittedSegmenter):
    """Segments by the shape that fits best.

    Args:
        folder: What ``fit`` wrote.
        task: Classes and channels.
        options: As they were fitted with.
        running: Memory.
        postprocess: What is done to a label map.
    """

    method = "a shape model"
    Options: ClassVar[type[Part]] = ShapeModelOptions

    def __init__(
        self,
        folder: Path,
        task: Task,
        options: ShapeModelOptions,
        *,
        running: Running,
        postprocess: PostprocessChoice | None = None,
    ) -> None:
        from medseg.atlas.shape_model import ShapeModel

        super().__init__(folder, task, options, running=running, postprocess=postprocess)
        self.options = options
        self.atlas = ProbabilisticAtlasSegmenter(folder, task, options.atlas, running=running)
        self.shapes = ShapeModel.open(folder, len(self.labels))

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
        """Build the probabilistic atlas, and learn the shapes on its template; see ``Method.fit``."""
        from medseg.atlas.shape_model import ShapeModel

        chosen = cast(ShapeModelOptions, options)
        atlases = read_atlases(cases, task, chosen.channel, progress)
        atlas, transforms = build_atlas(
            atlases, task, chosen.atlas, seed=seed, running=running, progress=progress
        )
        atlas.save(folder)
        shapes = ShapeModel.build(
            [atlas.indices for atlas in atlases],
            transforms,
            [atlas.image.grid for atlas in atlases],
            len(task.labels),
            modes=chosen.shape.modes,
            reach_mm=chosen.shape.reach_mm,
        )
        shapes.save(folder)

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """Logarithms of the class probabilities; see ``WholeImageSegmenter``."""
        from medseg.atlas.shape_fit import fit_shape

        found, onto = self.atlas.posterior(image)
        start = np.asarray(np.linalg.inv(onto), dtype=np.float64)
        fit = fit_shape(self.shapes, found, image.grid, start, self.options.shape)
        shape = log_probabilities(fit.probabilities)
        if self.options.use == "alone":
            return shape
        both = log_probabilities(found) + np.float32(self.options.weight) * shape
        both -= both.max(axis=0)
        probabilities = np.exp(both)
        return log_probabilities(probabilities / probabilities.sum(axis=0))

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:
        """Memory beside the image and the scores; see ``WholeImageSegmenter``."""
        shapes = 4 * self.shapes.modes.nbytes
        return {**self.atlas.working_bytes(grid), "shapes": shapes}
