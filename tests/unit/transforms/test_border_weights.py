"""Weights by hand, by all pairs of voxels, and by the definition with SciPy's distance transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.io import read_volume
from medseg.transforms import (
    BorderWeightMapd,
    border_weight_map,
    border_weight_map_of_classes,
    class_components,
    instance_distances,
    separate_instances,
)

Array = npt.NDArray[Any]

W0 = 10.0
TOLERANCE = 1e-3


def by_all_pairs(instances: Array, spacing_mm: Sequence[float], sigma_mm: float, w0: float = W0) -> Array:
    """The border part of the weights, each distance the smallest to any voxel of an instance."""
    points = np.argwhere(np.ones(instances.shape, dtype=bool)) * np.asarray(spacing_mm)
    flat = instances.ravel()
    ids = np.unique(flat[flat > 0])
    if len(ids) < 2:
        return np.zeros(instances.shape)
    distances = np.sort([cdist(points, points[flat == i]).min(axis=1) for i in ids], axis=0)
    summed = (distances[0] + distances[1]).reshape(instances.shape)
    border: Array = w0 * np.exp(-(summed**2) / (2 * sigma_mm**2))
    return border


def by_transforms(instances: Array, spacing_mm: Sequence[float], sigma_mm: float, w0: float = W0) -> Array:
    """The same by one distance transform of the whole array for each instance."""
    first = np.full(instances.shape, np.inf)
    second = first.copy()
    for i in np.unique(instances[instances > 0]):
        distance = ndimage.distance_transform_edt(instances != i, sampling=spacing_mm)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    border: Array = w0 * np.exp(-((first + second) ** 2) / (2 * sigma_mm**2))
    return border


def cells(count: int, shape: Sequence[int], seed: int = 0, radius: float = 5.0) -> Array:
    """Balls that are cut where they meet, so that many touch."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, shape, (count, len(shape)))
    points = np.argwhere(np.ones(shape, dtype=bool))
    distance = cdist(points, centres)
    nearest = distance.argmin(axis=1)
    inside = distance.min(axis=1) < rng.uniform(0.6, 1.2, count)[nearest] * radius
    return np.where(inside, nearest + 1, 0).reshape(shape)


_shapes = st.one_of(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 6)] * 3))
_lengths_mm = st.floats(0.3, 6.0).map(lambda length: round(length, 2))


@st.composite
def _instances(draw: st.DrawFn) -> tuple[Array, tuple[float, ...]]:
    """Scattered voxels of a few ids, and a spacing."""
    shape = draw(_shapes)
    seed, count = draw(st.integers(0, 2**16)), draw(st.integers(0, 5))
    rng = np.random.default_rng(seed)
    array = rng.integers(0, count + 1, shape) * (rng.random(shape) < draw(st.sampled_from([0.1, 0.4, 1.0])))
    return array, tuple(draw(st.tuples(*[_lengths_mm] * len(shape))))


# By hand


def test_two_voxels_on_a_line() -> None:
    """Between them the distances add up to 4.5 mm; beyond, each voxel adds twice its own distance."""
    line = np.array([[0, 1, 0, 0, 2, 0]])
    summed_mm = np.array([[7.5, 4.5, 4.5, 4.5, 4.5, 7.5]])
    expected = 1.0 + W0 * np.exp(-(summed_mm**2) / (2 * 3.0**2))
    weights = border_weight_map(line, (1.0, 1.5), sigma_mm=3.0)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_distances_are_those_of_thick_slices() -> None:
    instances = np.zeros((1, 2, 2), dtype=np.uint8)
    instances[0, 0, 0], instances[0, 1, 1] = 4, 9
    apart = math.hypot(0.5, 3.0)
    summed_mm = np.array([[[apart, 0.5 + 3.0], [0.5 + 3.0, apart]]])
    expected = 1.0 + 6.0 * np.exp(-(summed_mm**2) / (2 * 2.0**2))
    weights = border_weight_map(instances, (1.0, 0.5, 3.0), w0=6.0, sigma_mm=2.0)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_sigma_is_five_times_the_smallest_spacing() -> None:
    line = np.array([[1, 0, 0, 2]])
    expected = 1.0 + W0 * math.exp(-((3 * 0.7) ** 2) / (2 * (5 * 0.4) ** 2))
    np.testing.assert_allclose(border_weight_map(line, (0.4, 0.7)), np.full((1, 4), expected), rtol=1e-5)


