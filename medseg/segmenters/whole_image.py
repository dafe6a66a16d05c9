"""Segmenters that look at the whole image at once, as atlases and graph cuts do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from medseg.errors import BundleError, ResourceError
from medseg.geometry import Grid
from medseg.inference.slabs import slab_ranges
from medseg.io import require_finite
from medseg.io.sizes import available_memory_bytes, format_bytes, resident_bytes
from medseg.labels import LabelScheme
from medseg.postprocessing import postprocess_memory, require_classes
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.cases import segment_case
from medseg.segmenters.protocol import CaseLike
from medseg.segmenters.segmentation_plan import SegmentationPlan
from medseg.volume import Slices, Volume

__all__ = ["ScoreArray", "WholeImagePassage", "WholeImageSegmenter", "log_probabilities", "whole_volume"]

_SCORE_BYTES = 4
_LEAST = 1e-6
"""Probability that stands for none: its logarithm is finite, and no sum of a few outweighs it."""
_SLICES_AT_A_TIME = 16


def log_probabilities(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Scores whose softmax gives probabilities back, up to a millionth.

    Args:
        probabilities: (K, …), of sum 1 over the classes.

    Example:
        >>> log_probabilities(np.asarray([1.0, 0.0])).round(1).tolist()
        [0.0, -13.800000190734863]
    """
    scores: npt.NDArray[np.float32] = np.log(np.maximum(probabilities, _LEAST)).astype(np.float32, copy=False)
    return scores


def whole_volume(image: Slices) -> Volume:
    """All of an image in memory; one that is there already is not copied.

    Raises:
        InputError: Voxels are not finite.
    """
    if isinstance(image, Volume):
        volume = image
    else:
        array = np.empty((image.channels, *image.grid.shape), image.dtype)
        for start, stop in slab_ranges(image.grid.shape[2], _SLICES_AT_A_TIME):
            array[..., start:stop] = image.slices(2, start, stop)
        volume = Volume(array, image.grid)
    require_finite(volume, image.name)
    return volume


@dataclass(frozen=True, kw_only=True)
class WholeImagePassage(SegmentationPlan):
    """The plan of a method that holds the whole image.

    Attributes:
        method: What it is called.
        axis: The image's axis along which scores are read.
        grid: The image's.
    """

    method: str
    axis: int
    grid: Grid

    def native_axis(self, grid: Grid) -> int:  # noqa: ARG002
        """The axis along which scores are read."""
        return self.axis

    def __str__(self) -> str:
        return self.told(f"{' x '.join(map(str, self.grid.shape))} voxels by {self.method}")


