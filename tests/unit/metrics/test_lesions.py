"""Lesions: hand-made masks for each rule, SciPy's counts, brute force over voxel pairs, real vertebrae."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.metrics import DistanceCriterion, LesionScore, OverlapCriterion, lesion_metrics

NAN = math.nan
UNIT = (1.0, 1.0, 1.0)
CUBE = 10.0
"""Voxels of 10 mm: one millilitre each."""


def line(text: str) -> np.ndarray:
    """A mask (X, 1, 1), '#' for a voxel of a lesion."""
    return np.array([letter == "#" for letter in text]).reshape(-1, 1, 1)


def score_lines(pred: str, ref: str, **options: Any) -> LesionScore:
    return lesion_metrics(line(pred), line(ref), (CUBE, CUBE, CUBE), **options)


def counts(score: LesionScore) -> tuple[int, int, int, int, int]:
    return score.n_ref, score.n_pred, score.n_found, score.n_missed, score.n_invented


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    masks = hnp.arrays(np.int8, shape, elements=st.sampled_from([0, 0, 0, 1]))
    return draw(masks) > 0, draw(masks) > 0


def test_any_common_voxel_will_do_by_default() -> None:
    score = score_lines("##..#..#.", "#...##..#")
    assert counts(score) == (3, 3, 2, 1, 1)
    assert (score.sensitivity, score.precision, score.f1) == (2 / 3, 2 / 3, pytest.approx(2 / 3))
    assert [lesion.dice for lesion in score.ref_lesions] == [2 / 3, 2 / 3, 0.0]
    assert score.mean_dice == pytest.approx(4 / 9)
    first, _, last = score.ref_lesions
    assert (first.number, first.volume_ml, first.matched, first.partners) == (1, 1.0, True, (1,))
    assert (last.number, last.volume_ml, last.matched, last.partners) == (3, 1.0, False, ())
    assert [(lesion.number, lesion.matched) for lesion in score.pred_lesions] == [(1, 1), (2, 1), (3, 0)]


@pytest.mark.parametrize(
    ("pred", "ref", "sensitivity", "precision", "f1", "dice"),
    [
        pytest.param("...", "...", NAN, NAN, NAN, NAN, id="neither"),
        pytest.param("...", "#.#", 0.0, NAN, 0.0, 0.0, id="missed"),
        pytest.param("#.#", "...", NAN, 0.0, 0.0, NAN, id="invented"),
        pytest.param("#..", "..#", 0.0, 0.0, 0.0, 0.0, id="apart"),
        pytest.param("#.#", "#.#", 1.0, 1.0, 1.0, 1.0, id="perfect"),
    ],
)
@pytest.mark.parametrize("one_to_one", [False, True])
@pytest.mark.parametrize(
    "criterion",
    [
        OverlapCriterion(),
        OverlapCriterion("iou", 0.5),
        DistanceCriterion(5),
        DistanceCriterion(5, "centroids"),
    ],
)
def test_every_outcome_is_pinned(
    pred: str,
    ref: str,
    sensitivity: float,
    precision: float,
    f1: float,
    dice: float,
    one_to_one: bool,
    criterion: OverlapCriterion | DistanceCriterion,
) -> None:
    score = score_lines(pred, ref, one_to_one=one_to_one, criterion=criterion)
    np.testing.assert_equal(
        (score.sensitivity, score.precision, score.f1, score.mean_dice), (sensitivity, precision, f1, dice)
    )


def test_a_grid_without_voxels_has_no_lesions() -> None:
    empty = np.zeros((0, 3, 3), bool)
    for criterion in (OverlapCriterion(), DistanceCriterion(5)):
        assert counts(lesion_metrics(empty, empty, UNIT, criterion=criterion)) == (0, 0, 0, 0, 0)


def test_pieces_count_together_unless_one_to_one() -> None:
    pred, ref = "##.##...", "#####..."
    together = score_lines(pred, ref, criterion=OverlapCriterion("iou", 0.8))
    assert counts(together) == (1, 2, 1, 0, 2)  # each piece by itself covers two of five voxels
    assert together.ref_lesions[0].partners == (1, 2)
    assert together.ref_lesions[0].dice == 8 / 9
    assert counts(score_lines(pred, ref)) == (1, 2, 1, 0, 0)
    single = score_lines(pred, ref, one_to_one=True)
    assert counts(single) == (1, 2, 1, 0, 1)
    assert single.ref_lesions[0].dice == 4 / 7


def test_neighbours_predicted_as_one_are_found_together_unless_one_to_one() -> None:
    pred, ref = "#####", "##.##"
    assert counts(score_lines(pred, ref)) == (2, 1, 2, 0, 0)
    assert counts(score_lines(pred, ref, one_to_one=True)) == (2, 1, 1, 1, 0)
    # The prediction's IoU with both is 4/5; each lesion's with it only 2/5.
    assert counts(score_lines(pred, ref, criterion=OverlapCriterion("iou", 0.8))) == (2, 1, 0, 2, 0)
    assert counts(score_lines(pred, ref, criterion=OverlapCriterion("coverage", 1))) == (2, 1, 2, 0, 1)


@pytest.mark.parametrize(("measure", "share"), [("coverage", 2 / 4), ("iou", 2 / 5), ("dice", 4 / 7)])
@pytest.mark.parametrize("one_to_one", [False, True])
def test_a_share_counts_from_its_limit_on(measure: Any, share: float, one_to_one: bool) -> None:
    pred, ref = "..###", "####."
    for at_least, found in ((share, 1), (share + 0.01, 0)):
        criterion = OverlapCriterion(measure, at_least)
        assert score_lines(pred, ref, criterion=criterion, one_to_one=one_to_one).n_found == found


def test_one_to_one_finds_as_many_as_can_be_found() -> None:
    # Prediction 1 overlaps both lesions, most the first; prediction 2 overlaps the first alone.
    pred = np.zeros((6, 5, 1), bool)
    ref = np.zeros((6, 5, 1), bool)
    ref[:, 0] = True
    ref[:, 3] = True
    pred[:4, 0] = pred[0, 0:4] = True
    pred[5, 0:2] = True
    score = lesion_metrics(pred, ref, UNIT, one_to_one=True)
    assert counts(score) == (2, 2, 2, 0, 0)
    assert [lesion.partners for lesion in score.ref_lesions] == [(2,), (1,)]


@pytest.mark.parametrize(("within_mm", "found"), [(29.9, 0), (30, 1)])
def test_the_nearest_voxels_must_lie_within_the_distance(within_mm: float, found: int) -> None:
    score = score_lines("##.....", "....###", criterion=DistanceCriterion(within_mm))
    assert (score.n_found, score.n_invented) == (found, 1 - found)
    assert score.mean_dice == 0.0


@pytest.mark.parametrize(("within_mm", "found"), [(44.9, 0), (45, 1)])
def test_centroids_must_lie_within_the_distance(within_mm: float, found: int) -> None:
    criterion = DistanceCriterion(within_mm, "centroids")
    assert score_lines("##.....", "....###", criterion=criterion).n_found == found


def test_overlap_is_no_distance_and_zero_will_find_it() -> None:
    assert score_lines(".###.", "#####", criterion=DistanceCriterion(0)).n_found == 1
    assert score_lines("#....", ".####", criterion=DistanceCriterion(0)).n_found == 0
    assert score_lines("#####", "..#..", criterion=DistanceCriterion(0, "centroids")).n_found == 1


def test_nearness_one_to_one_takes_the_nearest_after_the_most() -> None:
    near = DistanceCriterion(30)
    score = score_lines("#..#.....", ".#...#...", criterion=near, one_to_one=True)
    assert [lesion.partners for lesion in score.ref_lesions] == [(1,), (2,)]
    score = score_lines("..#......", "#..#.....", criterion=near, one_to_one=True)
    assert [lesion.partners for lesion in score.ref_lesions] == [(), (1,)]
    assert counts(score_lines("..#......", "#..#.....", criterion=near)) == (2, 1, 2, 0, 0)


def test_distances_follow_the_spacing() -> None:
    pred, ref = np.zeros((2, 4, 5, 6), bool)
    pred[1, 1, 1] = ref[2, 2, 2] = True
    apart = math.sqrt(0.7**2 + 1.1**2 + 5.0**2)
    for between in ("voxels", "centroids"):
        for within_mm, found in ((apart, 1), (apart - 1e-3, 0)):
            criterion = DistanceCriterion(within_mm, between)
            assert lesion_metrics(pred, ref, (0.7, 1.1, 5.0), criterion=criterion).n_found == found


def test_small_components_are_taken_out_of_both() -> None:
    pred, ref = "##.#.###", "#..##.##"
    assert counts(score_lines(pred, ref)) == (3, 3, 3, 0, 0)
    score = score_lines(pred, ref, smallest_volume_ml=2)
    assert counts(score) == (2, 2, 1, 1, 1)
    assert [lesion.number for lesion in score.ref_lesions] == [2, 3]
    assert [lesion.number for lesion in score.pred_lesions] == [1, 3]
    assert [lesion.volume_ml for lesion in score.pred_lesions] == [2.0, 3.0]
    assert counts(score_lines(pred, ref, smallest_volume_ml=9)) == (0, 0, 0, 0, 0)
    assert counts(score_lines(pred, ref, smallest_volume_ml=9, criterion=DistanceCriterion(5)))[:2] == (0, 0)


def test_a_volume_at_the_limit_is_kept_whatever_the_rounding() -> None:
    for voxels in range(1, 12):
        mask = line("#" * voxels)
        score = lesion_metrics(mask, mask, (0.1, 1, 1), smallest_volume_ml=voxels * 0.0001)
        assert counts(score) == (1, 1, 1, 0, 0)


@pytest.mark.parametrize(("connectivity", "lesions"), [("faces", 3), ("edges", 2), ("corners", 1)])
def test_what_hangs_together(connectivity: Any, lesions: int) -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 2, 2] = True
    assert lesion_metrics(mask, mask, UNIT, connectivity=connectivity).n_ref == lesions


@given(mask_pairs(), st.sampled_from([("faces", 1), ("edges", 2), ("corners", 3)]))
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_scipy(pair: tuple[np.ndarray, np.ndarray], kind: tuple[Any, int]) -> None:
    pred, ref = pair
    connectivity, rank = kind
    structure = ndimage.generate_binary_structure(3, rank)
    (pred_numbers, n_pred), (ref_numbers, n_ref) = (ndimage.label(mask, structure) for mask in pair)
    score = lesion_metrics(pred, ref, UNIT, connectivity=connectivity)
    found = [bool((pred & (ref_numbers == number)).any()) for number in range(1, n_ref + 1)]
    true = [bool((ref & (pred_numbers == number)).any()) for number in range(1, n_pred + 1)]
    assert [lesion.matched for lesion in score.ref_lesions] == found
    assert [lesion.matched for lesion in score.pred_lesions] == true
    assert counts(score) == (n_ref, n_pred, sum(found), n_ref - sum(found), n_pred - sum(true))
    for lesion in score.ref_lesions:
        own = ref_numbers == lesion.number
        touching = np.isin(pred_numbers, np.unique(pred_numbers[own & pred]))
        touching &= pred
        assert lesion.partners == tuple(np.unique(pred_numbers[own & pred]).tolist())
        assert lesion.dice == pytest.approx(2 * (own & touching).sum() / (own.sum() + touching.sum()))


@given(mask_pairs(), st.sampled_from([0.0, 1.0, 1.5, 2.2, 100.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_distances_are_those_of_all_voxel_pairs(
    pair: tuple[np.ndarray, np.ndarray], within_mm: float, one_to_one: bool
) -> None:
    spacing = (1.0, 0.5, 2.0)
    places = [
        [np.argwhere(numbers == number) * spacing for number in range(1, size + 1)]
        for numbers, size in (ndimage.label(mask, np.ones((3, 3, 3))) for mask in pair)
    ]
    near = {
        (i, j)
        for (i, one), (j, other) in itertools.product(enumerate(places[0], 1), enumerate(places[1], 1))
        if cdist(one, other).min() <= within_mm
    }
    score = lesion_metrics(*pair, spacing, criterion=DistanceCriterion(within_mm), one_to_one=one_to_one)
    found = {(partner, lesion.number) for lesion in score.ref_lesions for partner in lesion.partners}
    swapped = {(lesion.number, partner) for lesion in score.pred_lesions for partner in lesion.partners}
    assert found == swapped
    if one_to_one:
        assert found <= near
        assert score.n_found == len(found) == score.n_pred - score.n_invented == largest_matching(near)
    else:
        assert found == near


def test_distances_of_larger_lesions_are_those_of_a_distance_map() -> None:
    spacing = (0.8, 0.8, 2.5)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, 30, 30, 20)), (0, 1.5, 1.5, 1))
    pred, ref = noise > 0.16
    (pred_numbers, n_pred), (ref_numbers, n_ref) = (
        ndimage.label(mask, np.ones((3, 3, 3))) for mask in (pred, ref)
    )
    assert min(n_pred, n_ref) > 5
    for within_mm in (3.0, 6.0, 100.0):
        score = lesion_metrics(pred, ref, spacing, criterion=DistanceCriterion(within_mm))
        for lesion in score.ref_lesions:
            away = ndimage.distance_transform_edt(ref_numbers != lesion.number, sampling=spacing)
            nearest = ndimage.minimum(away, pred_numbers, np.arange(1, n_pred + 1))
            assert lesion.partners == tuple((np.flatnonzero(nearest <= within_mm) + 1).tolist())


def largest_matching(pairs: set[tuple[int, int]]) -> int:
    """By augmenting paths, the textbook's way."""
    partner: dict[int, int] = {}

    def augment(left: int, seen: set[int]) -> bool:
        for right in (other for one, other in pairs if one == left):
            if right not in seen:
                seen.add(right)
                if right not in partner or augment(partner[right], seen):
                    partner[right] = left
                    return True
        return False

    return sum(augment(left, set()) for left in {one for one, _ in pairs})


