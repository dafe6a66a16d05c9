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
from medseg.runs import Fingerprint, Plan, Recipe
from medseg.runs.fingerprint import AxisSpread, ChannelFacts, ClassFacts, Histogram
from medseg.training import plan_from_dataset
from medseg.training.architecture import MOST_LEVELS
from medseg.training.patch_plan import LARGEST_BATCH, SMALLEST_BATCH
from medseg.training.planning import plan_from_fingerprint
from medseg.training.step_memory import step_memory


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


def _step_bytes(plan: Plan) -> float:
    return step_memory(plan.network, _divisor(plan)).bytes_of(plan.patch_size, plan.batch_size)


def _divisor(plan: Plan) -> tuple[int, int, int]:
    strides = np.array(plan.network.options["strides"], dtype=int).reshape(-1, 3)
    first, second, third = strides.prod(axis=0).tolist()
    return first, second, third


@settings(max_examples=40, deadline=None)
@given(shapes, spacings)
def test_any_plan_can_be_pooled_and_fits_the_memory(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    recipe = Recipe(network={"base_features": 8}, inference={"mode": "sliding-window"})
    plan = plan_from_fingerprint(_any_dataset(), _facts(shape, spacing), recipe)
    assert min(plan.patch_size) >= 1
    assert all(size % factor == 0 for size, factor in zip(plan.patch_size, _divisor(plan), strict=True))
    assert _step_bytes(plan) <= recipe.training.memory_gb * 1e9
    assert SMALLEST_BATCH <= plan.batch_size <= LARGEST_BATCH
    levels = len(plan.network.options["features"])
    strides = plan.network.options["strides"]
    assert levels == len(strides) + 1 == len(plan.network.options["kernel_sizes"]) <= MOST_LEVELS
    # No axis is cut where the whole case fits.
    if "cut where it is longest" not in plan.reasons["patch_size"]:
        sides = zip(plan.patch_size, shape, _divisor(plan), strict=True)
        assert all(patch >= size - factor / 2 for patch, size, factor in sides)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 3), spacings)
def test_any_plan_builds_a_network_that_takes_its_patch(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    from medseg.training.parts import require_fitting_parts

    if math.prod(shape) < 2:
        return
    recipe = Recipe(network={"base_features": 1}, inference={"mode": "sliding-window"})
    plan = plan_from_fingerprint(_any_dataset(), _facts(shape, spacing), recipe)
    require_fitting_parts(plan, recipe)


def test_thick_slices_are_not_cut_to_nothing() -> None:
    # The one slice is the longest axis in millimetres, but there is nothing to take from it.
    plan = plan_from_fingerprint(_any_dataset(), _facts((2048, 2048, 1), (1.0, 1.0, 5000.0)), Recipe())
    assert plan.patch_size[2] == 1
    assert min(plan.patch_size[:2]) > 1000


def test_the_longest_axis_in_millimetres_is_cut() -> None:
    recipe = Recipe(training={"memory_gb": 10.2})
    plan = plan_from_fingerprint(_any_dataset(), _facts((100, 100, 300), (1.0, 1.0, 2.0)), recipe)
    assert plan.patch_size[:2] == (96, 96)
    assert 112 < plan.patch_size[2] < 200
    assert "cut where it is longest" in plan.reasons["patch_size"]


def test_recipe_goes_before_data() -> None:
    recipe = Recipe(spacing_mm=(2, 2, 4), training={"patch_size": (24, 16, 8), "batch_size": 7})
    plan = plan_from_fingerprint(_any_dataset(), _facts(), recipe)
    assert plan.preprocessing.spacing_mm == (2.0, 2.0, 4.0)
    assert plan.patch_size == (24, 16, 8)
    assert plan.batch_size == 7
    assert plan.reasons["spacing_mm"] == plan.reasons["batch_size"] == "given by the recipe"
    assert plan.reasons["patch_size"].startswith("given by the recipe; a step takes about")


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
    plenty = {"memory_gb": 200}
    recipe = Recipe(network={"base_features": 100}, training=plenty)
    plan = plan_from_fingerprint(_any_dataset(), facts, recipe)
    assert plan.network.options["features"] == [100, 200, 320, 320, 320]
    recipe = Recipe(network={"base_features": 400}, training=plenty)
    wide = plan_from_fingerprint(_any_dataset(), facts, recipe)
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
    assert set(plan.reasons) == expected | {"class_sampling", "inference_mode"}
    assert all(plan.reasons.values())


def test_a_plan_is_made_from_the_data_alone(phantoms: Dataset) -> None:
    assert plan_from_dataset(phantoms, Recipe()) == plan_from_dataset(phantoms, Recipe())


def _spread(smallest: float, tenth: float, largest: float) -> AxisSpread:
    return AxisSpread(
        smallest=(0.6, 0.6, smallest), tenth_percentile=(0.65, 0.65, tenth), largest=(0.8, 0.8, largest)
    )


def test_hippocampus_is_not_filled_up_with_zeros() -> None:
    facts = _facts((35, 50, 36))
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe())
    assert (plan.patch_size, plan.batch_size) == ((32, 48, 32), 2)
    assert plan.network.options["strides"] == [[2, 2, 2]] * 3
    assert plan.network.options["features"] == [32, 64, 128, 256]


