"""Multi-Otsu thresholding whose bands of intensity are given their classes by training cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError
from scipy import ndimage

from medseg.classical.otsu import best_assignment, otsu_bounds
from medseg.data.reading import read_labelled_case
from medseg.errors import BundleError
from medseg.files import read_json, write_json
from medseg.geometry import Grid
from medseg.io import Case
from medseg.progress import Progress, track
from medseg.runs import Task
from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.methods.base import Running, require_channel
from medseg.segmenters.whole_image import WholeImageSegmenter, log_probabilities
from medseg.volume import Volume

__all__ = ["MultiOtsuOptions", "MultiOtsuSegmenter"]

_MODEL = "bands.json"
_WORK_BYTES = 26
"""Per voxel: the smoothed image, its bands, and percentiles."""


class MultiOtsuOptions(Part):
    """What a person chooses about multi-Otsu thresholding.

    Attributes:
        bands: Bands of intensity; one for each class, the background included, if left out.
        channel: Which channel is looked at, from 0.
        smoothing_mm: Deviation of the Gaussian that smooths it.
        thresholds: ``"image"``: each image has its own, as MR needs; ``"training"``: the median of those of
            the training cases, as calibrated intensities allow.
    """

    bands: int | None = Field(default=None, ge=2, le=12)
    channel: int = Field(default=0, ge=0)
    smoothing_mm: float = Field(default=1.0, ge=0.0)
    thresholds: Literal["image", "training"] = "image"


class _Bands(Part):
    """What is learnt.

    Attributes:
        bounds: Median of the thresholds.
        classes: Index of the class of each band, the darkest first.
        frequencies: How often each class occurs in each band, by bands.
    """

    bounds: tuple[float, ...]
    classes: tuple[int, ...]
    frequencies: tuple[tuple[float, ...], ...]


class MultiOtsuSegmenter(WholeImageSegmenter):
    """What intensities alone can tell: thresholds by Otsu, and a class for each band between them.

    Bands are given the classes with which the mean Dice over the training cases, all counted together, is
    largest. Half the probability of a band goes to its class, the other half to the classes as often as the
    band held them in training: the labels are those of the bands, and a graph cut or CRF has scores to weigh.

    Args:
        bands: What was learnt.
        task: Classes and channels.
        options: As chosen.
        **others: See :class:`medseg.segmenters.whole_image.WholeImageSegmenter`.
    """

    method = "multi-Otsu thresholding"
    Options: ClassVar[type[Part]] = MultiOtsuOptions

    def __init__(self, bands: _Bands, task: Task, options: MultiOtsuOptions, **others: Any) -> None:
        super().__init__(task.labels, task.channel_names, **others)
        self._bands = bands
        self._options = options

    @classmethod
    def fit(
        cls,
        cases: Sequence[Case],
        task: Task,
        options: Part,
        folder: Path,
        *,
        seed: int,  # noqa: ARG003  (nothing is drawn)
        running: Running,  # noqa: ARG003
        progress: Progress,
    ) -> None:
        """Count which class lies in which band; see :class:`medseg.segmenters.methods.Method`."""
        chosen = _checked(options, task)
        classes = len(task.labels)
        count = chosen.bands or classes
        joint, bounds = np.zeros((classes, count), np.int64), []
        for case in track(cases, "Looking at intensities", progress):
            image, label = read_labelled_case(case, task.labels, len(task.channel_names))
            smooth = _smoothed(image, chosen)
            bounds.append(otsu_bounds(smooth, count))
            # Voxels that nobody has labelled have an index beyond the classes.
            known = label.array[0] < classes
            places = label.array[0][known].astype(np.int64) * count + _bands_of(smooth, bounds[-1])[known]
            joint += np.bincount(places, minlength=joint.size)[: joint.size].reshape(joint.shape)
        learnt = _Bands(
            bounds=tuple(np.median(bounds, axis=0).tolist()),
            classes=tuple(best_assignment(joint).tolist()),
            frequencies=tuple(map(tuple, (joint / np.maximum(joint.sum(axis=0), 1)).T.tolist())),
        )
        write_json(learnt.model_dump(mode="json"), folder / _MODEL)

    @classmethod
    def load(
        cls, folder: Path, task: Task, options: Part, *, postprocess: PostprocessChoice, running: Running
    ) -> MultiOtsuSegmenter:
        """Read what was learnt; see :class:`medseg.segmenters.methods.Method`."""
        chosen, path = _checked(options, task), folder / _MODEL
        try:
            bands = TypeAdapter(_Bands).validate_python(read_json(path))
        except ValidationError as error:
            raise BundleError("holds no bands", where=path, fix="fit it anew") from error
        count = chosen.bands or len(task.labels)
        sizes = (len(bands.bounds) + 1, len(bands.classes), len(bands.frequencies))
        if set(sizes) != {count} or {len(part) for part in bands.frequencies} != {len(task.labels)}:
            raise BundleError(f"holds {sizes} bands for {count}", where=path, fix="fit it anew")
        return cls(
            bands,
            task,
            chosen,
            postprocess=postprocess,
            max_ram_bytes=running.max_ram_bytes,
            shared_by=running.shared_by,
        )

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        """See :meth:`WholeImageSegmenter.class_scores`."""
        learnt = self._bands
        smooth = _smoothed(image, self._options)
        of_image = self._options.thresholds == "image"
        bounds = otsu_bounds(smooth, len(learnt.classes)) if of_image else np.asarray(learnt.bounds)
        bands = _bands_of(smooth, bounds)
        own = np.eye(len(self.labels))[list(learnt.classes)]
        by_band = log_probabilities((own + np.asarray(learnt.frequencies)) / 2.0)
        scores = np.empty((len(self.labels), *smooth.shape), np.float32)
        for index, score in enumerate(scores):
            np.take(by_band[:, index], bands, out=score)
        return scores

    def working_bytes(self, grid: Grid) -> dict[str, int]:
        """See :meth:`WholeImageSegmenter.working_bytes`."""
        return {"thresholding": _WORK_BYTES * grid.voxel_count}


def _smoothed(image: Volume, options: MultiOtsuOptions) -> npt.NDArray[np.float32]:
    sigmas = [options.smoothing_mm / length for length in image.grid.spacing_mm]
    values = image.array[options.channel].astype(np.float32)
    smooth: npt.NDArray[np.float32] = ndimage.gaussian_filter(values, sigmas)
    return smooth


def _bands_of(values: npt.NDArray[np.float32], bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.searchsorted(bounds, values.ravel(), side="right").reshape(values.shape)


def _checked(options: Part, task: Task) -> MultiOtsuOptions:
    chosen = cast(MultiOtsuOptions, options)
    require_channel(task, chosen.channel)
    return chosen
