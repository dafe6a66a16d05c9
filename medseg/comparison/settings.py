"""What a comparison was asked for: what decides its numbers, and must be the same when it goes on."""

from __future__ import annotations

from typing import Literal

from medseg.runs.part import Part

__all__ = ["ComparisonSettings"]


class ComparisonSettings(Part):
    """``settings.json`` of a comparison.

    Attributes:
        schema_version: Version of the document's form.
        data: The data set's ``.json`` file.
        dataset: The data set's name.
        recipes: Names of the recipes, in the order of tables; a resumed comparison may have more.
        sizes: Training cases of each fold; ``None`` for all. A resumed comparison may have more.
        folds: Those that are held out, one after the other.
        seeds: Of fits and training subsets.
        baseline: The recipe that others are tested against.
        max_minutes: Of each network's training; ``None`` for no limit.
        max_cpu_minutes: Likewise.
        max_steps: Likewise; the recipe's own, if no limit is given.
        device: Of networks.
        threads: That a fit or a prediction may compute with.
        tolerance_mm: Of the normalised surface distance.
    """

    schema_version: Literal[1] = 1
    data: str
    dataset: str
    recipes: tuple[str, ...]
    sizes: tuple[int | None, ...] = (None,)
    folds: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    baseline: str
    max_minutes: float | None = None
    max_cpu_minutes: float | None = None
    max_steps: int | None = None
    device: str = "auto"
    threads: int = 1
    tolerance_mm: float = 1.0

    def differing(self, other: ComparisonSettings) -> list[str]:
        """What may not differ between a comparison and its going on, but does."""
        free = {"recipes", "sizes", "baseline"}
        ours, theirs = self.model_dump(), other.model_dump()
        return [key for key in ours if key not in free and ours[key] != theirs[key]]
