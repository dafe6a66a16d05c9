"""The forms in which a label map goes out as a DICOM object."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import PathLike

from medseg.errors import ConfigError, did_you_mean
from medseg.io.dicom.segmentations.identity import AlgorithmIdentification
from medseg.io.dicom.segmentations.source import Source, SourceImages
from medseg.io.dicom.segmentations.write_contours import write_contours
from medseg.io.dicom.segmentations.write_seg import write_segmentation
from medseg.labels import LabelScheme
from medseg.volume import Volume

__all__ = ["FORMS", "write_object"]

FORMS: dict[str, Callable[..., SourceImages]] = {
    "dicom-seg": partial(write_segmentation, kind="binary"),
    "dicom-labelmap": partial(write_segmentation, kind="labelmap"),
    "rtstruct": write_contours,
}
"""By name: a bit a voxel and structure; one number a voxel; contours in the planes of the images."""


def write_object(
    form: str,
    labels: Volume,
    scheme: LabelScheme,
    source: Source,
    out: str | PathLike[str],
    *,
    algorithm: AlgorithmIdentification | None = None,
) -> SourceImages:
    """Write a label map in one of the ``FORMS``; it is read back and compared before it gets its name.

    Args:
        form: Such as ``"dicom-seg"``.
        labels: Shape (1, X, Y, Z), on the grid of the source images, its axes in any order and direction.
        scheme: The classes.
        source: The images: a volume of a scan, or the DICOM files of one volume.
        out: The file to write.
        algorithm: What made the segmentation.

    Returns:
        The images that it refers to.

    Raises:
        ConfigError: There is no such form, highdicom is not installed, or the scheme does not suit the form.
        GeometryError: The label map is on another grid, or the source images make no volume.
        InputError: A value is not in the scheme, or a source image is damaged.
    """
    if form not in FORMS:
        raise ConfigError(f"'{form}' is no form of DICOM object", fix=did_you_mean(form, FORMS))
    return FORMS[form](labels, scheme, source, out, algorithm=algorithm)
