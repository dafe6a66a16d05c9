"""Instances: hand-computed tables and matchings, brute force over masks, properties, real vertebrae."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.metrics import (
    IOU_THRESHOLDS,
    InstancePair,
    PanopticQuality,
    aggregated_jaccard,
    contingency,
    match_instances,
    match_instances_at,
    panoptic_quality,
)
from medseg.metrics.contingency import compact_ids
from medseg.metrics.matching import assign_pairs, greedy_pairs

PRED = np.array([[5, 5, 0, 9], [5, 0, 0, 9], [0, 0, 7, 9]])
REF = np.array([[3, 3, 3, 8], [3, 0, 0, 8], [0, 2, 0, 0]])


@st.composite
def map_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    maps = hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 1, 2, 5, 3_000_000_000]))
    return draw(maps), draw(maps)


def brute_force_iou(pred: np.ndarray, ref: np.ndarray) -> dict[tuple[int, int], float]:
    """The IoU of all pairs that overlap, from one mask an instance."""
    found = {}
    for one, other in itertools.product(np.unique(pred[pred > 0]), np.unique(ref[ref > 0])):
        shared = np.count_nonzero((pred == one) & (ref == other))
        if shared:
            found[int(one), int(other)] = shared / np.count_nonzero((pred == one) | (ref == other))
    return found


def all_matchings(pairs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Every set of pairs in which nothing occurs twice."""
    if not pairs:
        return [[]]
    head, *tail = pairs
    compatible = [pair for pair in tail if pair[0] != head[0] and pair[1] != head[1]]
    return all_matchings(tail) + [[head, *rest] for rest in all_matchings(compatible)]


def test_the_table_of_a_hand_made_map() -> None:
    table = contingency(PRED, REF)
    assert table.pred_ids.tolist() == [5, 7, 9]
    assert table.pred_voxels.tolist() == [3, 1, 3]
    assert table.ref_ids.tolist() == [2, 3, 8]
    assert table.ref_voxels.tolist() == [1, 4, 2]
    assert table.pairs.tolist() == [[0, 1], [2, 2]]
    assert table.pair_voxels.tolist() == [3, 2]
    assert table.iou.tolist() == [3 / 4, 2 / 3]


def test_a_matching_by_hand() -> None:
    found = match_instances(PRED, REF)
    assert found.pairs == (InstancePair(5, 3, 0.75), InstancePair(9, 8, 2 / 3))
    assert (found.missed, found.invented) == ((2,), (7,))
    assert (found.precision, found.recall, found.f1) == (2 / 3, 2 / 3, 2 / 3)
    quality = panoptic_quality(PRED, REF)
    assert quality == found.quality
    assert quality.sq == pytest.approx((0.75 + 2 / 3) / 2)
    assert quality.rq == pytest.approx(2 / 3)
    assert quality.pq == pytest.approx((0.75 + 2 / 3) / 3)


def test_an_iou_at_the_threshold_is_no_match() -> None:
    pred, ref = np.array([1, 1, 0]), np.array([1, 0, 0])
    assert match_instances(pred, ref, 0.5).pairs == ()
    assert len(match_instances(pred, ref, 0.4999).pairs) == 1


def test_half_overlaps_are_matched_once_below_the_unique_threshold() -> None:
    pred, ref = np.array([1, 1, 1, 1]), np.array([1, 1, 2, 2])
    found = match_instances(pred, ref, 0.25)
    assert (len(found.pairs), found.missed, found.invented) == (1, (2,), ())


def test_optimal_and_greedy_matching_differ_where_greed_does_not_pay() -> None:
    pred = np.repeat([1, 2, 1, 0], [6, 4, 4, 2])
    ref = np.repeat([1, 1, 2, 2], [6, 4, 4, 2])
    assert brute_force_iou(pred, ref) == {(1, 1): 6 / 14, (1, 2): 4 / 12, (2, 1): 4 / 10}
    optimal, greedy = (match_instances(pred, ref, 0.1, method=method) for method in ("optimal", "greedy"))
    assert [(pair.pred_id, pair.ref_id) for pair in optimal.pairs] == [(2, 1), (1, 2)]
    assert [(pair.pred_id, pair.ref_id) for pair in greedy.pairs] == [(1, 1)]
    assert (greedy.missed, greedy.invented) == ((2,), (2,))


NAN = math.nan


