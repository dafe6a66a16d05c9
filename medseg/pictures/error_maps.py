"""Where predictions go wrong: voxels missed, invented or given to another class, in three planes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.labels import LabelClass, LabelScheme
from medseg.pictures.figures import figure_type
from medseg.pictures.overlay import footer_of, layer_of
from medseg.pictures.panels import Layer, Row, draw_rows, require_png
from medseg.pictures.planes import first_channel
from medseg.volume import Volume

__all__ = ["ERRORS", "draw_error_maps", "error_map"]

ERRORS = LabelScheme(
    (
        LabelClass(0, "right", (0, 0, 0)),
        LabelClass(1001, "missed", (70, 210, 235)),
        LabelClass(1002, "invented", (255, 140, 26)),
        LabelClass(1003, "another class", (224, 82, 224)),
    )
)
"""What can be wrong with a voxel; told apart also by people who see red and green alike."""

_OPACITY = 0.85
_LINE = (222, 226, 230)


def draw_error_maps(
    path: str | os.PathLike[str],
    image: Volume | None,
    labels: LabelScheme,
    reference: Volume,
    predictions: Mapping[str, Volume],
    title: str | None = None,
) -> None:
    """Draw a case: the image, the reference, each prediction's errors; a single prediction itself as well.

    The planes are those that show most of the reference's structures. Where nobody has labelled it,
    nothing is wrong.

    Args:
        path: A ``.png`` file, written whole or not at all.
        image: Its first channel is shown; without one, label maps lie on black.
        labels: The classes.
        reference: Label values, one channel.
        predictions: Label values by the name of who made them.
        title: A line above the picture.

    Raises:
        ConfigError: matplotlib is not installed, or ``path`` is no ``.png`` file.
        GeometryError: The volumes' grids differ.
        InputError: A label value is not declared.
        ResourceError: The file cannot be written.
    """
    require_png(path)
    figure_type()
    ground = image or reference
    truth = layer_of(reference, ground, labels, "reference")
    rows = [] if image is None else [Row("image")]
    rows.append(Row("reference", truth, truth))
    unlabelled = False if labels.ignore is None else first_channel(reference) == labels.ignore
    outlines = Layer(truth.indices, _in_one_colour(labels))
    shown = truth.indices if truth.indices.any() else None
    for name, prediction in predictions.items():
        guess = layer_of(prediction, ground, labels, name)
        if len(predictions) == 1:
            rows.append(Row(name, guess, truth))
        errors = np.where(unlabelled, 0, error_map(guess.indices, truth.indices))
        wrong = Layer(errors, ERRORS, _OPACITY)
        rows.append(Row("errors" if len(predictions) == 1 else name, wrong, outlines))
        shown = guess.indices if shown is None and guess.indices.any() else shown
    grid = ground.grid.reoriented("RAS")
    pixels = np.zeros(grid.shape, np.uint8) if image is None else first_channel(image)
    footer = footer_of(ground.grid, "The reference is outlined")
    draw_rows(path, pixels, grid, rows, shown, footer, title)


def error_map(
    prediction: npt.NDArray[np.integer[Any]], reference: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.uint8]:
    """What is wrong with each voxel, as indices of ``ERRORS``.

    Args:
        prediction: Class indices, 0 for the background; any shape.
        reference: Class indices, the same shape.

    Example:
        >>> error_map(np.array([0, 1, 0, 1, 2]), np.array([0, 1, 1, 0, 1])).tolist()
        [0, 0, 1, 2, 3]
    """
    wrong = prediction != reference
    kinds = np.where(prediction == 0, 1, np.where(reference == 0, 2, 3))
    return np.where(wrong, kinds, 0).astype(np.uint8)


def _in_one_colour(labels: LabelScheme) -> LabelScheme:
    return LabelScheme(tuple(replace(entry, color=_LINE) for entry in labels.classes), labels.ignore)
