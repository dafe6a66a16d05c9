"""From files to labels: read, check, segment, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medseg.errors import InputError
from medseg.inference import LabelArray, slab_ranges, write_labels
from medseg.inference.labelling import LabelWriter
from medseg.io import Case, LabelSink, open_volume, read_header, write_slices
from medseg.postprocessing import find_instances, postprocess
from medseg.progress import Progress, SilentProgress
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.segmenters.segmentation_plan import SegmentationPlan
from medseg.volume import Slices, Volume

if TYPE_CHECKING:
    from medseg.io.dicom.verdict import DicomVolume

__all__ = ["Segmented", "instances_path", "open_image", "segment_case", "segment_to_file"]

_INSTANCES_FOLDER = "instances"
_SLICES_AT_A_TIME = 16


class Segmented(NamedTuple):
    """What was written of one case.

    Attributes:
        counts: Voxels of each label value that was found.
        plan: How it was done.
        objects: How many objects were told apart; ``None`` where they were not asked for.
    """

    counts: Mapping[int, int]
    plan: SegmentationPlan
    objects: int | None = None


def instances_path(path: str | os.PathLike[str]) -> Path:
    """Where the map of objects goes that belongs to a label map.

    Example:
        >>> instances_path("out/case_1.nii.gz").as_posix()
        'out/instances/case_1.nii.gz'
    """
    return Path(path).parent / _INSTANCES_FOLDER / Path(path).name


def segment_case(segmenter: Segmenter, case: CaseLike) -> Volume:
    """Read an image, check it, segment it, and bring the labels back onto its own grid, postprocessed.

    Args:
        segmenter: The method.
        case: The image.

    Returns:
        The label map, shape (1, X, Y, Z), on the image's grid.

    Raises:
        InputError: The image cannot be read, is not finite, or has other channels.
        GeometryError: Its geometry is invalid, or its channels lie on different grids.
        ResourceError: It does not fit into memory.
    """
    with open_image(case, segmenter.channel_names) as image:
        labels = LabelArray(image.grid, segmenter.labels.dtype)
        for part in segmenter.parts(image):
            write_labels(part, segmenter.labels, labels)
    _clean(labels.volume, segmenter)
    return labels.volume


def segment_to_file(
    segmenter: Segmenter, case: CaseLike, path: str | os.PathLike[str], progress: Progress | None = None
) -> Segmented:
    """As ``segment_case``, slab by slab into a file, so that image and labels are never held as a whole.

    Only for postprocessing the labels are held. Where it tells objects apart, their map is written too: to
    the same name in the folder ``instances`` beside the file, as 32-bit numbers from 1, 0 for the background.
    Files take their names when they are complete.

    Args:
        segmenter: The method.
        case: The image.
        path: The file of the label map.
        progress: Shows how many slices are done.

    Returns:
        Voxels of each label value that was found, how it was done, and how many objects there are.

    Raises:
        MedsegError: As ``segment_case``; no file is left then.
    """
    with open_image(case, segmenter.channel_names) as image:
        plan = segmenter.plan(image)
        write = partial(_write_parts, segmenter, image, plan, Path(path).name, progress or SilentProgress())
        objects = None
        with _without_orphans() as written, LabelSink(path, image.grid, segmenter.labels.dtype) as sink:
            if segmenter.postprocess.of_label_maps.does_nothing:
                write(sink)
            else:
                labels = LabelArray(image.grid, segmenter.labels.dtype)
                write(labels)
                _clean(labels.volume, segmenter)
                objects = _write_instances(labels.volume, segmenter, instances_path(path), written)
                _hand_on(labels.volume, sink)
        return Segmented(sink.counts, plan, objects)


def _write_parts(
    segmenter: Segmenter,
    image: Slices,
    plan: SegmentationPlan,
    name: str,
    progress: Progress,
    labels: LabelWriter,
) -> None:
    for number, part in enumerate(segmenter.parts(image, plan), start=1):
        with progress.task(name if number == 1 else f"{name}, tile {number}", part.length) as advance:
            write_labels(part, segmenter.labels, labels, advance=advance)


def _clean(labels: Volume, segmenter: Segmenter) -> None:
    """Postprocess a label map in its place."""
    array = labels.array[0]
    postprocess(array, segmenter.labels, labels.grid.spacing_mm, segmenter.postprocess, out=array)


def _write_instances(labels: Volume, segmenter: Segmenter, path: Path, written: list[Path]) -> int | None:
    """Write the map of objects, if one is asked for; gives their number."""
    choice = segmenter.postprocess
    if choice.instances is None:
        return None
    grid = labels.grid
    objects = find_instances(
        labels.array[0], segmenter.labels, grid.spacing_mm, choice.instances, choice.connectivity
    )
    write_slices(Volume(objects[np.newaxis], grid), objects.dtype, path)
    written.append(path)
    return int(objects.max(initial=0))


def _hand_on(labels: Volume, sink: LabelSink) -> None:
    for start, stop in slab_ranges(labels.grid.shape[2], _SLICES_AT_A_TIME):
        sink.write(2, start, labels.array[0, :, :, start:stop])


@contextmanager
def _without_orphans() -> Iterator[list[Path]]:
    """Take back the files that are named in the list, if what they belong to could not be written."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def open_image(case: CaseLike, channel_names: Sequence[str]) -> Iterator[Slices]:
    """Open an image whose channels are those of ``channel_names``, to be read in slabs.

    The number of channels is taken from the headers, before any voxel is read.

    Raises:
        InputError: It cannot be read, or has other channels.
        GeometryError: Its geometry is invalid, or its channels lie on different grids.
        ResourceError: There is no room to unpack it.
    """
    if isinstance(case, Volume):
        _require_channels(case.channels, channel_names, "the image")
        yield case
        return
    if isinstance(case, Case) and case.dicom is not None:
        _require_channels(case.dicom.channels, channel_names, case.id)
        yield _decoded(case.dicom)
        return
    paths = _checked_paths(case, channel_names)
    with open_volume(paths) as image:
        yield image


def _decoded(volume: DicomVolume) -> Volume:
    from medseg.io.dicom.volumes import read_dicom_volume  # takes pydicom, which other images do not need

    return read_dicom_volume(volume)


def _checked_paths(
    case: Case | str | os.PathLike[str] | Sequence[str | os.PathLike[str]], channel_names: Sequence[str]
) -> tuple[Path, ...]:
    paths = _paths(case)
    _require_channels(sum(read_header(path).channels for path in paths), channel_names, paths[0])
    return paths


def _paths(case: Case | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    if isinstance(case, Case):
        return case.images
    if isinstance(case, str | os.PathLike):
        return (Path(case),)
    if not case:
        raise InputError("no file is given", fix="give one file, or one per channel")
    return tuple(Path(path) for path in case)


def _require_channels(given: int, names: Sequence[str], where: str | Path) -> None:
    if given != len(names):
        raise InputError(
            f"has {given} channel{'' if given == 1 else 's'}, "
            f"the model needs {len(names)} ({', '.join(names)})",
            where=where,
            fix="give these channels, in this order",
        )