def test_the_second_nearest_is_another_instance_than_the_nearest() -> None:
    """Two voxels of instance 1 are nearer than the one of instance 2."""
    line = np.array([[1, 1, 0, 0, 0, 2]])
    weights = border_weight_map(line, (1.0, 1.0), sigma_mm=2.0)
    np.testing.assert_allclose(weights[0, 0], 1.0 + W0 * math.exp(-25 / 8), rtol=1e-5)
    np.testing.assert_allclose(weights[0, 2:5], 1.0 + W0 * math.exp(-16 / 8), rtol=1e-5)


@pytest.mark.parametrize("instances", [np.zeros((3, 4)), np.array([[0, 3, 3], [0, 0, 3]])])
def test_fewer_than_two_instances_leave_the_class_weights(instances: Array) -> None:
    np.testing.assert_array_equal(border_weight_map(instances, (1.0, 1.0)), np.ones(instances.shape))
    weights = border_weight_map(instances, (1.0, 1.0), class_weights={0: 0.25, 1: 4.0})
    np.testing.assert_array_equal(weights, np.where(instances > 0, 4.0, 0.25))


def test_class_weights() -> None:
    instances = np.array([[1, 1, 0, 2]])
    classes = np.array([[5, 5, 0, 300]])
    options = {"w0": 0.0, "spacing_mm": (1.0, 1.0)}
    weights_of = {0: 0.5, 300: 3.0, 77: 9.0}
    by_value = border_weight_map(instances, class_weights=weights_of, classes=classes, **options)
    np.testing.assert_array_equal(by_value, [[1.0, 1.0, 0.5, 3.0]])
    as_in_json = {str(value): weight for value, weight in weights_of.items()}
    as_text = border_weight_map(instances, class_weights=as_in_json, classes=classes, **options)
    np.testing.assert_array_equal(as_text, by_value)
    balanced = border_weight_map(instances, class_weights="balanced", classes=classes, **options)
    np.testing.assert_allclose(balanced, [[4 / 6, 4 / 6, 4 / 3, 4 / 3]], rtol=1e-6)
    assert balanced.mean() == pytest.approx(1.0)
    of_two = border_weight_map(instances, class_weights="balanced", **options)
    np.testing.assert_allclose(of_two, [[2 / 3, 2 / 3, 2.0, 2 / 3]], rtol=1e-6)


def test_class_and_border_weights_add() -> None:
    instances, classes = np.array([[1, 0, 2]]), np.array([[1, 0, 2]])
    weights = border_weight_map(
        instances, (1.0, 1.0), sigma_mm=2.0, class_weights={0: 0.5, 2: 3.0}, classes=classes
    )
    np.testing.assert_allclose(weights, np.array([[1.0, 0.5, 3.0]]) + W0 * math.exp(-0.5), rtol=1e-6)


# Against the definition


@settings(max_examples=60, deadline=None)
@given(_instances(), st.floats(0.5, 12.0))
def test_every_pair_of_voxels_counts(drawn: tuple[Array, tuple[float, ...]], sigma_mm: float) -> None:
    instances, spacing_mm = drawn
    weights = border_weight_map(instances, spacing_mm, sigma_mm=sigma_mm)
    np.testing.assert_allclose(weights, 1.0 + by_all_pairs(instances, spacing_mm, sigma_mm), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "sigma_mm"),
    [
        ((40, 36, 30), (1.0, 1.0, 1.0), 5.0),
        ((40, 36, 12), (0.7, 0.9, 3.0), 3.5),
        ((12, 40, 36), (4.0, 0.8, 0.8), 6.0),
        ((90, 70), (0.5, 1.3), 2.5),
    ],
)
def test_the_definition_by_distance_transforms(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], sigma_mm: float
) -> None:
    instances = cells(40, shape, radius=6.0)
    weights = border_weight_map(instances, spacing_mm, sigma_mm=sigma_mm)
    expected = 1.0 + by_transforms(instances, spacing_mm, sigma_mm)
    np.testing.assert_allclose(weights, expected, atol=TOLERANCE)
    assert (expected > 3.0).any()
    assert (expected < 1.01).any()


