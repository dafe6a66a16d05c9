from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medseg.errors import ConfigError
from medseg.runs import Recipe, load_recipe
from medseg.runs.documents import parse, save_yaml
from medseg.runs.recipe import BorderWeightChoice, LossChoice


def _parsed(choice: Any) -> BorderWeightChoice | None:
    recipe = parse(Recipe, {"loss": {"name": "weighted_cross_entropy", "border_weights": choice}}, "r.yaml")
    return recipe.loss.border_weights


def test_there_are_none_unless_asked_for() -> None:
    assert Recipe().loss.border_weights is None
    assert _parsed(None) is None
    expected = BorderWeightChoice(w0=10.0, sigma_mm=None, instances="components", class_weights="none")
    assert _parsed({}) == expected


@pytest.mark.parametrize(
    "choice",
    [
        {"w0": 0, "sigma_mm": 2.5, "instances": "dataset", "class_weights": "balanced"},
        {"class_weights": {"background": 0, "liver": 2.5}},
    ],
)
def test_a_choice_survives_its_file(choice: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe(loss=LossChoice(border_weights=_parsed(choice)))
    save_yaml(recipe, tmp_path / "r.yaml")
    again = load_recipe(tmp_path / "r.yaml")
    assert again == recipe
    assert again.loss.border_weights is not None
    assert again.loss.border_weights.model_dump(include=set(choice)) == choice


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"w_0": 3.0}, "unknown key 'loss.border_weights.w_0'; did you mean 'w0'"),
        ({"w0": -1.0}, "'loss.border_weights.w0': Input should be greater than or equal to 0"),
        ({"sigma_mm": 0.0}, "'loss.border_weights.sigma_mm': Input should be greater than 0"),
        (
            {"instances": "cells"},
            "'loss.border_weights.instances': Input should be 'components' or 'dataset'",
        ),
        ({"class_weights": "even"}, "neither 'none', nor 'balanced', nor weights by class name"),
        ({"class_weights": {"liver": -1}}, "the weight of 'liver' is no number from 0"),
        ({"class_weights": {"liver": "2"}}, "the weight of 'liver' is no number from 0"),
        ({"class_weights": {"liver": float("inf")}}, "the weight of 'liver' is no number from 0"),
    ],
)
def test_mistakes_are_named(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _parsed(choice)
    assert words in str(caught.value)