@given(
    mask_pairs(),
    st.sampled_from([OverlapCriterion(), OverlapCriterion("dice", 0.4), DistanceCriterion(1.5)]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_properties(
    pair: tuple[np.ndarray, np.ndarray], criterion: OverlapCriterion | DistanceCriterion, one_to_one: bool
) -> None:
    options: dict[str, Any] = {"criterion": criterion, "one_to_one": one_to_one}
    pred, ref = pair
    score, swapped = (lesion_metrics(*masks, UNIT, **options) for masks in ((pred, ref), (ref, pred)))
    np.testing.assert_allclose(
        (score.sensitivity, score.precision, score.f1), (swapped.precision, swapped.sensitivity, swapped.f1)
    )
    assert counts(lesion_metrics(pred[::-1, :, ::-1], ref[::-1, :, ::-1], UNIT, **options)) == counts(score)
    padded = [np.pad(mask, 2) for mask in pair]
    assert lesion_metrics(*padded, UNIT, **options) == score
    turned = [np.asfortranarray(mask) for mask in pair]
    assert lesion_metrics(*turned, UNIT, **options) == score
    own = lesion_metrics(ref, ref, UNIT, **options)
    assert own.n_missed == own.n_invented == 0
    for value in (score.sensitivity, score.precision, score.f1, score.mean_dice):
        assert math.isnan(value) or 0 <= value <= 1


def test_masks_that_are_none_are_refused() -> None:
    good = np.zeros((2, 3, 4), bool)
    with pytest.raises(InputError, match=r"^pred: uint8 in 3 dimensions is no mask"):
        lesion_metrics(good.astype(np.uint8), good, UNIT)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^ref: bool in 2 dimensions is no mask"):
        lesion_metrics(good, good[0], UNIT)
    with pytest.raises(
        GeometryError, match=r"\(3, 3, 4\) of the prediction is not the reference's \(2, 3, 4\)"
    ):
        lesion_metrics(np.zeros((3, 3, 4), bool), good, UNIT)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, NAN)])