def test_neighbourhoods_that_are_far_apart_do_not_meet() -> None:
    """Two pairs, a single one, and one pair whose boxes lie within each other's reach but which is far."""
    instances = np.zeros((90, 40, 6), dtype=np.int16)
    instances[2:5, 2:5, 1:4], instances[2:5, 7:9, 1:4] = 1, 2
    instances[80:84, 30:36, 2], instances[86:88, 30:36, 2] = 3, 4
    instances[40:42, 0:3, 0] = 5
    spacing_mm = (1.0, 1.2, 2.0)
    weights = border_weight_map(instances, spacing_mm, sigma_mm=2.0)
    np.testing.assert_allclose(weights, 1.0 + by_transforms(instances, spacing_mm, 2.0), atol=TOLERANCE)
    assert weights[40, 1, 0] == 1.0


def test_cutting_into_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    instances = cells(30, (50, 30, 20))
    whole = border_weight_map(instances, (1.0, 1.0, 2.0), sigma_mm=2.0)
    monkeypatch.setattr(instance_distances, "_PIECE_VOXELS", 4_000)
    monkeypatch.setattr(instance_distances, "_BLOCK_VOXELS", 300)
    np.testing.assert_array_equal(border_weight_map(instances, (1.0, 1.0, 2.0), sigma_mm=2.0), whole)


# Properties


