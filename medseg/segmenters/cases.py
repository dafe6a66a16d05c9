"""From files to what a segmenter takes: read, check, segment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import InputError
from medseg.inference import label_map
from medseg.io import Case, read_header, read_volume, require_finite
from medseg.segmenters.protocol import CaseLike, Segmenter
from medseg.volume import Volume

__all__ = ["read_image", "segment_case"]


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
    """
    image = read_image(case, segmenter.channel_names)
    return label_map(segmenter.scores(image), segmenter.labels, image.grid)


def read_image(case: CaseLike, channel_names: Sequence[str]) -> Volume:
    """Read an image whose channels are those of ``channel_names``.

    The number of channels is taken from the headers, before any voxel is read.

    Raises:
        InputError: It cannot be read, is not finite, or has other channels.
        GeometryError: Its geometry is invalid, or its channels lie on different grids.
    """
    if isinstance(case, Volume):
        _require_channels(case.channels, channel_names, "the image")
        require_finite(case, "the image")
        return case
    paths = _paths(case)
    where = paths[0]
    _require_channels(sum(read_header(path).channels for path in paths), channel_names, where)
    image = read_volume(paths)
    require_finite(image, where)
    return image


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
