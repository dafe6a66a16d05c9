"""One call for every recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence

from medseg.data import Dataset
from medseg.fitting.methods import fit_method
from medseg.fitting.options import FitOptions
from medseg.progress import Progress
from medseg.runs import MethodRecipe, Recipe, RunFolder
from medseg.training import train

__all__ = ["fit"]


def fit(
    dataset: Dataset,
    recipe: Recipe | MethodRecipe,
    out: str | os.PathLike[str],
    *,
    folds: Sequence[int] | None = None,
    options: FitOptions | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Train a network or fit another method, as the recipe says; see ``train`` and ``fit_method``.

    Args:
        dataset: Labelled cases.
        recipe: What to fit.
        out: The run's folder.
        folds: Which folds of the cross-validation; all of them if left out.
        options: Seed, budget, device, processes.
        progress: Shows how far it has come.

    Returns:
        The run.

    Raises:
        MedsegError: As ``train`` and ``fit_method``.
    """
    if isinstance(recipe, MethodRecipe):
        return fit_method(dataset, recipe, out, folds=folds, options=options, progress=progress)
    return train(dataset, recipe, out, folds=folds, options=options, progress=progress)
