"""Charts of several methods: differences, ranks, learning curves, what accuracy costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.comparison.charts import Theme, draw_chart, plain, save_png, short, style
from medseg.comparison.page import Chart
from medseg.comparison.ranks import MethodRank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CurvePoint",
    "Difference",
    "differences",
    "learning_curve",
    "rank_map",
    "save_learning_curve",
    "trade_off",
]

_WIDTH_INCHES = 4.6
_ROW_INCHES = 0.34
_CURVE_INCHES = (6.2, 3.8)
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline.

    Attributes:
        name: The method.
        mean: Of the differences.
        low: Lower end of its interval; the mean itself where there is none.
        high: Upper end.
        is_shown: Whether the difference is significant after correction.
    """

    name: str
    mean: float
    low: float
    high: float
    is_shown: bool


def differences(found: Sequence[Difference], measure: str, baseline: str) -> Chart:
    """Mean differences from the baseline with their intervals; filled where they are significant."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        style(axes, theme)
        axes.axvline(0.0, color=theme.faint, linewidth=1.0)
        for row, entry in enumerate(found):
            axes.plot([entry.low, entry.high], [row, row], color=theme.text, linewidth=1.5)
            face = theme.text if entry.is_shown else theme.ground
            axes.plot(entry.mean, row, "o", markersize=6, color=face, markeredgecolor=theme.text)
        axes.set(ylim=(len(found) - 0.4, -0.6), xlabel=f"{measure}: difference from {short(baseline)}")
        axes.set_yticks(range(len(found)), [short(entry.name) for entry in found])
        plain([*axes.get_yticklabels(), axes.xaxis.label])
        axes.grid(visible=False, axis="y")

    told = "; ".join(
        f"{entry.name} {entry.mean:+.4f} [{entry.low:+.4f}, {entry.high:+.4f}]" for entry in found
    )
    size = _WIDTH_INCHES, 0.75 + _ROW_INCHES * max(len(found), 2)
    return draw_chart(draw, size, f"{measure}, difference from {baseline}: {told}")


def rank_map(ranks: Mapping[str, MethodRank], measure: str) -> Chart:
    """How often each method was first, second and so on, over cases drawn anew."""
    names = sorted(ranks, key=lambda name: ranks[name].rank)

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        style(axes, theme)
        axes.grid(visible=False)
        for row, name in enumerate(names):
            for place, probability in enumerate(ranks[name].probabilities):
                axes.scatter(place + 1, row, s=900 * probability, color="#0072b2", alpha=0.75, linewidths=0)
                if probability >= 0.005:
                    text = axes.text(place + 1, row, f"{100 * probability:.0f}", color=theme.text, fontsize=8)
                    text.set(ha="center", va="center")
        axes.set(xlim=(0.4, len(names) + 0.6), ylim=(len(names) - 0.4, -0.6), xticks=range(1, len(names) + 1))
        axes.set_xlabel(f"place by mean {measure}; % of drawings")
        axes.set_yticks(range(len(names)), [short(name) for name in names])
        plain(axes.get_yticklabels())

    told = "; ".join(f"{name} is first in {100 * ranks[name].probabilities[0]:.0f} %" for name in names)
    size = _WIDTH_INCHES, 0.8 + 1.35 * _ROW_INCHES * max(len(names), 2)
    return draw_chart(draw, size, f"Ranks by {measure} over bootstrapped cases: {told}")


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve.

    Attributes:
        cases: Training cases.
        mean: Of the scores.
        low: Lower end of its interval; the mean itself where there is none.
        high: Upper end.
    """

    cases: float
    mean: float
    low: float
    high: float


def learning_curve(
    curves: Mapping[str, Sequence[CurvePoint]], measure: str, colours: Mapping[str, str]
) -> Chart:
    """Scores over the number of training cases, by method, with the intervals of their means.

    Args:
        curves: By method, with rising numbers of cases.
        measure: What is scored.
        colours: By method.
    """
    told = "; ".join(
        f"{name}: " + ", ".join(f"{point.mean:.3f} with {point.cases:g}" for point in points)
        for name, points in curves.items()
    )
    alt = f"{measure} over training cases. {told}"
    return draw_chart(_curves(curves, measure, colours), _CURVE_INCHES, alt)


def save_learning_curve(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[CurvePoint]],
    measure: str,
    colours: Mapping[str, str],
) -> None:
    """The learning curve as a ``.png`` file, for a page of one's own.

    Raises:
        ConfigError: matplotlib is not installed.
        ResourceError: The file cannot be written.
    """
    save_png(_curves(curves, measure, colours), _CURVE_INCHES, path)


def _curves(
    curves: Mapping[str, Sequence[CurvePoint]], measure: str, colours: Mapping[str, str]
) -> Callable[[Figure, Theme], None]:
    counts = sorted({point.cases for points in curves.values() for point in points})

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        style(axes, theme)
        for order, (name, points) in enumerate(curves.items()):
            # A little apart, so that intervals do not hide each other.
            across = [point.cases * 1.015 ** (order - len(curves) / 2) for point in points]
            below = [point.mean - point.low for point in points]
            above = [point.high - point.mean for point in points]
            line = axes.errorbar(across, [point.mean for point in points], [below, above], label=short(name))
            for part in (line[0], *line[2]):
                part.set_color(colours[name])
            line[0].set(marker=_MARKERS[order % len(_MARKERS)], markersize=5, linewidth=1.8)
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:g}" for count in counts])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="training cases", ylabel=measure)
        legend = axes.legend(
            fontsize=9, frameon=False, labelcolor=theme.text, loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
        plain(legend.get_texts())

    return draw


def trade_off(
    points: Mapping[str, tuple[float, float]], measure: str, cost: str, colours: Mapping[str, str]
) -> Chart:
    """What accuracy costs: a score over seconds, by method, on a logarithmic axis.

    Args:
        points: Seconds and score, by method.
        measure: What is scored.
        cost: What the seconds are.
        colours: By method.
    """

    def draw(figure: Figure, theme: Theme) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes = figure.add_subplot()
        style(axes, theme)
        for order, (name, (seconds, score)) in enumerate(points.items()):
            axes.plot(
                seconds,
                score,
                _MARKERS[order % len(_MARKERS)],
                color=colours[name],
                markersize=8,
                label=short(name),
            )
        axes.set_xscale("log")
        axes.margins(y=0.15)
        seconds_of = [seconds for seconds, _ in points.values()]
        axes.set(xlabel=cost, ylabel=measure, xlim=(min(seconds_of) / 2.0, 2.0 * max(seconds_of)))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        legend = axes.legend(
            fontsize=8.5, frameon=False, labelcolor=theme.text, loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
        plain(legend.get_texts())

    told = "; ".join(f"{name}: {score:.3f} in {seconds:.3g} s" for name, (seconds, score) in points.items())
    return draw_chart(draw, (_WIDTH_INCHES, 2.9), f"{measure} over {cost}. {told}")
