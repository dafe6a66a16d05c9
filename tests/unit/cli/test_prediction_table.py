"""The table at the end of ``medseg predict``."""

from __future__ import annotations

from medseg.cli.predict import _structures
from medseg.segmenters import CaseOutcome


def outcome(voxels: dict[str, int], objects: int | None = None) -> CaseOutcome:
    return CaseOutcome("case", 1.0, None, voxels, objects=objects)


def test_structures_are_counted() -> None:
    assert _structures(outcome({})) == "background only"
    assert _structures(outcome({"liver": 12, "tumour": 3}, objects=2)) == "liver 12, tumour 3; objects: 2"


def test_of_many_structures_the_largest_are_told() -> None:
    many = {f"structure {number}": number for number in range(1, 105)}
    told = _structures(outcome(many))
    assert told.startswith("structure 100 100, structure 101 101, ")
    assert told.endswith("structure 104 104, and 99 smaller structures")
