"""Postprocessing that was chosen on validation cases, and the figures that the choice rests on."""

from __future__ import annotations

from typing import Literal

from medseg.runs.part import Part
from medseg.runs.postprocess import PostprocessChoice

__all__ = ["ChosenPostprocess", "ClassDice", "PostprocessTrial"]


class PostprocessTrial(Part):
    """One way to clean one class, tried alone on all validation cases.

    Attributes:
        of: The class.
        choice: The way.
        mean_gain: Mean over the cases of what it adds to the class's Dice.
        standard_error: Of that mean; ``None`` of a single case.
        better: Cases whose Dice it raises.
        worse: Cases whose Dice it lowers.
        helps: Whether it is kept to be beyond chance: the mean gain is above its standard error, and more
            cases become better than worse.
    """

    of: str
    choice: PostprocessChoice
    mean_gain: float
    standard_error: float | None
    better: int
    worse: int
    helps: bool


class ClassDice(Part):
    """Mean Dice of a class over the validation cases; 1 where a case has none of it and is given none."""

    before: float
    after: float


class ChosenPostprocess(Part):
    """``postprocess.json`` of a run.

    Attributes:
        schema_version: Version of the document's form.
        choice: What is done to label maps; nothing, where nothing helps.
        folds: Whose validation cases it rests on, each predicted by the fold that did not train on it.
        cases: How many these are.
        dice: By class, without and with it, on the images' own grids.
        tried: All that was tried.
    """

    schema_version: Literal[1] = 1
    choice: PostprocessChoice
    folds: tuple[int, ...]
    cases: int
    dice: dict[str, ClassDice]
    tried: tuple[PostprocessTrial, ...]
