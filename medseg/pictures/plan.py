"""A plan as one picture: what the data is like, and the patch that was chosen for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.components import bounding_box
from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.geometry import Grid
from medseg.pictures.figures import figure_type
from medseg.pictures.panels import colours_of
from medseg.pictures.planes import PLANES, Plane, best_slices, intensity_window
from medseg.runs import Plan
from medseg.runs.fingerprint import AxisSpread, Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PlanExample", "plan_picture"]

_DPI = 110
_INK = "#202830"
_FAINT = "#7a858f"
_WHOLE = "#9aa7b3"
_FOREGROUND = "#d1495b"
_PATCH = "#f2b134"
_MOST_CLASSES = 40
_CHANNELS_A_ROW = 2
_WIDE_RANGE = 30.0
_AXES = ("X (left-right)", "Y (back-front)", "Z (foot-head)")


@dataclass(frozen=True)
class PlanExample:
    """A case on the network's grid, in RAS orientation.

    Attributes:
        name: Of the case.
        image: Its first channel (X, Y, Z), normalised.
        label: Class indices (X, Y, Z); ``None`` without labels.
        grid: Of both.
    """

    name: str
    image: npt.NDArray[Any]
    label: npt.NDArray[Any] | None
    grid: Grid


def plan_picture(path: str | os.PathLike[str], plan: Plan, example: PlanExample) -> None:
    """Draw intensities, spacings, shapes and class frequencies, and a patch on a case in three planes.

    Args:
        path: A ``.png`` file, written whole or not at all.
        plan: With a fingerprint that has all its parts.
        example: The case, in the plan's orientation and spacing.

    Raises:
        ConfigError: matplotlib is not installed, ``path`` is no ``.png`` file, or the plan was made before
            fingerprints told enough.
        ResourceError: The file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise ConfigError("is no .png file", where=path, fix="give the picture a name that ends in .png")
    facts = plan.fingerprint
    if facts.shape is None or facts.spacing_mm is None or not facts.channels:
        raise ConfigError("its fingerprint is too short to be drawn", where="plan", fix="plan anew")
    figure_class = figure_type()
    rows = _rows_of(len(facts.channels))
    shown_classes = min(len(facts.classes), _MOST_CLASSES)
    heights = [2.5] * len(rows) + [1.5, 0.7 + 0.24 * max(shown_classes, 1), 4.0]
    figure = figure_class(
        figsize=(11.0, sum(heights) + 1.2), dpi=_DPI, facecolor="white", layout="constrained"
    )
    figure.suptitle(_title(plan), fontsize=12, color=_INK, parse_math=False)
    parts: list[Any] = list(np.ravel(np.asarray(figure.subfigures(len(heights), 1, height_ratios=heights))))
    columns = min(len(facts.channels), _CHANNELS_A_ROW)
    for part, channels in zip(parts, rows, strict=False):
        for axes, channel in zip_longest(np.atleast_1d(part.subplots(1, columns)), channels):
            if channel is None:
                axes.axis("off")
            else:
                _draw_histogram(axes, plan, channel)
    spread_part, class_part, patch_part = parts[len(rows) :]
    shape_axes, spacing_axes = spread_part.subplots(1, 2)
    _draw_spread(shape_axes, facts.shape, facts.median_shape, plan.patch_size, "voxels", "patch")
    spacing = plan.preprocessing.spacing_mm or facts.median_spacing_mm
    _draw_spread(spacing_axes, facts.spacing_mm, facts.median_spacing_mm, spacing, "mm", "network grid")
    _draw_classes(class_part, plan, shown_classes)
    _draw_patch(patch_part, plan, example)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _rows_of(channels: int) -> list[range]:
    return [
        range(first, min(first + _CHANNELS_A_ROW, channels)) for first in range(0, channels, _CHANNELS_A_ROW)
    ]


def _title(plan: Plan) -> str:
    return (
        f"{plan.dataset}: {plan.fingerprint.cases} cases, {plan.network.name}, "
        f"patches of {_times(plan.patch_size)}, {plan.batch_size} a step"
    )


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9.5, color=_INK, loc="left", parse_math=False)
    axes.tick_params(labelsize=8, colors=_FAINT, labelcolor=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)


