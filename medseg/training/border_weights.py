"""The border weights that a recipe asks for, made out for one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ConfigError, did_you_mean
from medseg.labels import LabelScheme
from medseg.runs import Plan, Recipe
from medseg.runs.recipe import BorderWeightChoice
from medseg.transforms import border_weight_map, class_components

__all__ = ["BorderWeights", "border_weight_choice", "border_weights_of", "require_known_classes"]


@dataclass(frozen=True)
class BorderWeights:
    """How the voxels of a case are weighted.

    Attributes:
        w0: Weight of a border that is infinitely thin.
        sigma_mm: How fast it falls; five times the smallest spacing if ``None``.
        of_dataset: Whether instances are those of the data set's instance maps; else they are the connected
            components of each class.
        class_weights: By class index, background first.
    """

    w0: float
    sigma_mm: float | None
    of_dataset: bool
    class_weights: tuple[float, ...]

    @property
    def background(self) -> float:
        """Weight of what lies beyond the image."""
        return self.class_weights[0]

    def map_of(
        self, classes: npt.NDArray[Any], instances: npt.NDArray[Any] | None, spacing_mm: Sequence[float]
    ) -> npt.NDArray[np.float32]:
        """The weights of a case's voxels.

        Args:
            classes: Class indices (X, Y, Z).
            instances: Instance ids (X, Y, Z), if they are the data set's.
            spacing_mm: Spacing along each axis.
        """
        return border_weight_map(
            class_components(classes) if instances is None else instances,
            spacing_mm,
            self.w0,
            self.sigma_mm,
            dict(enumerate(self.class_weights)),
            classes=classes,
        )


def border_weight_choice(recipe: Recipe) -> BorderWeightChoice | None:
    """What the recipe chooses, if it chooses any; a pretraining has no loss to weigh."""
    return None if recipe.pretrain is not None else recipe.loss.border_weights


def border_weights_of(recipe: Recipe, plan: Plan) -> BorderWeights | None:
    """The border weights of a training, if the recipe asks for any.

    Raises:
        ConfigError: The recipe weighs a class that there is not.
    """
    choice = border_weight_choice(recipe)
    if choice is None:
        return None
    require_known_classes(recipe, plan.labels)
    if isinstance(choice.class_weights, dict):
        weights = tuple(float(choice.class_weights.get(name, 1.0)) for name in plan.labels.names)
    elif choice.class_weights == "balanced":
        weights = _balanced(plan.fingerprint.class_voxels)
    else:
        weights = (1.0,) * len(plan.labels)
    return BorderWeights(choice.w0, choice.sigma_mm, choice.instances == "dataset", weights)


def require_known_classes(recipe: Recipe, labels: LabelScheme) -> None:
    """Refuse weights of classes that there are not.

    Raises:
        ConfigError: The recipe names such a class; the nearest is suggested.
    """
    choice = border_weight_choice(recipe)
    if choice is None or not isinstance(choice.class_weights, dict):
        return
    for name in choice.class_weights:
        if name not in labels.names:
            raise ConfigError(
                f"there is no class '{name}'",
                where="loss.border_weights.class_weights",
                fix=did_you_mean(name, labels.names),
            )


def _balanced(class_voxels: Sequence[int]) -> tuple[float, ...]:
    """In inverse proportion to the voxels of each class that there is, with mean 1 over all voxels."""
    present = sum(count > 0 for count in class_voxels)
    total = sum(class_voxels)
    return tuple(total / (present * count) if count else 1.0 for count in class_voxels)