@dataclass(frozen=True)
class ScoreArray:
    """Class scores in memory, as a stage.

    Attributes:
        scores: (K, X, Y, Z).
        axis: The spatial axis along which slices are read.
        ascending: Whether slices are read from the first to the last.
    """

    scores: npt.NDArray[np.float32]
    axis: int
    ascending: bool = True

    @property
    def length(self) -> int:
        """Number of slices along the axis."""
        return int(self.scores.shape[1 + self.axis])

    @property
    def box(self) -> Sequence[tuple[int, int]]:
        """All voxels."""
        return tuple((0, size) for size in self.scores.shape[1:])

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Slices [start, stop), (K, X, Y, Z)."""
        chosen = [slice(None)] * 4
        chosen[1 + self.axis] = slice(start, stop)
        return torch.from_numpy(self.scores[tuple(chosen)])


class WholeImageSegmenter(ABC):
    """Segments by a method that looks at the whole image.

    A subclass gives ``class_scores``; what is planned and written follows from there.

    Args:
        labels: The classes.
        channel_names: The channels of an image.
        postprocess: What is done to a label map; nothing, if left out.
        max_ram_bytes: Limit of the whole process; what is free, if left out.
        shared_by: How many segmenters share that memory at the same time, this one included.

    Raises:
        ConfigError: ``postprocess`` names a class that is not there.

    Example:
        >>> class Bright(WholeImageSegmenter):
        ...     method = "threshold"
        ...     def class_scores(self, image):
        ...         bright = image.array > 0
        ...         return log_probabilities(np.concatenate([~bright, bright]).astype(np.float32))
        >>> image = Volume(np.asarray([[[[-1.0, 2.0]]]], np.float32), Grid((1, 1, 2), np.eye(4)))
        >>> segmenter = Bright(LabelScheme.from_names({7: "vessel"}), ("CT",))
        >>> segmenter.segment(image).array.ravel().tolist()
        [0, 7]
    """

    method: ClassVar[str] = "a whole-image method"
    """What it is called in plans and errors."""

    def __init__(
        self,
        labels: LabelScheme,
        channel_names: Sequence[str],
        *,
        postprocess: PostprocessChoice | None = None,
        max_ram_bytes: int | None = None,
        shared_by: int = 1,
    ) -> None:
        self.labels = labels
        self.channel_names = tuple(channel_names)
        self.postprocess = postprocess or PostprocessChoice()
        require_classes(self.postprocess, labels)
        self.max_ram_bytes = max_ram_bytes
        self.shared_by = shared_by

    @abstractmethod
    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """Logarithms of the class probabilities of each voxel; see ``log_probabilities``.

        Args:
            image: (C, X, Y, Z), finite.

        Returns:
            (K, X, Y, Z), in the order of ``labels``.
        """

    def working_bytes(self, grid: Grid) -> Mapping[str, int]:  # noqa: ARG002
        """Memory that ``class_scores`` takes beside the image and the scores, by part; an estimate."""
        return {}

    def plan(self, image: Slices, axis: int | None = None) -> WholeImagePassage:
        """What memory an image takes; see ``Segmenter.plan``."""
        process, voxels = resident_bytes(), image.grid.voxel_count
        memory = postprocess_memory(image.grid.shape, self.labels.dtype, self.postprocess)
        by_part = {
            "process": process,
            "label map": memory.labels,
            "image": voxels * image.channels * image.dtype.itemsize,
            "scores": voxels * len(self.labels) * _SCORE_BYTES,
            **self.working_bytes(image.grid),
        }
        plan = WholeImagePassage(
            why="it looks at the whole image",
            by_part={name: count for name, count in by_part.items() if count},
            postprocessing=memory,
            method=self.method,
            axis=2 if axis is None else axis,
            grid=image.grid,
        )
        self._require_room(plan)
        return plan

    def scores(self, image: Slices, plan: SegmentationPlan | None = None) -> ScoreArray:
        """Class scores on the image's own grid; see ``Segmenter.scores``.

        Raises:
            BundleError: The method gave scores of another shape, or that are not finite.
        """
        chosen = self.plan(image) if plan is None else plan
        found = self.class_scores(whole_volume(image))
        expected = (len(self.labels), *image.grid.shape)
        if found.shape != expected:
            raise BundleError(f"{self.method} gives scores of shape {found.shape}, not {expected}")
        if not np.isfinite(found).all():
            raise BundleError(f"{self.method} gives scores that are not finite", where=image.name)
        return ScoreArray(found, chosen.native_axis(image.grid))

    def parts(self, image: Slices, plan: SegmentationPlan | None = None) -> Iterator[ScoreArray]:
        """The whole image in one part; see ``Segmenter.parts``."""
        yield self.scores(image, plan)

    def segment(self, case: CaseLike) -> Volume:
        """The label map of an image, on the image's own grid; see ``Segmenter.segment``."""
        return segment_case(self, case)

    def _require_room(self, plan: WholeImagePassage) -> None:
        process = plan.by_part["process"]
        limit = self.max_ram_bytes or process + available_memory_bytes()
        needed = process + self.shared_by * (plan.peak_bytes - process)
        if needed > limit:
            raise ResourceError(
                f"{self.method} needs {format_bytes(needed)} of memory; {format_bytes(limit)} may be taken",
                where=None if self.max_ram_bytes is None else "--max-ram",
                fix="close other programs" if self.max_ram_bytes is None else f"allow {format_bytes(needed)}",
            )
