"""Border weights on their way from a recipe to the loss."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg.data import Dataset, load_dataset
from medseg.data.phantoms import make_phantom
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.files import read_json, write_json
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.progress import SilentProgress
from medseg.registry import LOSSES, Entry
from medseg.runs import Augmentation, Plan, Recipe
from medseg.training import Budget, TrainingOptions, plan_from_dataset, train
from medseg.training.arrays import write_array
from medseg.training.border_weights import BorderWeights, border_weights_of
from medseg.training.cache import CachedCase, prepare_cases
from medseg.training.module import SegmentationModule
from medseg.training.parts import require_fitting_parts
from medseg.training.patches import PatchDataset, patch_loader
from medseg.transforms import border_weight_map, border_weight_map_of_classes, preprocess
from medseg.volume import Volume

NOTHING = {name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")}
QUIET = Augmentation(**{**NOTHING, "spatial_probability": 1.0, "elastic_probability": 0.5, "mirror": "all"})
"""Augmentation that moves voxels and leaves their values."""

OPTIONS = TrainingOptions(Budget(max_steps=3), seed=4, device="cpu", workers=0)


def _with(recipe: Recipe, name: str = "weighted_cross_entropy", **choice: Any) -> Recipe:
    content = recipe.model_dump(exclude_unset=True)
    return Recipe.model_validate({**content, "loss": {"name": name, "border_weights": choice}})


def _prepared(dataset: Dataset, plan: Plan, recipe: Recipe, folder: Path) -> list[CachedCase]:
    weights = border_weights_of(recipe, plan)
    return prepare_cases(dataset.cases, plan, folder, SilentProgress(), weights)


@pytest.fixture(scope="module")
def with_instances(phantoms: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The phantoms with their nodules' instance maps, each stored as its image is."""
    folder = tmp_path_factory.mktemp("instances") / "data"
    shutil.copytree(phantoms.folder, folder)
    for index, case in enumerate(phantoms.cases):
        assert case.label is not None
        grid = read_volume(case.label).grid
        phantom = make_phantom(
            "mr",
            [0, index],
            shape=(24, 24, 20),
            spacing_mm=grid.reoriented("RAS").spacing_mm,
            axcodes=grid.axcodes,
        )
        np.testing.assert_array_equal(phantom.label.array, read_volume(case.label).array)
        write_volume(phantom.instances, folder / "instancesTr" / case.label.name, labels=True)
    return load_dataset(folder)


# The map of a case


