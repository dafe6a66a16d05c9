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
        n_valid: How many numbers have a value.
        n_undefined: How many are NaN.
    """

    mean: float
    median: float
    std: float
    min: float
    n_valid: int
    n_undefined: int


def summarize(numbers: Iterable[float]) -> Summary:
    """Summarise numbers, of which some may be NaN.

    Example:
        >>> summarize([0.5, 1.0, float("nan")])
        Summary(mean=0.75, median=0.75, std=0.3535533905932738, min=0.5, n_valid=2, n_undefined=1)
    """
    everything = np.fromiter(numbers, dtype=np.float64)
    valid = everything[~np.isnan(everything)]
    undefined = everything.size - valid.size
    if valid.size == 0:
        return Summary(np.nan, np.nan, np.nan, np.nan, 0, undefined)
    return Summary(
        mean=float(valid.mean()),
        median=float(np.median(valid)),
        std=float(valid.std(ddof=1)) if valid.size > 1 else np.nan,
        min=float(valid.min()),
        n_valid=valid.size,
        n_undefined=undefined,
    )