@pytest.mark.parametrize(
    ("pred", "ref", "precision", "recall", "quality", "jaccard"),
    [
        pytest.param([0, 0, 0], [0, 0, 0], NAN, NAN, (NAN, NAN, NAN), NAN, id="neither"),
        pytest.param([0, 0, 0], [1, 1, 2], NAN, 0.0, (0.0, 0.0, 0.0), 0.0, id="missed"),
        pytest.param([4, 0, 6], [0, 0, 0], 0.0, NAN, (0.0, 0.0, 0.0), 0.0, id="invented"),
        pytest.param([4, 0, 0], [0, 0, 1], 0.0, 0.0, (0.0, 0.0, 0.0), 0.0, id="apart"),
        pytest.param([4, 4, 4], [1, 0, 0], 0.0, 0.0, (0.0, 0.0, 0.0), 1 / 3, id="overlap too small"),
        pytest.param([4, 4, 7], [2, 2, 9], 1.0, 1.0, (1.0, 1.0, 1.0), 1.0, id="perfect"),
    ],
)
def test_every_outcome_is_pinned(
    pred: list[int],
    ref: list[int],
    precision: float,
    recall: float,
    quality: tuple[float, float, float],
    jaccard: float,
) -> None:
    found = match_instances(np.array(pred), np.array(ref))
    np.testing.assert_equal((found.precision, found.recall, found.f1), (precision, recall, quality[2]))
    scores = panoptic_quality(np.array(pred), np.array(ref))
    np.testing.assert_equal((scores.pq, scores.sq, scores.rq), quality)
    for one_to_one in (False, True):
        result = aggregated_jaccard(np.array(pred), np.array(ref), one_to_one=one_to_one)
        np.testing.assert_equal(result, jaccard)


def test_an_array_without_voxels_has_no_instances() -> None:
    empty = np.zeros((0, 4), int)
    assert math.isnan(panoptic_quality(empty, empty).pq)
    assert math.isnan(aggregated_jaccard(empty, empty))


def test_counts_of_several_images_add_up() -> None:
    one, other = panoptic_quality(PRED, REF), panoptic_quality(REF, REF)
    both = PanopticQuality(
        iou_sum=one.iou_sum + other.iou_sum, n_matched=5, n_missed=one.n_missed, n_invented=one.n_invented
    )
    side_by_side = panoptic_quality(
        np.hstack([PRED, REF + 20 * (REF > 0)]), np.hstack([REF, REF + 30 * (REF > 0)])
    )
    assert side_by_side.pq == pytest.approx(both.pq)


def test_aggregated_jaccard_by_hand() -> None:
    # Kumar: reference 1 takes prediction 1 (2/4), reference 2 too: shared 4, union 8; prediction 2 is unused.
    pred, ref = np.array([1, 1, 1, 1, 0, 2]), np.array([1, 1, 2, 2, 0, 0])
    assert aggregated_jaccard(pred, ref) == 4 / 9
    # One to one: reference 1 takes it, reference 2 stays alone.
    assert aggregated_jaccard(pred, ref, one_to_one=True) == 2 / 7


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64, np.float32, bool])
def test_any_type_of_whole_numbers_will_do(dtype: type) -> None:
    pred, ref = (PRED > 4).astype(dtype), (REF > 2).astype(dtype)
    assert contingency(pred, ref).pair_voxels.tolist() == [5]


@pytest.mark.parametrize("stray", [-1, 0.5, math.nan, math.inf, 1e30])
def test_ids_that_are_none_are_refused(stray: float) -> None:
    with pytest.raises(InputError, match=r"^pred: instance ids must be whole numbers"):
        match_instances(np.array([1, stray]), np.array([1, 1]))
    with pytest.raises(InputError, match=r"^ref: instance ids must be whole numbers"):
        match_instances(np.array([1, 1]), np.array([1, stray]))


def test_ids_beyond_64_bits_with_sign_are_refused() -> None:
    with pytest.raises(InputError, match="whole numbers"):
        compact_ids(np.array([2**63], np.uint64))


def test_shapes_must_agree() -> None:
    with pytest.raises(GeometryError, match=r"\(4,\) of the prediction is not the reference's \(3,\)"):
        match_instances(np.zeros(4, int), np.zeros(3, int))


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_thresholds_that_are_none_are_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="no threshold"):
        match_instances(PRED, REF, threshold)


def test_a_method_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'hungry' is no way to match"):
        match_instances(PRED, REF, method="hungry")  # type: ignore[arg-type]


def test_the_order_of_memory_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    pred, ref = rng.integers(0, 5, (2, 6, 7, 8))
    expected = contingency(pred, ref)
    for one, other in ((np.asfortranarray(pred), np.asfortranarray(ref)), (np.asfortranarray(pred), ref)):
        table = contingency(one, other)
        np.testing.assert_array_equal(table.pairs, expected.pairs)
        np.testing.assert_array_equal(table.pair_voxels, expected.pair_voxels)


@given(
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.sampled_from([0, 3, 2**40]))
)
@settings(max_examples=30, deadline=None)
def test_compact_numbers_give_the_ids_back(instances: np.ndarray) -> None:
    for array in (instances, np.asfortranarray(instances), instances[::-1]):
        ids, numbers = compact_ids(array)
        np.testing.assert_array_equal(np.append(0, ids)[numbers], array)
        assert numbers.max() == len(ids)


