"""Cases in three planes, with their errors, as pictures of a report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from medseg.comparison.page import Block, Picture, Text, data_uri
from medseg.errors import MedsegError
from medseg.evaluation.case import read_pair
from medseg.evaluation.pairs import Pair
from medseg.io import read_header, read_volume
from medseg.labels import LabelScheme
from medseg.pictures import draw_error_maps
from medseg.volume import Volume

__all__ = ["case_picture", "png_picture"]

_PNG_SIZE = slice(16, 24)


def case_picture(
    case: str,
    reference: Path,
    predictions: Mapping[str, Path | None],
    labels: LabelScheme,
    image: Path | None,
    caption: str,
) -> Block:
    """A case's picture; or in words, why there is none.

    Args:
        case: Its id.
        reference: The label map to judge by.
        predictions: Label maps by the name of who made them; ``None`` stands for an empty one.
        labels: The classes.
        image: To draw on; without one, or on another grid, label maps lie on black.
        caption: Above the picture.
    """
    try:
        maps: dict[str, Volume] = {}
        truth: Volume | None = None
        for name, path in predictions.items():
            truth, maps[name], _ = read_pair(Pair(case, path, reference))
        if truth is None:
            return Text(f"{caption}: there is no prediction to draw.", "note")
        ground, note = _ground(image, truth)
        with tempfile.TemporaryDirectory(prefix="medseg-") as scratch:
            file = Path(scratch) / "case.png"
            draw_error_maps(file, ground, labels, truth, maps)
            return png_picture(file, f"Error map of case {case}", caption + note)
    except MedsegError as error:
        return Text(f"{caption}: no picture can be drawn ({error}).", "note")


def png_picture(path: Path, alt: str, caption: str) -> Picture:
    """A ``.png`` file as part of a report."""
    content = path.read_bytes()
    size = content[_PNG_SIZE]
    width, height = int.from_bytes(size[:4], "big"), int.from_bytes(size[4:], "big")
    return Picture(data_uri(content, "image/png"), alt, width, height, caption)


def _ground(image: Path | None, truth: Volume) -> tuple[Volume | None, str]:
    if image is None:
        return None, ""
    try:
        difference = truth.grid.difference(read_header(image).grid)
        if difference is not None:
            return None, f" (its image lies on another grid: {difference})"
        return read_volume(image), ""
    except MedsegError as error:
        return None, f" (without its image: {error})"
