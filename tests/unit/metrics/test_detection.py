"""Boxes and detections: hand-computed values, counted voxels, properties, MONAI."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.metrics import (
    Detections,
    References,
    average_precision,
    box_iou,
    boxes_of_instances,
    generalised_box_iou,
    match_detections,
    mean_average_precision,
    non_maximum_suppression,
)

NAN = math.nan
RANKED = [0.9, 0.8, 0.7, 0.6, 0.5]
LECTURE = [True, True, False, False, True]


@st.composite
def box_lists(draw: st.DrawFn, axes: int, *, at_least: int = 0) -> np.ndarray:
    size = draw(st.integers(at_least, 6))
    lower = draw(hnp.arrays(np.int64, (size, axes), elements=st.integers(0, 6)))
    extent = draw(hnp.arrays(np.int64, (size, axes), elements=st.integers(1, 5)))
    return np.hstack([lower, lower + extent]).astype(float)


def random_boxes(rng: np.random.Generator, size: int, axes: int) -> np.ndarray:
    lower = rng.uniform(0, 30, (size, axes))
    return np.hstack([lower, lower + rng.uniform(10, 30, (size, axes))])


def counted_iou(one: np.ndarray, other: np.ndarray) -> float:
    """From two masks, one voxel a unit."""
    axes = len(one) // 2
    masks = np.zeros((2, *(12,) * axes), bool)
    for mask, box in zip(masks, (one, other), strict=True):
        mask[tuple(slice(int(box[axis]), int(box[axis + axes])) for axis in range(axes))] = True
    return np.count_nonzero(masks.all(axis=0)) / np.count_nonzero(masks.any(axis=0))


@pytest.mark.parametrize("axes", [2, 3])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_overlap_is_that_of_counted_voxels(axes: int, data: st.DataObject) -> None:
    boxes, others = data.draw(box_lists(axes)), data.draw(box_lists(axes))
    found, generalised = box_iou(boxes, others), generalised_box_iou(boxes, others)
    assert found.shape == generalised.shape == (len(boxes), len(others))
    expected = [[counted_iou(one, other) for other in others] for one in boxes]
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=1e-12)
    np.testing.assert_array_equal(found, box_iou(others, boxes).T)
    np.testing.assert_allclose(found, box_iou(3 * boxes, 3 * others))
    np.testing.assert_allclose(generalised, generalised_box_iou(boxes + 7, others + 7), atol=1e-12)
    assert (generalised <= found).all()
    assert (generalised > -1).all()
    np.testing.assert_array_equal(np.diag(generalised_box_iou(boxes, boxes)), np.ones(len(boxes)))


def test_generalised_overlap_by_hand() -> None:
    # Two unit cubes at opposite corners of a 3 x 1 x 1 hull: no overlap, one of three voxels is empty.
    assert generalised_box_iou([[0, 0, 0, 1, 1, 1]], [[2, 0, 0, 3, 1, 1]]).tolist() == [[-1 / 3]]
    # 2 x 2 squares shifted by (1, 1): shared 1, union 7, hull 9.
    found = generalised_box_iou([[0, 0, 2, 2]], [[1, 1, 3, 3]])
    assert found[0, 0] == pytest.approx(1 / 7 - 2 / 9)


def test_boxes_that_touch_do_not_overlap() -> None:
    assert box_iou([[0, 0, 2, 2]], [[2, 0, 4, 2]]).tolist() == [[0.0]]


@pytest.mark.parametrize("axes", [2, 3])
def test_boxes_agree_with_monai(axes: int) -> None:
    box_utils = pytest.importorskip("monai.data.box_utils")
    rng = np.random.default_rng(axes)
    boxes, others = random_boxes(rng, 40, axes), random_boxes(rng, 30, axes)
    np.testing.assert_allclose(box_iou(boxes, others), box_utils.box_iou(boxes, others), atol=1e-6)
    np.testing.assert_allclose(
        generalised_box_iou(boxes, others), box_utils.box_giou(boxes, others), atol=1e-6
    )
    scores = rng.permutation(40) / 40
    for threshold in (0.05, 0.3):
        kept = non_maximum_suppression(boxes, scores, threshold)
        expected = box_utils.non_max_suppression(boxes, scores, threshold)
        assert kept.tolist() == np.asarray(expected).tolist()
        assert 1 < len(kept) < 40


@pytest.mark.parametrize(
    "box", [[0, 0, 0, 4], [0, 0, 4, 0], [3, 0, 1, 4], [0, 0, NAN, 4], [0, 0, math.inf, 4]]
)
def test_boxes_without_volume_are_refused(box: list[float]) -> None:
    good = [0, 0, 1, 1]
    with pytest.raises(InputError, match=r"^boxes: box 1, .* has no finite volume"):
        box_iou([good, box], [good])
    with pytest.raises(InputError, match=r"^others: box 0, .* has no finite volume"):
        generalised_box_iou([good], [box])
    for make in (lambda: Detections([box], [0.5]), lambda: References([box])):
        with pytest.raises(InputError, match="has no finite volume"):
            make()


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"is not \(N, 4\) or \(N, 6\)"):
        box_iou(np.ones(shape), [[0, 0, 1, 1]])


def test_plane_and_space_do_not_compare() -> None:
    with pytest.raises(InputError, match="2D and in 3D"):
        box_iou([[0, 0, 1, 1]], [[0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), np.zeros((0, 6))])
def test_without_boxes_there_is_no_overlap(empty: Any) -> None:
    assert box_iou(empty, [[0, 0, 1, 1]]).shape == (0, 1)
    assert box_iou([[0, 0, 1, 1]], empty).shape == (1, 0)
    assert box_iou(empty, empty).shape == (0, 0)
    assert non_maximum_suppression(empty, []).tolist() == []


def test_suppression_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 10, 4]]
    scores = [0.5, 0.9, 0.7, 0.1, 0.6]
    # The second suppresses the first (0.9) and the third (5/9), which is then not there to suppress the last.
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 4, 3]
    assert non_maximum_suppression(boxes, scores, 5 / 9).tolist() == [1, 2, 3]
    assert non_maximum_suppression(boxes, scores, 1).tolist() == [1, 2, 4, 0, 3]
    assert non_maximum_suppression(boxes, scores, 0.5, classes=[1, 2, 2, 2, 1]).tolist() == [1, 4, 0, 3]


def test_equal_scores_go_in_the_order_of_the_input() -> None:
    boxes = [[5, 5, 6, 6], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]]
    assert non_maximum_suppression(boxes, [0.5, 0.5, 0.5, 0.9]).tolist() == [3, 0]
    assert non_maximum_suppression(boxes, [0.5, 0.5, 0.5, 0.5]).tolist() == [0, 1]


@given(box_lists(3), st.sampled_from([0.0, 0.2, 0.5]))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_does_not_overlap_and_what_is_not_does(boxes: np.ndarray, threshold: float) -> None:
    scores = np.arange(len(boxes)) % 3
    kept = non_maximum_suppression(boxes, scores, threshold)
    overlaps = box_iou(boxes, boxes)
    assert (overlaps[np.ix_(kept, kept)] - np.eye(len(kept)) <= threshold).all()
    for left in set(range(len(boxes))) - set(kept.tolist()):
        assert any(overlaps[left, one] > threshold and scores[one] >= scores[left] for one in kept)
    np.testing.assert_array_equal(scores[kept], np.sort(scores[kept])[::-1])


def test_suppression_refuses_what_it_cannot_use() -> None:
    boxes = [[0, 0, 4, 4], [0, 0, 4, 5]]
    with pytest.raises(InputError, match=r"^scores: shape \(1,\) does not fit 2"):
        non_maximum_suppression(boxes, [0.5])
    with pytest.raises(InputError, match="NaN"):
        non_maximum_suppression(boxes, [0.5, NAN])
    with pytest.raises(InputError, match=r"^classes: 1 classes do not fit 2"):
        non_maximum_suppression(boxes, [0.5, 0.6], classes=[1])
    with pytest.raises(ConfigError, match="no threshold"):
        non_maximum_suppression(boxes, [0.5, 0.6], 1.5)


def test_boxes_of_an_instance_map() -> None:
    instances = np.zeros((6, 7, 8), np.int64)
    instances[1:3, 2:5, 4:8] = 2**40
    instances[5, 6, 0] = 9
    ids, boxes = boxes_of_instances(instances)
    assert ids.tolist() == [9, 2**40]
    assert boxes.tolist() == [[5, 6, 0, 6, 7, 1], [1, 2, 4, 3, 5, 8]]
    _, in_mm = boxes_of_instances(np.asfortranarray(instances), spacing_mm=(2, 0.5, 3))
    assert in_mm.tolist() == [[10, 3, 0, 12, 3.5, 3], [2, 1, 12, 6, 2.5, 24]]


@pytest.mark.parametrize("shape", [(4, 5), (0, 5)])
def test_a_map_without_instances_has_no_boxes(shape: tuple[int, int]) -> None:
    ids, boxes = boxes_of_instances(np.zeros(shape, int))
    assert (ids.shape, boxes.shape) == ((0,), (0, 4))


def test_boxes_refuse_what_is_no_image() -> None:
    with pytest.raises(InputError, match="holds 1 dimensions"):
        boxes_of_instances(np.zeros(4, int))
    for spacing in ((1, 1), (1, 1, 0), (1, 1, NAN)):
        with pytest.raises(GeometryError, match="no spacing"):
            boxes_of_instances(np.zeros((2, 2, 2), int), spacing_mm=spacing)


@pytest.mark.parametrize(
    ("interpolation", "expected"), [("area", 0.8667), ("voc11", 0.8545), ("coco101", 0.8653)]
)
def test_three_references_hit_at_ranks_1_2_and_5(interpolation: Any, expected: float) -> None:
    assert round(average_precision(RANKED, LECTURE, 3, interpolation), 4) == expected
    order = [3, 0, 4, 2, 1]
    shuffled = average_precision([RANKED[i] for i in order], [LECTURE[i] for i in order], 3, interpolation)
    assert round(shuffled, 4) == expected


@pytest.mark.parametrize("interpolation", ["area", "voc11", "coco101"])
@pytest.mark.parametrize(
    ("hits", "references", "expected"),
    [
        pytest.param([], 0, NAN, id="nothing at all"),
        pytest.param([False], 0, NAN, id="detections, no reference"),
        pytest.param([], 2, 0.0, id="references, no detection"),
        pytest.param([False, False], 2, 0.0, id="no hit"),
        pytest.param([True, True], 2, 1.0, id="all hits"),
        pytest.param([True, True, False], 2, 1.0, id="false alarms last"),
    ],
)
def test_every_outcome_is_pinned(
    interpolation: Any, hits: list[bool], references: int, expected: float
) -> None:
    found = average_precision(RANKED[: len(hits)], hits, references, interpolation)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_recalls_of_whole_tenths_count_at_their_tenth() -> None:
    # Three of ten found, all at once: recalls 0, 0.1, 0.2 and 0.3 have precision 1, however 0.3 is rounded.
    assert average_precision(RANKED[:3], [True] * 3, 10, "voc11") == pytest.approx(4 / 11)


def test_equal_scores_are_ranked_as_given() -> None:
    assert average_precision([0.5, 0.5], [True, False], 1) == 1.0
    assert average_precision([0.5, 0.5], [False, True], 1) == 0.5


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_average_precision_is_its_definition(hits: list[bool], missed: int) -> None:
    references = sum(hits) + missed
    scores = np.arange(len(hits), 0, -1)
    area, voc, coco = (
        average_precision(scores, hits, references, one) for one in ("area", "voc11", "coco101")
    )
    if references == 0:
        np.testing.assert_equal((area, voc, coco), (NAN, NAN, NAN))
        return
    points = [(sum(hits[: k + 1]), sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]

    def at(found: float) -> float:
        return max((precision for hit, precision in points if hit >= found - 1e-9), default=0.0)

    assert area == pytest.approx(sum(at(hit) for hit in range(1, references + 1)) / references)
    assert voc == pytest.approx(sum(at(level * references / 10) for level in range(11)) / 11)
    # Its thresholds carry rounding: a recall that is a whole hundredth may count one level less.
    exact = sum(at(level * references / 100) for level in range(101)) / 101
    assert exact - len(points) / 101 <= coco <= exact + 1e-12
    assert 0 <= area <= 1


def test_average_precision_refuses_what_it_cannot_use() -> None:
    with pytest.raises(InputError, match="3 hits of 2 references"):
        average_precision(RANKED, LECTURE, 2)
    with pytest.raises(InputError, match=r"^scores: shape \(4,\) does not fit 5"):
        average_precision(RANKED[:4], LECTURE, 3)
    with pytest.raises(InputError, match="not a list of true and false"):
        average_precision([0.5], [1], 3)
    with pytest.raises(InputError, match="NaN"):
        average_precision([NAN], [True], 3)
    with pytest.raises(ConfigError, match="'voc' is no interpolation"):
        average_precision(RANKED, LECTURE, 3, "voc")  # type: ignore[arg-type]


def test_each_reference_is_hit_once_by_the_best_detection() -> None:
    boxes = [[0, 0, 10, 8], [0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]
    references = [[0, 0, 10, 10], [0, 0, 10, 7]]
    # By score: the last hits nothing; the first takes the lower one (7/8 against 8/10); the third the other.
    found = match_detections(boxes, [0.8, 0.1, 0.5, 0.9], references, [0.5, 0.85, 0.9, 0.95])
    assert found.tolist() == [
        [True, False, True, False],
        [True, False, True, False],
        [False, False, True, False],
        [False, True, False, False],
    ]


def test_without_references_nothing_is_hit() -> None:
    assert match_detections([[0, 0, 1, 1]], [0.5], [], [0.5]).tolist() == [[False]]
    assert match_detections([], [], [[0, 0, 1, 1]], [0.5]).shape == (1, 0)


@pytest.mark.parametrize("thresholds", [[0], [1.1], [], [NAN]])
def test_thresholds_that_are_none_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(ConfigError, match="no thresholds"):
        match_detections([[0, 0, 1, 1]], [0.5], [], thresholds)


def test_a_mean_by_hand() -> None:
    detections = [
        Detections([[0, 0, 4, 4], [9, 9, 10, 10]], [0.9, 0.95], [1, 2]),
        Detections([], []),
        Detections([[0, 0, 4, 4], [0, 0, 4, 3]], [0.3, 0.5]),
    ]
    references = [
        References([[0, 0, 4, 4]], [1]),
        References([[1, 1, 2, 2], [1, 1, 3, 3]], [1, 3]),
        References([[0, 0, 4, 4]]),
    ]
    found = mean_average_precision(detections, references, iou_thresholds=(0.5, 0.8), interpolation="area")
    assert found.classes == (1, 2, 3)
    assert found.n_references == (3, 0, 1)
    assert found.n_detections == (3, 1, 0)
    # Class 1 at 0.5: hits at ranks 1 and 2 of three; at 0.8: ranks 1 and 3, the second being 0.75 alone.
    np.testing.assert_allclose(found.average_precisions[0], [2 / 3, (1 + 2 / 3) / 3])
    np.testing.assert_array_equal(found.average_precisions[1:], [[NAN, NAN], [0, 0]])
    assert found.mean == pytest.approx((2 / 3 + 5 / 9 + 0 + 0) / 4)
    np.testing.assert_allclose(list(found.by_class.values()), [(2 / 3 + 5 / 9) / 2, NAN, 0])
    np.testing.assert_allclose(list(found.by_threshold.values()), [1 / 3, 5 / 18])


def test_only_the_best_detections_of_an_image_count() -> None:
    boxes = [[0, 0, 1, 1], [0, 0, 4, 4]]
    few = [
        mean_average_precision(
            [Detections(boxes, [0.9, 0.5])], [References([[0, 0, 4, 4]])], max_detections=k
        )
        for k in (1, 2)
    ]
    assert [one.mean for one in few] == [0.0, 0.5]
    assert [one.n_detections for one in few] == [(1,), (2,)]


def test_a_mean_of_nothing_is_none() -> None:
    assert math.isnan(mean_average_precision([], []).mean)
    nothing = mean_average_precision([Detections([], [])], [References([])])
    np.testing.assert_equal((nothing.classes, nothing.mean), ((), NAN))
    only_invented = mean_average_precision([Detections([[0, 0, 1, 1]], [0.5])], [References([])])
    assert (only_invented.n_references, only_invented.n_detections) == ((0,), (1,))
    assert math.isnan(only_invented.mean)


def test_a_mean_refuses_what_it_cannot_use() -> None:
    image, truth = Detections([[0, 0, 1, 1]], [0.5]), References([[0, 0, 1, 1]])
    with pytest.raises(InputError, match="1 images with detections, 2 with references"):
        mean_average_precision([image], [truth, truth])
    with pytest.raises(ConfigError, match="0 detections are too few"):
        mean_average_precision([image], [truth], max_detections=0)
    with pytest.raises(InputError, match="2D and in 3D"):
        mean_average_precision([image], [References([[0, 0, 0, 1, 1, 1]])])
    for classes in ([1, 2], [0.5], ["liver"]):
        with pytest.raises(InputError, match="classes are not 1 integers"):
            Detections([[0, 0, 1, 1]], [0.5], classes)


def scene(
    rng: np.random.Generator, axes: int, sizes: tuple[int, ...]
) -> tuple[list[Detections], list[References]]:
    """Images of two classes: references, detections near them, doubles, false alarms, scores in few steps."""
    detections, references = [], []
    for size in sizes:
        truth = random_boxes(rng, size, axes)
        near = np.concatenate([truth, truth[: size // 2]]) + rng.normal(0, 1, (size + size // 2, 2 * axes))
        boxes = np.concatenate([near, random_boxes(rng, 3, axes)])
        classes = np.concatenate([np.arange(size) % 2, np.arange(size // 2) % 2, rng.integers(0, 2, 3)])
        references.append(References(truth, np.arange(size) % 2))
        detections.append(Detections(boxes, rng.integers(0, 8, len(boxes)) / 8, classes))
    return detections, references


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_monai(axes: int, seed: int) -> None:
    pytest.importorskip("monai")
    from monai.apps.detection.metrics.coco import COCOMetric
    from monai.apps.detection.metrics.matching import matching_batch
    from monai.data.box_utils import box_iou as monai_box_iou

    # 13 and 11 references: no recall but 0 and 1 is a whole hundredth, where MONAI's single precision is off.
    detections, references = scene(np.random.default_rng(seed), axes, (7, 0, 6, 4, 7))
    metric = COCOMetric(["a", "b"], iou_list=(0.5,), iou_range=(0.5, 0.95, 0.05), max_detection=(100,))
    matched = matching_batch(
        monai_box_iou,
        metric.iou_thresholds,
        *([getattr(image, name) for image in detections] for name in ("boxes", "classes", "scores")),
        *([getattr(image, name) for image in references] for name in ("boxes", "classes")),
    )
    expected = metric(matched)[0]
    found = mean_average_precision(detections, references)
    assert found.n_references == (13, 11)
    suffix = "mAP_IoU_0.50_0.95_0.05_MaxDet_100"
    assert found.mean == pytest.approx(expected[suffix], abs=1e-6)
    assert found.by_class[0] == pytest.approx(expected[f"a_{suffix}"], abs=1e-6)
    assert found.by_class[1] == pytest.approx(expected[f"b_{suffix}"], abs=1e-6)
    assert found.by_threshold[0.5] == pytest.approx(expected["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    assert 0.1 < found.mean < 0.9


@pytest.mark.data
def test_boxes_of_real_vertebrae(test_data: Path) -> None:
    from medseg.io import read_volume

    volume = read_volume(test_data / "ct/vertebra/sub-ct_seg-vert_label-22_msk.nii.gz")
    instances = np.squeeze(volume.array)
    ids, boxes = boxes_of_instances(instances)
    assert ids.tolist() == [21, 22, 23]
    for number, box in zip(ids, boxes.astype(int), strict=True):
        places = np.argwhere(instances == number)
        assert box.tolist() == [*places.min(axis=0), *(places.max(axis=0) + 1)]
    found = mean_average_precision(
        [Detections(boxes + 1, [0.9, 0.8, 0.7])], [References(boxes)], iou_thresholds=(0.5,)
    )
    assert found.mean == 1.0
