"""From files to labels: read, check, segment, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import InputError
from medseg.inference import LabelArray, write_labels
from medseg.io import Case, LabelSink, open_volume, read_header
from medseg.progress import Progress, SilentProgress
from medseg.segmenters.passage import SegmentationPlan
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.volume import Slices, Volume

__all__ = ["open_image", "segment_case", "segment_to_file"]


def segment_case(segmenter: Segmenter, case: CaseLike) -> Volume:
    """Read an image, check it, segment it, and bring the labels back onto its own grid.

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
    return labels.volume


def segment_to_file(
    segmenter: Segmenter, case: CaseLike, path: str | os.PathLike[str], progress: Progress | None = None
) -> tuple[Mapping[int, int], SegmentationPlan]:
    """As ``segment_case``, slab by slab into a file, so that image and labels are never held as a whole.

    The file takes its name when it is complete.

    Args:
        segmenter: The method.
        case: The image.
        path: The file of the label map.
        progress: Shows how many slices are done.

    Returns:
        Voxels of each label value that was found, and how it was done.

    Raises:
        MedsegError: As ``segment_case``; no file is left then.
    """
    with open_image(case, segmenter.channel_names) as image:
        plan = segmenter.plan(image)
        with LabelSink(path, image.grid, segmenter.labels.dtype) as sink:
            for number, part in enumerate(segmenter.parts(image, plan), start=1):
                name = Path(path).name if number == 1 else f"{Path(path).name}, tile {number}"
                with (progress or SilentProgress()).task(name, part.length) as advance:
                    write_labels(part, segmenter.labels, sink, advance=advance)
        return sink.counts, plan


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
    paths = _checked_paths(case, channel_names)
    with open_volume(paths) as image:
        yield image


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