def _draw_histogram(axes: Axes, plan: Plan, channel: int) -> None:
    found = plan.fingerprint.channels[channel]
    histogram, how = found.histogram, plan.preprocessing.normalization[channel]
    edges = np.linspace(histogram.lower, histogram.upper, len(histogram.whole) + 1)
    whole = "images" if how.background is None else f"images without {how.background:g}"
    inside = "structures" if plan.fingerprint.classes else "body"
    axes.stairs(_percent(histogram.whole), edges, fill=True, color=_WHOLE, alpha=0.55, label=whole)
    axes.stairs(_percent(histogram.foreground), edges, color=_FOREGROUND, linewidth=1.4, label=inside)
    if how.lower is not None and how.upper is not None:
        for number, bound in enumerate((how.lower, how.upper)):
            label = "clipped here" if number == 0 else None
            axes.axvline(bound, color=_INK, linewidth=0.9, linestyle="--", label=label)
    axes.set_xlabel(_unit(histogram), fontsize=8, color=_INK)
    axes.set_ylabel("% of voxels", fontsize=8, color=_INK)
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize=7.5, frameon=False)
    _style(axes, f"Intensities of {plan.channel_names[channel]}: {how.scheme}")


def _percent(shares: Sequence[float]) -> npt.NDArray[np.float64]:
    return 100.0 * np.asarray(shares)


def _unit(histogram: Histogram) -> str:
    return "Hounsfield units" if histogram.unit == "stored" else "deviations from each case's mean"


def _draw_spread(
    axes: Axes,
    spread: AxisSpread,
    median: Sequence[float],
    chosen: Sequence[float],
    unit: str,
    chosen_name: str,
) -> None:
    places = np.arange(3)[::-1]
    low, tenth, high = (np.asarray(row) for row in (spread.smallest, spread.tenth_percentile, spread.largest))
    axes.hlines(places, low, high, color=_WHOLE, linewidth=5, label="all cases")
    axes.plot(tenth, places, "|", color=_INK, markersize=11, label="10th percentile")
    axes.plot(median, places, "o", color=_INK, markersize=5, label="median")
    axes.plot(chosen, places, "D", color=_PATCH, markersize=6, markeredgecolor=_INK, label=chosen_name)
    axes.set_yticks(places, _AXES)
    axes.set_ylim(-0.6, 2.6)
    axes.set_xlim(0.0, 1.08 * max(float(high.max()), *chosen))
    axes.set_xlabel(unit, fontsize=8, color=_INK)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _style(axes, "Shapes of the cases" if unit == "voxels" else "Spacings of the cases")


def _draw_classes(part: Figure, plan: Plan, shown: int) -> None:
    facts = plan.fingerprint
    if not facts.classes:
        axes = part.subplots()
        axes.axis("off")
        axes.text(0.0, 0.5, "No labels: nothing is known of classes", fontsize=9, color=_FAINT)
        return
    # Of many classes the rarest tell most.
    order = sorted(range(1, len(plan.labels)), key=lambda index: facts.class_voxels[index])[:shown]
    order.sort()
    places = np.arange(len(order))[::-1]
    colours = [tuple(value / 255.0 for value in plan.labels.classes[index].color) for index in order]
    voxel_axes, case_axes, size_axes = part.subplots(1, 3, width_ratios=(2, 1, 2), sharey=True)
    total = sum(facts.class_voxels)
    shares = [100.0 * facts.class_voxels[index] / total for index in order]
    voxel_axes.barh(places, shares, color=colours, height=0.7)
    _scale(voxel_axes, shares)
    voxel_axes.set_xlabel("% of all voxels", fontsize=8, color=_INK)
    names = [_short(plan.labels.names[index]) for index in order]
    voxel_axes.set_yticks(places, names, parse_math=False)
    of = "" if shown == len(facts.classes) else f" (the {shown} rarest of {len(facts.classes)})"
    _style(voxel_axes, f"Classes{of}")
    cases = [facts.classes[index - 1].cases for index in order]
    case_axes.barh(places, cases, color=colours, height=0.7)
    case_axes.set_xlim(0, facts.cases)
    case_axes.set_xlabel("cases", fontsize=8, color=_INK)
    _style(case_axes, f"Cases that hold them, of {facts.cases}")
    for place, index, colour in zip(places, order, colours, strict=True):
        found = facts.classes[index - 1]
        if found.components:
            size_axes.plot((found.smallest_ml, found.largest_ml), (place, place), color=colour, linewidth=3)
            size_axes.plot(found.median_ml, place, "o", color=_INK, markersize=4)
    sizes = [facts.classes[index - 1] for index in order if facts.classes[index - 1].components]
    _scale(size_axes, [size for found in sizes for size in (found.smallest_ml, found.largest_ml)])
    size_axes.set_xlabel("ml: smallest, median and largest", fontsize=8, color=_INK)
    _style(size_axes, "Connected components")


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis for what differs much, with plain numbers; else one that starts at 0."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    above_zero = [value for value in values if value > 0.0]
    if above_zero and max(above_zero) > _WIDE_RANGE * min(above_zero):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0.0)


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"


