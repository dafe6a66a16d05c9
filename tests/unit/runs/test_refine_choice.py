"""The part of a recipe that refines scores: short forms, options of each method, words."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from medseg.classical import best_dice_labels, dense_crf, graph_cut
from medseg.errors import ConfigError
from medseg.runs.postprocess import PostprocessChoice, RefineChoice, load_postprocess


def postprocess(tmp_path: Path, text: str) -> PostprocessChoice:
    path = tmp_path / "choice.yaml"
    path.write_text(text)
    return load_postprocess(path)


def test_a_method_s_name_is_enough(tmp_path: Path) -> None:
    choice = postprocess(tmp_path, "refine: graph_cut")
    assert choice.refine == RefineChoice(method="graph_cut")
    assert choice.refine.options() == {}


def test_scores_alone_are_told_from_label_maps(tmp_path: Path) -> None:
    choice = postprocess(tmp_path, "refine: {method: dense_crf, iterations: 3}\nfill_holes: all")
    assert not choice.does_nothing
    assert choice.of_label_maps == PostprocessChoice(fill_holes="all")
    assert postprocess(tmp_path, "refine: dense_crf").of_label_maps.does_nothing
    assert choice.told() == "scores refined by dense_crf (iterations 3); holes filled of all"


@pytest.mark.parametrize(
    ("method", "function"),
    [("graph_cut", graph_cut), ("dense_crf", dense_crf), ("expected_dice", best_dice_labels)],
)
def test_every_option_is_one_of_the_function_and_no_other_is_taken(method: str, function: Any) -> None:
    known = inspect.signature(function).parameters
    for name in set(RefineChoice.model_fields) - {"method"}:
        value = "corners" if name == "connectivity" else 2
        if name in known:
            assert RefineChoice.model_validate({"method": method, name: value}).options() == {name: value}
        else:
            with pytest.raises(ValueError, match=f"'{name}' is of 'method"):
                RefineChoice.model_validate({"method": method, name: value})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("refine: crf", "refine.method.*'graph_cut', 'dense_crf' or 'expected_dice'"),
        (
            "refine: {method: graph_cut, smoothnes_mm: 1}",
            "unknown key 'refine.smoothnes_mm'.*'smoothness_mm'",
        ),
        ("refine: {method: graph_cut, smoothness_mm: -1}", "smoothness_mm"),
        ("refine: {method: dense_crf, contrast: none}", "is of 'method: graph_cut'"),
        ("refine: {contrast: 1}", "'refine.method' is missing"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        postprocess(tmp_path, text)
