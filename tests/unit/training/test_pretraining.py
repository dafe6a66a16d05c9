from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medseg.data import Dataset, load_dataset
from medseg.errors import ConfigError, InputError
from medseg.files import read_json
from medseg.networks import build_network
from medseg.progress import SilentProgress
from medseg.runs import Plan, Recipe, RunFolder
from medseg.runs.recipe import PretrainChoice
from medseg.segmenters import load_segmenter, validation_cases
from medseg.training import Budget, TrainingOptions, fingerprint, parts, plan_from_dataset, train
from medseg.training.cache import prepare_cases
from medseg.training.parts import require_fitting_parts
from medseg.training.patches import PatchDataset, WholeCases
from medseg.training.pretraining import PretrainingModule, build_autoencoder

STEPS = 4
METHODS = ("denoising", "sparse", "stacked", "variational")


def _choice(method: str, **changes: Any) -> PretrainChoice:
    spoils = {"noise_std": 0.3, "masked_fraction": 0.1} if method in {"denoising", "stacked"} else {}
    return PretrainChoice.model_validate({"method": method, **spoils, **changes})


def _pretraining(recipe: Recipe, method: str = "denoising", **changes: Any) -> Recipe:
    return recipe.model_copy(update={"pretrain": _choice(method), **changes})


def _options(steps: int = STEPS, **changes: Any) -> TrainingOptions:
    return TrainingOptions(Budget(max_steps=steps), seed=4, device="cpu", workers=0, **changes)


def _weights(run: RunFolder, which: str = "last", fold: int = 0) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run.fold(fold).weights(which), weights_only=True)
    return weights


def _encoder(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Data without labels


def test_ct_without_labels_is_summed_up_over_the_body(make_dataset: Callable[..., Dataset]) -> None:
    image = np.full((1, 4, 4, 4), -1000.0, np.float32)
    image[0, 1:3, 1:3, 1:3] = np.arange(8).reshape(2, 2, 2) * 10.0
    dataset = make_dataset([image], [np.zeros((4, 4, 4), np.uint8)], modalities=("CT",))
    facts = fingerprint(dataset.without_labels(), labelled=False)
    inside = np.arange(8) * 10.0
    low, high = np.percentile(inside, [0.5, 99.5])
    assert facts.foreground_intensity[0]["lower"] == pytest.approx(low)
    assert facts.foreground_intensity[0]["mean"] == pytest.approx(inside.clip(low, high).mean())
    assert facts.class_voxels == ()
    recipe = Recipe(pretrain=_choice("sparse"))
    plan = plan_from_dataset(dataset, recipe)  # its labels, which hold nothing, are not looked at
    assert plan.preprocessing.normalization[0].scheme == "clip_zscore"
    assert "the body (no labels: all voxels above -500 HU)" in plan.reasons["normalization of CT"]
    assert plan.labels.names == ("background",)


def test_ct_of_nothing_but_air_is_refused(make_dataset: Callable[..., Dataset]) -> None:
    air = np.full((1, 4, 4, 4), -1000.0, np.float32)
    dataset = make_dataset([air], [np.ones((4, 4, 4), np.uint8)], modalities=("CT",))
    with pytest.raises(InputError, match="no CT holds a voxel above -500 HU"):
        fingerprint(dataset.without_labels(), labelled=False)


def test_other_images_are_summed_up_whole(phantoms: Dataset) -> None:
    facts = fingerprint(phantoms.without_labels(), labelled=False)
    assert facts.median_shape == fingerprint(phantoms).median_shape
    assert facts.foreground_intensity[0]["lower"] < facts.foreground_intensity[0]["mean"]


def test_segmentation_still_refuses_what_has_no_label(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no label; add its label"):
        train(phantoms.without_labels(), recipe, tmp_path / "run", options=_options())


def test_patches_without_labels_are_those_with(
    phantoms: Dataset, plan: Plan, recipe: Recipe, tmp_path: Path, cases: Any
) -> None:
    bare = plan.model_copy(update={"labels": phantoms.without_labels().labels, "class_sampling": ()})
    alone = prepare_cases(phantoms.without_labels().cases, bare, tmp_path, SilentProgress())
    assert all(not case.labelled and case.input_hashes.keys() == {"image_0"} for case in alone)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(alone, cases, strict=True))
    everywhere = recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update={"foreground_fraction": 0.0}),
            "augmentation": None,
        }
    )
    for number in range(8):
        patch = PatchDataset(alone, bare, everywhere, seed=2)[number]
        assert patch.keys() == {"image", "case", "number"}
        assert patch["image"].shape == (1, 16, 16, 8)
        again = PatchDataset(alone, bare, recipe, seed=2)[number]["image"]
        assert torch.equal(again, PatchDataset(alone, bare, recipe, seed=2)[number]["image"])
    assert WholeCases(alone)[0].keys() == {"image", "case"}


