from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.data import Dataset
from medseg.runs import Recipe, load_recipe
from medseg.runs.documents import save_yaml
from medseg.training import Budget, TrainingOptions, train
from medseg.training.width import SHORT_CPU_MINUTES, fit_width


@pytest.mark.parametrize(
    ("budget", "device", "features"),
    [
        ({"max_cpu_minutes": 30.0}, "cpu", 16),
        ({"max_minutes": SHORT_CPU_MINUTES / 2 - 1}, "cpu", 16),
        ({"max_minutes": SHORT_CPU_MINUTES / 2}, "cpu", 32),
        ({"max_cpu_minutes": SHORT_CPU_MINUTES}, "cpu", 32),
        ({"max_steps": 10}, "cpu", 32),
        ({"max_steps": 10, "max_cpu_minutes": 30.0}, "cpu", 16),
        ({"max_minutes": 30.0}, "cuda", 32),
    ],
)
def test_short_trainings_on_processors_are_narrow(budget: dict[str, Any], device: str, features: int) -> None:
    chosen = fit_width(load_recipe("unet"), Budget(**budget), device, threads=2)
    assert chosen.network.base_features == features


def test_a_recipe_that_was_written_down_leaves_the_width_as_open_as_before(tmp_path: Path) -> None:
    save_yaml(load_recipe("unet"), tmp_path / "unet.yaml")
    chosen = fit_width(load_recipe(tmp_path / "unet.yaml"), Budget(max_cpu_minutes=30.0), "cpu", threads=2)
    assert chosen.network.base_features == 16


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(network={"base_features": 32}),
        Recipe(network={"options": {"features": [8, 16]}}),
        Recipe(network={"name": "fc_densenet"}),
        Recipe(init_from="runs/other"),
        Recipe(init_encoder="runs/other"),
    ],
)
def test_what_is_given_stays(recipe: Recipe) -> None:
    assert fit_width(recipe, Budget(max_cpu_minutes=1), "cpu", threads=1) is recipe


@pytest.mark.parametrize("begun", [8, 16, 32])
def test_a_run_goes_on_as_wide_as_it_was_begun(begun: int) -> None:
    before = Recipe(network={"name": "unet", "base_features": begun})
    for device in ("cpu", "cuda"):
        chosen = fit_width(load_recipe("unet"), Budget(max_cpu_minutes=30.0), device, 2, before)
        assert chosen.network.base_features == begun
    given = Recipe(network={"base_features": 24})
    assert fit_width(given, Budget(max_cpu_minutes=30.0), "cpu", 2, before) is given


def test_a_run_without_levels_of_a_width_says_nothing_of_it() -> None:
    before = Recipe(network={"options": {"features": [8, 16]}})
    chosen = fit_width(Recipe(), Budget(max_cpu_minutes=30.0), "cpu", 2, before)
    assert chosen.network.base_features == 16


def test_another_fold_on_a_machine_with_more_cores_is_as_wide(
    phantoms: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"patch_size": (8, 8, 8), "batch_size": 1, "checkpoint_every": 1, "validate_every": 50}
    open_recipe = Recipe(folds=3, network={"name": "unet"}, training=small, augmentation=None)
    budget = Budget(max_steps=1, max_minutes=300.0)
    options = TrainingOptions(budget, seed=4, device="cpu", workers=0)
    for fold, threads in enumerate((1, 2)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        run = train(phantoms, open_recipe, tmp_path / "run", folds=[fold], options=options)
    assert run.recipe().network.base_features == 16
    assert [fold.index for fold in run.folds() if fold.finished] == [0, 1]


def test_the_run_says_how_wide_it_is_and_resumes_as_wide(phantoms: Dataset, tmp_path: Path) -> None:
    # As a resumed training gives it: nothing said of the width.
    small = {"patch_size": (8, 8, 8), "batch_size": 1, "checkpoint_every": 1, "validate_every": 50}
    open_recipe = Recipe(folds=3, network={"name": "unet"}, training=small, augmentation=None)
    budget = Budget(max_steps=1, max_cpu_minutes=100.0)
    options = TrainingOptions(budget, seed=4, device="cpu", workers=0)
    run = train(phantoms, open_recipe, tmp_path / "run", folds=[0], options=options)
    assert run.recipe().network.base_features == 16
    assert run.plan().network.options["features"][0] == 16
    again = TrainingOptions(budget, seed=4, device="cpu", workers=0, resume=True)
    assert train(phantoms, open_recipe, tmp_path / "run", folds=[0], options=again) == run
