"""What a recipe may say about postprocessing, and how it is told what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import ConfigError, InputError
from medseg.runs.documents import load_yaml, parse, save_yaml
from medseg.runs.postprocess import InstanceChoice, PostprocessChoice, load_postprocess
from medseg.runs.recipe import Recipe


def recipe(postprocess: object) -> Recipe:
    return parse(Recipe, {"postprocess": postprocess}, "recipe.yaml")


def test_left_out_it_does_nothing() -> None:
    assert Recipe().postprocess.does_nothing
    for nothing in (
        "none",
        None,
        {},
        {"largest_component": "none", "fill_holes": []},
        {"connectivity": "corners"},
    ):
        assert recipe(nothing).postprocess.does_nothing


def test_the_short_form() -> None:
    assert recipe("instances") == recipe({"instances": {}})
    assert recipe("instances").postprocess.instances == InstanceChoice()
    assert not recipe("instances").postprocess.does_nothing


def test_all_of_it() -> None:
    chosen = recipe(
        {
            "largest_component": ["liver"],
            "fill_holes": "all",
            "smallest_volume_ml": {"tumour": 0.1},
            "connectivity": "corners",
            "instances": {"of": "tumour", "smoothing_mm": 2, "neck_depth_mm": 1.5, "smallest_volume_ml": 0.2},
        }
    ).postprocess

    assert chosen.largest_component == ("liver",)
    assert chosen.fill_holes == "all"
    assert chosen.smallest_volume_ml == {"tumour": 0.1}
    assert chosen.instances == InstanceChoice(
        of="tumour", smoothing_mm=2.0, neck_depth_mm=1.5, smallest_volume_ml=0.2
    )


@pytest.mark.parametrize(
    "choice",
    [
        "instances",
        "none",
        {"largest_component": "union", "fill_holes": ["a"], "smallest_volume_ml": {"a": 1.0}},
    ],
)
def test_it_comes_back_from_a_file(choice: object, tmp_path: Path) -> None:
    written = recipe(choice)
    save_yaml(written, tmp_path / "recipe.yaml")

    assert load_yaml(Recipe, tmp_path / "recipe.yaml") == written


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("instance", "key 'postprocess': 'auto', 'instances', 'none' or keys and values are needed"),
        (["instances"], "key 'postprocess': 'auto', 'instances', 'none' or keys and values are needed"),
        (
            {"largest_componant": "all"},
            "unknown key 'postprocess.largest_componant'; did you mean 'largest_component'",
        ),
        ({"largest_component": "liver"}, "a list of class names, 'all', 'union' or 'none' is needed"),
        ({"largest_component": [1]}, "a list of class names"),
        ({"fill_holes": "union"}, "a list of class names, 'all' or 'none' is needed"),
        ({"smallest_volume_ml": {"a": 0}}, "key 'postprocess.smallest_volume_ml.a'.*greater than 0"),
        ({"smallest_volume_ml": {"a": float("inf")}}, "key 'postprocess.smallest_volume_ml.a'"),
        ({"connectivity": "sides"}, "key 'postprocess.connectivity'"),
        (
            {"instances": {"marker": "border"}},
            "unknown key 'postprocess.instances.marker'; did you mean 'markers'",
        ),
        ({"instances": {"markers": "border"}}, "'markers: border' and the class 'border' belong together"),
        ({"instances": {"border": "edge"}}, "'markers: border' and the class 'border' belong together"),
        ({"instances": {"markers": "border", "border": "a", "of": "a"}}, "are the same class"),
        (
            {"instances": {"markers": "border", "border": "a", "smoothing_mm": 1}},
            "'smoothing_mm' and 'neck_depth_mm' are of 'markers: distance'",
        ),
        ({"instances": {"smoothing_mm": -1}}, "key 'postprocess.instances.smoothing_mm'"),
    ],
)
def test_what_does_not_fit_is_refused(choice: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        recipe(choice)
    assert "\n" not in str(caught.value)


def test_a_word_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "clean.yaml"
    path.write_text("fill_holes: all\n")

    assert load_postprocess("instances") == PostprocessChoice(instances=InstanceChoice())
    assert load_postprocess("none") == PostprocessChoice()
    assert load_postprocess(path) == PostprocessChoice(fill_holes="all")
    with pytest.raises(ConfigError, match="--postprocess: unknown way 'instnaces'; did you mean 'instances'"):
        load_postprocess("instnaces")
    with pytest.raises(InputError, match="does not exist"):
        load_postprocess(tmp_path / "gone.yaml")
    path.write_text("fill_hole: all\n")
    with pytest.raises(ConfigError, match="unknown key 'fill_hole'; did you mean 'fill_holes'"):
        load_postprocess(path)
