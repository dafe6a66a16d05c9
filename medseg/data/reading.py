"""Training cases: image, label and instance map, read and proven to be fit to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid
from medseg.io import Case, read_volume, require_finite
from medseg.labels import LabelScheme
from medseg.volume import Volume

__all__ = ["no_instances", "read_case", "read_instance_map", "read_labelled_case"]


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
        raise no_instances(case, "")
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


def no_instances(case: Case, others: str) -> InputError:
    """That a case has no instance map, and how many ``others`` have none, in words that follow."""
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
