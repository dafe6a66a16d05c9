"""Training cases as atlases: what the methods that are built on atlases read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medseg.data.reading import read_labelled_case
from medseg.errors import InputError
from medseg.io import Case
from medseg.progress import Progress, track
from medseg.runs import Task
from medseg.segmenters.methods.base import require_channel

if TYPE_CHECKING:
    from medseg.atlas.library import Atlas

__all__ = ["read_atlases"]


def read_atlases(cases: Sequence[Case], task: Task, channel: int, progress: Progress) -> list[Atlas]:
    """Labelled cases with their intensities standardised.

    Args:
        cases: Labelled everywhere.
        task: Classes and channels.
        channel: What is registered.
        progress: Shows how far it has come.

    Raises:
        InputError: A case cannot be learnt from, such as one with voxels that nobody has labelled.
        GeometryError: A label lies on another grid than its image.
        ConfigError: There is no such channel.
    """
    from medseg.atlas.intensities import standardized
    from medseg.atlas.library import Atlas

    require_channel(task, channel)
    atlases = []
    for case in track(cases, "reading cases", progress):
        image, label = read_labelled_case(case, task.labels, len(task.channel_names))
        if task.labels.ignore_index is not None and (label.array == task.labels.ignore_index).any():
            raise InputError(
                "holds voxels that nobody has labelled, and an atlas needs all of them",
                where=case.label,
                fix="label them, or leave the case out",
            )
        try:
            scaled = standardized(image, channel)
        except InputError as error:
            error.where = str(case.images[0])
            raise
        atlases.append(Atlas(case.id, scaled, np.ascontiguousarray(label.array[0])))
    return atlases
