"""How often training looks at each class."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.labels import LabelScheme
from medseg.runs import Fingerprint

__all__ = ["MOST_OFTEN", "plan_class_sampling"]

MOST_OFTEN = 4.0
"""How many times as often as a class of every case a rare one is looked at, at most: its few cases shall not
be learnt by heart."""


def plan_class_sampling(
    facts: Fingerprint, labels: LabelScheme, reasons: dict[str, str]
) -> tuple[float, ...]:
    """Weigh the classes that a patch may be centred on.

    Among the classes of a case, each is chosen in proportion to its weight. With equal weights a class of a
    tenth of the cases is met a tenth as often as one of all; weights in inverse proportion to the number of
    cases, up to ``MOST_OFTEN``, even this out. How many voxels a class has plays no part: a patch shows a
    class of few voxels as surely as one of many.

    Args:
        facts: Of the data.
        labels: The classes.
        reasons: Gains one.

    Returns:
        A number for each class but the background; they sum to 1, and are 0 for classes that no case holds.
        Empty where nothing is known of the classes.
    """
    if not any(entry.cases for entry in facts.classes):
        return ()
    weights = [min(facts.cases / entry.cases, MOST_OFTEN) if entry.cases else 0.0 for entry in facts.classes]
    reasons["class_sampling"] = _reason(facts, labels, weights)
    return tuple(weight / sum(weights) for weight in weights)


def _reason(facts: Fingerprint, labels: LabelScheme, weights: Sequence[float]) -> str:
    rare = {
        entry.name: weight for entry, weight in zip(labels.foreground, weights, strict=True) if weight > 1.0
    }
    if not rare:
        return "every case holds every class: all alike"
    name = max(rare, key=lambda entry: rare[entry])
    cases = facts.classes[labels.names.index(name) - 1].cases
    return (
        f"in inverse proportion to the cases that hold a class, up to {MOST_OFTEN:g} times; "
        f"'{name}', in {cases} of {facts.cases}, {rare[name]:.3g} times"
    )
