"""Every method against a baseline, in one family of tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medseg.comparison.results import MethodResult
from medseg.evaluation import Compared, ScoringOptions, compare_measures, holm

__all__ = ["TESTED", "Tested", "compare_with_baseline", "number_of_tests"]

TESTED = ("dice", "nsd", "hd95_bound_mm")
"""Means over classes of these are tested; a structure that is missed counts in each."""


@dataclass(frozen=True)
class Tested:
    """One method against the baseline.

    Attributes:
        method: The method; differences are its numbers minus the baseline's.
        compared: One for each of ``TESTED``, corrected for all tests of all methods.
    """

    method: MethodResult
    compared: tuple[Compared, ...]


def compare_with_baseline(
    baseline: MethodResult, others: Sequence[MethodResult], options: ScoringOptions
) -> tuple[Tested, ...]:
    """Test each method against the baseline, on the cases that both were scored on.

    Scores of several seeds are averaged by case before, so that a case counts once. Holm's correction is for
    all tests together.

    Args:
        baseline: What the others are compared with.
        others: The others.
        options: Name the columns.
    """
    theirs = baseline.measures(TESTED, options)
    raw = []
    for method in others:
        ours = method.measures(TESTED, options)
        common = sorted(set(ours[0].by_case) & set(theirs[0].by_case))
        raw.append((method, compare_measures(ours, theirs, common)))
    corrected = iter(holm([entry.test.p_value for _, found in raw for entry in found]))
    return tuple(
        Tested(method, tuple(replace(entry, p_holm=next(corrected)) for entry in found))
        for method, found in raw
    )


def number_of_tests(tested: Sequence[Tested]) -> int:
    """How many there were to correct for."""
    return sum(not math.isnan(entry.p_holm) for method in tested for entry in method.compared)
