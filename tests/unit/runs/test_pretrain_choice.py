from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medseg.errors import ConfigError
from medseg.runs import Recipe, load_recipe
from medseg.runs.documents import save_yaml

METHODS = ("denoising", "sparse", "stacked", "variational")


@pytest.mark.parametrize("method", METHODS)
def test_there_is_a_recipe_for_each_method(method: str) -> None:
    recipe = load_recipe(f"pretrain_{method}")
    assert recipe.pretrain is not None
    assert recipe.pretrain.method == method
    assert recipe.network == load_recipe("unet_small").network  # which is what can start from it


def test_a_plain_recipe_pretrains_nothing() -> None:
    assert Recipe().pretrain is None
    assert Recipe().init_encoder is None


def test_a_choice_survives_writing_and_reading(tmp_path: Path) -> None:
    choice = {"method": "stacked", "noise_std": 0.1, "joint_fraction": 0.25}
    recipe = Recipe.model_validate({"pretrain": choice, "init_encoder": "runs/a b"})
    save_yaml(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "pretrain: {}",
            "method denoising mends spoilt images: noise_std or masked_fraction must be above 0",
        ),
        ("pretrain: {method: stacked}", "method stacked mends spoilt images"),
        ("pretrain: {method: contrastive}", "key 'pretrain.method': Input should be 'denoising', 'sparse', "),
        ("pretrain: {method: sparse, sparsity_target: 1}", "key 'pretrain.sparsity_target'"),
        ("pretrain: {method: sparse, sparsity_weight: -1}", "key 'pretrain.sparsity_weight'"),
        ("pretrain: {method: variational, kl_weight: -1}", "key 'pretrain.kl_weight'"),
        ("pretrain: {masked_fraction: 1}", "key 'pretrain.masked_fraction'"),
        ("pretrain: {noise_std: -0.1}", "key 'pretrain.noise_std'"),
        ("pretrain: {noise_std: .nan}", "key 'pretrain.noise_std'"),
        ("pretrain: {method: stacked, noise_std: 1, joint_fraction: 1}", "key 'pretrain.joint_fraction'"),
        ("pretrain: {nose_std: 1}", "unknown key 'pretrain.nose_std'; did you mean 'noise_std'?"),
        ("pretrain: denoising", "key 'pretrain'"),
        ("init_encoder: ''", "key 'init_encoder'"),
        ("init_encoder: [a]", "key 'init_encoder'"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_methods_without_noise_need_none() -> None:
    for method in ("sparse", "variational"):
        made: Any = Recipe.model_validate({"pretrain": {"method": method}})
        assert (made.pretrain.noise_std, made.pretrain.masked_fraction) == (0.0, 0.0)
