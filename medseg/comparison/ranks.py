"""Would other cases have given another order of the methods: ranks over bootstrapped cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from medseg.errors import InputError

__all__ = ["MethodRank", "rank_methods"]

_LEVEL = 0.95
_NUMBERS_AT_ONCE = 1 << 20
_ROUNDING = 12


@dataclass(frozen=True)
class MethodRank:
    """Where a method stands among others.

    Attributes:
        rank: By the mean over all cases, 1 is best; equal means share the mean of their ranks.
        mean: Of its ranks over all drawings.
        low: Lower end of the middle 95 % of its ranks.
        high: Upper end.
        probabilities: Entry r: how often it was r + 1-th. A tie counts as the better place.
    """

    rank: float
    mean: float
    low: float
    high: float
    probabilities: tuple[float, ...]


def rank_methods(
    numbers: Mapping[str, Sequence[float]],
    *,
    smaller_is_better: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, MethodRank]:
    """Rank methods by their mean, and again on cases drawn with replacement, the same for all methods.

    This is how M. Wiesenfarth et al. look at the stability of rankings, "Methods and open-source toolkit for
    analyzing and visualizing challenge results", Scientific Reports 11, 2021.

    Args:
        numbers: A number for each case, by method, in the same order of cases; none is NaN.
        smaller_is_better: As for distances.
        resamples: How many drawings.
        seed: Of the drawings; the same seed gives the same answer.

    Returns:
        By method; empty without methods or without cases.

    Raises:
        InputError: Methods differ in the number of cases, or a number is not finite.

    Example:
        >>> ranks = rank_methods({"a": [0.9, 0.8, 0.9], "b": [0.7, 0.6, 0.8]})
        >>> ranks["a"].rank, ranks["b"].probabilities
        (1.0, (0.0, 1.0))
    """
    if len({len(values) for values in numbers.values()}) > 1:
        raise InputError("methods were not scored on the same cases", fix="rank them on common cases")
    table = np.array([list(values) for values in numbers.values()], dtype=np.float64)
    if table.size == 0:
        return {}
    if not np.isfinite(table).all():
        raise InputError("a score to rank by is not finite", fix="leave the case out for all methods")
    signed = table if smaller_is_better else -table
    observed = _ranks(signed.mean(axis=1)[:, None], "average")[:, 0]
    drawn = np.concatenate(list(_means(signed, resamples, seed)), axis=1)
    shared, places = _ranks(drawn, "average"), _ranks(drawn, "min")
    count, tail = len(table), 100.0 * (1.0 - _LEVEL) / 2.0
    low, high = np.percentile(shared, (tail, 100.0 - tail), axis=1)
    return {
        name: MethodRank(
            rank=float(observed[row]),
            mean=float(shared[row].mean()),
            low=float(low[row]),
            high=float(high[row]),
            probabilities=tuple(float((places[row] == place + 1).mean()) for place in range(count)),
        )
        for row, name in enumerate(numbers)
    }


def _means(signed: npt.NDArray[np.float64], resamples: int, seed: int) -> list[npt.NDArray[np.float64]]:
    """Means of each method over drawings of cases, (methods, drawings) in parts."""
    methods, cases = signed.shape
    rng = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // (methods * cases))
    parts = []
    for start in range(0, resamples, at_once):
        chosen = rng.integers(0, cases, (min(at_once, resamples - start), cases))
        parts.append(signed[:, chosen].mean(axis=2))
    return parts


def _ranks(means: npt.NDArray[np.float64], ties: Literal["average", "min"]) -> npt.NDArray[np.float64]:
    # The same numbers in another order may sum to another last bit: they are equal all the same.
    return np.asarray(rankdata(means.round(_ROUNDING), method=ties, axis=0), dtype=np.float64)
