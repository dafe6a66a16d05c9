"""RT Structure Set in: contours filled on a grid (PS3.3 A.19, C.8.8.5 to C.8.8.8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, RTStructureSetStorage

from medseg.errors import GeometryError, InputError
from medseg.geometry import AxisMap, FloatArray, Grid
from medseg.io.dicom.segmentations.headers import explain_damage, read_object, text_of
from medseg.io.dicom.segmentations.layers import LayerBuilder, Segmentation, scheme_of_segments
from medseg.io.dicom.segmentations.outlines import fill_outlines
from medseg.io.dicom.segmentations.planes import lps_from_ras
from medseg.io.dicom.segmentations.segments import concept_in
from medseg.labels import CodedConcept, LabelScheme

__all__ = ["CONTOUR_PLANE_TOLERANCE", "read_contours"]

CONTOUR_PLANE_TOLERANCE = 0.1
"""How far a contour may lie beside a plane of the grid, as a part of the distance between planes. Programs
round positions to tenths of a millimetre; a contour midway between planes was drawn on other images."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_LARGEST_NUMBER = 65535

Segment = tuple[int, str, tuple[int, int, int] | None, CodedConcept | None]
Outlines = dict[int, list[FloatArray]]


def read_contours(path: str | PathLike[str], grid: Grid) -> Segmentation:
    """Read an RT Structure Set and fill its contours on a grid.

    A voxel belongs to a region if its centre lies within an odd number of the region's contours on that
    plane: so holes come out right as keyholes and as contours of their own. Regions that overlap go into
    several label maps: none overwrites another. The value of a region is its ROI number; where one is below 1
    or above 65535, regions are numbered in their order instead. What lies beside the image within a plane is
    left out.

    Args:
        path: The file.
        grid: Of the images that it was drawn on, in any orientation; its planes have to be those of the
            contours, along one of its axes.

    Returns:
        Label maps on ``grid``. ``notes`` names the regions that are points or open lines: they have no
        voxels.

    Raises:
        InputError: No structure set, or a damaged one.
        GeometryError: A contour lies beside or between the planes of the grid, or is not planar.
        ResourceError: A label map does not fit into memory.

    Example:
        >>> read_contours("structures.dcm", read_header("ct.nii.gz").grid).scheme.names  # doctest: +SKIP
        ('background', 'Liver', 'Spinal cord')
    """
    file = Path(path)
    dataset = read_object(file, voxels=True)
    with explain_damage(file):
        if dataset.SOPClassUID != RTStructureSetStorage:
            what = f"is no structure set but a {UID(dataset.SOPClassUID).name}"
            raise InputError(what, where=file, fix="give an RTSTRUCT file")
        numbers, segments = _segments_of(dataset, file)
        contours = _contours_of(dataset, numbers)
        polygons = {
            value: [_points_of(item) for item in items if text_of(item, "ContourGeometricType") in _CLOSED]
            for value, items in contours.items()
        }
        scheme = scheme_of_segments(segments, file)
        notes = _notes(contours, scheme)
    axes = _planes_last(grid, [points for found in polygons.values() for points in found])
    turned = grid.mapped(axes)
    shape = (turned.shape[1], turned.shape[0])
    builder = LayerBuilder(turned, scheme.values, file)
    for value in scheme.values[1:]:
        outlines = _outlines_by_plane(polygons.get(value, []), turned, file)
        planes = sorted(outlines)

        def mask_of(
            index: int, outlines: Outlines = outlines, planes: list[int] = planes
        ) -> npt.NDArray[np.bool_]:
            return fill_outlines(outlines[planes[index]], shape)

        builder.add(value, planes, mask_of)
    label_maps = tuple(volume.mapped(axes.inverse()) for volume in builder.volumes())
    return Segmentation(scheme, label_maps, builder.layer_of, notes)