@settings(max_examples=40, deadline=None)
@given(_instances(), st.integers(0, 2**16), st.data())
def test_flips_and_other_ids_change_nothing(
    drawn: tuple[Array, tuple[float, ...]], seed: int, data: st.DataObject
) -> None:
    instances, spacing_mm = drawn
    weights = border_weight_map(instances, spacing_mm)
    axes = tuple(data.draw(st.sets(st.integers(0, instances.ndim - 1))))
    flipped = border_weight_map(np.flip(instances, axes), spacing_mm)
    np.testing.assert_allclose(np.flip(flipped, axes), weights, rtol=1e-5)
    rng = np.random.default_rng(seed)
    others = np.concatenate([[0], rng.choice(2**40, int(instances.max()), replace=False) + 1])
    np.testing.assert_allclose(border_weight_map(others[instances], spacing_mm), weights, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(_instances(), st.sampled_from([0.001, 0.1, 3.0, 1000.0]), st.floats(1.0, 9.0))
def test_other_units_of_length_change_nothing(
    drawn: tuple[Array, tuple[float, ...]], unit: float, sigma_mm: float
) -> None:
    instances, spacing_mm = drawn
    weights = border_weight_map(instances, spacing_mm, sigma_mm=sigma_mm)
    scaled = border_weight_map(instances, [unit * length for length in spacing_mm], sigma_mm=unit * sigma_mm)
    np.testing.assert_allclose(scaled, weights, atol=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(_instances())
def test_axes_are_alike(drawn: tuple[Array, tuple[float, ...]]) -> None:
    instances, spacing_mm = drawn
    weights = border_weight_map(instances, spacing_mm)
    turned = border_weight_map(instances.T, spacing_mm[::-1])
    np.testing.assert_allclose(turned.T, weights, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(_instances())
def test_weights_lie_between_the_class_weight_and_w0_above_it(drawn: tuple[Array, Sequence[float]]) -> None:
    weights = border_weight_map(*drawn)
    assert ((weights >= 1.0) & (weights <= 1.0 + W0)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.float32, ">i4"])
def test_types_of_ids(dtype: Any) -> None:
    instances = cells(5, (12, 10))
    expected = border_weight_map(instances, (1.0, 1.0))
    np.testing.assert_array_equal(border_weight_map(instances.astype(dtype), (1.0, 1.0)), expected)


def test_the_input_is_left_as_it_is() -> None:
    instances = cells(5, (12, 10)).astype(np.int32)
    before = instances.copy()
    instances.setflags(write=False)
    border_weight_map(instances, (1.0, 1.0), class_weights="balanced")
    np.testing.assert_array_equal(instances, before)


# Label maps


@settings(max_examples=40, deadline=None)
@given(_instances())
def test_components_are_those_of_scipy_class_by_class(drawn: tuple[Array, Sequence[float]]) -> None:
    labels = drawn[0] * 7
    components = class_components(labels)
    count = 0
    for value in np.unique(labels[labels > 0]):
        expected, number = ndimage.label(labels == value)
        np.testing.assert_array_equal(
            np.where(labels == value, components, 0), expected + count * (expected > 0)
        )
        count += number
    assert components.max(initial=0) == count
    assert ((components > 0) == (labels > 0)).all()


def test_label_maps_are_weighted_by_their_components() -> None:
    labels = np.where(cells(12, (30, 24), radius=3.0) > 0, 2, 0)
    labels[:, 12:] *= 2
    parts, count = class_components(labels), class_components(labels).max()
    assert count > 4
    weights = border_weight_map_of_classes(labels, (1.0, 2.0), sigma_mm=3.0, class_weights={4: 2.5})
    expected = by_transforms(parts, (1.0, 2.0), 3.0) + np.where(labels == 4, 2.5, 1.0)
    np.testing.assert_allclose(weights, expected, atol=TOLERANCE)


# Gaps


def _faces(instances: Array) -> int:
    """How many faces lie between voxels of two instances."""
    count = 0
    for axis in range(instances.ndim):
        along = np.moveaxis(instances, axis, 0)
        count += int(((along[1:] != along[:-1]) & (along[1:] > 0) & (along[:-1] > 0)).sum())
    return count


@settings(max_examples=40, deadline=None)
@given(_instances())
def test_no_two_instances_touch_and_nothing_else_is_lost(drawn: tuple[Array, Sequence[float]]) -> None:
    instances = drawn[0]
    kept = separate_instances(instances)
    assert kept.dtype == np.bool_
    assert _faces(np.where(kept, instances, 0)) == 0
    gap = (instances > 0) & ~kept
    assert not (kept & (instances == 0)).any()
    for position in np.argwhere(gap):
        alone = instances.copy()
        alone[tuple(position)] = 0
        assert _faces(alone) < _faces(instances)


def test_cells_that_touch_come_apart_and_the_smaller_ones_stay_whole() -> None:
    instances = np.zeros((4, 9), dtype=int)
    instances[:, :5], instances[1:3, 5:7] = 1, 2
    kept = separate_instances(instances)
    np.testing.assert_array_equal(kept[instances == 2], True)
    np.testing.assert_array_equal(kept[:, 4], [True, False, False, True])
    assert ndimage.label(kept)[1] == 2
    np.testing.assert_array_equal(separate_instances(np.where(instances > 0, 3 - instances, 0)), kept)


def test_of_equals_the_higher_id_gives_way() -> None:
    np.testing.assert_array_equal(separate_instances(np.array([[3, 3, 8, 8]])), [[True, True, False, True]])


# The transform


def _map(array: Array, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0), dtype: Any = torch.uint8) -> MetaTensor:
    affine = torch.diag(torch.tensor([*spacing_mm, *[1.0] * (4 - len(spacing_mm))], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([7.0, -3.0, 2.0])
    return MetaTensor(torch.from_numpy(array).to(dtype)[None], affine=affine)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(20, 16), (16, 12, 10)])
def test_the_transform_takes_the_spacing_of_the_affine(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    labels = np.where(cells(6, shape, radius=3.0) > 0, 1, 0)
    spacing_mm = (0.8, 1.5, 2.5)[: len(shape)]
    given = _map(labels, spacing_mm, dtype)
    given.affine[:2] = given.affine[[1, 0]]  # axes change places: spacing follows the columns
    result = BorderWeightMapd("label")({"label": given, "image": 1})
    weight = result["weight"]
    assert isinstance(weight, MetaTensor)
    assert (weight.dtype, tuple(weight.shape)) == (torch.float32, (1, *shape))
    assert torch.equal(weight.affine, given.affine)
    assert set(result) == {"label", "image", "weight"}
    assert result["label"] is given
    np.testing.assert_array_equal(weight.numpy()[0], border_weight_map_of_classes(labels, spacing_mm))


def test_the_transform_of_instances_with_and_without_classes() -> None:
    instances = cells(8, (14, 12, 6), radius=4.0)
    classes = np.where(instances > 4, 2, np.where(instances > 0, 1, 0))
    data = {"ids": _map(instances), "label": _map(classes)}
    options = {"w0": 5.0, "sigma_mm": 2.0, "class_weights": {0: 0.5, 2: 3.0}}
    plain = BorderWeightMapd("ids", holds="instances", **options)(data)["weight"]
    expected = border_weight_map(instances, (1, 1, 1), **options)
    np.testing.assert_array_equal(plain.numpy()[0], expected)
    of_classes = BorderWeightMapd("ids", "w", "instances", class_keys="label", **options)(data)["w"]
    expected = border_weight_map(instances, (1, 1, 1), classes=classes, **options)
    np.testing.assert_array_equal(of_classes.numpy()[0], expected)


def test_the_transform_of_a_plain_tensor() -> None:
    label = torch.tensor([[[1, 0, 1, 0]]])
    made = BorderWeightMapd("label", spacing_mm=(1.0, 2.0))({"label": label})["weight"]
    assert type(made) is torch.Tensor
    np.testing.assert_array_equal(made[0].numpy(), border_weight_map_of_classes(label[0].numpy(), (1.0, 2.0)))
    with pytest.raises(InputError, match="label: carries no affine; give a MetaTensor, or spacing_mm"):
        BorderWeightMapd("label")({"label": label})


def test_the_transform_of_several_keys() -> None:
    first, second = _map(np.array([[1, 0, 1]])), _map(np.array([[1, 0, 0]]))
    transform = BorderWeightMapd(("a", "b", "c"), ("wa", "wb", "wc"), allow_missing_keys=True)
    result = transform({"a": first, "b": second})
    assert set(result) == {"a", "b", "wa", "wb"}
    assert result["wa"].max() > 2.0
    assert result["wb"].max() == 1.0


# Refusals


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"labels": np.array([1, 0, 2])}, InputError, "labels: has 1 dimensions, 2 or 3 are needed"),
        ({"labels": np.zeros((1, 2, 2, 2), int)}, InputError, "has 4 dimensions"),
        ({"labels": np.array([[0.5, 1.0]])}, InputError, "labels: holds values that are no whole numbers"),
        ({"labels": np.array([[np.nan, 1.0]])}, InputError, "no whole numbers"),
        ({"labels": np.array([[np.inf, 1.0]])}, InputError, "no whole numbers"),
        ({"labels": np.array([[-1, 1]])}, InputError, "labels: holds negative values"),
        ({"classes": np.array([[-1, 1, 0]])}, InputError, "classes: holds negative values"),
        ({"classes": np.array([[0, 1]])}, GeometryError, "classes: has shape"),
        ({"spacing_mm": (1.0,)}, GeometryError, "spacing_mm: .* is no spacing of 2 axes"),
        ({"spacing_mm": (1.0, 0.0)}, GeometryError, "no spacing of 2 axes"),
        ({"spacing_mm": (1.0, math.inf)}, GeometryError, "no spacing of 2 axes"),
        ({"sigma_mm": 0.0}, ConfigError, "sigma_mm: is 0.0; use a positive number"),
        ({"sigma_mm": math.nan}, ConfigError, "sigma_mm: is nan"),
        ({"w0": -1.0}, ConfigError, "w0: is -1.0; use 0 or more"),
        ({"w0": math.inf}, ConfigError, "w0: is inf"),
        ({"class_weights": {1: -2.0}}, ConfigError, r"class_weights\[1\]: is -2.0; use 0 or more"),
        ({"class_weights": {"liver": 2.0}}, ConfigError, "class_weights: 'liver' is no class value"),
        ({"class_weights": "even"}, ConfigError, "class_weights: is 'even'; use 'balanced'"),
    ],
)
def test_what_cannot_be_weighted_is_refused(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments: dict[str, Any] = {
        "labels": np.array([[1, 0, 2]]),
        "spacing_mm": (1.0, 1.0),
        "classes": np.array([[1, 0, 1]]),
        "class_weights": {0: 1.0},
        **changes,
    }
    if arguments["labels"].shape != (1, 3) and "classes" not in changes:
        del arguments["classes"]
    with pytest.raises(error, match=words):
        border_weight_map(**arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"holds": "cells"}, "holds: is 'cells'; use 'classes' or 'instances'"),
        ({"class_keys": "label"}, "class_keys: is given, but the maps hold classes themselves"),
        ({"keys": ("a", "b"), "weight_keys": ("w", "w")}, "weight_keys: names a key twice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BorderWeightMapd(**{"keys": "label", **options})


def test_label_maps_of_several_channels_are_refused() -> None:
    with pytest.raises(InputError, match="label: has 2 channels, a label map has one"):
        BorderWeightMapd("label", spacing_mm=(1.0, 1.0))({"label": torch.zeros(2, 3, 3)})


# Real data


@pytest.mark.data
@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_vertebrae(modality: str, test_data: Path) -> None:
    path = next(path for path in sorted((test_data / modality / "vertebra").glob("*")) if "vert" in path.name)
    volume = read_volume(path)
    instances = volume.array[0]
    assert len(np.unique(instances)) > 2
    spacing_mm = volume.grid.spacing_mm
    weights = border_weight_map(instances, spacing_mm)
    expected = 1.0 + by_transforms(instances, spacing_mm, 5 * min(spacing_mm))
    np.testing.assert_allclose(weights, expected, atol=TOLERANCE)
