"""Overlap metrics: hand-computed outcomes, properties, and MONAI as an independent implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError
from medseg.io import read_volume
from medseg.labels import LabelScheme
from medseg.metrics import (
    Overlap,
    confusion,
    frequency_weighted_iou,
    mean_iou,
    overlap_metrics,
    overlaps_of,
    pixel_accuracy,
)
from medseg.metrics import overlap as overlap_module

LABELS = LabelScheme.from_names({1: "liver", 2: "left kidney", 7: "right kidney"})


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    maps = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 7]))
    return draw(maps), draw(maps)


def test_a_hand_computed_map_gives_exact_counts_and_ratios() -> None:
    ref = np.array([[0, 1, 1, 1], [2, 2, 0, 0]], np.uint8)
    pred = np.array([[1, 1, 1, 0], [2, 7, 0, 0]], np.uint8)
    assert confusion(pred, ref, LABELS).tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    liver, left, right = overlap_metrics(pred, ref, LABELS)
    assert (liver.n_both, liver.n_pred, liver.n_ref) == (2, 3, 3)
    assert (liver.dice, liver.iou) == (2 / 3, 0.5)
    assert (left.dice, left.iou) == (2 / 3, 0.5)
    assert (right.n_both, right.n_pred, right.n_ref, right.dice, right.iou) == (0, 1, 0, 0.0, 0.0)
    assert [entry.name for entry in (liver, left, right)] == ["liver", "left kidney", "right kidney"]


NAN = math.nan
OUTCOMES = {
    # pred, ref: dice, iou, sensitivity, precision, specificity, volume difference, relative
    "identical": ([1, 1, 0, 0], [1, 1, 0, 0], (1.0, 1.0, 1.0, 1.0, 1.0, 0, 0.0)),
    "missed": ([0, 0, 0, 0], [1, 1, 0, 0], (0.0, 0.0, 0.0, 0.0, 1.0, -2, -1.0)),
    "invented": ([1, 0, 0, 0], [0, 0, 0, 0], (0.0, 0.0, NAN, 0.0, 0.75, 1, NAN)),
    "absent": ([0, 0, 0, 0], [0, 0, 0, 0], (NAN, NAN, NAN, NAN, 1.0, 0, NAN)),
    "disjoint": ([1, 1, 1, 0], [0, 0, 0, 1], (0.0, 0.0, 0.0, 0.0, 0.0, 2, 2.0)),
    "too large": ([1, 1, 1, 0], [1, 0, 0, 0], (0.5, 1 / 3, 1.0, 1 / 3, 1 / 3, 2, 2.0)),
    "too small": ([1, 0, 0, 0], [1, 1, 1, 0], (0.5, 1 / 3, 1 / 3, 1.0, 1.0, -2, -2 / 3)),
    "everywhere in both": ([1, 1], [1, 1], (1.0, 1.0, 1.0, 1.0, NAN, 0, 0.0)),
    "everywhere in the reference, missed": ([0, 0], [1, 1], (0.0, 0.0, 0.0, 0.0, NAN, -2, -1.0)),
    "no voxel": ([], [], (NAN, NAN, NAN, NAN, NAN, 0, NAN)),
}


def numbers_of(overlap: Overlap) -> tuple[float, ...]:
    return (
        overlap.dice,
        overlap.iou,
        overlap.sensitivity,
        overlap.precision,
        overlap.specificity,
        overlap.volume_difference,
        overlap.relative_volume_difference,
    )


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_pinned(outcome: str) -> None:
    pred, ref, expected = OUTCOMES[outcome]
    found = overlap_metrics(np.array(pred, np.uint8), np.array(ref, np.uint8), labels=[1])[0]
    np.testing.assert_equal(numbers_of(found), expected)
    assert found.n_voxels == len(ref)


def test_missing_a_structure_never_raises_a_mean() -> None:
    ref = np.array([1, 1, 0, 0])
    poor = overlap_metrics(np.array([0, 1, 1, 1]), ref, labels=[1])[0]
    missed = overlap_metrics(np.zeros(4, int), ref, labels=[1])[0]
    for number in ("dice", "iou", "sensitivity", "precision"):
        assert 0.0 == getattr(missed, number) < getattr(poor, number)


# Over classes


COUNTS = np.array([[4, 1, 0, 0], [1, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
"""Background IoU 4/8, class 1 IoU 2/4, class 2 missed, class 3 absent; of 10 voxels 6 are right."""


def test_classes_together_by_hand() -> None:
    assert pixel_accuracy(COUNTS) == 0.6
    assert mean_iou(COUNTS) == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert mean_iou(COUNTS, include_background=False) == 0.25
    assert frequency_weighted_iou(COUNTS) == pytest.approx((5 * 0.5 + 3 * 0.5 + 2 * 0.0) / 10)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param([[5, 0], [0, 5]], (1.0, 1.0, 1.0, 1.0), id="identical"),
        pytest.param([[8, 0], [2, 0]], (0.8, 0.4, 0.0, 0.64), id="missed"),
        pytest.param([[8, 2], [0, 0]], (0.8, 0.4, 0.0, 0.8), id="invented"),
        pytest.param([[9, 0], [0, 0]], (1.0, 1.0, NAN, 1.0), id="background alone"),
        pytest.param([[0, 0], [0, 9]], (1.0, 1.0, 1.0, 1.0), id="no background"),
        pytest.param([[0, 0], [0, 0]], (NAN, NAN, NAN, NAN), id="no voxel"),
    ],
)
def test_every_outcome_over_classes_is_pinned(counts: list[list[int]], expected: tuple[float, ...]) -> None:
    table = np.array(counts)
    found = (
        pixel_accuracy(table),
        mean_iou(table),
        mean_iou(table, include_background=False),
        frequency_weighted_iou(table),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-15)


# Counting


def test_an_empty_array_has_no_overlap() -> None:
    found = overlap_metrics(np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.uint8), labels=[1])[0]
    assert math.isnan(found.dice)


def test_counts_do_not_wrap_where_a_byte_would() -> None:
    full = np.ones((40, 40, 40), np.uint8)
    found = overlap_metrics(full, full, labels=[1])[0]
    assert (found.n_both, found.dice) == (64000, 1.0)


def test_floating_point_label_maps_of_whole_numbers_are_fine() -> None:
    found = overlap_metrics(np.array([0.0, 7.0]), np.array([7.0, 7.0]), LABELS)
    assert found[2].dice == 2 / 3


@pytest.mark.parametrize("stray", [3, 2.5, -1])
def test_undeclared_values_are_refused_and_their_file_named(stray: float) -> None:
    good, bad = np.array([0, 1]), np.array([0, stray])
    with pytest.raises(InputError, match=r"pred\.nii.*not declared"):
        confusion(bad, good, LABELS, pred_where="pred.nii", ref_where="ref.nii")
    with pytest.raises(InputError, match=r"ref\.nii.*not declared"):
        confusion(good, bad, LABELS, pred_where="pred.nii", ref_where="ref.nii")


def test_shapes_must_agree() -> None:
    with pytest.raises(GeometryError, match=r"\(4,\) of the prediction is not the reference's \(3,\)"):
        confusion(np.zeros(4), np.zeros(3), LABELS)


def counted_one_by_one(pred: np.ndarray, ref: np.ndarray, labels: LabelScheme) -> np.ndarray:
    counts = np.zeros((len(labels), len(labels)), int)
    for one, other in zip(ref.ravel().tolist(), pred.ravel().tolist(), strict=True):
        counts[labels.values.index(one), labels.values.index(other)] += 1
    return counts


BYTES = LabelScheme.from_names({1: "a", 2: "b", 7: "c", 255: "d"})
WIDE = LabelScheme.from_names({1: "a", 300: "b", 2035: "c", 30000: "d"})


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", ">i2", "int32", "uint64", "float32", ">f4", "float64"]
)
@pytest.mark.parametrize("run", [1, 40], ids=["noise", "runs"])
@pytest.mark.parametrize("labels", [BYTES, WIDE], ids=["bytes", "wide"])
def test_types_and_kinds_of_maps_are_counted_alike(labels: LabelScheme, run: int, dtype: str) -> None:
    if dtype == "uint8" and labels is WIDE:
        labels = BYTES
    rng = np.random.default_rng(run)
    pred, ref = np.repeat(rng.choice(labels.values, (2, 9, 3)), run, axis=2).astype(dtype)
    ref[0, 0] = pred[0, 0]
    counts = confusion(pred, ref, labels)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, counted_one_by_one(pred, ref, labels))


def test_maps_of_different_types_are_compared_by_value() -> None:
    pred, ref = np.array([0, 255, 7], np.uint8), np.array([0.0, 255.0, 1.0], np.float32)
    np.testing.assert_array_equal(confusion(pred, ref, BYTES), counted_one_by_one(pred, ref, BYTES))


def test_a_byte_with_a_sign_is_not_one_without() -> None:
    with pytest.raises(InputError, match="label value -1 is not declared"):
        confusion(np.array([-1], np.int8), np.array([0], np.int8), BYTES)


def test_masks_are_label_maps() -> None:
    pred, ref = np.array([True, False, True]), np.array([True, True, False])
    assert confusion(pred, ref, LabelScheme.from_names({1: "cord"})).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    "arrange",
    [
        lambda array: np.asfortranarray(array),
        lambda array: array[::-1, :, ::-1],
        lambda array: array[1:, ::2],
        lambda array: array.transpose(1, 2, 0),
        lambda array: array[:, :, :, np.newaxis],
    ],
    ids=["Fortran", "flipped", "cropped", "transposed", "four axes"],
)
@pytest.mark.parametrize("chunk", [17, 1 << 18])
def test_memory_order_and_chunks_change_nothing(
    arrange: Callable[[np.ndarray], np.ndarray], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pred, ref = rng.choice([0, 0, 0, 0, 1, 2, 7], (2, 13, 6, 5)).astype(np.uint8)
    expected = counted_one_by_one(arrange(pred), arrange(ref), LABELS)
    monkeypatch.setattr(overlap_module, "_CHUNK_VOXELS", chunk)
    np.testing.assert_array_equal(confusion(arrange(pred), arrange(ref), LABELS), expected)
    np.testing.assert_array_equal(
        confusion(arrange(pred), np.ascontiguousarray(arrange(ref)), LABELS), expected
    )


def test_one_run_through_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap_module, "_CHUNK_VOXELS", 64)
    full = np.full((10, 10, 10), 7, np.int16)
    assert confusion(full, full, LABELS)[3, 3] == 1000


@pytest.mark.parametrize("stray", [3, 300, 2.5, math.nan, math.inf])
@pytest.mark.parametrize("length", [2, 5000])
def test_a_stray_value_far_inside_is_found(stray: float, length: int) -> None:
    good = np.zeros(length)
    bad = good.copy()
    bad[-1] = stray
    with pytest.raises(InputError, match=rf"pred\.nii.*label value {stray:.12g} is not declared"):
        confusion(bad, good, LABELS, pred_where="pred.nii")
    with pytest.raises(InputError, match=rf"ref\.nii.*label value {stray:.12g} is not declared"):
        confusion(good, bad, LABELS, ref_where="ref.nii")


@pytest.mark.parametrize("dtype", ["complex64", "object", "U1"])
def test_what_holds_no_real_numbers_is_refused(dtype: str) -> None:
    with pytest.raises(InputError, match=r"pred\.nii.*values are no labels"):
        confusion(np.zeros(3, dtype), np.zeros(3), LABELS, pred_where="pred.nii")


def test_300_classes() -> None:
    labels = LabelScheme.from_names({value: f"label {value}" for value in range(1, 300)})
    ref = np.arange(300)
    pred = (ref + 1) % 300
    np.testing.assert_array_equal(confusion(pred, ref, labels), np.eye(300, dtype=int)[pred])


# Properties and other implementations


@given(label_pairs())
@settings(max_examples=50, deadline=None)
def test_properties(pair: tuple[np.ndarray, np.ndarray]) -> None:
    pred, ref = pair
    counts = confusion(pred, ref, LABELS)
    assert counts.sum() == pred.size
    np.testing.assert_array_equal(confusion(ref, pred, LABELS), counts.T)
    for one, other in zip(overlaps_of(counts, LABELS), overlap_metrics(ref, pred, LABELS), strict=True):
        np.testing.assert_equal((one.dice, one.iou), (other.dice, other.iou))
        assert one.volume_difference == -other.volume_difference
        if one.n_pred and one.n_ref:
            assert (one.sensitivity, one.precision) == (other.precision, other.sensitivity)
        if not math.isnan(one.dice):
            assert 0.0 <= one.iou <= one.dice <= 1.0
            assert one.dice == pytest.approx(2 * one.iou / (1 + one.iou), abs=1e-15)
    accuracy, mean, weighted = (of(counts) for of in (pixel_accuracy, mean_iou, frequency_weighted_iou))
    assert 0.0 <= weighted <= accuracy <= 1.0
    assert 0.0 <= mean <= 1.0
    np.testing.assert_array_equal(confusion(pred[::-1], ref[::-1], LABELS), counts)
    for own in overlap_metrics(ref, ref, LABELS):
        assert own.n_ref == 0 or (own.dice, own.iou) == (1.0, 1.0)


def one_hot(array: np.ndarray, classes: int) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.stack([array == value for value in range(classes)]))[None]


def test_it_agrees_with_monai() -> None:
    metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(1)
    pred, ref = rng.integers(0, 3, (2, 9, 8, 7))
    pred[pred == 2] = 0  # class 2 is missed altogether
    maps = one_hot(pred, 4), one_hot(ref, 4)
    ours = overlap_metrics(pred, ref, labels=[1, 2, 3])
    dice = metrics.compute_dice(*maps, include_background=False).numpy()[0]
    iou = metrics.compute_iou(*maps, include_background=False).numpy()[0]
    np.testing.assert_allclose([entry.dice for entry in ours], dice, rtol=1e-6)
    np.testing.assert_allclose([entry.iou for entry in ours], iou, rtol=1e-6)
    rates = metrics.get_confusion_matrix(*(array.float() for array in maps), include_background=False)
    for name in ("sensitivity", "precision", "specificity"):
        expected = metrics.compute_confusion_matrix_metric(name, rates).numpy()[0]
        if name == "precision":
            assert math.isnan(expected[1])
            expected[1] = 0.0  # the missed class: 0/0
        np.testing.assert_allclose([getattr(entry, name) for entry in ours], expected, rtol=1e-6)


@pytest.mark.data
def test_it_agrees_with_monai_on_real_labels(test_data: Path) -> None:
    metrics = pytest.importorskip("monai.metrics")
    path = test_data / "ct" / "totalsegmentator" / "example_seg.nii.gz"
    ref = read_volume(path).array
    pred = np.roll(ref, 2, axis=-1)
    labels = LabelScheme.from_names({int(value): f"label {value}" for value in np.unique(ref) if value})
    assert len(labels) > 30
    maps = (one_hot(labels.to_indices(array), len(labels)) for array in (pred, ref))
    ours = overlap_metrics(pred, ref, labels)
    dice = metrics.compute_dice(*maps, include_background=False).numpy()[0]
    np.testing.assert_allclose([entry.dice for entry in ours], dice, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_unlabelled_voxels_might_as_well_be_cut_off(data: st.DataObject) -> None:
    labels = LabelScheme.from_names({1: "a", 4: "b"}, ignore=data.draw(st.sampled_from([5, 2, 300])))
    size = data.draw(st.integers(1, 60))
    values = st.lists(st.sampled_from([0, 1, 4]), min_size=size, max_size=size)
    pred, ref = (np.array(data.draw(values), dtype=np.int16) for _ in range(2))
    ignored = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    marked = np.where(ignored, labels.ignore, ref)
    expected = confusion(pred[~ignored], ref[~ignored], labels.without_ignore)
    np.testing.assert_array_equal(confusion(pred, marked, labels), expected)
