"""The course of a training as one picture: loss and scores over steps, with the minutes above."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError
from medseg.files import atomic_path
from medseg.pictures.figures import BACKGROUND, FAINT, TEXT, figure_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "draw_curves"]

FloatArray = npt.NDArray[np.float64]

_DPI = 100
_SIZE_INCHES = (9.0, 6.6)
_MOST_POINTS = 1000
_SMOOTHED_OVER = 1 / 50
_NAMED = 9
_WORST = 5
_MEAN_COLOUR = "#ffffff"
_LOSS_COLOUR = "#6fb1fc"
_ROOM_ABOVE_1 = 1.02


@dataclass(frozen=True)
class Curve:
    """A score over the steps.

    Attributes:
        name: What it is of.
        values: At each validation; NaN where there was none.
        color: Red, green, blue in 0..255; white if left out, and drawn thicker: the mean of the others.
    """

    name: str
    values: Sequence[float]
    color: tuple[int, int, int] | None = None


def draw_curves(
    path: str | os.PathLike[str],
    steps: Sequence[float],
    losses: Sequence[float],
    validated: Sequence[float],
    minutes: Sequence[float],
    curves: Sequence[Curve],
    measure: str = "Dice",
    title: str | None = None,
) -> None:
    """Draw the loss of each step and the scores of each validation, one above the other.

    Of many curves, the mean and those that end lowest are named; the others are drawn faintly.

    Args:
        path: A ``.png`` file, written whole or not at all.
        steps: The number of each optimiser step, rising.
        losses: Its loss.
        validated: The step of each validation, rising; there may be none.
        minutes: When that was.
        curves: The scores, a value for each validation.
        measure: What they are.
        title: A line above the picture.

    Raises:
        ConfigError: matplotlib is not installed, or ``path`` is no ``.png`` file.
        ValueError: Lengths differ.
        ResourceError: The file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise ConfigError("is no .png file", where=path, fix="give the picture a name that ends in .png")
    if len(steps) != len(losses) or any(
        len(numbers) != len(validated) for numbers in (minutes, *(curve.values for curve in curves))
    ):
        raise ValueError("a curve needs a number for each step")
    figure = figure_type()(figsize=_SIZE_INCHES, dpi=_DPI, facecolor=BACKGROUND, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes in (upper, lower):
        _style(axes)
    _draw_losses(upper, np.asarray(steps, float), np.asarray(losses, float))
    _draw_scores(lower, np.asarray(validated, float), curves, measure)
    last = max([*steps[-1:], *validated[-1:], 1.0])
    lower.set(xlabel="step", xlim=(0.0, last))
    if len(validated):
        _add_minutes(upper, np.asarray(validated, float), np.asarray(minutes, float))
    if title is not None:
        figure.suptitle(title, color=TEXT, fontsize=12, weight="bold", parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


def _style(axes: Axes) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.grid(color=FAINT, alpha=0.2, linewidth=0.6)
    axes.tick_params(colors=FAINT, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=TEXT, fontsize=10)
    for spine in axes.spines.values():
        spine.set(color=FAINT, alpha=0.5)


def _draw_losses(axes: Axes, steps: FloatArray, losses: FloatArray) -> None:
    axes.set_ylabel("training loss")
    if not steps.size:
        return
    smoothed = _smoothed(losses)
    thin = max(1, steps.size // _MOST_POINTS)
    axes.plot(steps[::thin], losses[::thin], color=_LOSS_COLOUR, alpha=0.3, linewidth=0.8)
    axes.plot(steps[::thin], smoothed[::thin], color=_LOSS_COLOUR, linewidth=1.8)
    # A few wild first steps would press everything else flat.
    low, high = float(losses.min()), float(np.percentile(losses, 99.0))
    margin = 0.06 * max(high - low, 1e-3)
    axes.set_ylim(low - margin, high + margin)


def _smoothed(losses: FloatArray) -> FloatArray:
    """The running mean over a part of all steps, over as many as there are at the ends."""
    half = int(losses.size * _SMOOTHED_OVER / 2)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    places = np.arange(losses.size)
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, losses.size)
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _draw_scores(axes: Axes, validated: FloatArray, curves: Sequence[Curve], measure: str) -> None:
    axes.set_ylabel(f"validation {measure}")
    if not validated.size:
        return
    ends = {curve.name: _last(curve.values) for curve in curves}
    single = [curve for curve in curves if curve.color is not None]
    named = set(ends)
    if len(single) > _NAMED:
        worst = sorted(single, key=lambda curve: np.nan_to_num(ends[curve.name], nan=np.inf))[:_WORST]
        named = {curve.name for curve in curves if curve.color is None or curve in worst}
    marker = "o" if validated.size <= 40 else None
    for curve in sorted(curves, key=lambda curve: (curve.color is None, curve.name in named)):
        colour = _MEAN_COLOUR if curve.color is None else tuple(part / 255.0 for part in curve.color)
        is_named = curve.name in named
        axes.plot(
            validated,
            np.asarray(curve.values, float),
            color=colour,
            linewidth=2.4 if curve.color is None else 1.6 if is_named else 0.7,
            alpha=1.0 if is_named else 0.35,
            marker=marker if is_named else None,
            markersize=3.0,
            label=f"{curve.name}  {ends[curve.name]:.3f}" if is_named else None,
        )
    values = np.concatenate([np.asarray(curve.values, float) for curve in curves] or [np.zeros(0)])
    finite = values[np.isfinite(values)]
    if finite.size and measure == "Dice":
        axes.set_ylim(max(0.0, float(finite.min()) - 0.03), min(_ROOM_ABOVE_1, float(finite.max()) + 0.03))
    legend = axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        fontsize=9,
        frameon=False,
        labelcolor=TEXT,
        reverse=True,
        title=None if len(named) == len(curves) else f"worst {_WORST} of {len(single)}",
    )
    legend.get_title().set(color=FAINT, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _last(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return finite[-1] if finite else float("nan")


def _add_minutes(axes: Axes, validated: FloatArray, minutes: FloatArray) -> None:
    known_steps = np.concatenate([[0.0], validated])
    known_minutes = np.concatenate([[0.0], minutes])
    if known_minutes[-1] <= 0.0 or (np.diff(known_minutes) <= 0.0).any():
        return
    above = axes.secondary_xaxis(
        "top", functions=(_between(known_steps, known_minutes), _between(known_minutes, known_steps))
    )
    above.set_xlabel("minutes", color=TEXT, fontsize=10)
    above.tick_params(colors=FAINT, labelsize=9)
    above.spines["top"].set(color=FAINT, alpha=0.5)


def _between(points: FloatArray, values: FloatArray) -> Callable[[npt.ArrayLike], npt.ArrayLike]:
    """Straight lines through known points, the last one going on."""
    slope = (values[-1] - values[-2]) / (points[-1] - points[-2])

    def line(at: npt.ArrayLike) -> npt.ArrayLike:
        places = np.asarray(at, float)
        beyond = np.maximum(places - points[-1], 0.0) + np.minimum(places - points[0], 0.0)
        return np.asarray(np.interp(places, points, values) + slope * beyond)

    return line
