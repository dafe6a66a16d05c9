"""How often training looks at each class."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.labels import LabelScheme
from medseg.runs import Fingerprint

__all__ = ["MOST_OFTEN", "plan_class_sampling"]

MOST_OFTEN = 4.0
"""How many times as often as in turn a case is looked at for the sake of one class, at most: the few cases
of a rare class shall not be learnt by heart."""


def plan_class_sampling(
    facts: Fingerprint, labels: LabelScheme, reasons: dict[str, str]
) -> tuple[float, ...]:
    """Weigh the classes that a patch may be centred on.

    The class of a patch is drawn first, then one of the cases that hold it, so that equal weights let each
    class be met equally often, however few cases and voxels it has. A class of so few cases that each of them
    would be drawn more than ``MOST_OFTEN`` times as often as in turn is drawn less.

    Args:
        facts: Of the data.
        labels: The classes.
        reasons: Gains one.

    Returns:
        A number for each class but the background; they sum to 1, and are 0 for classes that no case holds.
        Empty where nothing is known of the classes.
    """
    held = [entry.cases for entry in facts.classes]
    if not any(held):
        return ()
    alike = 1.0 / sum(count > 0 for count in held)
    weights = [min(alike, MOST_OFTEN * count / facts.cases) for count in held]
    reasons["class_sampling"] = _reason(facts, labels, [weight / alike for weight in weights])
    return tuple(weight / sum(weights) for weight in weights)


def _reason(facts: Fingerprint, labels: LabelScheme, shares: Sequence[float]) -> str:
    rare = {
        entry.name: share for entry, share in zip(labels.foreground, shares, strict=True) if 0.0 < share < 1.0
    }
    if not rare:
        return "each class is met equally often, however few voxels or cases it has"
    name = min(rare, key=lambda entry: rare[entry])
    cases = facts.classes[labels.names.index(name) - 1].cases
    return (
        f"each class equally often, but no case {MOST_OFTEN:g} times as often as in turn for one class: "
        f"'{name}', in {cases} of {facts.cases} cases, is met {rare[name]:.2g} times as often as others"
    )
