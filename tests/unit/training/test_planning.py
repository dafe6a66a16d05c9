from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.runs import Fingerprint, Recipe
from medseg.training import plan_from_dataset
from medseg.training.architecture import MOST_LEVELS
from medseg.training.planning import (
    LARGEST_BATCH,
    PATCH_BUDGET_VOXELS,
    SMALLEST_BATCH,
    plan_from_fingerprint,
)


def _facts(
    shape: tuple[int, int, int] = (40, 40, 40), spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Fingerprint:
    return Fingerprint(
        cases=3,
        median_shape=shape,
        largest_shape=shape,
        median_spacing_mm=spacing,
        foreground_intensity=({"lower": -10.0, "upper": 90.0, "mean": 40.0, "std": 20.0},),
        class_voxels=(1, 1, 1, 1, 1),
    )


def _any_dataset() -> Dataset:
    return Dataset(
        name="any",
        folder=Path(),
        source=Path("dataset.json"),
        cases=(),
        labels=LabelScheme.from_names({1: "a", 2: "b", 3: "c", 4: "d"}),
        channel_names=("MRI",),
    )


shapes = st.tuples(*[st.integers(1, 3000)] * 3)
spacings = st.tuples(*[st.floats(0.05, 50.0)] * 3)


@settings(max_examples=150, deadline=None)
@given(shapes, spacings)
def test_any_plan_can_be_pooled_and_fits_the_memory(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts(shape, spacing), Recipe())
    strides = np.array(plan.network.options["strides"], dtype=int).reshape(-1, 3)
    divisor = strides.prod(axis=0)
    assert min(plan.patch_size) >= 1
    assert all(size % factor == 0 for size, factor in zip(plan.patch_size, divisor, strict=True))
    assert math.prod(plan.patch_size) <= PATCH_BUDGET_VOXELS
    assert SMALLEST_BATCH <= plan.batch_size <= LARGEST_BATCH
    levels = len(plan.network.options["features"])
    assert levels == len(strides) + 1 == len(plan.network.options["kernel_sizes"]) <= MOST_LEVELS
    # No axis is cut where the whole case would have fitted.
    whole = [math.ceil(size / 32) * 32 for size in shape]
    if math.prod(whole) <= PATCH_BUDGET_VOXELS:
        assert all(patch >= size for patch, size in zip(plan.patch_size, shape, strict=True))


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 3), spacings)
def test_any_plan_builds_a_network_that_takes_its_patch(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    from medseg.training.parts import require_fitting_parts

    if math.prod(shape) < 2:
        return
    recipe = Recipe(network={"base_features": 1})
    plan = plan_from_fingerprint(_any_dataset(), _facts(shape, spacing), recipe)
    require_fitting_parts(plan, recipe)


def test_thick_slices_are_not_cut_to_nothing() -> None:
    # The one slice is the longest axis in millimetres, but there is nothing to take from it.
    plan = plan_from_fingerprint(_any_dataset(), _facts((2048, 2048, 1), (1.0, 1.0, 5000.0)), Recipe())
    assert plan.patch_size[2] == 1
    assert min(plan.patch_size[:2]) > 1000


def test_the_longest_axis_in_millimetres_is_cut() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts((100, 100, 300), (1.0, 1.0, 2.0)), Recipe())
    assert plan.patch_size[:2] == (112, 112)
    assert 150 < plan.patch_size[2] < 170
    assert "cut where it is longest" in plan.reasons["patch_size"]


def test_recipe_goes_before_data() -> None:
    recipe = Recipe(spacing_mm=(2, 2, 4), training={"patch_size": (24, 16, 8), "batch_size": 7})
    plan = plan_from_fingerprint(_any_dataset(), _facts(), recipe)
    assert plan.preprocessing.spacing_mm == (2.0, 2.0, 4.0)
    assert plan.patch_size == (24, 16, 8)
    assert plan.batch_size == 7
    assert plan.reasons["spacing_mm"] == plan.reasons["patch_size"] == "given by the recipe"


def test_a_coarser_spacing_makes_a_smaller_patch() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts((64, 64, 64)), Recipe(spacing_mm=(2, 2, 2)))
    assert plan.patch_size == (32, 32, 32)


