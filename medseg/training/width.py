"""How wide a network is, where the recipe leaves it open: as wide as the time lets it learn."""

from __future__ import annotations

import inspect
import math

from medseg.registry import NETWORKS
from medseg.runs import Recipe
from medseg.training.architecture import DEFAULT_FEATURES
from medseg.training.budget import Budget

__all__ = ["FEW_FEATURES", "SHORT_CPU_MINUTES", "fit_width"]

FEW_FEATURES = 16
"""Of the first level. A step takes about a quarter of the time that it takes with 32."""

SHORT_CPU_MINUTES = 480.0
"""Trainings on processors that end sooner learn more by many steps of a narrow network than by few of a wide
one. On the hippocampus 16 features reached after 9.5 CPU-minutes what 32 reached after 38."""


def fit_width(
    recipe: Recipe, budget: Budget, device_type: str, threads: int, begun: Recipe | None = None
) -> Recipe:
    """Choose the features of the first level where the recipe says nothing of them.

    A run that was begun goes on as wide as it is, on whatever machine: its folds are one ensemble.

    Args:
        recipe: What a person chose.
        budget: When the training ends.
        device_type: ``"cpu"`` or ``"cuda"``.
        threads: That compute on the CPU; a minute by the wall is as many minutes of processors.
        begun: The recipe of the run that goes on, if it was begun before.

    Returns:
        The recipe with ``network.base_features`` spelt out; the same one where it is given already, or the
        network's levels have no widths of their own or come from elsewhere.

    Example:
        >>> fit_width(Recipe(), Budget(max_cpu_minutes=30), "cpu", threads=2).network.base_features
        16
        >>> fit_width(Recipe(), Budget(max_minutes=30), "cuda", threads=2).network.base_features
        32
    """
    if _is_given(recipe):
        return recipe
    features = None if begun is None else begun.network.base_features
    if features is None:
        features = _features(budget, device_type, threads)
    network = recipe.network.model_copy(update={"base_features": features})
    return recipe.model_copy(update={"network": network})


def _features(budget: Budget, device_type: str, threads: int) -> int:
    by_the_wall = math.inf if budget.max_minutes is None else budget.max_minutes * threads
    is_short = min(by_the_wall, budget.max_cpu_minutes or math.inf) < SHORT_CPU_MINUTES
    return FEW_FEATURES if is_short and device_type == "cpu" else DEFAULT_FEATURES


def _is_given(recipe: Recipe) -> bool:
    network = recipe.network
    named = set(inspect.signature(NETWORKS.resolve(network.name)).parameters)
    return (
        network.base_features is not None
        or "features" in network.options
        or "features" not in named
        or recipe.init_encoder is not None
        or recipe.init_from is not None
    )
