"""An image, its reference and a prediction in three planes, as one picture."""

from __future__ import annotations

import os

import numpy as np

from medseg.errors import ConfigError, GeometryError
from medseg.geometry import Grid
from medseg.labels import LabelScheme
from medseg.pictures.figures import figure_type
from medseg.pictures.panels import Layer, Row, draw_rows, require_png
from medseg.pictures.planes import first_channel
from medseg.volume import Volume

__all__ = ["footer_of", "layer_of", "overlay"]

_OBLIQUE_DEGREES = 1.0


def overlay(
    path: str | os.PathLike[str],
    image: Volume | None,
    labels: LabelScheme,
    reference: Volume | None = None,
    prediction: Volume | None = None,
    title: str | None = None,
) -> None:
    """Draw the image, the reference and the prediction in an axial, a coronal and a sagittal plane.

    The planes are those that show most of the structures. Aspect ratios are those of the patient. The
    picture is in radiological convention, and says so: the patient's right is on the left.

    Args:
        path: A ``.png`` file, written whole or not at all.
        image: Its first channel is shown, windowed by percentiles; without one, label maps lie on black.
        labels: The classes; their colours fill and outline the structures.
        reference: Label values, one channel. Its outlines are also drawn over the prediction.
        prediction: Label values, one channel.
        title: A line above the picture.

    Raises:
        ConfigError: matplotlib is not installed, ``path`` is no ``.png`` file, or there is nothing to draw.
        GeometryError: The volumes' grids differ.
        InputError: A label value is not declared.
        ResourceError: The file cannot be written.
    """
    require_png(path)
    figure_type()
    ground = image or reference or prediction
    if ground is None:
        raise ConfigError("there is nothing to draw", where=path, fix="give an image or a label map")
    grid = ground.grid.reoriented("RAS")
    truth = None if reference is None else layer_of(reference, ground, labels, "reference")
    guess = None if prediction is None else layer_of(prediction, ground, labels, "prediction")
    rows = [] if image is None else [Row("image")]
    if truth is not None:
        rows.append(Row("reference", truth, truth))
    if guess is not None:
        rows.append(Row("prediction", guess, guess if truth is None else truth))
    pixels = np.zeros(grid.shape, np.uint8) if image is None else first_channel(image)
    shown = truth if truth is not None and truth.indices.any() else guess
    footer = footer_of(ground.grid, *(["Prediction filled, reference outlined"] if truth and guess else []))
    draw_rows(path, pixels, grid, rows, None if shown is None else shown.indices, footer, title)


def layer_of(volume: Volume, ground: Volume, labels: LabelScheme, name: str) -> Layer:
    """A label map as it is drawn; what nobody has labelled becomes background.

    Raises:
        GeometryError: It lies on another grid than ``ground``.
        InputError: A value is not declared.
    """
    difference = ground.grid.difference(volume.grid)
    if difference is not None:
        raise GeometryError(
            f"lies on another grid than the image: {difference}",
            where=name,
            fix="resample it onto the image's grid",
        )
    indices = labels.to_indices(first_channel(volume), where=name)
    if labels.ignore is not None:
        indices = np.where(indices == labels.ignore_index, 0, indices)
    return Layer(indices, labels)


def footer_of(grid: Grid, *also: str) -> str:
    """What has to be said below a picture: its convention, how oblique planes are, and more."""
    parts = ["Radiological convention: the patient's right is on the left"]
    tilt = np.degrees(np.arccos(np.clip(np.abs(grid.directions).max(axis=0).min(), 0.0, 1.0)))
    if tilt > _OBLIQUE_DEGREES:
        parts.append(f"Oblique: planes follow the volume's axes, up to {tilt:.0f}° off the patient's")
    return ".  ".join([*parts, *also]) + "."
