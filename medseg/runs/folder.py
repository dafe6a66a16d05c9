"""The run folder: where everything of a training lies.

Of a network::

    RUN/
      recipe.yaml  plan.json  split.json  manifest.json  init_from.json
      cross_validation.json  postprocess.json
      fold_0/
        metrics.csv  steps.csv  finished.json  curves.png  worst_case.png  tensorboard/
        checkpoints/  resume.ckpt  last.pt  best.pt

Of another method, such as an atlas::

    RUN/
      recipe.yaml  task.json  split.json  manifest.json
      fold_0/
        model/  finished.json
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from medseg import __version__
from medseg.errors import BundleError, ConfigError, InputError, MedsegError
from medseg.files import read_json
from medseg.runs.chosen_postprocess import ChosenPostprocess
from medseg.runs.documents import load_json, load_yaml, save_json, save_yaml
from medseg.runs.method import MethodRecipe, Task
from medseg.runs.plan import Plan
from medseg.runs.postprocess import PostprocessChoice
from medseg.runs.recipe import Recipe

__all__ = ["FoldFolder", "RunFolder", "software_versions", "utc_now"]

Document = TypeVar("Document", bound=BaseModel)

_MARKS = ("plan.json", "task.json")
_FOLD = re.compile(r"fold_(\d+)")


@dataclass(frozen=True)
class FoldFolder:
    """One fold's part of a run."""

    path: Path

    @property
    def index(self) -> int:
        """The fold's number, from 0."""
        return int(self.path.name.removeprefix("fold_"))

    @property
    def resume_state(self) -> Path:
        """Weights, optimiser and counters: what ``--resume`` goes on from."""
        return self.path / "checkpoints" / "resume.ckpt"

    @property
    def model(self) -> Path:
        """All that a method that is not a network needs to segment."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """One row per validation: step, minutes, and Dice per class or the reconstruction error."""
        return self.path / "metrics.csv"

    @property
    def steps(self) -> Path:
        """One row per optimiser step: loss and learning rate."""
        return self.path / "steps.csv"

    @property
    def finished_mark(self) -> Path:
        """Written last: steps, minutes and scores of a training that came to its end."""
        return self.path / "finished.json"

    @property
    def curves(self) -> Path:
        """Loss and scores over the training, as a picture."""
        return self.path / "curves.png"

    @property
    def worst_case(self) -> Path:
        """The worst case of the last validation, as a picture."""
        return self.path / "worst_case.png"

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard."""
        return self.path / "tensorboard"

    def weights(self, which: str = "last") -> Path:
        """The network's weights alone: those of the ``"last"`` step, or the ``"best"`` validated."""
        return self.path / "checkpoints" / f"{which}.pt"

    @property
    def finished(self) -> bool:
        """Whether the fold was trained to its end."""
        return self.finished_mark.is_file()


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. Nothing is read before it is asked for."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run.

        Raises:
            InputError: There is no run in this folder.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise InputError("is no folder", where=folder, fix="give the --out folder of a training")
        if not any((folder / name).is_file() for name in _MARKS):
            raise InputError(
                f"holds no run (no {' or '.join(_MARKS)})",
                where=folder,
                fix="give the --out folder of a training",
            )
        return cls(folder)

    def require_segmentation(self) -> None:
        """Refuse a pretraining: its networks give images back, not classes.

        Raises:
            InputError: It is one.
            BundleError: The recipe is damaged.
        """
        if self.is_method:
            return
        if self.recipe().pretrain is not None:
            raise InputError(
                "is a pretraining, which segments nothing",
                where=self.path,
                fix=f"train a segmentation from its encoder: medseg train --init-encoder {self.path} …",
            )

    @property
    def is_method(self) -> bool:
        """Whether it is that of a method other than a network."""
        return (self.path / "task.json").is_file()

    @property
    def cache(self) -> Path:
        """Preprocessed cases, while a training needs them."""
        return self.path / "cache"

    @property
    def split_path(self) -> Path:
        """Which cases are in which fold."""
        return self.path / "split.json"

    @property
    def manifest_path(self) -> Path:
        """Versions, seed, inputs and their hashes."""
        return self.path / "manifest.json"

    @property
    def start_report(self) -> Path:
        """What each fold took over of the network that it started from, if it did from one."""
        return self.path / "init_from.json"

    @property
    def cross_validation(self) -> Path:
        """Scores over all folds, once every one is finished."""
        return self.path / "cross_validation.json"

    @property
    def postprocess_path(self) -> Path:
        """Postprocessing that was chosen on validation cases."""
        return self.path / "postprocess.json"

    def chosen_postprocess(self) -> ChosenPostprocess | None:
        """Postprocessing that was chosen on validation cases; ``None`` if none was.

        Raises:
            BundleError: It is damaged.
        """
        if not self.postprocess_path.is_file():
            return None
        return self._read(load_json, ChosenPostprocess, self.postprocess_path.name)

    def chosen(self, choice: PostprocessChoice) -> PostprocessChoice:
        """The choice itself, or where it leaves all to validation cases, what was chosen on them.

        Raises:
            ConfigError: It was not chosen yet.
            BundleError: The run is damaged.
        """
        if not choice.is_open:
            return choice
        chosen = self.chosen_postprocess()
        if chosen is None:
            raise ConfigError(
                "postprocessing was not chosen yet",
                where=self.path,
                fix="let the training end (medseg train --resume), or give --postprocess none",
            )
        return chosen.choice

    def save_chosen_postprocess(self, chosen: ChosenPostprocess) -> None:
        """Write it."""
        save_json(chosen, self.postprocess_path)

    def recipe(self) -> Recipe:
        """A network's recipe, with every default spelt out.

        Raises:
            InputError: The run is that of a method without a network.
            BundleError: It is damaged.
        """
        self._require_network()
        return self._read(load_yaml, Recipe, "recipe.yaml")

    def method_recipe(self) -> MethodRecipe:
        """The recipe, if ``is_method``.

        Raises:
            BundleError: It is damaged.
        """
        return self._read(load_yaml, MethodRecipe, "recipe.yaml")

    def task(self) -> Task:
        """What the method was fitted to, if ``is_method``.

        Raises:
            BundleError: It is damaged.
        """
        return self._read(load_json, Task, "task.json")

    def plan(self) -> Plan:
        """A network's plan.

        Raises:
            InputError: The run is that of a method without a network.
            BundleError: It is damaged.
        """
        self._require_network()
        return self._read(load_json, Plan, "plan.json")

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            BundleError: It is damaged.
        """
        try:
            content = read_json(self.manifest_path)
            if not isinstance(content, dict):
                raise InputError("does not hold keys and values", where=self.manifest_path)
        except MedsegError as error:
            raise self._damaged(self.manifest_path, error) from error
        return content

    def save_recipe(self, recipe: Recipe | MethodRecipe) -> None:
        """Write the recipe."""
        save_yaml(recipe, self.path / "recipe.yaml")

    def save_task(self, task: Task) -> None:
        """Write what a method is fitted to."""
        save_json(task, self.path / "task.json")

    def save_plan(self, plan: Plan) -> None:
        """Write the plan."""
        save_json(plan, self.path / "plan.json")

    def fold(self, index: int) -> FoldFolder:
        """A fold's folder, whether it exists or not."""
        return FoldFolder(self.path / f"fold_{index}")

    def folds(self) -> tuple[FoldFolder, ...]:
        """The folds whose training was begun, in order."""
        found = (match for entry in self.path.iterdir() if (match := _FOLD.fullmatch(entry.name)))
        return tuple(self.fold(index) for index in sorted(int(match[1]) for match in found))

    def trained_folds(self) -> tuple[FoldFolder, ...]:
        """The folds that have weights, in order.

        Raises:
            BundleError: There is none.
        """
        trained = tuple(fold for fold in self.folds() if self._is_usable(fold))
        if not trained:
            raise BundleError("has no trained weights yet", where=self.path, fix="train it, or use --resume")
        return trained

    def fold_weights(self) -> dict[int, Path]:
        """The last weights of each fold that is trained, in order; errors as ``trained_folds``'s."""
        return {fold.index: fold.weights() for fold in self.trained_folds()}

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return str(self.path)

    def _require_network(self) -> None:
        if self.is_method:
            raise InputError(
                "is the run of a method without a network", where=self.path, fix="give a network's run"
            )

    def _is_usable(self, fold: FoldFolder) -> bool:
        return fold.finished if self.is_method else fold.weights().is_file()

    def _read(
        self, load: Callable[[type[Document], Path], Document], kind: type[Document], name: str
    ) -> Document:
        try:
            return load(kind, self.path / name)
        except MedsegError as error:
            raise self._damaged(self.path / name, error) from error

    def _damaged(self, path: Path, error: MedsegError) -> BundleError:
        return BundleError(
            f"the run is damaged: {error.what}", where=path, fix="restore the file from a backup"
        )


_REPORTED_PACKAGES = ("torch", "monai", "lightning", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom")


def software_versions() -> dict[str, str]:
    """Versions of medseg, Python, the platform and the packages that results depend on."""
    versions = {"medseg": __version__, "python": sys.version.split()[0], "platform": platform.platform()}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def utc_now() -> str:
    """The time to the second, as a run's documents note it: ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")