def _notes(contours: dict[int, list[Dataset]], scheme: LabelScheme) -> tuple[str, ...]:
    names = dict(zip(scheme.values, scheme.names, strict=True))
    return tuple(
        f"'{names[value]}' holds points or open lines, which are left out"
        for value, items in contours.items()
        if any(text_of(item, "ContourGeometricType") not in _CLOSED for item in items)
    )


def _segments_of(dataset: Dataset, where: Path) -> tuple[dict[int, int], list[Segment]]:
    """The value of each ROI number, and what is said of each region."""
    regions = list(dataset.get("StructureSetROISequence") or ())
    numbers = [int(region.ROINumber) for region in regions]
    if len(set(numbers)) != len(numbers):
        raise InputError("two regions have the same number", where=where, fix="export it again")
    in_range = all(0 < number <= _LARGEST_NUMBER for number in numbers)
    values = {number: number if in_range else place for place, number in enumerate(numbers, start=1)}
    colors = {
        int(item.ReferencedROINumber): _color(item.ROIDisplayColor)
        for item in dataset.get("ROIContourSequence") or ()
        if len(item.get("ROIDisplayColor") or ()) == 3
    }
    concepts = {
        int(item.ReferencedROINumber): concept_in(item.get("RTROIIdentificationCodeSequence"))
        for item in dataset.get("RTROIObservationsSequence") or ()
    }
    segments: list[Segment] = [
        (values[number], text_of(region, "ROIName"), colors.get(number), concepts.get(number))
        for number, region in zip(numbers, regions, strict=True)
    ]
    return values, segments


def _color(values: Sequence[object]) -> tuple[int, int, int]:
    red, green, blue = (min(max(int(str(value)), 0), 255) for value in values)
    return red, green, blue


def _contours_of(dataset: Dataset, values: dict[int, int]) -> dict[int, list[Dataset]]:
    contours: dict[int, list[Dataset]] = defaultdict(list)
    for item in dataset.get("ROIContourSequence") or ():
        # A number that no region has is an error of the file, which explain_damage names.
        contours[values[int(item.ReferencedROINumber)]].extend(item.get("ContourSequence") or ())
    return contours


def _points_of(contour: Dataset) -> FloatArray:
    """The points of a contour, (N, 3), in LPS."""
    stored = contour.get_item("ContourData")
    if isinstance(stored, RawDataElement) and stored.value:
        # Far faster than pydicom's own numbers, of which a structure set holds millions.
        numbers = np.array(stored.value.decode("ascii").strip(" \0").split("\\"), dtype=np.float64)
    else:
        numbers = np.array([float(number) for number in contour.get("ContourData") or ()], dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("not finite")
    return numbers.reshape(-1, 3)


def _planes_last(grid: Grid, contours: Sequence[FloatArray]) -> AxisMap:
    """The axes in an order in which contours lie in planes of the first two."""
    spread = np.zeros(3)
    for points in contours:
        if len(points):
            spread = np.maximum(spread, np.ptp(grid.to_index(lps_from_ras(points)), axis=0))
    axis = 2 - int(spread[::-1].argmin())
    others = [other for other in range(3) if other != axis]
    return AxisMap((others[0], others[1], axis))


def _outlines_by_plane(contours: Sequence[FloatArray], grid: Grid, where: Path) -> Outlines:
    """Outlines in voxels, (column, row), on each plane of the grid."""
    outlines: Outlines = defaultdict(list)
    for points in contours:
        if not len(points):
            continue
        indices = grid.to_index(lps_from_ras(points))
        plane = round(float(indices[:, 2].mean()))
        stray = float(np.abs(indices[:, 2] - plane).max())
        if stray > CONTOUR_PLANE_TOLERANCE or not 0 <= plane < grid.shape[2]:
            beside = (
                "beside the image" if not 0 <= plane < grid.shape[2] else f"{stray:.2g} planes off its plane"
            )
            raise GeometryError(
                f"a contour lies {beside}",
                where=where,
                fix="give the grid of the images that it was drawn on",
            )
        outlines[plane].append(indices[:, :2])
    return outlines
