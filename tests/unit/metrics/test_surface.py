"""Distances between surfaces: hand-computed, properties, brute force, and MONAI."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_mask_edges
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.io import read_volume
from medseg.labels import LabelScheme
from medseg.metrics import surface_distances, surface_metrics, surface_metrics_of_labels
from medseg.metrics.surface import SurfaceKind

KINDS: list[SurfaceKind] = ["area", "voxels"]
UNIT = (1.0, 1.0, 1.0)


def blob(shape: tuple[int, ...], seed: int, *, part: float = 0.3, smoothness: float = 1.5) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smoothness)
    return field > np.quantile(field, 1 - part)


def voxel(shape: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6))
    masks = hnp.arrays(np.bool_, shape)
    spacing = draw(st.lists(st.sampled_from([0.5, 0.7, 1.0, 3.0]), min_size=len(shape), max_size=len(shape)))
    return draw(masks.filter(np.any)), draw(masks.filter(np.any)), tuple(spacing)


# Hand-computed


@pytest.mark.parametrize("apart", [1, 3, 20])
def test_two_single_voxels(apart: int) -> None:
    # Eight cells surround a voxel, four on either side: half of each surface is a voxel nearer.
    pred, ref = voxel((3, 3, 30), (1, 1, 2)), voxel((3, 3, 30), (1, 1, 2 + apart))
    found = surface_distances(pred, ref, UNIT)
    assert found.hausdorff_mm() == apart
    assert found.hausdorff_mm(95) == apart
    assert found.hausdorff_mm(50) == apart - 1
    assert found.assd_mm() == pytest.approx(apart - 0.5)
    assert found.nsd(apart - 1) == pytest.approx(0.5)
    assert found.ref_to_pred.area.sum() == pytest.approx(math.sqrt(3))
    score = surface_metrics(pred, ref, (1.0, 1.0, 2.0), tolerance_mm=1.9, surface="voxels")
    assert (score.hd_mm, score.hd95_mm, score.assd_mm, score.nsd) == (2 * apart, 2 * apart, 2 * apart, 0.0)


def test_a_shifted_cube() -> None:
    pred = np.zeros((7, 7, 7), bool)
    ref = pred.copy()
    ref[1:4, 2:5, 2:5] = pred[2:5, 2:5, 2:5] = True
    # Of 26 voxels the 9 of the outer face are 2 mm away, the centre of the face opposite is 1 mm from a ring.
    found = surface_distances(pred, ref, (2.0, 1.0, 1.0), surface="voxels")
    assert found.ref_to_pred.mm.tolist() == found.pred_to_ref.mm.tolist() == [0.0, 1.0, 2.0]
    assert found.ref_to_pred.area.tolist() == found.pred_to_ref.area.tolist() == [16.0, 1.0, 9.0]
    assert found.assd_mm() == pytest.approx(19 / 26)
    assert found.nsd(1.0) == pytest.approx(17 / 26)
    assert found.hausdorff_mm(60) == 0.0
    assert found.hausdorff_mm(62) == pytest.approx(0.5)  # halfway from the 16th to the 17th of 26


def test_two_plates() -> None:
    pred = np.zeros((12, 4, 4), bool)
    ref = pred.copy()
    pred[1], ref[8] = True, True
    found = surface_distances(pred, ref, (1.5, 1.0, 1.0))
    # Two cells thick: the sides that face each other are 6 voxels apart, the others 7.
    assert found.ref_to_pred.mm.tolist() == [9.0, 10.5]
    assert found.directed_means_mm() == pytest.approx((9.75, 9.75))


def test_a_contour_has_its_length_and_a_box_its_area() -> None:
    square = np.ones((2, 2), bool)
    assert surface_distances(square, square, (1.0, 1.0)).ref_to_pred.area.sum() == pytest.approx(4 + 8**0.5)
    slab = np.ones((30, 20, 10), bool)  # to the image's border: there is its surface
    area = surface_distances(slab, slab, (1.0, 2.0, 3.0)).ref_to_pred.area.sum()
    assert area == pytest.approx(2 * (30 * 40 + 40 * 30 + 30 * 30), rel=0.06)


def test_where_a_structure_is_cut_off_it_has_a_surface() -> None:
    whole, part = np.ones((5, 5), bool), np.ones((5, 5), bool)
    part[4] = False
    assert surface_metrics(part, whole, (1.0, 1.0)).hd_mm == 1.0
    assert surface_metrics(part, whole, (1.0, 1.0), surface="voxels").hd_mm == 1.0


# Every outcome of empty masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5)])
def test_every_empty_case_is_pinned(shape: tuple[int, ...], kind: SurfaceKind) -> None:
    empty, there = np.zeros(shape, bool), voxel(shape, (2,) * len(shape))
    cases = [
        (there, there, (0.0, 0.0, 0.0, 1.0, "ok")),
        (empty, there, (math.nan, math.nan, math.nan, 0.0, "missed")),
        (there, empty, (math.nan, math.nan, math.nan, 0.0, "spurious")),
        (empty, empty, (math.nan, math.nan, math.nan, math.nan, "absent")),
    ]
    for pred, ref, outcome in cases:
        score = surface_metrics(pred, ref, (1.0,) * len(shape), surface=kind)
        found = (score.hd_mm, score.hd95_mm, score.assd_mm, score.nsd, score.status)
        np.testing.assert_equal(found, outcome)


def test_one_missing_surface_is_infinitely_far_and_keeps_the_other_ones_area() -> None:
    found = surface_distances(np.zeros((3, 3, 3), bool), voxel((3, 3, 3), (1, 1, 1)), UNIT)
    assert not found.is_defined
    assert found.ref_to_pred.mm.tolist() == [math.inf]
    assert found.ref_to_pred.area.sum() == pytest.approx(math.sqrt(3))
    assert found.pred_to_ref.mm.size == 0
    np.testing.assert_equal(found.directed_means_mm(), (math.nan, math.nan))


def test_an_image_without_voxels_holds_nothing() -> None:
    nothing = np.zeros((0, 4, 4), bool)
    assert surface_metrics(nothing, nothing, UNIT).status == "absent"
    labels = nothing.astype(np.uint8)
    assert surface_metrics_of_labels(labels, labels, [1], UNIT)[1].status == "absent"


# Properties


@pytest.mark.parametrize("kind", KINDS)
@given(pair=mask_pairs())
@settings(max_examples=40, deadline=None)
def test_symmetric_and_the_same_however_the_image_lies(kind: SurfaceKind, pair: tuple) -> None:
    pred, ref, spacing = pair
    score = surface_metrics(pred, ref, spacing, surface=kind)
    expected = pytest.approx((score.hd_mm, score.hd95_mm, score.assd_mm, score.nsd))
    axes = (*range(1, pred.ndim), 0)
    laid = {
        "swapped": (ref, pred, spacing),
        "flipped": (np.flip(pred), np.flip(ref), spacing),
        "transposed": (pred.transpose(axes), ref.transpose(axes), [spacing[axis] for axis in axes]),
        "in Fortran order": (np.asfortranarray(pred), np.asfortranarray(ref), spacing),
        "shifted": (np.pad(pred, [(5, 2)] * pred.ndim), np.pad(ref, [(5, 2)] * ref.ndim), spacing),
    }
    for one, other, lengths in laid.values():
        found = surface_metrics(one, other, lengths, surface=kind)
        assert (found.hd_mm, found.hd95_mm, found.assd_mm, found.nsd) == expected


@pytest.mark.parametrize("kind", KINDS)
@given(pair=mask_pairs(), factor=st.sampled_from([0.125, 2.0, 16.0]))
@settings(max_examples=25, deadline=None)
def test_distances_scale_with_the_spacing(kind: SurfaceKind, pair: tuple, factor: float) -> None:
    pred, ref, spacing = pair
    score = surface_metrics(pred, ref, spacing, surface=kind)
    scaled = [length * factor for length in spacing]
    found = surface_metrics(pred, ref, scaled, tolerance_mm=factor, surface=kind)
    assert found.nsd == pytest.approx(score.nsd)
    assert found.hd95_mm == pytest.approx(factor * score.hd95_mm)
    assert found.assd_mm == pytest.approx(factor * score.assd_mm)


@pytest.mark.parametrize("kind", KINDS)
@given(pair=mask_pairs())
@settings(max_examples=25, deadline=None)
def test_percentiles_rise_and_bound_the_rest(kind: SurfaceKind, pair: tuple) -> None:
    found = surface_distances(*pair, surface=kind)
    percentiles = [found.hausdorff_mm(percentile) for percentile in (0, 5, 50, 95, 99.9, 100)]
    assert percentiles == sorted(percentiles)
    assert max(found.directed_means_mm()) <= percentiles[-1] + 1e-12
    assert min(found.directed_means_mm()) - 1e-12 <= found.assd_mm() <= max(found.directed_means_mm()) + 1e-12
    tolerated = [found.nsd(tolerance) for tolerance in (0.0, 0.5, 2.0, percentiles[-1])]
    assert tolerated == sorted(tolerated)
    assert tolerated[-1] == pytest.approx(1.0)


def test_rounding_does_not_decide_which_distance_a_percentage_keeps() -> None:
    # Ten voxels of a line, each alike and each farther from the reference: 0.7 of them are exactly seven.
    spots = np.zeros((40, 1), bool)
    spots[::4] = True
    ref = np.zeros_like(spots)
    ref[0] = True
    there = surface_distances(spots, ref, (1.0, 1.0))
    assert there.hausdorff_mm(70) == there.hausdorff_mm(69.9) < there.hausdorff_mm(70.1)


# Brute force


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 2.5, 1.1), (1.3, 0.6)])
@pytest.mark.parametrize("seed", range(4))
def test_area_is_what_all_pairs_of_elements_say(spacing: tuple[float, ...], seed: int) -> None:
    shape = (11, 9, 14)[: len(spacing)]
    pred, ref = blob(shape, seed), blob(shape, seed + 100, part=0.1)
    padded = [torch.from_numpy(np.pad(mask, 1)) for mask in (pred, ref)]
    pred_edges, ref_edges, pred_areas, ref_areas = (
        np.asarray(found) for found in get_mask_edges(*padded, crop=False, spacing=spacing)
    )
    apart = cdist(np.argwhere(pred_edges) * spacing, np.argwhere(ref_edges) * spacing)
    directions = [
        (apart.min(axis=1), pred_areas[pred_edges].astype(float)),
        (apart.min(axis=0), ref_areas[ref_edges].astype(float)),
    ]
    found = surface_distances(pred, ref, spacing)
    for percentile in (30, 95, 100):
        kept = []
        for distances, areas in directions:
            order = np.argsort(distances)
            share = np.cumsum(areas[order]) / areas.sum()
            kept.append(distances[order][np.flatnonzero(share >= percentile / 100 - 1e-6)[0]])
        assert found.hausdorff_mm(percentile) == pytest.approx(max(kept))
    means = [np.average(distances, weights=areas) for distances, areas in directions]
    assert found.directed_means_mm() == pytest.approx(means, rel=1e-5)
    total = sum(areas.sum() for _, areas in directions)
    assert found.assd_mm() == pytest.approx(sum(d @ a for d, a in directions) / total, rel=1e-5)
    assert found.nsd(1.55) == pytest.approx(sum(a[d <= 1.55].sum() for d, a in directions) / total, rel=1e-5)


# MONAI


def monai_scores(pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, ...]:
    pair = [torch.from_numpy(np.ascontiguousarray(mask))[None, None].float() for mask in (pred, ref)]
    options = {"include_background": True, "spacing": spacing}
    return tuple(
        float(found)
        for found in (
            compute_hausdorff_distance(*pair, **options),
            compute_hausdorff_distance(*pair, percentile=95, **options),
            compute_average_surface_distance(*pair, symmetric=True, **options),
            compute_surface_dice(*pair, [1.05], **options),
            compute_surface_dice(*pair, [1.05], use_subvoxels=True, **options),
        )
    )


def medseg_scores(pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, ...]:
    voxels = surface_metrics(pred, ref, spacing, tolerance_mm=1.05, surface="voxels")
    nsd_by_area = surface_distances(pred, ref, spacing).nsd(1.05)
    return voxels.hd_mm, voxels.hd95_mm, voxels.assd_mm, voxels.nsd, nsd_by_area


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.7, 3.1), (1.3, 0.6)])
@pytest.mark.parametrize("seed", range(5))
def test_voxels_are_those_of_monai(spacing: tuple[float, ...], seed: int) -> None:
    shape = (17, 22, 13)[: len(spacing)]
    pred, ref = blob(shape, seed), blob(shape, seed + 50, part=0.2)
    if seed == 0:
        pred = ref ^ (np.random.default_rng(0).random(shape) < 0.02)
    assert medseg_scores(pred, ref, spacing) == pytest.approx(monai_scores(pred, ref, spacing), rel=1e-5)


@pytest.mark.data
def test_real_structures_are_as_far_apart_as_monai_says(test_data: Path) -> None:
    paths = sorted((test_data / "mr" / "hippocampus" / "labelsTr").glob("hippocampus_*.nii.gz"))[:12]
    for one, other in itertools.pairwise(paths):
        maps = [read_volume(path) for path in (one, other)]
        shape = np.minimum(maps[0].grid.shape, maps[1].grid.shape)
        pred, ref = (np.asarray(volume.array)[0][tuple(map(slice, shape))] == 1 for volume in maps)
        spacing = maps[0].grid.spacing_mm
        assert medseg_scores(pred, ref, spacing) == pytest.approx(monai_scores(pred, ref, spacing), rel=1e-5)


@pytest.mark.data
def test_many_labels_of_a_ct_are_scored_in_one_call(test_data: Path) -> None:
    volume = read_volume(test_data / "ct" / "totalsegmentator" / "example_seg.nii.gz")
    ref = np.asarray(volume.array)[0]
    pred = np.roll(ref, 2, axis=1)
    values = [int(value) for value in np.unique(ref) if value]
    scores = surface_metrics_of_labels(pred, ref, values, volume.grid.spacing_mm)
    assert len(scores) > 30
    for value in values[::5]:
        assert scores[value] == surface_metrics(pred == value, ref == value, volume.grid.spacing_mm)


# Label maps


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_each_label_scores_as_its_mask_does(dtype: type, order: str) -> None:
    random = np.random.default_rng(0)
    ref = (np.digitize(blob_field(0), np.linspace(-1.5, 1.5, 20)) * 2).astype(dtype, order=order)
    pred = np.where(random.random(ref.shape) < 0.1, np.roll(ref, 1, axis=0), ref)
    pred[pred == 6] = 0
    for values in ([2, 6, 8, 0, 120], list(range(41))):  # few labels, and many
        scores = surface_metrics_of_labels(pred, ref, values, (1.0, 1.5, 2.0), tolerance_mm=2.0)
        assert list(scores) == [value for value in values if value]
        for value, score in scores.items():
            alone = surface_metrics(pred == value, ref == value, (1.0, 1.5, 2.0), tolerance_mm=2.0)
            np.testing.assert_equal(vars(score), pytest.approx(vars(alone), nan_ok=True, abs=0))
    assert scores[6].status == "missed"
    assert scores[7].status == "absent"


def blob_field(seed: int) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((18, 15, 12)), 2)
    return field / field.std()


def test_labels_may_be_large_and_may_come_as_a_scheme() -> None:
    ref = np.zeros((6, 6, 6), np.int64)
    ref[1:3, 1:3, 1:3], ref[4, 4, 4] = 5_000_000_000, 9
    scheme = LabelScheme.from_names({9: "lesion", 5_000_000_000: "organ"})
    pred = np.where(ref == 9, 0, ref)
    scores = surface_metrics_of_labels(pred, ref, scheme, UNIT, surface="voxels")
    assert list(scores) == [9, 5_000_000_000]
    assert (scores[9].status, scores[5_000_000_000].nsd) == ("missed", 1.0)


def test_a_structure_that_is_only_predicted_is_named_spurious() -> None:
    pred = np.zeros((5, 5), np.uint8)
    pred[2, 2] = 4
    score = surface_metrics_of_labels(pred, np.zeros_like(pred), [4], (1.0, 1.0))[4]
    assert (score.status, score.nsd) == ("spurious", 0.0)


# Refusals


def test_shapes_must_agree() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 2, 3\) of the prediction is not the reference's"):
        surface_metrics(np.zeros((2, 2, 3), bool), np.zeros((2, 2, 2), bool), UNIT)
    with pytest.raises(GeometryError, match="is not the reference's"):
        surface_metrics_of_labels(np.zeros((2, 2), int), np.zeros((2, 3), int), [1], (1.0, 1.0))


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2, 2)])
def test_one_and_four_axes_are_refused(shape: tuple[int, ...]) -> None:
    mask = np.ones(shape, bool)
    with pytest.raises(GeometryError, match="surfaces need 2 or 3"):
        surface_metrics(mask, mask, (1.0,) * len(shape))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (math.inf, 1.0, 1.0), ()])
def test_a_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(GeometryError, match="spacing of 3 axes"):
        surface_distances(mask, mask, spacing)


def test_masks_are_boolean_and_label_maps_are_numbers() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(InputError, match="pred: holds uint8"):
        surface_metrics(mask.view(np.uint8), mask, UNIT)
    with pytest.raises(InputError, match="ref: holds float64"):
        surface_metrics(mask, mask.astype(float), UNIT)
    with pytest.raises(InputError, match="no label values"):
        surface_metrics_of_labels(mask, mask.astype("S1"), [1], UNIT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surface": "areas"}, "did you mean 'area'"),
        ({"percentile": 101.0}, "101.0 is not a percentile"),
        ({"percentile": math.nan}, "not a percentile"),
        ({"tolerance_mm": -1.0}, "cannot be tolerated"),
        ({"tolerance_mm": math.inf}, "cannot be tolerated"),
    ],
)
def test_options_out_of_range_are_refused_even_where_nothing_is_compared(options: dict, message: str) -> None:
    mask = np.zeros((2, 2, 2), bool)
    with pytest.raises(ConfigError, match=message):
        surface_metrics(mask, mask, UNIT, **options)
    with pytest.raises(ConfigError, match=message):
        surface_metrics_of_labels(mask, mask, [], UNIT, **options)
