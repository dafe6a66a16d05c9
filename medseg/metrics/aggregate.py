"""Many numbers as a few, with what has no value counted instead of dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """Location and spread of the numbers that have a value; NaN where there are too few.

    Attributes:
        mean: Arithmetic mean.
        median: Median.
        std: Sample standard deviation (divisor n - 1); NaN for fewer than two numbers.
        min: Smallest.
        max: Largest.
        quartiles: A quarter of the numbers lies below the first, three quarters below the second (between
            two numbers, linearly interpolated).
        n_valid: How many numbers have a value.
        n_undefined: How many are NaN.
    """

    mean: float
    median: float
    std: float
    min: float
    max: float
    quartiles: tuple[float, float]
    n_valid: int
    n_undefined: int


def summarize(numbers: Iterable[float]) -> Summary:
    """Summarise numbers, of which some may be NaN.

    Example:
        >>> summary = summarize([0.5, 1.0, float("nan")])
        >>> summary.mean, summary.median, summary.std
        (0.75, 0.75, 0.3535533905932738)
        >>> summary.min, summary.max, summary.quartiles
        (0.5, 1.0, (0.625, 0.875))
        >>> summary.n_valid, summary.n_undefined
        (2, 1)
    """
    everything = np.fromiter(numbers, dtype=np.float64)
    valid = everything[~np.isnan(everything)]
    undefined = everything.size - valid.size
    if valid.size == 0:
        nan = float("nan")
        return Summary(nan, nan, nan, nan, nan, (nan, nan), n_valid=0, n_undefined=undefined)
    first, median, third = np.quantile(valid, (0.25, 0.5, 0.75))
    return Summary(
        mean=float(valid.mean()),
        median=float(median),
        std=float(valid.std(ddof=1)) if valid.size > 1 else float("nan"),
        min=float(valid.min()),
        max=float(valid.max()),
        quartiles=(float(first), float(third)),
        n_valid=valid.size,
        n_undefined=undefined,
    )