def _draw_patch(part: Figure, plan: Plan, example: PlanExample) -> None:
    label = np.zeros(example.image.shape, np.uint8) if example.label is None else example.label
    slices = best_slices(label)
    window = intensity_window(example.image, label)
    start = _start(label, plan.patch_size, example.image.shape)
    widths = [plane.size_mm(example.grid)[0] for plane in PLANES]
    sizes = f"{_times(example.image.shape)} voxels of {_times(example.grid.spacing_mm)} mm"
    title = (
        f"A patch of {_times(plan.patch_size)} voxels (yellow) on {example.name}, a case of median size "
        f"({sizes}), as the network sees it"
    )
    part.suptitle(title, fontsize=9.5, color=_INK, x=0.01, ha="left", parse_math=False)
    for axes, plane in zip(part.subplots(1, 3, width_ratios=widths), PLANES, strict=True):
        _draw_plane(axes, plane, slices[plane.axis], plan, example, label, window, start)


def _start(label: npt.NDArray[Any], patch: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Where a patch about the structures begins; it stays within the image where that is larger."""
    box = bounding_box(label != 0)
    centre = [size // 2 for size in shape] if box is None else [(part.start + part.stop) // 2 for part in box]
    return tuple(
        -((side - size) // 2) if size <= side else int(np.clip(middle - side // 2, 0, size - side))
        for middle, side, size in zip(centre, patch, shape, strict=True)
    )


def _draw_plane(
    axes: Axes,
    plane: Plane,
    index: int,
    plan: Plan,
    example: PlanExample,
    label: npt.NDArray[Any],
    window: tuple[float, float],
    start: Sequence[int],
) -> None:
    from matplotlib.patches import Rectangle

    grid = example.grid
    width_mm, height_mm = plane.size_mm(grid)
    extent = (0.0, width_mm, 0.0, height_mm)
    low, high = window
    axes.imshow(plane.cut(example.image, index), cmap="gray", vmin=low, vmax=high, extent=extent)
    axes.imshow(colours_of(plane.cut(label, index), plan.labels), extent=extent, interpolation="nearest")
    across, up = plane.across, plane.up
    side = plan.patch_size[across] * grid.spacing_mm[across], plan.patch_size[up] * grid.spacing_mm[up]
    # Axes run against the screen's direction across, and with it upwards.
    left = width_mm - (start[across] + plan.patch_size[across]) * grid.spacing_mm[across]
    corner = (left, start[up] * grid.spacing_mm[up])
    axes.add_patch(Rectangle(corner, *side, fill=False, edgecolor=_PATCH, linewidth=2.0, clip_on=False))
    margin = 0.03 * max(width_mm, height_mm, *side)
    axes.set_xlim(min(0.0, corner[0]) - margin, max(width_mm, corner[0] + side[0]) + margin)
    axes.set_ylim(min(0.0, corner[1]) - margin, max(height_mm, corner[1] + side[1]) + margin)
    axes.set(xticks=[], yticks=[], aspect="equal", facecolor="black")
    axes.set_title(plane.name, fontsize=8.5, color=_INK)
