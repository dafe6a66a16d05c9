"""What a training set is like: each case is read once, and refused if it would ruin a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data import Dataset
from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io import Case, read_volume, require_finite
from medseg.labels import LabelScheme
from medseg.progress import Progress, SilentProgress, track
from medseg.runs import Fingerprint
from medseg.runs.fingerprint import AxisSpread
from medseg.training.case_facts import BODY_ABOVE_HU, CaseFacts, facts_of
from medseg.training.summed_facts import channel_facts, class_facts, intensity_of
from medseg.volume import Volume

__all__ = [
    "fingerprint",
    "read_case",
    "read_instance_map",
    "read_labelled_case",
]

_DIGITS = 6


def read_case(case: Case, channels: int) -> Volume:
    """Read a training case's image and prove that it can be trained on.

    Args:
        case: Its image(s).
        channels: Channels that the image must have.

    Raises:
        InputError: Another number of channels, NaN or infinite values.
    """
    image = read_volume(case.images)
    if image.channels != channels:
        raise InputError(
            f"has {image.channels} channels, the data set declares {channels}",
            where=case.images[0],
            fix="correct the file or dataset.json",
        )
    require_finite(image, case.images[0])
    return image


def read_labelled_case(case: Case, labels: LabelScheme, channels: int) -> tuple[Volume, Volume]:
    """Read a training case and prove that it can be trained on.

    Args:
        case: Its image(s) and label.
        labels: The classes.
        channels: Channels that the image must have.

    Returns:
        Image (C, X, Y, Z) and class indices (1, X, Y, Z), on one grid; the scheme's ``ignore_index`` where
        nobody has labelled.

    Raises:
        InputError: No label, another number of channels, NaN or infinite values, an undeclared label, no
            labelled voxel.
        GeometryError: The label lies on another grid than the image.
    """
    if case.label is None:
        raise InputError("has no label", where=case.images[0], fix="add its label, or leave the case out")
    image = read_case(case, channels)
    label = _read_map(case.label, "a label map", image.grid, case.images[0])
    indices = labels.to_indices(label.array, where=str(case.label))
    if labels.ignore_index is not None and (indices == labels.ignore_index).all():
        raise InputError(
            f"holds no labelled voxel: all are {labels.ignore}, which is ignored",
            where=case.label,
            fix="label some of them, or leave the case out",
        )
    return image, Volume(indices, image.grid)


def read_instance_map(case: Case, grid: Grid) -> Volume:
    """Read a training case's instance map.

    Args:
        case: The case.
        grid: That of its image.

    Returns:
        Instance ids (1, X, Y, Z), int32, 0 where there is no instance.

    Raises:
        InputError: No instance map, several channels, or values that are no whole numbers from 0 to 2^31 - 1.
        GeometryError: It lies on another grid than the image.
    """
    if case.instances is None:
        raise _no_instances(case, "")
    instances = _read_map(case.instances, "an instance map", grid, case.images[0])
    with np.errstate(invalid="ignore"):
        ids = instances.array.astype(np.int32)
    if not np.array_equal(ids, instances.array) or ids.min(initial=0) < 0:
        raise InputError(
            f"holds ids that are no whole numbers from 0 to {np.iinfo(np.int32).max}",
            where=case.instances,
            fix="number the instances from 1",
        )
    return Volume(ids, grid)


def _no_instances(case: Case, others: str) -> InputError:
    return InputError(
        f"has no instance map{others}, and loss.border_weights asks for one",
        where=case.label,
        fix="put it into instancesTr, named as its label, or use 'instances: components'",
    )


def _read_map(path: Path, kind: str, grid: Grid, image: Path) -> Volume:
    volume = read_volume(path)
    if volume.channels != 1:
        raise InputError(
            f"has {volume.channels} channels, {kind} has one",
            where=path,
            fix="merge the structures into one map",
        )
    difference = grid.difference(volume.grid)
    if difference is not None:
        raise GeometryError(
            f"is not on the grid of {image.name}: {difference}",
            where=path,
            fix="resample it onto its image",
        )
    return volume


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
        raise _no_instances(without[0], f" (nor have {len(without) - 1} others)" if without[1:] else "")
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