def test_spacings_that_are_none_are_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match=r"^spacing_mm: .* is no spacing"):
        lesion_metrics(line("#"), line("#"), spacing)


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="'sides' is none of these; use faces, edges, corners"):
        score_lines("#", "#", connectivity="sides")
    for volume in (-1, NAN, math.inf):
        with pytest.raises(ConfigError, match="no volume"):
            score_lines("#", "#", smallest_volume_ml=volume)
    for share in (-0.1, 1.1, NAN):
        with pytest.raises(ConfigError, match="no share"):
            OverlapCriterion("iou", share)
    for distance in (-1, NAN, math.inf):
        with pytest.raises(ConfigError, match="no distance"):
            DistanceCriterion(distance)
    with pytest.raises(ConfigError, match="'jaccard' is none of these"):
        OverlapCriterion("jaccard")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'edges' is none of these"):
        DistanceCriterion(1, "edges")  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["mr/vertebra/sub-mri_seg-subreg_label-6_msk", "ct/vertebra/sub-ct_seg-subreg_label-22_msk"]
)
def test_counts_of_real_components_are_those_of_scipy(test_data: Path, name: str) -> None:
    from medseg.io import read_volume

    values = np.squeeze(read_volume(test_data / f"{name}.nii.gz").array)
    ref = (values >= 41) & (values <= 48)
    pred = np.roll(ref, 3, axis=1) & (values != 45)
    score = lesion_metrics(pred, ref, (1.5, 1.5, 1.5), connectivity="faces")
    numbers, n_ref = ndimage.label(ref)
    assert (score.n_ref, score.n_pred) == (n_ref, ndimage.label(pred)[1])
    assert score.n_found == len(np.unique(numbers[ref & pred]))
    volumes = [lesion.volume_ml for lesion in score.ref_lesions]
    np.testing.assert_allclose(volumes, np.bincount(numbers.ravel())[1:] * 1.5**3 / 1000)
    nearby = lesion_metrics(pred, ref, (1.5, 1.5, 1.5), criterion=DistanceCriterion(6.0), one_to_one=True)
    assert score.n_found > 0
    assert nearby.n_found == nearby.n_pred - nearby.n_invented
