"""Charts for reports: each drawn twice, for light and for dark surroundings, as SVG."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.comparison.page import Chart, data_uri
from medseg.files import atomic_path
from medseg.pictures.figures import figure_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Theme",
    "bland_altman",
    "distribution",
    "draw_chart",
    "palette",
    "plain",
    "save_png",
    "short",
    "style",
]

Colour = tuple[float, float, float]
FloatArray = npt.NDArray[np.float64]

_PIXELS_PER_INCH = 96
_PNG_DPI = 140
_WIDTH_INCHES = 4.6
_ROW_INCHES = 0.34
_MOST_VECTOR_POINTS = 4000
_LIMITS_OF_AGREEMENT = 1.96


@dataclass(frozen=True)
class Theme:
    """Colours that suit the surroundings."""

    text: str
    faint: str
    ground: str


LIGHT = Theme(text="#1b232b", faint="#5b6874", ground="#ffffff")
DARK = Theme(text="#e8eaed", faint="#9aa4ae", ground="#101418")

# Okabe and Ito's colours, which people who see red and green alike can tell apart; without black and yellow.
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f6fc9", "#8c8c3c")


def palette(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name; beyond eight they come again."""
    return {name: _PALETTE[index % len(_PALETTE)] for index, name in enumerate(names)}


def draw_chart(
    draw: Callable[[Figure, Theme], None], size_inches: tuple[float, float], alt: str, caption: str = ""
) -> Chart:
    """Draw a chart in both themes.

    Args:
        draw: Draws into an empty figure.
        size_inches: Width and height.
        alt: What it shows, in words.
        caption: Below it.
    """
    light, dark = (_svg(draw, size_inches, theme) for theme in (LIGHT, DARK))
    width, height = (round(side * _PIXELS_PER_INCH) for side in size_inches)
    return Chart(light, dark, alt, width, height, caption)


def _svg(draw: Callable[[Figure, Theme], None], size_inches: tuple[float, float], theme: Theme) -> str:
    import matplotlib

    figure = figure_type()(figsize=size_inches, layout="constrained")
    figure.patch.set_alpha(0.0)
    draw(figure, theme)
    content = io.BytesIO()
    # The salt and the missing date make the same numbers the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "medseg", "svg.fonttype": "path"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri(content.getvalue(), "image/svg+xml")


def save_png(
    draw: Callable[[Figure, Theme], None], size_inches: tuple[float, float], path: str | os.PathLike[str]
) -> None:
    """Draw a chart for light surroundings into a ``.png`` file, whole or not at all."""
    figure = figure_type()(figsize=size_inches, layout="constrained", facecolor=LIGHT.ground)
    draw(figure, LIGHT)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_PNG_DPI)


def style(axes: Axes, theme: Theme) -> None:
    """Give axes the theme's colours and leave out what says nothing."""
    axes.set_facecolor("none")
    axes.grid(color=theme.faint, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.text, labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.text, fontsize=9.5)
    for side, spine in axes.spines.items():
        spine.set(color=theme.faint, alpha=0.6, visible=side in ("left", "bottom"))


def plain(texts: Sequence[object]) -> None:
    """Show names as they are: a dollar sign in one begins no formula."""
    for text in texts:
        text.set_parse_math(False)  # type: ignore[attr-defined]


