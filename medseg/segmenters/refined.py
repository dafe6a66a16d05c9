"""Any segmenter, its scores refined: by a graph cut, a fully connected random field, or for the best Dice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.classical import (
    best_dice_labels,
    best_dice_labels_bytes,
    dense_crf,
    dense_crf_bytes,
    graph_cut,
    graph_cut_bytes,
)
from medseg.geometry import Grid
from medseg.inference import Stage, slab_ranges
from medseg.runs.postprocess import RefineChoice
from medseg.segmenters.ensemble import EnsembleSegmenter
from medseg.segmenters.protocol import Segmenter
from medseg.segmenters.segmentation_plan import SegmentationPlan
from medseg.segmenters.whole_image import WholeImagePassage, WholeImageSegmenter, log_probabilities
from medseg.volume import Slices, Volume

__all__ = ["RefinedPassage", "RefinedSegmenter"]

_SLICES_AT_A_TIME = 8
_SHARED = ("process", "label map")


@dataclass(frozen=True, kw_only=True)
class RefinedPassage(WholeImagePassage):
    """The plan of scores that are computed, held, and refined.

    Attributes:
        scoring: Of the segmenter whose scores they are.
    """

    scoring: SegmentationPlan

    def __str__(self) -> str:
        return f"{super().__str__()}\nof the scores of: {self.scoring}"


class RefinedSegmenter(WholeImageSegmenter):
    """Draws labels from all scores of another segmenter and the image together.

    The scores are held as a whole, on the image's own grid. Of a dense CRF they are afterwards what each
    voxel believes in the end; of the others they are 1 and 0, as logarithms and up to a millionth.

    Args:
        segmenter: Gives the scores, of which an ensemble's are taken for probabilities.
        choice: How they are refined.
        max_ram_bytes: Limit of the whole process; what is free, if left out.

    Example:
        >>> from medseg.labels import LabelScheme
        >>> class Bright(WholeImageSegmenter):
        ...     def class_scores(self, image):
        ...         bright = 1.0 / (1.0 + np.exp(-image.array))
        ...         return log_probabilities(np.concatenate([1.0 - bright, bright]))
        >>> segmenter = Bright(LabelScheme.from_names({1: "vessel"}), ("CT",))
        >>> line = np.asarray([2.0, 2.0, -0.1, 2.0, -2.0, -2.0]).reshape(1, 1, 1, 6)
        >>> image = Volume(line, Grid((1, 1, 6), np.eye(4)))
        >>> segmenter.segment(image).array.ravel().tolist()
        [1, 1, 0, 1, 0, 0]
        >>> refined = RefinedSegmenter(segmenter, RefineChoice(method="graph_cut", contrast="none"))
        >>> refined.segment(image).array.ravel().tolist()
        [1, 1, 1, 1, 0, 0]
    """

    def __init__(
        self, segmenter: Segmenter, choice: RefineChoice, *, max_ram_bytes: int | None = None
    ) -> None:
        super().__init__(
            segmenter.labels,
            segmenter.channel_names,
            postprocess=segmenter.postprocess.model_copy(update={"refine": choice}),
            max_ram_bytes=max_ram_bytes,
        )
        self.segmenter = segmenter
        self.choice = choice

    @property
    def method(self) -> str:  # type: ignore[override]
        """What it is called in plans and errors."""
        return self.choice.method

    def plan(self, image: Slices, axis: int | None = None) -> RefinedPassage:
        """What memory an image takes, in scoring and refining; see ``Segmenter.plan``."""
        scoring = self.segmenter.plan(image, axis)
        own = super().plan(image, axis)
        # One comes after the other: the fuller moment counts.
        scoring_parts = {name: count for name, count in scoring.by_part.items() if name not in _SHARED}
        work = self.working_bytes(image.grid)
        if sum(scoring_parts.values()) > sum(work.values()):
            held = {name: count for name, count in own.by_part.items() if name not in work}
            parts = {**held, **{f"{name}, scoring": count for name, count in scoring_parts.items()}}
        else:
            parts = dict(own.by_part)
        plan = RefinedPassage(
            why=own.why,
            by_part=parts,
            postprocessing=own.postprocessing,
            method=own.method,
            axis=own.axis,
            grid=own.grid,
            scoring=scoring,
        )
        self._require_room(plan)
        return plan

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """Scores of the segmenter, refined; see ``WholeImageSegmenter.class_scores``."""
        # Written to now, so that it counts as taken when the segmenter plans its own way.
        scores = np.full((len(self.labels), *image.grid.shape), 0.0, np.float32)
        _collect(self.segmenter.parts(image), scores)
        if isinstance(self.segmenter, EnsembleSegmenter):
            scores = log_probabilities(scores)
        spacing_mm, options = image.grid.spacing_mm, self.choice.options()
        if self.choice.method == "dense_crf":
            return dense_crf(scores, image.array, spacing_mm, **options)
        if self.choice.method == "expected_dice":
            classes = best_dice_labels(scores)
        else:
            classes = graph_cut(scores, image.array, spacing_mm, **options)
        for index, score in enumerate(scores):
            score[...] = log_probabilities((classes == index).astype(np.float32))
        return scores

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:
        """See ``WholeImageSegmenter.working_bytes``."""
        classes, channels = len(self.labels), len(self.channel_names)
        if self.choice.method == "dense_crf":
            return {"dense CRF": dense_crf_bytes(grid.shape, classes, channels)}
        if self.choice.method == "expected_dice":
            return {"expected Dice": best_dice_labels_bytes(grid.shape, classes)}
        return {"graph cut": graph_cut_bytes(grid.shape, classes)}


def _collect(parts: Iterable[Stage], scores: npt.NDArray[np.float32]) -> None:
    """Read all that stages give into one array (K, X, Y, Z)."""
    for part in parts:
        box = [slice(None), *(slice(start, stop) for start, stop in part.box)]
        ranges = list(slab_ranges(part.length, _SLICES_AT_A_TIME))
        for start, stop in ranges if part.ascending else reversed(ranges):
            box[1 + part.axis] = slice(start, stop)
            scores[tuple(box)] = part.read(start, stop).float().cpu().numpy()