def test_a_patch_of_128_voxels_fits_the_memory_that_is_planned_by_default() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts((300, 300, 300)), Recipe())
    assert (plan.patch_size, plan.batch_size) == ((128, 128, 128), 2)
    assert len(plan.network.options["features"]) == 6
    assert "training.memory_gb 11" in plan.reasons["patch_size"]


def test_thick_slices_have_flat_kernels_strides_and_patches() -> None:
    facts = _facts((320, 320, 20), (0.7, 0.7, 8.0))
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe(training={"memory_gb": 30}))
    options = plan.network.options
    # 11.4 times as long, then 5.7, 2.9, and 1.4 times.
    assert options["kernel_sizes"][:4] == [[3, 3, 1], [3, 3, 1], [3, 3, 1], [3, 3, 3]]
    assert options["strides"][:4] == [[2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert plan.patch_size == (320, 320, 20)
    assert "no kernel reaches across Z on 3 of them" in plan.reasons["network"]
    cut = plan_from_fingerprint(_any_dataset(), facts, Recipe(training={"memory_gb": 4}))
    sides_mm = np.multiply(cut.patch_size, (0.7, 0.7, 8.0))  # from 224 x 224 x 160
    assert max(sides_mm) / min(sides_mm) < 1.4


def test_the_recipe_s_spacing_forces_a_plan_of_equal_voxels() -> None:
    facts = _facts((96, 96, 16), (0.7, 0.7, 8.0))
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe(spacing_mm=(1.5, 1.5, 1.5)))
    assert {tuple(kernel) for kernel in plan.network.options["kernel_sizes"]} == {(3, 3, 3)}
    assert plan.patch_size[2] > plan.patch_size[0]


def test_a_single_slice_has_no_kernel_across_it() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts((200, 160, 1), (1.0, 1.0, 1.0)), Recipe())
    assert {tuple(kernel) for kernel in plan.network.options["kernel_sizes"]} == {(3, 3, 1)}
    assert plan.patch_size[2] == 1


def test_small_patches_come_in_larger_batches() -> None:
    sizes = [(24, 24, 1), (96, 96, 2), (40, 56, 40)]
    plans = [plan_from_fingerprint(_any_dataset(), _facts(size), Recipe()) for size in sizes]
    assert [plan.batch_size for plan in plans] == [4, 2, 2]
    assert "batch norm" in plans[0].reasons["batch_size"]


def test_many_classes_leave_room_for_smaller_patches() -> None:
    many = replace(_any_dataset(), labels=LabelScheme.from_names({n: f"s{n}" for n in range(1, 105)}))
    few_plan, many_plan = (
        plan_from_fingerprint(dataset, _facts((300, 300, 300)), Recipe())
        for dataset in (_any_dataset(), many)
    )
    assert math.prod(many_plan.patch_size) < 0.7 * math.prod(few_plan.patch_size)


def test_memory_that_holds_no_patch_is_refused_with_what_would() -> None:
    recipe = Recipe(training={"memory_gb": 0.01})
    with pytest.raises(ConfigError, match=r"memory_gb 0\.01 does not hold 2 patches of .*; give 1, or"):
        plan_from_fingerprint(_any_dataset(), _facts(), recipe)


