"""The picture of a plan, drawn on one of its training cases."""

from __future__ import annotations

import os
from importlib.util import find_spec

import numpy as np

from medseg.data import Dataset
from medseg.data.reading import read_case, read_labelled_case
from medseg.io import Case, read_header
from medseg.pictures import PlanExample, plan_picture
from medseg.progress import Progress, SilentProgress
from medseg.runs import Plan
from medseg.transforms import preprocess

__all__ = ["draw_plan", "median_case"]


def draw_plan(
    plan: Plan, dataset: Dataset, path: str | os.PathLike[str], progress: Progress | None = None
) -> bool:
    """Draw a plan, with its patch on the case whose size is nearest to the median.

    Args:
        plan: What is drawn.
        dataset: The training data that it was made from.
        path: A ``.png`` file, written whole or not at all.
        progress: Is told in one line where matplotlib is not installed.

    Returns:
        Whether it was drawn: not without matplotlib, which comes with the extra ``report``.

    Raises:
        ConfigError: ``path`` is no ``.png`` file.
        InputError: The case cannot be read any more.
        ResourceError: The file cannot be written.
    """
    if find_spec("matplotlib") is None:
        (progress or SilentProgress()).note(
            "No picture of the plan: matplotlib is not installed (pip install 'medseg[report]')"
        )
        return False
    case = median_case(plan, dataset)
    channels = len(plan.channel_names)
    if plan.fingerprint.classes:
        native, native_label = read_labelled_case(case, plan.labels, channels)
        image, label = preprocess(native, plan.preprocessing, native_label)
        labels = label.reoriented("RAS").array[0]
    else:
        image, labels = preprocess(read_case(case, channels), plan.preprocessing), None
    shown = image.reoriented("RAS")
    plan_picture(path, plan, PlanExample(case.id, shown.array[0], labels, shown.grid))
    return True


def median_case(plan: Plan, dataset: Dataset) -> Case:
    """The case whose extent in millimetres is nearest to the median, the first one of several."""
    facts = plan.fingerprint
    median_mm = np.multiply(facts.median_shape, facts.median_spacing_mm)
    distances = []
    for case in dataset.cases:
        grid = read_header(case.images[0]).grid.reoriented(plan.preprocessing.axcodes)
        extent_mm = np.multiply(grid.shape, grid.spacing_mm)
        distances.append(float(np.abs(np.log(extent_mm / median_mm)).sum()))
    return dataset.cases[int(np.argmin(distances))]
