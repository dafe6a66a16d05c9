"""Rows of three planes each, with label maps over an image, on one page with a legend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.geometry import Grid
from medseg.labels import LabelClass, LabelScheme
from medseg.pictures.figures import BACKGROUND, FAINT, TEXT, figure_type
from medseg.pictures.planes import PLANES, Plane, best_slices, intensity_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FILL", "Layer", "Row", "colours_of", "draw_rows", "require_png"]

_DPI = 120
FILL = 0.45

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
class Layer:
    """A label map to be drawn.

    Attributes:
        indices: Class indices, (X, Y, Z) in RAS; 0 is not drawn.
        labels: The classes, whose colours are taken.
        opacity: Of what is filled, 0 to 1.
    """

    indices: npt.NDArray[Any]
    labels: LabelScheme
    opacity: float = FILL

    def present(self) -> list[LabelClass]:
        """The classes that there are, without the background."""
        return [self.labels.classes[int(index)] for index in np.unique(self.indices) if index]


@dataclass(frozen=True)
class Row:
    """A row of panels: what is filled with colour, and what is outlined on top."""

    name: str
    fill: Layer | None = None
    outline: Layer | None = None


def require_png(path: str | os.PathLike[str]) -> None:
    """Refuse another name than that of a ``.png`` file.

    Raises:
        ConfigError: It is one.
    """
    if Path(path).suffix.lower() != ".png":
        raise ConfigError("is no .png file", where=path, fix="give the picture a name that ends in .png")


def draw_rows(
    path: str | os.PathLike[str],
    pixels: npt.NDArray[Any],
    grid: Grid,
    rows: Sequence[Row],
    shown: npt.NDArray[Any] | None,
    footer: str,
    title: str | None = None,
) -> None:
    """Draw rows of an axial, a coronal and a sagittal plane each.

    Args:
        path: A ``.png`` file, written whole or not at all.
        pixels: Intensities, (X, Y, Z) in RAS.
        grid: Of the pixels, in RAS.
        rows: What to draw.
        shown: Structures that choose planes and window, of the pixels' shape; ``None`` for the middle.
        footer: Below everything.
        title: A line above.
    """
    figure_class = figure_type()
    slices = best_slices(np.zeros(grid.shape, np.uint8) if shown is None else shown)
    filled = [entry for row in rows if row.fill is not None for entry in row.fill.present()]
    present = sorted(dict.fromkeys(filled), key=lambda entry: entry.value)
    page = _Page(grid, len(rows), present, has_title=title is not None)
    figure = figure_class(figsize=(page.width, page.height), dpi=_DPI, facecolor=BACKGROUND)
    window = intensity_window(pixels, shown)
    for number, row in enumerate(rows):
        for plane in PLANES:
            axes = figure.add_axes(page.panel(number, plane))
            _draw_panel(axes, plane, slices[plane.axis], grid, pixels, window, row)
        place = page.row_name(number)
        name = figure.text(*place, row.name, color=TEXT, fontsize=10, rotation=90, parse_math=False)
        name.set(ha="center", va="center")
    for plane in PLANES:
        where = _place(plane, slices[plane.axis], grid)
        figure.text(*page.column_name(plane), where, color=TEXT, fontsize=9.5, ha="center")
    if title is not None:
        figure.text(*page.title(), title, color=TEXT, fontsize=12, weight="bold", va="top", parse_math=False)
    figure.text(*page.footer(), footer, color=FAINT, fontsize=7.5)
    _draw_legend(figure, page, present)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


class _Page:
    """Where everything stands, in parts of the figure's width and height."""

    def __init__(self, grid: Grid, rows: int, present: Sequence[LabelClass], *, has_title: bool) -> None:
        self._widths = {plane.name: _PANEL * _shape_of_panel(plane, grid) for plane in PLANES}
        panels = sum(self._widths.values()) + _GAP * (len(PLANES) - 1)
        longest = max((len(entry.name) for entry in present), default=0)
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


def _draw_panel(
    axes: Axes,
    plane: Plane,
    index: int,
    grid: Grid,
    pixels: npt.NDArray[Any],
    window: tuple[float, float],
    row: Row,
) -> None:
    from matplotlib.patheffects import withStroke

    width_mm, height_mm = plane.size_mm(grid)
    extent = (0.0, width_mm, 0.0, height_mm)
    low, high = window
    grey = np.nan_to_num(plane.cut(pixels, index).astype(np.float32), nan=low, posinf=high, neginf=low)
    axes.set_facecolor("black")
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    if row.fill is not None:
        colours = colours_of(plane.cut(row.fill.indices, index), row.fill.labels, row.fill.opacity)
        axes.imshow(colours, extent=extent, interpolation="nearest")
    if row.outline is not None:
        _draw_outlines(axes, plane.cut(row.outline.indices, index), extent, row.outline.labels)
    axes.set(xlim=(0.0, width_mm), ylim=(0.0, height_mm), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for letter, (x, y, horizontal, vertical) in zip(plane.letters, _EDGES, strict=True):
        text = axes.text(x, y, letter, color=TEXT, fontsize=8, transform=axes.transAxes)
        text.set(ha=horizontal, va=vertical, path_effects=[withStroke(linewidth=2.0, foreground="black")])


def colours_of(
    indices: npt.NDArray[Any], labels: LabelScheme, opacity: float = FILL
) -> npt.NDArray[np.float64]:
    """Class indices (rows, columns) to red, green, blue and opacity, (rows, columns, 4)."""
    table = np.array([(*entry.color, 255 * opacity) for entry in labels.classes]) / 255.0
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


def _draw_legend(figure: Figure, page: _Page, present: Sequence[LabelClass]) -> None:
    from matplotlib.patches import Rectangle

    for position, entry in enumerate(present):
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
