"""Scribbles and partial labels, from the data set to the trained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.files import read_json
from medseg.labels import LabelScheme
from medseg.registry import LOSSES, Entry
from medseg.runs import Augmentation, Plan, Recipe
from medseg.runs.recipe import NetworkChoice, OptimizerChoice
from medseg.segmenters import load_segmenter
from medseg.training import Budget, TrainingOptions, plan_from_dataset, train
from medseg.training.module import SegmentationModule
from medseg.training.parts import build_loss, require_fitting_parts

IGNORED = 5
"""One past the last of the phantoms' five classes."""


def _partly(plan: Plan) -> Plan:
    labels = LabelScheme(plan.labels.classes, ignore=9)
    return plan.model_copy(update={"labels": labels})


@pytest.mark.parametrize("name", sorted(LOSSES.names()))
def test_a_loss_does_not_look_where_nobody_has_labelled(name: str, plan: Plan) -> None:
    recipe = Recipe(loss={"name": name})
    plan = _partly(plan)
    require_fitting_parts(plan, recipe)
    loss = build_loss(recipe, plan)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 5, 4, 4, 4, generator=generator, requires_grad=True)
    target = torch.randint(0, 5, (1, 1, 4, 4, 4), generator=generator)
    target[..., :2] = IGNORED
    loss([scores, scores[..., ::2, ::2, ::2]], target).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[..., :2] == 0).all()
    assert (scores.grad[..., 2:] != 0).any()


class _Deaf(nn.Module):
    """A loss that cannot leave voxels out."""

    def __init__(self, softmax: bool = False, to_onehot_y: bool = False) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, scores: torch.Tensor, target: torch.Tensor, weight_map: Any = None) -> torch.Tensor:  # noqa: ARG002
        return scores.mean()


def test_a_loss_that_cannot_leave_voxels_out_is_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES._entries, "deaf", Entry(f"{__name__}:_Deaf", "a loss"))
    monkeypatch.setattr(LOSSES, "resolve", lambda _: _Deaf)
    deaf = Recipe(loss={"name": "deaf"})
    build_loss(deaf, plan)
    with pytest.raises(
        ConfigError, match=r"loss 'deaf': cannot leave out the data set's unlabelled voxels \(9\)"
    ):
        require_fitting_parts(_partly(plan), deaf)


def test_a_recipe_that_ignores_something_else_is_refused(plan: Plan) -> None:
    recipe = Recipe(loss={"name": "dice_ce", "options": {"ignore_index": 1}})
    build_loss(recipe, plan)
    with pytest.raises(ConfigError, match="is told to ignore something else"):
        build_loss(recipe, _partly(plan))


class _FirstClass(nn.Module):
    """Scores that always say class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(images), 5, *images.shape[2:])
        scores[:, 1] = 1.0
        return scores + self.weight


def test_validation_counts_labelled_voxels_alone(plan: Plan) -> None:
    plan = _partly(plan)
    recipe = Recipe()
    module = SegmentationModule(
        _FirstClass(), build_loss(recipe, plan), plan, recipe, Budget(max_steps=10), seed=3
    )
    label = torch.full((4, 2, 2), IGNORED, dtype=torch.int32)
    label[0], label[1, 0] = 1, 0  # four right, two wrong, ten that nobody knows
    module.on_validation_epoch_start()
    module.validation_step({"image": torch.zeros(1, 1, 4, 2, 2), "label": label[None]}, 0)
    module.on_validation_epoch_end()
    assert module.measured["ventricles"] == 2 * 4 / (4 + 6)
    assert module.measured["nodules"] is None


def test_scribbles_train_a_network(
    make_dataset: Callable[..., Dataset], recipe: Recipe, tmp_path: Path
) -> None:
    images, scribbles = _bright_cubes(4)
    names = {"0": "background", "1": "cube", "2": "ignore"}
    dataset = make_dataset(images, scribbles, names=names)
    training = recipe.training.model_copy(update={"checkpoint_every": 40, "validate_every": 40})
    changes = {"folds": 2, "augmentation": Augmentation(), "training": training}
    faster = {"network": NetworkChoice(base_features=4), "optimizer": OptimizerChoice(learning_rate=0.01)}
    run = train(
        dataset,
        recipe.model_copy(update={**changes, **faster}),
        tmp_path / "run",
        folds=[0],
        options=TrainingOptions(Budget(max_steps=40), seed=0, device="cpu", workers=0),
    )
    assert run.plan().labels.ignore == 2
    assert read_json(run.fold(0).finished_mark)["mean_dice"] > 0.8
    segmented = load_segmenter(run.path).segment(dataset.cases[0].images[0])
    assert segmented is not None
    assert set(np.unique(segmented.array)) <= {0, 1}


def _bright_cubes(count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """Images (1, 16, 16, 8) with a bright cube, and one line drawn in it and one beside it."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for _ in range(count):
        image = rng.normal(0.0, 0.2, (1, 16, 16, 8)).astype(np.float32)
        label = np.full((16, 16, 8), 2, np.uint8)
        x, y = rng.integers(2, 8, 2)
        image[0, x : x + 6, y : y + 6, 1:7] += 2.0
        label[x + 1 : x + 5, y + 2, 2:6] = 1
        label[0, 1:15, 1:7], label[15, 1:15, 1:7] = 0, 0
        images.append(image)
        labels.append(label)
    return images, labels


def test_a_plan_with_unlabelled_voxels_survives_the_way_to_disk(
    make_dataset: Callable[..., Dataset], recipe: Recipe
) -> None:
    images, scribbles = _bright_cubes(2)
    dataset = make_dataset(images, scribbles, names={"0": "background", "1": "cube", "2": "ignore"})
    plan = plan_from_dataset(dataset, recipe)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    old = plan.model_dump(mode="json")
    del old["labels"]["ignore"], old["class_sampling"]
    assert Plan.model_validate(old).labels.ignore is None