def test_a_patch_that_cannot_be_pooled_is_refused_with_one_that_can() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_from_fingerprint(_any_dataset(), _facts(), Recipe(training={"patch_size": (30, 32, 32)}))
    assert "(30, 32, 32) is not divisible by (4, 8, 8)" in str(caught.value)
    assert "use (32, 32, 32)" in str(caught.value)


def test_features_double_up_to_a_limit() -> None:
    facts = _facts((96, 96, 96))
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe(network={"base_features": 100}))
    assert plan.network.options["features"] == [100, 200, 320, 320, 320]
    wide = plan_from_fingerprint(_any_dataset(), facts, Recipe(network={"base_features": 400}))
    assert wide.network.options["features"] == [400] * 5


def test_options_of_the_recipe_go_before_the_plan() -> None:
    options: dict[str, Any] = {"features": [3, 4, 5, 6], "norm": "instance"}
    plan = plan_from_fingerprint(_any_dataset(), _facts(), Recipe(network={"options": options}))
    assert plan.network.options["features"] == [3, 4, 5, 6]
    assert plan.network.options["norm"] == "instance"
    assert plan.network.options["strides"] == [[2, 2, 2]] * 3


def test_features_for_another_depth_are_refused() -> None:
    recipe = Recipe(network={"options": {"features": [8, 16]}})
    with pytest.raises(ConfigError, match="features has 2 levels, this data suits 4; give 4 numbers"):
        plan_from_fingerprint(_any_dataset(), _facts(), recipe)


@pytest.mark.parametrize("name", ["CT", "ct", " Ct "])
def test_ct_is_clipped_by_the_percentiles_of_its_structures(
    name: str, make_dataset: Callable[..., Dataset]
) -> None:
    rng = np.random.default_rng(3)
    images = [rng.normal(40, 30, (1, 12, 12, 12)).astype(np.int16) for _ in range(3)]
    labels = [(rng.random((12, 12, 12)) < 0.3).astype(np.uint8) for _ in range(3)]
    dataset = make_dataset(images, labels, modalities=(name,))
    plan = plan_from_dataset(dataset, Recipe(training={"patch_size": (8, 8, 8)}))
    inside = np.concatenate([image[0][label > 0] for image, label in zip(images, labels, strict=True)])
    low, high = np.percentile(inside.astype(float), [0.5, 99.5])
    (channel,) = plan.preprocessing.normalization
    assert (channel.scheme, channel.lower, channel.upper) == ("clip_zscore", low, high)
    assert channel.mean == pytest.approx(inside.clip(low, high).mean())
    assert channel.std == pytest.approx(inside.clip(low, high).std())


@pytest.mark.parametrize("name", ["MRI", "T1", "CTA", "PET"])
def test_what_is_not_ct_is_standardised_image_by_image(name: str) -> None:
    plan = plan_from_fingerprint(replace(_any_dataset(), channel_names=(name,)), _facts(), Recipe())
    assert plan.preprocessing.normalization[0].scheme == "zscore"
    assert "not CT" in plan.reasons[f"normalization of {name}"]


def test_ct_structures_of_one_intensity_cannot_be_clipped() -> None:
    facts = _facts().model_copy(
        update={"foreground_intensity": ({"lower": 5.0, "upper": 5.0, "mean": 5.0, "std": 0.0},)}
    )
    plan = plan_from_fingerprint(replace(_any_dataset(), channel_names=("CT",)), facts, Recipe())
    assert plan.preprocessing.normalization[0].scheme == "zscore"


def test_each_decision_has_its_reason(phantoms: Dataset) -> None:
    plan = plan_from_dataset(phantoms, Recipe())
    expected = {"axcodes", "spacing_mm", "normalization of MRI", "patch_size", "batch_size", "network"}
    assert set(plan.reasons) == expected
    assert all(plan.reasons.values())


def test_a_plan_is_made_from_the_data_alone(phantoms: Dataset) -> None:
    assert plan_from_dataset(phantoms, Recipe()) == plan_from_dataset(phantoms, Recipe())
