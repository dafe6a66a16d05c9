"""Which axes patches are flipped along, and what becomes of labels that have a side."""

from __future__ import annotations

from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.runs import Augmentation

__all__ = ["mirror_axes", "swapped_classes"]


def mirror_axes(choice: Augmentation, axcodes: str, labels: LabelScheme) -> tuple[int, ...]:
    """The axes along which patches are flipped, none of which puts a label on the wrong side.

    Args:
        choice: What is wanted, by ``mirror`` and ``mirror_sides``.
        axcodes: Orientation of the patches.
        labels: The classes.

    Raises:
        ConfigError: Left and right shall be mirrored, and labels with a side can or shall not be swapped.

    Example:
        >>> kidneys = LabelScheme.from_names({1: "left kidney", 2: "right kidney"})
        >>> mirror_axes(Augmentation(mirror="all", mirror_sides="never"), "RAS", kidneys)
        (1, 2)
        >>> mirror_axes(Augmentation(mirror="all", mirror_sides="swap"), "RAS", kidneys)
        (0, 1, 2)
    """
    wanted = {"left_right": "LR", "all": "LRAPSI", "none": ""}[choice.mirror]
    axes = tuple(axis for axis, code in enumerate(axcodes) if code in wanted)
    crossing = tuple(axis for axis in axes if axcodes[axis] in "LR")
    if not crossing or not labels.sided or _may_cross(choice, labels):
        return axes
    return tuple(axis for axis in axes if axis not in crossing)


def _may_cross(choice: Augmentation, labels: LabelScheme) -> bool:
    """Whether patches with sided labels are mirrored left/right."""
    alone = [name for index, name in labels.sided.items() if labels.partner_index(index) is None]
    if choice.mirror_sides == "keep":
        raise ConfigError(
            f"mirroring left/right would put {_listed(list(labels.sided.values()))} on the wrong side",
            where="augmentation.mirror_sides",
            fix="use 'swap', which exchanges left and right labels, or 'never'",
        )
    if choice.mirror_sides == "swap" and alone:
        raise ConfigError(
            f"{_listed(alone)} cannot be swapped, the label of the other side is missing",
            where="augmentation.mirror_sides",
            fix="declare it, or use 'never', which does not mirror left/right where labels have sides",
        )
    return choice.mirror_sides != "never" and not alone


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown + (", …" if len(names) > 3 else "")


def swapped_classes(labels: LabelScheme) -> tuple[int, ...] | None:
    """What each class becomes when left and right are mirrored; ``None`` if all stay what they are.

    Example:
        >>> swapped_classes(LabelScheme.from_names({1: "left lung", 2: "heart", 3: "right lung"}))
        (0, 3, 2, 1)
    """
    return labels.partners if labels.has_sides else None
