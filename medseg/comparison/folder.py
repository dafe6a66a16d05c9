"""The folder of a comparison: what was asked for, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medseg.comparison.jobs import Key, folder_of, run_of, split_of
from medseg.comparison.results import MethodResult, read_result
from medseg.comparison.settings import ComparisonSettings
from medseg.data import Dataset, Split, load_dataset
from medseg.errors import ConfigError, InputError
from medseg.evaluation import ScoringOptions
from medseg.runs import MethodRecipe, Recipe, load_any_recipe
from medseg.runs.documents import load_json, save_json, save_yaml

__all__ = ["COMPARISON_CSV", "SCORES_CSV", "SETTINGS_JSON", "ComparisonFolder"]

SETTINGS_JSON = "settings.json"
COMPARISON_CSV = "comparison.csv"
SCORES_CSV = "scores.csv"
SUMMARY_JSON = "summary.json"


@dataclass(frozen=True)
class ComparisonFolder:
    """A comparison on disk.

    ::

        OUT/
          settings.json  split.json  recipes/RECIPE.yaml
          runs/RECIPE[/size_N][/seed_S]            run folders; with size_N one for each fold, held_out_K
          results/RECIPE[/size_N][/seed_S]/fold_K  predictions, scores, what was measured
          comparison.csv  scores.csv  summary.json  report.html
    """

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ComparisonFolder:
        """An existing comparison.

        Raises:
            InputError: There is none in this folder.
        """
        if not (Path(path) / SETTINGS_JSON).is_file():
            raise InputError(
                f"holds no comparison (no {SETTINGS_JSON})",
                where=path,
                fix="give the --out folder of 'medseg compare'",
            )
        return cls(Path(path).absolute())

    def begin(
        self,
        settings: ComparisonSettings,
        split: Split,
        recipes: Mapping[str, Recipe | MethodRecipe],
        *,
        resume: bool,
    ) -> ComparisonSettings:
        """Write down what is asked for, or prove that what is there was asked for alike.

        Returns:
            The settings, with recipes and sizes that were there before.

        Raises:
            InputError: There is a comparison, and ``resume`` is off.
            ConfigError: It is another one.
        """
        if self._settings_path.is_file():
            if not resume:
                raise InputError(
                    "holds a comparison already",
                    where=self.path,
                    fix="add --resume, or choose another --out",
                )
            before = self.settings
            differing = [*before.differing(settings), *["split"] * (self.split != split)]
            stored = {name: self.recipe_path(name) for name in recipes}
            differing += [
                f"recipe '{name}'"
                for name, path in stored.items()
                if path.is_file() and load_any_recipe(path) != recipes[name]
            ]
            if differing:
                raise ConfigError(
                    f"holds a comparison with another {', '.join(differing)}",
                    where=self.path,
                    fix="repeat the options that it was started with, or choose another --out",
                )
            merged = {
                "recipes": tuple(dict.fromkeys([*before.recipes, *settings.recipes])),
                "sizes": tuple(dict.fromkeys([*before.sizes, *settings.sizes])),
            }
            settings = settings.model_copy(update=merged)
        for name, recipe in recipes.items():
            save_yaml(recipe, self.recipe_path(name))
        split.save(self.path / "split.json")
        save_json(settings, self._settings_path)
        return settings

    @property
    def _settings_path(self) -> Path:
        return self.path / SETTINGS_JSON

    @property
    def settings(self) -> ComparisonSettings:
        """What was asked for."""
        return load_json(ComparisonSettings, self._settings_path)

    @property
    def split(self) -> Split:
        """Which cases are held out in which fold."""
        return Split.load(self.path / "split.json")

    def recipe_path(self, name: str) -> Path:
        """The recipe as it was compared."""
        return self.path / "recipes" / f"{name}.yaml"

    @cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        return load_dataset(self.settings.data)

    @cached_property
    def options(self) -> ScoringOptions:
        """How held-out cases were scored."""
        return ScoringOptions(tolerance_mm=self.settings.tolerance_mm)

    def run_of(self, key: Key) -> Path:
        """The run of a job."""
        return run_of(key, self.settings.seeds, self.path)

    @cached_property
    def methods(self) -> tuple[MethodResult, ...]:
        """What came of each recipe, by size, then in the order of the recipes.

        Raises:
            InputError: The data set is not where it was, or a result is damaged.
        """
        settings, split = self.settings, self.split
        found = []
        for size in sorted(settings.sizes, key=lambda size: float("inf") if size is None else size):
            for recipe in settings.recipes:
                keys = [Key(recipe, size, seed, fold) for seed in settings.seeds for fold in settings.folds]
                jobs = tuple(
                    read_result(
                        key,
                        folder_of(key, settings.seeds, self.path),
                        len(split_of(key, split).training(key.fold if size is None else 0)),
                        self.dataset.labels,
                        self.options,
                    )
                    for key in keys
                )
                found.append(MethodResult(recipe, size, jobs))
        return tuple(found)
