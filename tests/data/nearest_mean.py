"""The smallest method there can be: a voxel belongs to the class whose mean intensity is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg.data.reading import read_labelled_case
from medseg.errors import InputError
from medseg.files import read_json, write_json
from medseg.io import Case
from medseg.progress import Progress
from medseg.runs import Task
from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.methods import Running
from medseg.segmenters.whole_image import WholeImageSegmenter, log_probabilities
from medseg.volume import Volume


class Shift(Part):
    """How far the means are moved, which makes it worse; a fit may be told to fail."""

    shift: float = 0.0
    fails: bool = False


class NearestMean(WholeImageSegmenter):
    method = "nearest mean"
    Options: ClassVar[type[Part]] = Shift
    fitted: ClassVar[list[tuple[int, tuple[str, ...]]]] = []

    def __init__(self, means: Sequence[float], task: Task, options: Shift, **others: Any) -> None:
        super().__init__(task.labels, task.channel_names, **others)
        self.means = np.asarray(means) + options.shift

    @classmethod
    def fit(
        cls,
        cases: Sequence[Case],
        task: Task,
        options: Any,
        folder: Path,
        *,
        seed: int,
        running: Running,  # noqa: ARG003
        progress: Progress,  # noqa: ARG003
    ) -> None:
        if options.fails:
            (folder / "half.json").touch()
            raise InputError("cannot be learnt from", where="<here>")
        cls.fitted.append((seed, tuple(case.id for case in cases)))
        pairs = [read_labelled_case(case, task.labels, len(task.channel_names)) for case in cases]
        means = [
            float(np.mean(np.concatenate([image.array[label.array == index] for image, label in pairs])))
            for index in range(len(task.labels))
        ]
        write_json(means, folder / "means.json")

    @classmethod
    def load(
        cls, folder: Path, task: Task, options: Any, *, postprocess: PostprocessChoice, running: Running
    ) -> NearestMean:
        return cls(
            read_json(folder / "means.json"),
            task,
            options,
            postprocess=postprocess,
            max_ram_bytes=running.max_ram_bytes,
            shared_by=running.shared_by,
        )

    def class_scores(self, image: Volume) -> npt.NDArray[np.float32]:
        distance = np.abs(image.array[0] - self.means[:, None, None, None])
        weights = np.exp(-(distance - distance.min(axis=0)))
        return log_probabilities(weights / weights.sum(axis=0))
