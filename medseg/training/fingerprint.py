"""What a training set is like: each case is read once, and refused if it would ruin a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data import Dataset
from medseg.data.reading import no_instances, read_case, read_instance_map, read_labelled_case
from medseg.errors import InputError
from medseg.io import Case
from medseg.progress import Progress, SilentProgress, track
from medseg.runs import Fingerprint
from medseg.runs.fingerprint import AxisSpread
from medseg.training.case_facts import BODY_ABOVE_HU, CaseFacts, facts_of
from medseg.training.summed_facts import channel_facts, class_facts, intensity_of

__all__ = ["fingerprint"]

_DIGITS = 6


def fingerprint(
    dataset: Dataset,
    axcodes: str = "RAS",
    progress: Progress | None = None,
    *,
    labelled: bool = True,
    instances: bool = False,
) -> Fingerprint:
    """Read all training cases, one at a time, and sum up what a plan needs.

    Args:
        dataset: The training data.
        axcodes: Orientation in which shapes and spacings are counted.
        progress: Shows how far the reading has come.
        labelled: Whether cases need labels. If not, no label is read, and intensities are those of the body:
            of voxels above ``BODY_ABOVE_HU`` where a channel is CT, else of all.
        instances: Whether labelled cases need instance maps, too.

    Returns:
        The fingerprint; it depends on the cases alone, not on their layout or the machine.

    Raises:
        InputError: No case, a case that cannot be trained on (see ``read_labelled_case`` and
            ``read_instance_map``), or no labelled voxel in any case (without labels: none of the body).
        GeometryError: A label or an instance map on another grid than its image.
    """
    if not dataset.cases:
        raise InputError("holds no training case", where=dataset.folder, fix="check dataset.json")
    without = [case for case in dataset.cases if case.instances is None]
    if labelled and instances and without:
        raise no_instances(without[0], f" (nor have {len(without) - 1} others)" if without[1:] else "")
    facts = [
        _read_facts(case, number, dataset, axcodes, labelled, instances)
        for number, case in enumerate(track(dataset.cases, "Reading cases", progress or SilentProgress()))
    ]
    samples = np.concatenate([fact.foreground for fact in facts], axis=1)
    if samples.shape[1] == 0:
        raise _nothing_inside(dataset, labelled)
    shapes = np.array([fact.grid.shape for fact in facts])
    spacings = np.array([fact.grid.spacing_mm for fact in facts])
    return Fingerprint(
        cases=len(facts),
        median_shape=_triple(np.median(shapes, axis=0).round().astype(int)),
        largest_shape=_triple(shapes.max(axis=0)),
        median_spacing_mm=_triple(_without_noise(np.median(spacings, axis=0))),
        foreground_intensity=tuple(intensity_of(channel) for channel in samples.astype(np.float64)),
        class_voxels=tuple(int(count) for count in np.sum([fact.class_voxels for fact in facts], axis=0)),
        shape=_spread(shapes),
        spacing_mm=_spread(spacings),
        channels=tuple(
            channel_facts(facts, channel, name) for channel, name in enumerate(dataset.channel_names)
        ),
        classes=tuple(
            class_facts(facts, index, dataset.labels)
            for index in range(1, len(dataset.labels) if labelled else 1)
        ),
    )


def _read_facts(
    case: Case, number: int, dataset: Dataset, axcodes: str, labelled: bool, instances: bool
) -> CaseFacts:
    names = dataset.channel_names
    label = None
    if labelled:
        image, label = read_labelled_case(case, dataset.labels, len(names))
        if instances:
            read_instance_map(case, image.grid)
    else:
        image = read_case(case, len(names))
    return facts_of(image, label, len(dataset.labels), names, axcodes, number)


def _nothing_inside(dataset: Dataset, labelled: bool) -> InputError:
    if labelled:
        return InputError("no label map holds any structure", where=dataset.folder, fix="check the labels")
    what = f"no CT holds a voxel above {BODY_ABOVE_HU:g} HU"
    return InputError(what, where=dataset.folder, fix="check the intensities' unit, or the channels' names")


def _spread(values: npt.NDArray[Any]) -> AxisSpread:
    smallest, tenth, largest = (
        _triple(_without_noise(row)) for row in np.percentile(values, [0, 10, 100], axis=0)
    )
    return AxisSpread(smallest=smallest, tenth_percentile=tenth, largest=largest)


def _without_noise(values: npt.NDArray[Any]) -> list[float]:
    # Headers hold single precision: digits beyond that are noise and would force needless resampling.
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _triple(values: npt.ArrayLike) -> Any:
    first, second, third = np.asarray(values).tolist()
    return first, second, third