# Learning


def _module(plan: Plan, recipe: Recipe, choice: PretrainChoice, steps: int = 10) -> PretrainingModule:
    torch.manual_seed(0)
    network = build_network(plan.network.name, **plan.network.options)
    budget = Budget(max_steps=steps)
    return PretrainingModule(build_autoencoder(network, choice), choice, plan, recipe, budget, seed=1)


def test_the_losses_are_squared_error_and_weighted_penalty(plan: Plan, recipe: Recipe) -> None:
    image = torch.randn(2, 1, 16, 16, 8)
    for method, weight in (("sparse", 0.25), ("variational", 0.5 / (16 * 16 * 8))):
        choice = _choice(method, sparsity_weight=0.25, kl_weight=0.5)
        module = _module(plan, recipe, choice)
        torch.manual_seed(5)
        loss = module.training_step({"image": image}, 0)
        torch.manual_seed(5)
        made = module.network(image)
        expected = (made.images - image).square().mean() + weight * made.penalty
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_denoising_sees_a_spoilt_image_and_wants_the_clean_one(plan: Plan, recipe: Recipe) -> None:
    choice = _choice("denoising")
    module = _module(plan, recipe, choice)
    seen: list[torch.Tensor] = []
    module.network.encoder.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    module.network.eval()
    image = torch.randn(2, 1, 16, 16, 8)
    loss = module.training_step({"image": image}, 0)
    difference = seen[0] - image
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert difference[seen[0] != 0].std().item() == pytest.approx(0.3, abs=0.03)
    made = module.network(seen[0]).images
    assert loss.item() == pytest.approx((made - image).square().mean().item(), rel=1e-4)


def test_stages_follow_the_budget(plan: Plan, recipe: Recipe) -> None:
    levels = len(plan.network.options["features"])
    steps = 4 * levels
    module = _module(plan, recipe, _choice("stacked", joint_fraction=0.5), steps)
    stages = []
    for step in range(steps):
        module.steps_before = step
        stages.append(module.stage)
    assert stages == [level for level in range(levels) for _ in range(2)] + [None] * (2 * levels)
    assert _module(plan, recipe, _choice("denoising")).stage is None
    module = _module(plan, recipe, _choice("stacked", joint_fraction=0.0), 10)
    module.steps_before = 10
    assert module.stage is None