def short(name: str, most: int = 28) -> str:
    """A name that fits beside a chart.

    Example:
        >>> short("left superior pulmonary vein, posterior wall", 20)
        'left superior pulmo…'
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def distribution(
    numbers: Mapping[str, Sequence[float]],
    measure: str,
    colours: Mapping[str, str] | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    caption: str = "",
) -> Chart:
    """One row for each name: every number as a point, with box (quartiles), median and mean.

    Args:
        numbers: By name; what is NaN is left out.
        measure: What they are, below the axis.
        colours: By name.
        bounds: The most that the axis may show, as 0 and 1 for Dice.
        caption: Below the chart.
    """
    found = {
        name: np.asarray([value for value in values if np.isfinite(value)])
        for name, values in numbers.items()
    }
    chosen = colours or palette(list(numbers))
    many = sum(values.size for values in found.values()) > _MOST_VECTOR_POINTS

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        style(axes, theme)
        spread = np.random.default_rng(0)
        for row, (name, values) in enumerate(found.items()):
            if not values.size:
                continue
            heights = row + spread.uniform(-0.22, 0.22, values.size)
            points = axes.scatter(values, heights, s=9, color=chosen[name], alpha=0.6, linewidths=0)
            points.set_rasterized(many)
            low, middle, high = np.percentile(values, (25, 50, 75))
            axes.barh(row, high - low, 0.62, low, color="none", edgecolor=theme.text, linewidth=0.9)
            axes.plot([middle, middle], [row - 0.31, row + 0.31], color=theme.text, linewidth=1.8)
            axes.plot(values.mean(), row, "D", markersize=4.5, color=theme.ground, markeredgecolor=theme.text)
        axes.set(ylim=(len(found) - 0.4, -0.6), xlabel=measure)
        axes.set_yticks(range(len(found)), [short(name) for name in found])
        plain(axes.get_yticklabels())
        axes.grid(visible=False, axis="y")
        _limit(axes, [value for values in found.values() for value in values], bounds)

    size = _WIDTH_INCHES, 0.75 + _ROW_INCHES * max(len(found), 2)
    told = "; ".join(
        f"{name}: median {np.median(values):.3f} of {values.size}"
        for name, values in list(found.items())[:12]
        if values.size
    )
    return draw_chart(draw, size, f"{measure}. {told}", caption)


def _limit(axes: Axes, values: Sequence[float], bounds: tuple[float, float] | None) -> None:
    if not values:
        return
    low, high = min(values), max(values)
    margin = 0.04 * ((high - low) or 1.0)
    low, high = low - margin, high + margin
    if bounds is not None:
        beyond = 0.01 * (bounds[1] - bounds[0])
        low, high = max(low, bounds[0] - beyond), min(high, bounds[1] + beyond)
    axes.set_xlim(low, high)


def bland_altman(
    reference_ml: Sequence[float], prediction_ml: Sequence[float], name: str, colour: str
) -> Chart:
    """Do volumes agree: the difference over the mean of both, with its mean and limits of agreement.

    The limits are the mean difference ± 1.96 standard deviations: J. M. Bland and D. G. Altman, "Statistical
    methods for assessing agreement between two methods of clinical measurement", Lancet 327, 1986.

    Args:
        reference_ml: Volumes in the references, in millilitres.
        prediction_ml: Volumes in the predictions, in the same order.
        name: Of the structure, or of what predicted it.
        colour: Of the points.
    """
    truth, guess = np.asarray(reference_ml, float), np.asarray(prediction_ml, float)
    means, differences = (truth + guess) / 2.0, guess - truth
    bias = float(differences.mean()) if differences.size else 0.0
    spread = float(differences.std(ddof=1)) if differences.size > 1 else 0.0
    limits = bias - _LIMITS_OF_AGREEMENT * spread, bias + _LIMITS_OF_AGREEMENT * spread

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        style(axes, theme)
        points = axes.scatter(means, differences, s=13, color=colour, alpha=0.7, linewidths=0)
        points.set_rasterized(means.size > _MOST_VECTOR_POINTS)
        axes.axhline(0.0, color=theme.faint, linewidth=0.8)
        for height, dashes in ((bias, (0, ())), (limits[0], (0, (4, 3))), (limits[1], (0, (4, 3)))):
            axes.axhline(height, color=theme.text, linewidth=1.1, linestyle=dashes)
            beside = axes.annotate(f" {height:+.2g}", (1.0, height), xycoords=("axes fraction", "data"))
            beside.set(color=theme.text, fontsize=8.5, va="center")
        axes.set(xlabel="mean of both volumes (ml)", ylabel="prediction - reference (ml)")
        title = axes.set_title(short(name, 44), color=theme.text, fontsize=10, loc="left")
        plain([title])

    alt = (
        f"Bland-Altman plot of {name}: {means.size} volumes, mean difference {bias:+.3g} ml, "
        f"limits of agreement {limits[0]:+.3g} to {limits[1]:+.3g} ml"
    )
    return draw_chart(draw, (_WIDTH_INCHES, 2.9), alt)