@given(map_pairs(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7]))
@settings(max_examples=60, deadline=None)
def test_it_is_the_best_of_all_matchings(pair: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    pred, ref = pair
    iou = brute_force_iou(pred, ref)
    best = max(
        math.fsum(iou[one] for one in matching)
        for matching in all_matchings([one for one, value in iou.items() if value > threshold])
    )
    found = match_instances(pred, ref, threshold)
    for one in found.pairs:
        assert one.iou == iou[one.pred_id, one.ref_id] > threshold
    assert found.quality.iou_sum == pytest.approx(best)
    assert len({one.pred_id for one in found.pairs} | set(found.invented)) == len(np.unique(pred[pred > 0]))
    assert len({one.ref_id for one in found.pairs} | set(found.missed)) == len(np.unique(ref[ref > 0]))
    greedy = match_instances(pred, ref, threshold, method="greedy")
    assert greedy.quality.iou_sum <= best + 1e-12
    if threshold >= 0.5:
        assert greedy == found


@given(map_pairs())
@settings(max_examples=40, deadline=None)
def test_properties(pair: tuple[np.ndarray, np.ndarray]) -> None:
    pred, ref = pair
    quality, swapped = panoptic_quality(pred, ref), panoptic_quality(ref, pred)
    np.testing.assert_allclose([quality.pq, quality.sq, quality.rq], [swapped.pq, swapped.sq, swapped.rq])
    renamed = np.where(pred == 5, 77, np.where(pred == 1, 5, np.where(pred == 2, 1, pred)))
    for value, other in (
        (quality.pq, panoptic_quality(pred[::-1], ref[::-1]).pq),
        (quality.pq, panoptic_quality(renamed, ref).pq),
        (
            aggregated_jaccard(pred, ref, one_to_one=True),
            aggregated_jaccard(ref[..., ::-1], pred[..., ::-1], one_to_one=True),
        ),
    ):
        np.testing.assert_allclose(value, other)
    jaccard = aggregated_jaccard(pred, ref)
    if math.isnan(quality.pq):
        assert math.isnan(jaccard)
    else:
        assert 0 <= quality.pq <= min(quality.sq, quality.rq) <= 1
        assert quality.pq == pytest.approx(quality.sq * quality.rq)
        assert 0 <= jaccard <= 1
    own = panoptic_quality(ref, ref)
    np.testing.assert_equal((own.pq, aggregated_jaccard(ref, ref)), (1.0, 1.0) if ref.any() else (NAN, NAN))


@given(map_pairs())
@settings(max_examples=40, deadline=None)
def test_aggregated_jaccard_is_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    pred, ref = pair
    iou = brute_force_iou(pred, ref)
    shared = union = 0
    used = set()
    for own in np.unique(ref[ref > 0]).tolist():
        candidates = [one for one, other in iou if other == own]
        if candidates:
            partner = max(candidates, key=lambda one, own=own: (iou[one, own], -one))
            used.add(partner)
            shared += np.count_nonzero((ref == own) & (pred == partner))
            union += np.count_nonzero((ref == own) | (pred == partner))
        else:
            union += np.count_nonzero(ref == own)
    union += sum(np.count_nonzero(pred == own) for own in np.unique(pred[pred > 0]) if own not in used)
    np.testing.assert_allclose(aggregated_jaccard(pred, ref), shared / union if union else NAN)


def test_thresholds_share_one_pass() -> None:
    several = match_instances_at(PRED, REF)
    assert [found.iou_threshold for found in several] == list(IOU_THRESHOLDS)
    assert list(several) == [match_instances(PRED, REF, threshold) for threshold in IOU_THRESHOLDS]
    assert [len(found.pairs) for found in several] == [2, 2, 2, 2, 1, 0, 0, 0, 0, 0]


def test_pairs_without_any_are_no_pairs() -> None:
    nothing = np.zeros((0, 2), np.int64)
    assert assign_pairs(nothing, np.zeros(0)).size == greedy_pairs(nothing, np.zeros(0)).size == 0


def test_thousands_of_instances_far_from_zero() -> None:
    ids = np.arange(5000) * 1_000_003 + 2**33
    ref = np.repeat(ids, 8).reshape(50, 100, 8)
    pred = ref.copy()
    pred[:, :, :3] = 0
    pred[0] = ref[1]  # the first hundred are found under other ids, whose own five voxels count against them
    found = match_instances(pred, ref)
    assert (len(found.pairs), len(found.missed), len(found.invented)) == (4900, 100, 0)
    assert {pair.iou for pair in found.pairs} == {5 / 8, 8 / 13}


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["mr/vertebra/sub-mri_seg-vert_label-6_msk", "ct/vertebra/sub-ct_seg-vert_label-22_msk"]
)
def test_real_vertebrae_moved_by_a_voxel(test_data: Path, name: str) -> None:
    from medseg.io import read_volume

    ref = np.squeeze(read_volume(test_data / f"{name}.nii.gz").array)
    pred = np.roll(ref, 1, axis=0).astype(np.int64)
    pred[0] = 0
    pred[pred == 6] = 999
    iou = brute_force_iou(pred, ref)
    found = match_instances(pred, ref)
    expected = {pair: value for pair, value in iou.items() if value > 0.5}
    assert {(one.pred_id, one.ref_id): one.iou for one in found.pairs} == expected
    assert 0 < len(expected) <= len(np.unique(ref)) - 1
    assert 0.4 < panoptic_quality(pred, ref).pq < 1
    assert panoptic_quality(ref, ref).pq == aggregated_jaccard(ref, ref) == 1
