"""Label maps on the planes of the images that they were made on: what every writer of objects begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID

from medseg.errors import InputError
from medseg.io.dicom.segmentations.identity import AlgorithmIdentification, SeriesIdentity, uid_maker
from medseg.io.dicom.segmentations.source import Source, SourceImages, read_source
from medseg.labels import LabelScheme
from medseg.volume import Volume

__all__ = ["indices_on_planes", "unique_identifiers"]


def indices_on_planes(
    labels: Volume, scheme: LabelScheme, source: Source
) -> tuple[SourceImages, npt.NDArray[np.uint8 | np.uint16]]:
    """The images of a label map, and its class indices on their planes.

    Args:
        labels: Shape (1, X, Y, Z), on the grid of the images, its axes in any order and direction.
        scheme: The classes.
        source: The images.

    Returns:
        The images; and indices, shape (planes, rows, columns), voxels to ignore as the scheme has them.

    Raises:
        GeometryError: The label map is on another grid, or the images make no volume.
        InputError: It has several channels, or a value that is not in the scheme; an image is damaged.
    """
    if labels.channels != 1:
        raise InputError(f"a label map has one channel, not {labels.channels}", fix="give one label a voxel")
    images = read_source(source)
    aligned = images.aligned(labels, "the label map")
    values = aligned.array[0].transpose(2, 1, 0)
    return images, np.ascontiguousarray(scheme.to_indices(values, where="the label map"))


def unique_identifiers(
    said: tuple[object, ...],
    images: SourceImages,
    values: npt.NDArray[Any],
    series: SeriesIdentity,
    algorithm: AlgorithmIdentification,
) -> Callable[[str], UID]:
    """A unique identifier for each role in a new object; see ``SeriesIdentity.seed``.

    Args:
        said: What else the object says, such as its scheme.
        images: What it refers to.
        values: Of its voxels.
        series: How it presents itself.
        algorithm: What made it.
    """
    content = (
        str((*said, series.description, series.number, algorithm, values.shape)).encode(),
        str([dataset.SOPInstanceUID for dataset in images.datasets]).encode(),
        np.ascontiguousarray(values).tobytes() if series.seed is not None else b"",
    )
    return uid_maker(series.seed, content)