def test_larger_batches_of_the_recipe_make_smaller_patches() -> None:
    facts = _facts((300, 300, 300))
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe(training={"batch_size": 8}))
    assert plan.batch_size == 8
    assert _step_bytes(plan) <= 11e9
    assert math.prod(plan.patch_size) < 128**3 / 2


@pytest.mark.parametrize(
    ("tenth", "shape", "expected"),
    [
        (5.0, (320, 320, 20), 5.0),  # thin slices keep their detail
        (0.3, (320, 320, 20), 0.7),  # no finer than the other axes
        (8.0, (320, 320, 20), 8.0),
        (5.0, (320, 320, 110), 8.0),  # long, but no stack of few slices
    ],
)
def test_a_stack_of_thick_slices_takes_the_10th_percentile_of_its_spacing(
    tenth: float, shape: tuple[int, int, int], expected: float
) -> None:
    facts = _facts(shape, (0.7, 0.7, 8.0)).model_copy(update={"spacing_mm": _spread(0.2, tenth, 9.0)})
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe(network={"base_features": 8}))
    assert plan.preprocessing.spacing_mm == (0.7, 0.7, expected)
    assert ("10th percentile" in plan.reasons["spacing_mm"]) == (expected != 8.0)


def test_voxels_not_three_times_as_long_keep_the_median() -> None:
    facts = _facts((320, 320, 20), (1.0, 1.0, 2.9)).model_copy(update={"spacing_mm": _spread(1.0, 1.5, 4.0)})
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe(network={"base_features": 8}))
    assert plan.preprocessing.spacing_mm == (1.0, 1.0, 2.9)


@pytest.mark.parametrize(("fraction", "background"), [(0.25, -1.0), (0.2499, None)])
def test_where_much_is_one_value_the_body_alone_is_standardised(
    fraction: float, background: float | None
) -> None:
    histogram = Histogram(unit="deviations", lower=0.0, upper=1.0, whole=(1.0,), foreground=(1.0,))
    channel = ChannelFacts(
        background=-1.0, background_fraction=fraction, foreground_median=0.0, histogram=histogram
    )
    facts = _facts().model_copy(update={"channels": (channel,)})
    plan = plan_from_fingerprint(_any_dataset(), facts, Recipe())
    assert plan.preprocessing.normalization[0].background == background
    assert ("over its body" in plan.reasons["normalization of MRI"]) == (background is not None)


def _with_cases(*counts: int) -> Fingerprint:
    classes = tuple(
        ClassFacts(cases=count, components=count, smallest_ml=1.0, median_ml=1.0, largest_ml=1.0)
        for count in counts
    )
    return _facts().model_copy(update={"cases": 20, "classes": classes})


def test_no_case_is_looked_at_too_often_for_one_rare_class() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _with_cases(20, 10, 1, 0), Recipe())
    # Alike would be a third each; a single case of 20 is drawn four times as often as in turn at most.
    assert plan.class_sampling == pytest.approx((5 / 13, 5 / 13, 3 / 13, 0.0))
    assert "'c', in 1 of 20 cases, is met 0.6 times as often" in plan.reasons["class_sampling"]


def test_classes_of_every_case_are_looked_at_alike() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _with_cases(20, 20, 20, 20), Recipe())
    assert plan.class_sampling == (0.25,) * 4
    assert plan_from_fingerprint(_any_dataset(), _facts(), Recipe()).class_sampling == ()


@pytest.mark.parametrize(
    ("recipe", "mode", "reason"),
    [
        ({}, "streaming", "local"),
        ({"network": {"options": {"norm": "instance"}}}, "sliding-window", "looks at the whole image"),
        ({"inference": {"mode": "sliding-window"}}, "sliding-window", "given by the recipe"),
        ({"inference": {"mirror": "xyz"}}, "sliding-window", "mirrored"),
    ],
)
def test_images_are_streamed_where_all_layers_are_local(
    recipe: dict[str, Any], mode: str, reason: str
) -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts(), Recipe(**recipe))
    assert plan.inference_mode == mode
    assert reason in plan.reasons["inference_mode"]


def test_a_pretraining_segments_nothing() -> None:
    plan = plan_from_fingerprint(_any_dataset(), _facts(), Recipe(pretrain={"noise_std": 0.1}))
    assert plan.inference_mode is None
    assert "inference_mode" not in plan.reasons
