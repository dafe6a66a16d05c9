from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.data import Dataset
from medseg.errors import BundleError, ConfigError, InputError
from medseg.networks import build_network
from medseg.runs import Recipe, RunFolder
from medseg.runs.recipe import PretrainChoice
from medseg.segmenters import load_segmenter
from medseg.training import Budget, TrainingOptions, plan_from_dataset, train
from medseg.training.handover import EncoderSource, load_encoder
from medseg.training.parts import require_fitting_parts


def _options(steps: int = 2, **changes: Any) -> TrainingOptions:
    return TrainingOptions(Budget(max_steps=steps), seed=4, device="cpu", workers=0, **changes)


def _weights(run: RunFolder, fold: int = 0) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run.fold(fold).weights(), weights_only=True)
    return weights


def _encoder(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _started(recipe: Recipe, run: RunFolder, **network: Any) -> Recipe:
    changed = recipe.network.model_copy(update=network)
    return recipe.model_copy(update={"init_encoder": str(run.path), "network": changed})


def test_a_segmentation_starts_from_the_encoder_and_then_stands_alone(
    pretrained: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.training.module import SegmentationModule

    begun: list[dict[str, torch.Tensor]] = []
    original = SegmentationModule.on_train_start

    def on_train_start(self: SegmentationModule) -> None:
        begun.append({key: value.clone() for key, value in self.network.state_dict().items()})
        original(self)

    source = RunFolder(pretrained.path.rename(tmp_path / "gone"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(SegmentationModule, "on_train_start", on_train_start)
            run = train(phantoms, _started(recipe, source), tmp_path / "run", folds=[1], options=_options(2))
        (start,) = begun
        assert _same(_encoder(start), _encoder(_weights(source)))
        assert not _same(_encoder(_weights(run, fold=1)), _encoder(start))
        recorded = run.manifest()["init_encoder"]["fold_1"]
        path = source.fold(0).weights()
        assert recorded == {
            "weights": str(path.resolve()),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        torch.manual_seed(4)
        plain = build_network(run.plan().network.name, **run.plan().network.options).state_dict()
        rest = [key for key in plain if not key.startswith("encoder.")]
        assert rest
        assert all(torch.equal(plain[key], start[key]) for key in rest)  # as by seed, without an encoder
    finally:
        source.path.rename(pretrained.path)
    assert not source.path.exists()
    assert load_segmenter(run.path, "cpu").labels == phantoms.labels


def test_a_segmentation_can_give_its_encoder_too(phantoms: Dataset, make_run: Callable[..., Path]) -> None:
    run = RunFolder(make_run(labels={1: "one"}))
    started = _started(Recipe(), run)
    plan = plan_from_dataset(phantoms, started)
    assert plan.network.options["features"] == [4, 8]
    assert plan.network.options["out_channels"] == len(phantoms.labels)
    assert plan.preprocessing.spacing_mm == (1.3, 1.3, 1.3)
    network = build_network(plan.network.name, **plan.network.options)
    load_encoder(network, run.fold(0).weights())
    assert _same(_encoder(network.state_dict()), _encoder(_weights(run)))


def test_the_plan_takes_over_what_the_encoder_rests_on(
    pretrained: RunFolder, make_dataset: Callable[..., Dataset], recipe: Recipe
) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 30, 24, 9)).astype(np.float32)
    other = make_dataset([image], [np.ones((30, 24, 9), np.uint8)], affines=[np.diag([2.0, 2.0, 7.0, 1.0])])
    theirs = pretrained.plan()
    free = recipe.model_copy(update={"training": recipe.training.model_copy(update={"patch_size": None})})
    assert plan_from_dataset(other, free).preprocessing.spacing_mm == (2.0, 2.0, 7.0)
    plan = plan_from_dataset(other, _started(free, pretrained))
    assert plan.preprocessing == theirs.preprocessing
    shape = {"features", "kernel_sizes", "strides", "in_channels"}
    assert {key: plan.network.options[key] for key in shape} == {
        key: theirs.network.options[key] for key in shape
    }
    assert plan.network.options["out_channels"] == 3
    strides = np.prod(theirs.network.options["strides"], axis=0)
    assert not (np.array(plan.patch_size) % strides).any()
    for decision in ("spacing_mm", "network", "normalization of MRI"):
        assert plan.reasons[decision] == f"as in {pretrained.path}, whose encoder it starts from"
    require_fitting_parts(plan, free)


def test_what_contradicts_the_encoder_s_run_is_refused(
    pretrained: RunFolder, phantoms: Dataset, make_dataset: Callable[..., Dataset], recipe: Recipe
) -> None:
    started = _started(recipe, pretrained)
    for changed, words in (
        (started.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)}), "the recipe's spacing_mm is"),
        (
            Recipe(network={"base_features": 3}, init_encoder=str(pretrained.path)),
            "encoder of 2 base features",
        ),
        (
            started.model_copy(
                update={"training": recipe.training.model_copy(update={"patch_size": (16, 16, 7)})}
            ),
            "is not divisible by",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            plan_from_dataset(phantoms, changed)
    two = make_dataset([np.ones((2, 8, 8, 8), np.float32)], [np.ones((8, 8, 8), np.uint8)], modalities="ab")
    with pytest.raises(ConfigError, match="sees 1 channels, the data set has 2; pretrain on images"):
        plan_from_dataset(two, started)


def test_another_network_is_refused(pretrained: RunFolder, phantoms: Dataset, recipe: Recipe) -> None:
    started = _started(recipe, pretrained, name="segnet")
    with pytest.raises(ConfigError, match="encoder of network 'unet', the recipe trains 'segnet'; choose"):
        plan_from_dataset(phantoms, started)


def test_the_first_weight_that_differs_is_named_before_anything_is_written(
    pretrained: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    for options, words in (
        (
            {"features": [2, 4, 9]},
            r"'levels.2.convs.0.conv.weight' has shape \(8, 4, .*\), the network's \(9, 4",
        ),
        ({"norm": None}, "its encoder lacks 'levels.0.convs.0.conv.bias'"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            train(
                phantoms, _started(recipe, pretrained, options=options), tmp_path / "run", options=_options()
            )
        assert str(pretrained.fold(0).weights()) in str(caught.value)
        assert caught.value.fix
        assert not (tmp_path / "run").exists()


def test_an_encoder_with_more_than_the_network_has_is_refused(pretrained: RunFolder, tmp_path: Path) -> None:
    network = build_network("unet", **pretrained.plan().network.options)
    weights = {**_weights(pretrained), "encoder.extra": torch.zeros(1)}
    torch.save(weights, tmp_path / "last.pt")
    with pytest.raises(ConfigError, match="its encoder has 'extra', which the network's has not"):
        load_encoder(network, tmp_path / "last.pt")
    weights = {
        key: value * float("nan") if value.is_floating_point() else value for key, value in weights.items()
    }
    del weights["encoder.extra"]
    torch.save(weights, tmp_path / "last.pt")
    with pytest.raises(BundleError, match="is NaN or infinite; pretrain anew"):
        load_encoder(network, tmp_path / "last.pt")


def test_the_fold_of_the_same_number_or_the_only_one(make_run: Callable[..., Path]) -> None:
    one, two = (make_run(name, trained=folds) for name, folds in (("one", (1,)), ("two", (0, 1))))
    sources = [EncoderSource.of(Recipe(init_encoder=str(path))) for path in (one, two)]
    first, second = (source for source in sources if source is not None)
    assert first.weights(0) == first.weights(5) == one / "fold_1" / "checkpoints" / "last.pt"
    assert second.weights(1) == two / "fold_1" / "checkpoints" / "last.pt"
    with pytest.raises(ConfigError, match="has no fold 2 to take an encoder from; train that fold there, or"):
        second.weights(2)
    assert EncoderSource.of(Recipe()) is None


def test_a_folder_without_a_run_or_weights_is_refused(
    phantoms: Dataset, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is no folder"):
        plan_from_dataset(phantoms, Recipe(init_encoder=str(tmp_path / "none")))
    untrained = make_run("untrained", trained=())
    with pytest.raises(BundleError, match="has no trained weights yet"):
        train(phantoms, Recipe(init_encoder=str(untrained)), tmp_path / "run", options=_options())


def test_a_resume_from_another_encoder_is_refused(
    phantoms: Dataset, recipe: Recipe, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_run("source", trained=(0, 1))
    small = recipe.model_copy(update={"training": recipe.training.model_copy(update={"patch_size": None})})
    started = _started(small, RunFolder(source), base_features=32)
    run = train(phantoms, started, tmp_path / "run", folds=[0], options=_options(1))
    run.fold(0).finished_mark.unlink()
    (source / "fold_0" / "checkpoints" / "last.pt").write_bytes(
        (source / "fold_1" / "checkpoints" / "last.pt").read_bytes()
    )
    with pytest.raises(ConfigError, match="holds a run with another init_encoder"):
        train(phantoms, started, run.path, folds=[0], options=_options(1, resume=True))


def test_a_pretraining_goes_on_from_another(
    pretrained: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    chosen = _started(recipe, pretrained).model_copy(
        update={"pretrain": PretrainChoice(method="variational")}
    )
    run = train(phantoms, chosen, tmp_path / "run", folds=[0], options=_options(1))
    assert _encoder(_weights(run)).keys() == _encoder(_weights(pretrained)).keys()