def test_the_error_is_the_mean_over_whole_cases_and_repeats(plan: Plan, recipe: Recipe) -> None:
    module = _module(plan, recipe, _choice("denoising")).eval()
    torch.manual_seed(9)
    images = [torch.randn(1, 1, 20, 17, 9), torch.randn(1, 1, 12, 16, 8)]
    drawn = torch.get_rng_state()
    errors = []
    for _ in range(2):
        module.on_validation_epoch_start()
        with torch.no_grad():
            for number, image in enumerate(images):
                module.validation_step({"image": image}, number)
        module.on_validation_epoch_end()
        errors.append(module.measured["reconstruction_error"])
    assert errors[0] == errors[1] == pytest.approx(sum(module._case_errors) / 2)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert module.quality == -float(errors[0] or 0)
    assert module.columns() == module.results() == {"reconstruction_error": errors[0]}
    assert module.told() == f"reconstruction error {errors[0]:.4f}"
    fresh = _module(plan, recipe, _choice("denoising"))
    assert fresh.quality == -math.inf


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method: str, plan: Plan, recipe: Recipe) -> None:
    """The same batch again and again, in stages too."""
    module = _module(plan, recipe, _choice(method), steps=16)
    optimizer = torch.optim.Adam(module.network.parameters(), lr=0.02)
    torch.manual_seed(0)
    image = 1.0 + 0.1 * torch.randn(2, 1, 16, 16, 8)
    before = (module.network(image).images - image).square().mean().item()
    for step in range(16):
        module.steps_before = step
        optimizer.zero_grad()
        module.training_step({"image": image}, 0).backward()
        optimizer.step()
    after = (module.network(image).images - image).square().mean().item()
    assert after < 0.6 * before


# A run


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_pretraining_is_the_same(
    method: str, phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = _pretraining(recipe, method)
    whole = train(phantoms, chosen, tmp_path / "whole", folds=[0], options=_options())
    original = PretrainingModule.training_step

    def training_step(self: PretrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.step == 3:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModule, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(phantoms, chosen, tmp_path / "run", folds=[0], options=_options())
    resumed = train(phantoms, chosen, tmp_path / "run", folds=[0], options=_options(resume=True))
    for which in ("last", "best"):
        assert _same(_weights(resumed, which), _weights(whole, which))
    assert resumed.fold(0).steps.read_bytes() == whole.fold(0).steps.read_bytes()


def test_a_pretraining_leaves_errors_and_needs_no_label(pretrained: RunFolder) -> None:
    fold = pretrained.fold(0)
    with fold.metrics.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["step", "minutes", "reconstruction_error"]
    assert [row["step"] for row in rows] == ["2", "4"]
    finished = read_json(fold.finished_mark)
    assert finished["reconstruction_error"] == float(rows[-1]["reconstruction_error"])
    assert "mean_dice" not in finished
    hashes = pretrained.manifest()["inputs_sha256"].values()
    assert all(inputs.keys() == {"image_0"} for inputs in hashes)
    assert pretrained.plan().labels.names == ("background",)
    assert not pretrained.cache.exists()
    best = min(range(2), key=lambda row: float(rows[row]["reconstruction_error"]))
    assert _same(_weights(pretrained, "best"), _weights(pretrained)) == (best == 1)


def test_a_pretraining_segments_nothing(pretrained: RunFolder) -> None:
    with pytest.raises(InputError, match="is a pretraining, which segments nothing; train a segmentation"):
        load_segmenter(pretrained.path, "cpu")
    with pytest.raises(InputError, match=rf"medseg train --init-encoder {pretrained.path}"):
        validation_cases(pretrained.path)


def test_labels_may_be_missing_from_the_folder(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    folder = shutil.copytree(phantoms.folder, tmp_path / "data")
    shutil.rmtree(folder / "labelsTr")
    run = train(
        load_dataset(folder, labelled=False),
        _pretraining(recipe),
        tmp_path / "run",
        folds=[0],
        options=_options(1),
    )
    assert run.fold(0).finished


def test_an_autoencoder_that_does_not_suit_is_refused(
    plan: Plan, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("no; use another")

    chosen = _pretraining(recipe)
    require_fitting_parts(plan, chosen)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "build_autoencoder", refuse)
        with pytest.raises(ConfigError, match="autoencoder of 'unet': no; use another"):
            require_fitting_parts(plan, chosen)
    made = SimpleNamespace(images=torch.empty(2, 1, 16, 16, 7))
    monkeypatch.setattr(parts, "build_autoencoder", lambda *_: lambda _images: made)
    with pytest.raises(
        ConfigError, match=r"gives images of shape \(2, 1, 16, 16, 7\), not \(2, 1, 16, 16, 8\)"
    ):
        require_fitting_parts(plan, chosen)