@pytest.mark.parametrize("choice", [{}, {"w0": 4.0, "sigma_mm": 3.0}])
def test_components_are_weighted_on_the_network_grid(
    choice: dict[str, float], phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = _with(recipe, **choice).model_copy(update={"spacing_mm": (1.5, 1.5, 3.0)})
    plan = plan_from_dataset(phantoms, wanted)
    for case in _prepared(phantoms, plan, wanted, tmp_path):
        expected = border_weight_map_of_classes(case.label[...], (1.5, 1.5, 3.0), **choice)
        np.testing.assert_allclose(case.weight, expected, rtol=1e-5)
        assert case.weight.dtype == np.float32
        assert case.weight[...].max() > 2.0


def test_instances_of_the_data_set_are_weighted_on_the_network_grid(
    with_instances: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = _with(recipe, instances="dataset", class_weights={"nodules": 3.0})
    plan = plan_from_dataset(with_instances, wanted)
    cases = _prepared(with_instances, plan, wanted, tmp_path)
    for case, source in zip(cases, with_instances.cases, strict=True):
        assert source.instances is not None
        image, instances = read_volume(source.images), read_volume(source.instances)
        _, on_network_grid = preprocess(image, plan.preprocessing, instances)
        ids = on_network_grid.array[0]
        assert len(np.unique(ids)) > 2
        expected = border_weight_map(
            ids, on_network_grid.grid.spacing_mm, class_weights={4: 3.0}, classes=case.label[...]
        )
        np.testing.assert_array_equal(case.weight, expected)
        assert list(case.input_hashes) == ["image_0", "label", "instances"]


def test_without_border_weights_there_is_no_map(cases: list[CachedCase]) -> None:
    assert not (cases[0].folder / "weight.b2nd").exists()


def test_other_options_and_instances_are_prepared_anew(
    with_instances: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    one = replace(with_instances, cases=with_instances.cases[:1])
    plan = plan_from_dataset(one, recipe)
    source = one.cases[0].instances
    assert source is not None
    folders = set()
    for choice in (
        {},
        {"w0": 5.0},
        {"sigma_mm": 2.0},
        {"instances": "dataset"},
        {"class_weights": "balanced"},
    ):
        wanted = _with(recipe, **choice)
        (case,) = _prepared(one, plan, wanted, tmp_path)
        assert _prepared(one, plan, wanted, tmp_path) == [case]
        folders.add(case.folder)
    assert len(folders) == 5
    before = source.read_bytes()
    volume = read_volume(source)
    write_volume(Volume(np.zeros_like(volume.array), volume.grid), source, labels=True)
    try:
        (changed,) = _prepared(one, plan, _with(recipe, instances="dataset"), tmp_path)
        assert changed.folder not in folders
        np.testing.assert_array_equal(changed.weight, 1.0)
        assert _prepared(one, plan, _with(recipe), tmp_path)[0].folder in folders  # which reads no instances
    finally:
        source.write_bytes(before)


# Class weights


def test_class_weights_by_name_and_in_balance(plan: Plan, recipe: Recipe) -> None:
    names, voxels = plan.labels.names, np.array(plan.fingerprint.class_voxels)
    by_name = border_weights_of(_with(recipe, class_weights={"background": 0.5, names[2]: 2.0}), plan)
    assert by_name is not None
    assert by_name.class_weights == (0.5, 1.0, 2.0, 1.0, 1.0)
    assert by_name.background == 0.5
    balanced = border_weights_of(_with(recipe, class_weights="balanced"), plan)
    assert balanced is not None
    products = np.array(balanced.class_weights) * voxels
    np.testing.assert_allclose(products, voxels.sum() / 5)
    even = border_weights_of(_with(recipe), plan)
    assert even == BorderWeights(10.0, None, False, (1.0,) * 5)
    assert border_weights_of(recipe, plan) is None


def test_a_class_without_voxels_does_not_spoil_the_balance(plan: Plan, recipe: Recipe) -> None:
    facts = plan.fingerprint.model_copy(update={"class_voxels": (60, 0, 20, 0, 10)})
    balanced = border_weights_of(
        _with(recipe, class_weights="balanced"), plan.model_copy(update={"fingerprint": facts})
    )
    assert balanced is not None
    assert balanced.class_weights == (0.5, 1.0, 1.5, 1.0, 3.0)


def test_a_pretraining_weighs_nothing(plan: Plan, recipe: Recipe) -> None:
    content = _with(recipe, instances="dataset").model_dump(exclude_unset=True)
    wanted = Recipe.model_validate({**content, "pretrain": {"method": "variational"}})
    assert border_weights_of(wanted, plan) is None


# Patches


@pytest.fixture
def case_with_weights(tmp_path: Path) -> CachedCase:
    """Weights that are everywhere different, and an image that is the weights less 0.25."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.0, 11.0, (22, 18, 6)).astype(np.float32)
    arrays = {
        "weight": weight,
        "image": weight[None] - np.float32(0.25),
        "label": (weight > 5.0).astype(np.uint8),
    }
    hashes = {
        name: write_array(array, tmp_path / f"{name}.b2nd", (8, 8, 8)) for name, array in arrays.items()
    }
    write_json({"inputs": {}, "arrays": hashes, "class_points": [0] * 5}, tmp_path / "case.json")
    return CachedCase("case", tmp_path)


def _patches(case: CachedCase, plan: Plan, recipe: Recipe, augmentation: Augmentation | None) -> PatchDataset:
    wanted = _with(recipe, class_weights={"background": 0.25})
    return PatchDataset([case], plan, wanted.model_copy(update={"augmentation": augmentation}), seed=3)


def test_a_patch_holds_the_weights_of_its_voxels(
    case_with_weights: CachedCase, plan: Plan, recipe: Recipe
) -> None:
    """The patch is 16 x 16 x 8: thicker than the image by a slice on either side."""
    patches = _patches(case_with_weights, plan, recipe, None)
    for number in range(5):
        patch = patches[number]
        weight = patch["weight"]
        assert (weight.dtype, tuple(weight.shape)) == (torch.float32, (1, *plan.patch_size))
        assert type(weight) is torch.Tensor
        torch.testing.assert_close(weight, patch["image"] + 0.25)
        assert (weight[..., 0] == 0.25).all()
        assert (weight[..., -1] == 0.25).all()
        assert torch.equal(patch["label"][..., 1:-1], (weight[..., 1:-1] > 5.0).long())


def test_weights_move_with_their_patch(case_with_weights: CachedCase, plan: Plan, recipe: Recipe) -> None:
    """Also those that a turned patch has from beyond what was read."""
    patches = _patches(case_with_weights, plan, recipe, QUIET)
    filled = False
    for number in range(12):
        patch = patches[number]
        torch.testing.assert_close(patch["weight"], patch["image"] + 0.25)
        assert patch["weight"].min() > -1e-5
        filled |= bool((patch["weight"] == 0.25).any())
    assert filled


def test_image_and_label_of_a_patch_are_what_they_are_without_weights(
    case_with_weights: CachedCase, plan: Plan, recipe: Recipe
) -> None:
    with_weights = _patches(case_with_weights, plan, recipe, Augmentation())
    without = PatchDataset([case_with_weights], plan, recipe, seed=3)
    for number in range(6):
        assert torch.equal(with_weights[number]["image"], without[number]["image"])
        assert torch.equal(with_weights[number]["label"], without[number]["label"])
        assert "weight" not in without[number]


def test_batches_have_weights(case_with_weights: CachedCase, plan: Plan, recipe: Recipe) -> None:
    loader = patch_loader(_patches(case_with_weights, plan, recipe, QUIET), 2, 1, 0, lambda: 0)
    (batch,) = loader
    assert batch["weight"].shape == batch["label"].shape == (2, 1, *plan.patch_size)


# Training


class _Told(nn.Module):
    """A loss that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_maps: list[torch.Tensor | None] = []

    def forward(
        self, scores: torch.Tensor, target: torch.Tensor, weight_map: torch.Tensor | None = None
    ) -> torch.Tensor:
        del target
        self.weight_maps.append(weight_map)
        return scores.mean()


def test_the_loss_is_told_the_weights(plan: Plan, recipe: Recipe) -> None:
    loss = _Told()
    module = SegmentationModule(nn.Conv3d(1, 5, 1), loss, plan, recipe, Budget(max_steps=1), seed=0)
    batch = {"image": torch.rand(1, 1, 4, 4, 4), "label": torch.zeros(1, 1, 4, 4, 4).long()}
    module.training_step(batch, 0)
    module.training_step({**batch, "weight": torch.rand(1, 1, 4, 4, 4)}, 1)
    assert loss.weight_maps[0] is None
    assert loss.weight_maps[1] is not None
    assert loss.weight_maps[1].shape == (1, 1, 4, 4, 4)


def _trained(dataset: Dataset, recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    run = train(dataset, recipe, out, folds=[0], options=OPTIONS)
    assert read_json(run.fold(0).finished_mark)["steps"] == 3
    weights: dict[str, torch.Tensor] = torch.load(run.fold(0).weights("last"), weights_only=True)
    return weights


def test_training_follows_the_weights(with_instances: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    """Weights of 1 everywhere change nothing; borders do."""
    content = recipe.model_dump(exclude_unset=True)
    plain = Recipe.model_validate({**content, "loss": {"name": "weighted_cross_entropy"}})
    without = _trained(with_instances, plain, tmp_path / "plain")
    ones = _trained(with_instances, _with(recipe, w0=0.0), tmp_path / "ones")
    borders = _trained(with_instances, _with(recipe, instances="dataset"), tmp_path / "borders")
    for name, tensor in without.items():
        torch.testing.assert_close(ones[name], tensor)
    assert any(not torch.allclose(borders[name], tensor, rtol=1e-3) for name, tensor in without.items())


def test_a_run_is_resumed_with_its_weights(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    wanted = _with(recipe, class_weights="balanced")
    run = train(phantoms, wanted, tmp_path / "run", folds=[0], options=OPTIONS)
    train(phantoms, wanted, run.path, folds=[0, 1], options=replace(OPTIONS, resume=True))
    with pytest.raises(ConfigError, match="holds a run with another recipe"):
        train(phantoms, _with(recipe), run.path, folds=[2], options=replace(OPTIONS, resume=True))


# Refusals, before anything is written


def _refused(dataset: Dataset, recipe: Recipe, out: Path, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        train(dataset, recipe, out, folds=[0], options=OPTIONS)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cases_without_instance_maps_are_refused(
    phantoms: Dataset, with_instances: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = _with(recipe, instances="dataset")
    words = _refused(phantoms, wanted, tmp_path / "run", InputError)
    assert f"{phantoms.cases[0].label}: has no instance map (nor have 5 others)" in words
    first, *others = with_instances.cases
    partly = replace(with_instances, cases=(*others[:3], replace(first, instances=None), *others[3:]))
    assert f"{first.label}: has no instance map, and" in _refused(
        partly, wanted, tmp_path / "run", InputError
    )


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (np.full((24, 24, 20), 0.5, np.float32), InputError, "holds ids that are no whole numbers"),
        (np.full((24, 24, 20), -1, np.int16), InputError, "holds ids that are no whole numbers from 0"),
        (np.full((24, 24, 20), 2.0**40, np.float64), InputError, "from 0 to 2147483647"),
        (np.zeros((24, 24, 19), np.uint8), GeometryError, "is not on the grid of mr_003.nii.gz"),
        (np.zeros((2, 24, 24, 20), np.uint8), InputError, "has 2 channels, an instance map has one"),
    ],
)
def test_instance_maps_that_are_none_are_refused(
    array: Any, kind: type[Exception], words: str, with_instances: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    cases = list(with_instances.cases)
    path = tmp_path / "wrong.nii.gz"
    image = read_volume(cases[3].images)
    voxels = array if array.ndim == 4 else array[None]
    write_volume(Volume(voxels, Grid(voxels.shape[1:], image.grid.affine)), path)
    cases[3] = replace(cases[3], instances=path)
    dataset = replace(with_instances, cases=tuple(cases))
    told = _refused(dataset, _with(recipe, instances="dataset"), tmp_path / "run", kind)
    assert told.startswith(f"{path}: ")
    assert words in told


def test_a_class_that_there_is_not_is_refused(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    told = _refused(phantoms, _with(recipe, class_weights={"nodule": 2.0}), tmp_path / "run", ConfigError)
    assert told == ("loss.border_weights.class_weights: there is no class 'nodule'; did you mean 'nodules'?")


class WithoutWeights(nn.Module):
    """A loss as MONAI's are, without weights of voxels."""

    def __init__(self, softmax: bool = False, to_onehot_y: bool = False) -> None:
        super().__init__()
        self.options = (softmax, to_onehot_y)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        del target
        return input.mean()


def test_a_loss_that_takes_no_weights_is_refused(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES._entries, "bare", Entry("a:b", "a loss"))
    monkeypatch.setattr(LOSSES, "resolve", lambda _: WithoutWeights)
    told = _refused(phantoms, _with(recipe, "bare"), tmp_path / "run", ConfigError)
    assert told.startswith("loss 'bare': takes no weight for each voxel, and loss.border_weights gives some;")


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_of_medseg_takes_them(name: str, plan: Plan, recipe: Recipe) -> None:
    require_fitting_parts(plan, _with(recipe, name))
