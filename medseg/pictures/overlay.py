"""An image, its reference and a prediction in three planes, as one picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError, GeometryError
from medseg.files import atomic_path
from medseg.geometry import Grid
from medseg.labels import LabelScheme
from medseg.pictures.figures import BACKGROUND, FAINT, TEXT, figure_type
from medseg.pictures.planes import PLANES, Plane, best_slices, first_channel, intensity_window
from medseg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["colours_of", "overlay"]

_DPI = 120
_FILL = 0.45
_OBLIQUE_DEGREES = 1.0

_EDGES = (
    (0.015, 0.5, "left", "center"),
    (0.985, 0.5, "right", "center"),
    (0.5, 0.985, "center", "top"),
    (0.5, 0.015, "center", "bottom"),
)

# All in inches.
_PANEL = 2.7
_GAP = 0.06
_MARGIN = 0.15
_ROW_NAME = 0.32
_HEAD = 0.32
_TITLE = 0.30
_FOOT = 0.22
_LEGEND_GAP = 0.07
_LEGEND_ROW = 0.21
_LEGEND_LETTER = 0.072
_LEGEND_MARK = 0.36


@dataclass(frozen=True)
class _Row:
    """A row of panels: class indices to fill with colour, and class indices to draw outlines of."""

    name: str
    fill: npt.NDArray[Any] | None = None
    outline: npt.NDArray[Any] | None = None


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
    if Path(path).suffix.lower() != ".png":
        raise ConfigError("is no .png file", where=path, fix="give the picture a name that ends in .png")
    figure_class = figure_type()
    ground = image or reference or prediction
    if ground is None:
        raise ConfigError("there is nothing to draw", where=path, fix="give an image or a label map")
    grid = ground.grid.reoriented("RAS")
    truth = _class_indices(reference, ground, labels, "reference")
    guess = _class_indices(prediction, ground, labels, "prediction")
    rows = [] if image is None else [_Row("image")]
    if truth is not None:
        rows.append(_Row("reference", truth, truth))
    if guess is not None:
        rows.append(_Row("prediction", guess, guess if truth is None else truth))
    pixels = np.zeros(grid.shape, np.uint8) if image is None else first_channel(image)
    shown = truth if truth is not None and truth.any() else guess
    slices = best_slices(np.zeros(grid.shape, np.uint8) if shown is None else shown)
    present = sorted(
        {int(index) for row in rows if row.fill is not None for index in np.unique(row.fill)} - {0}
    )
    page = _Page(grid, len(rows), labels, present, has_title=title is not None)
    figure = figure_class(figsize=(page.width, page.height), dpi=_DPI, facecolor=BACKGROUND)
    window = intensity_window(pixels, shown)
    for number, row in enumerate(rows):
        for plane in PLANES:
            axes = figure.add_axes(page.panel(number, plane))
            _draw_panel(axes, plane, slices[plane.axis], grid, pixels, window, row, labels)
        figure.text(
            *page.row_name(number), row.name, color=TEXT, fontsize=10, rotation=90, ha="center", va="center"
        )
    for plane in PLANES:
        place = _place(plane, slices[plane.axis], grid)
        figure.text(*page.column_name(plane), place, color=TEXT, fontsize=9.5, ha="center")
    if title is not None:
        figure.text(*page.title(), title, color=TEXT, fontsize=12, weight="bold", va="top", parse_math=False)
    figure.text(*page.footer(), _footer(ground.grid, rows), color=FAINT, fontsize=7.5)
    _draw_legend(figure, page, labels, present)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


class _Page:
    """Where everything stands, in parts of the figure's width and height."""

    def __init__(
        self, grid: Grid, rows: int, labels: LabelScheme, present: Sequence[int], *, has_title: bool
    ) -> None:
        self._widths = {plane.name: _PANEL * _shape_of_panel(plane, grid) for plane in PLANES}
        panels = sum(self._widths.values()) + _GAP * (len(PLANES) - 1)
        longest = max((len(labels.names[index]) for index in present), default=0)
        self.legend_cell = _LEGEND_MARK + _LEGEND_LETTER * longest
        self.width = max(_MARGIN + _ROW_NAME + panels + _MARGIN, 6.0, 2 * _MARGIN + self.legend_cell)
        self._left = (self.width - panels + _ROW_NAME) / 2.0
        self.legend_columns = max(int((self.width - 2 * _MARGIN) / self.legend_cell), 1)
        legend_rows = -(-len(present) // self.legend_columns)
        self._bottom = _MARGIN + _FOOT + legend_rows * _LEGEND_ROW + _LEGEND_GAP
        self._rows = rows
        top = _HEAD + (_TITLE if has_title else 0.0) + _MARGIN / 2.0
        self.height = self._bottom + rows * _PANEL + (rows - 1) * _GAP + top

    def panel(self, row: int, plane: Plane) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel."""
        left, bottom = self._corner(row, plane)
        width = self._widths[plane.name]
        return left / self.width, bottom / self.height, width / self.width, _PANEL / self.height

    def row_name(self, row: int) -> tuple[float, float]:
        """Beside a row."""
        _, bottom = self._corner(row, PLANES[0])
        return (self._left - _ROW_NAME / 2.0) / self.width, (bottom + _PANEL / 2.0) / self.height

    def column_name(self, plane: Plane) -> tuple[float, float]:
        """Above a column."""
        left, bottom = self._corner(0, plane)
        middle = left + self._widths[plane.name] / 2.0
        return middle / self.width, (bottom + _PANEL + 0.09) / self.height

    def title(self) -> tuple[float, float]:
        """Above everything."""
        return self._left / self.width, 1.0 - 0.14 / self.height

    def footer(self) -> tuple[float, float]:
        """Below everything."""
        return _MARGIN / self.width, _MARGIN / 1.5 / self.height

    def legend(self, position: int) -> tuple[float, float]:
        """The left middle of a legend entry, filled row by row."""
        row, column = divmod(position, self.legend_columns)
        left = _MARGIN + column * self.legend_cell
        return left / self.width, (self._bottom - _LEGEND_GAP - (row + 0.5) * _LEGEND_ROW) / self.height

    def _corner(self, row: int, plane: Plane) -> tuple[float, float]:
        before = PLANES[: PLANES.index(plane)]
        left = self._left + sum(self._widths[other.name] + _GAP for other in before)
        return left, self._bottom + (self._rows - 1 - row) * (_PANEL + _GAP)


def _shape_of_panel(plane: Plane, grid: Grid) -> float:
    """Width over height of a panel; very long planes get black bars instead of an endless panel."""
    width_mm, height_mm = plane.size_mm(grid)
    return float(np.clip(width_mm / height_mm, 0.5, 1.8))


def _class_indices(
    volume: Volume | None, ground: Volume, labels: LabelScheme, name: str
) -> npt.NDArray[Any] | None:
    if volume is None:
        return None
    difference = ground.grid.difference(volume.grid)
    if difference is not None:
        raise GeometryError(
            f"lies on another grid than the image: {difference}",
            where=name,
            fix="resample it onto the image's grid",
        )
    indices = labels.to_indices(first_channel(volume), where=name)
    # What nobody has labelled is drawn as background.
    return indices if labels.ignore is None else np.where(indices == labels.ignore_index, 0, indices)


def _draw_panel(
    axes: Axes,
    plane: Plane,
    index: int,
    grid: Grid,
    pixels: npt.NDArray[Any],
    window: tuple[float, float],
    row: _Row,
    labels: LabelScheme,
) -> None:
    from matplotlib.patheffects import withStroke

    width_mm, height_mm = plane.size_mm(grid)
    extent = (0.0, width_mm, 0.0, height_mm)
    low, high = window
    grey = np.nan_to_num(plane.cut(pixels, index).astype(np.float32), nan=low, posinf=high, neginf=low)
    axes.set_facecolor("black")
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    if row.fill is not None:
        axes.imshow(colours_of(plane.cut(row.fill, index), labels), extent=extent, interpolation="nearest")
    if row.outline is not None:
        _draw_outlines(axes, plane.cut(row.outline, index), extent, labels)
    axes.set(xlim=(0.0, width_mm), ylim=(0.0, height_mm), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for letter, (x, y, horizontal, vertical) in zip(plane.letters, _EDGES, strict=True):
        text = axes.text(x, y, letter, color=TEXT, fontsize=8, transform=axes.transAxes)
        text.set(ha=horizontal, va=vertical, path_effects=[withStroke(linewidth=2.0, foreground="black")])


def colours_of(indices: npt.NDArray[Any], labels: LabelScheme) -> npt.NDArray[np.float64]:
    """Class indices (rows, columns) to red, green, blue and opacity, (rows, columns, 4)."""
    table = np.array([(*entry.color, 255 * _FILL) for entry in labels.classes]) / 255.0
    table[0] = 0.0
    return np.asarray(table[indices])


def _draw_outlines(
    axes: Axes, indices: npt.NDArray[Any], extent: tuple[float, float, float, float], labels: LabelScheme
) -> None:
    rows, columns = indices.shape
    # One pixel of background all about closes the outlines of structures that the volume cuts.
    x = (np.arange(-1, columns + 1) + 0.5) * extent[1] / columns
    y = (rows - 0.5 - np.arange(-1, rows + 1)) * extent[3] / rows
    for index in np.unique(indices[indices != 0]):
        mask = np.pad((indices == index).astype(np.float32), 1)
        colour = tuple(part / 255.0 for part in labels.classes[index].color)
        axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=1.3)


def _draw_legend(figure: Figure, page: _Page, labels: LabelScheme, present: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    for position, index in enumerate(present):
        entry = labels.classes[index]
        left, middle = page.legend(position)
        size = (0.15 / page.width, 0.12 / page.height)
        colour = tuple(part / 255.0 for part in entry.color)
        corner = (left, middle - size[1] / 2.0)
        figure.add_artist(Rectangle(corner, *size, facecolor=colour, transform=figure.transFigure))
        place = (left + 0.21 / page.width, middle)
        figure.text(*place, entry.name, color=TEXT, fontsize=8, va="center_baseline", parse_math=False)


def _place(plane: Plane, index: int, grid: Grid) -> str:
    centre = (np.asarray(grid.shape) - 1) / 2.0
    centre[plane.axis] = index
    position_mm = grid.to_world(centre)[plane.axis]
    return f"{plane.name}, {'RAS'[plane.axis]} {position_mm:+.0f} mm"


def _footer(grid: Grid, rows: Sequence[_Row]) -> str:
    parts = ["Radiological convention: the patient's right is on the left"]
    tilt = np.degrees(np.arccos(np.clip(np.abs(grid.directions).max(axis=0).min(), 0.0, 1.0)))
    if tilt > _OBLIQUE_DEGREES:
        parts.append(f"Oblique: planes follow the volume's axes, up to {tilt:.0f}° off the patient's")
    if any(row.fill is not row.outline for row in rows):
        parts.append("Prediction filled, reference outlined")
    return ".  ".join(parts) + "."
