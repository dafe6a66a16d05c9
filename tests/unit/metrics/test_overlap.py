"""Overlap metrics: hand-computed outcomes, properties, and MONAI as an independent implementation."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError
from medseg.labels import LabelScheme
from medseg.metrics import confusion, overlap_metrics, overlaps_of
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


@pytest.mark.parametrize(
    ("pred", "ref", "dice", "iou"),
    [
        pytest.param([1, 1], [1, 1], 1.0, 1.0, id="identical"),
        pytest.param([0, 0], [1, 1], 0.0, 0.0, id="missed"),
        pytest.param([1, 0], [0, 0], 0.0, 0.0, id="spurious"),
        pytest.param([1, 0], [0, 1], 0.0, 0.0, id="disjoint"),
        pytest.param([0, 0], [0, 0], math.nan, math.nan, id="in neither"),
    ],
)
def test_every_outcome_is_pinned(pred: list[int], ref: list[int], dice: float, iou: float) -> None:
    found = overlap_metrics(np.array(pred), np.array(ref), labels=[1])[0]
    np.testing.assert_equal((found.dice, found.iou), (dice, iou))


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


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pred, ref = rng.choice([0, 1, 2, 7], (2, 13, 5, 4))
    whole = confusion(pred, ref, LABELS)
    monkeypatch.setattr(overlap_module, "_CHUNK_VOXELS", 17)
    np.testing.assert_array_equal(confusion(pred, ref, LABELS), whole)


@given(label_pairs())
@settings(max_examples=50, deadline=None)
def test_properties(pair: tuple[np.ndarray, np.ndarray]) -> None:
    pred, ref = pair
    counts = confusion(pred, ref, LABELS)
    assert counts.sum() == pred.size
    np.testing.assert_array_equal(confusion(ref, pred, LABELS), counts.T)
    for one, other in zip(overlaps_of(counts, LABELS), overlap_metrics(ref, pred, LABELS), strict=True):
        np.testing.assert_equal((one.dice, one.iou), (other.dice, other.iou))
        if not math.isnan(one.dice):
            assert 0.0 <= one.iou <= one.dice <= 1.0
            assert one.dice == pytest.approx(2 * one.iou / (1 + one.iou), abs=1e-15)
    for own in overlap_metrics(ref, ref, LABELS):
        assert own.n_ref == 0 or (own.dice, own.iou) == (1.0, 1.0)


def test_it_agrees_with_monai() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(1)
    pred, ref = rng.integers(0, 3, (2, 9, 8, 7))
    pred[pred == 2] = 0  # class 2 is missed altogether
    one_hot = [
        torch.from_numpy(np.stack([array == value for value in range(4)]))[None] for array in (pred, ref)
    ]
    dice = metrics.compute_dice(*one_hot, include_background=False).numpy()[0]
    iou = metrics.compute_iou(*one_hot, include_background=False).numpy()[0]
    ours = overlap_metrics(pred, ref, labels=[1, 2, 3])
    np.testing.assert_allclose([entry.dice for entry in ours], dice, rtol=1e-6)
    np.testing.assert_allclose([entry.iou for entry in ours], iou, rtol=1e-6)
