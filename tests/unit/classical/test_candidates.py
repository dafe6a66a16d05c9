"""Region growing, blobs and stable regions against SimpleITK, scikit-image and definitions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.classical import (
    confidence_region,
    find_blobs,
    find_stable_regions,
    grow_region,
    laplacian_of_gaussian,
)
from medseg.classical.region_growing import ball
from medseg.errors import ConfigError, GeometryError, InputError

SPACING_MM = (1.0, 0.8, 2.5)


def noisy_ball(seed: int = 0, shape: tuple[int, ...] = (24, 26, 12)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball of 7 mm in noise, and where it is."""
    rng = np.random.default_rng(seed)
    place = np.indices(shape).T * SPACING_MM - np.array([12.0, 10.0, 15.0])
    inside = np.linalg.norm(place, axis=-1).T <= 7.0
    return (100.0 * inside + rng.normal(0.0, 12.0, shape)).astype(np.float32), inside


def seed_at(shape: tuple[int, ...], *indices: tuple[int, ...]) -> np.ndarray:
    seeds = np.zeros(shape, np.bool_)
    for index in indices:
        seeds[index] = True
    return seeds


@pytest.mark.parametrize("connectivity", ["faces", "corners"])
def test_growing_agrees_with_simpleitk(connectivity: Any) -> None:
    image, _ = noisy_ball()
    index = (12, 12, 6)
    full = sitk.ConnectedThresholdImageFilter.FullConnectivity
    filtered = sitk.ConnectedThreshold(
        sitk.GetImageFromArray(image.transpose()),
        [index],
        lower=60.0,
        upper=130.0,
        connectivity=full
        if connectivity == "corners"
        else sitk.ConnectedThresholdImageFilter.FaceConnectivity,
    )
    seeds = seed_at(image.shape, index)
    ours = grow_region(image, seeds, 60.0, 130.0, spacing_mm=SPACING_MM, connectivity=connectivity)
    np.testing.assert_array_equal(ours, sitk.GetArrayFromImage(filtered).transpose() > 0)
    assert 200 < ours.sum() < ours.size


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_confidence_agrees_with_simpleitk(iterations: int) -> None:
    image, inside = noisy_ball()
    index = (12, 12, 6)
    # ITK begins with a cube of 3 x 3 x 3 voxels; with cubic voxels a ball of this radius is the same.
    filtered = sitk.ConfidenceConnected(
        sitk.GetImageFromArray(image.transpose()), [index], iterations, 2.5, 1, 1
    )
    ours = confidence_region(
        image,
        seed_at(image.shape, index),
        spacing_mm=(1.0, 1.0, 1.0),
        radius_mm=1.74,
        iterations=iterations,
    )
    theirs = sitk.GetArrayFromImage(filtered).transpose() > 0
    assert ours.sum() > 50
    np.testing.assert_array_equal(ours, theirs)
    grown = confidence_region(image, seed_at(image.shape, index), spacing_mm=SPACING_MM, radius_mm=3.0)
    assert 2 * (grown & inside).sum() / (grown.sum() + inside.sum()) > 0.9


@given(seed=st.integers(0, 50), farthest_mm=st.floats(0.5, 8.0))
@settings(max_examples=20, deadline=None)
def test_a_region_hangs_together_and_keeps_its_distance(seed: int, farthest_mm: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 4, (8, 9, 5))
    index = tuple(rng.integers(0, size) for size in image.shape)
    seeds = seed_at(image.shape, index)
    grown = grow_region(image, seeds, 1, 3, spacing_mm=SPACING_MM, farthest_mm=farthest_mm)
    _, count = ndimage.label(grown)
    assert count == (1 if image[index] >= 1 else 0)
    apart = np.linalg.norm((np.argwhere(grown) - index) * SPACING_MM, axis=1)
    assert (apart <= farthest_mm + 1e-6).all()
    assert not (ndimage.binary_dilation(grown) & ~grown & (image >= 1)).any() or farthest_mm < 20.0


def test_a_ball_is_round_in_millimetres() -> None:
    assert ball(2.5, (1.0, 0.5, 2.5)).shape == (5, 11, 3)
    assert ball(2.5, (1.0, 0.5, 2.5))[:, :, 0].sum() == 1


def test_the_laplacian_agrees_with_scipy_in_voxels() -> None:
    image, _ = noisy_ball()
    ours = laplacian_of_gaussian(image, 2.0, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(ours, 4.0 * ndimage.gaussian_laplace(image, 2.0), atol=1e-3)


@pytest.mark.parametrize("radius_mm", [3.0, 5.0])
def test_a_ball_is_found_with_its_radius(radius_mm: float) -> None:
    spacing_mm = (1.0, 0.8, 1.5)
    place = np.indices((30, 36, 24)).T * spacing_mm - np.array([14.0, 14.4, 18.0])
    image = 50.0 * (radius_mm >= np.linalg.norm(place, axis=-1).T)
    options: dict[str, Any] = {"smallest_radius_mm": 2.5, "largest_radius_mm": 8.0, "threshold": 30.0}
    (blob,) = find_blobs(image, spacing_mm, scales=9, **options)
    assert blob.index == (14, 18, 12)
    assert blob.strength == pytest.approx(0.92 * 50.0, rel=0.07)
    assert blob.radius_mm == pytest.approx(radius_mm, rel=0.2)
    assert find_blobs(-image, spacing_mm, scales=9, blobs_are="dark", **options) == [blob]
    assert find_blobs(-image, spacing_mm, scales=9, **options) == []


def test_blobs_agree_with_scikit_image() -> None:
    feature = pytest.importorskip("skimage.feature")
    rng = np.random.default_rng(2)
    image = np.zeros((40, 40, 40))
    for _ in range(5):
        middle = rng.integers(8, 32, 3)
        image[rng.uniform(2.0, 4.0) >= np.linalg.norm(np.indices(image.shape).T - middle, axis=-1).T] = 1.0
    ours = find_blobs(
        image,
        (1.0, 1.0, 1.0),
        smallest_radius_mm=2.0,
        largest_radius_mm=5.0,
        threshold=0.25,
        scales=5,
        overlap=0.5,
    )
    root = np.sqrt(3.0)
    theirs = feature.blob_log(
        image,
        min_sigma=2.0 / root,
        max_sigma=5.0 / root,
        num_sigma=5,
        log_scale=True,
        threshold=0.25,
        overlap=1.0,
    )
    places = {tuple(int(voxel) for voxel in blob[:3]) for blob in theirs}
    assert len(ours) >= 3
    assert {blob.index for blob in ours} <= places


@pytest.mark.parametrize("regions_are", ["bright", "dark"])
def test_a_ball_on_a_slope_is_stable(regions_are: Any) -> None:
    image, inside = noisy_ball(1)
    slope = ndimage.gaussian_filter(image, 0.7) + np.linspace(0.0, 30.0, image.shape[0])[:, None, None]
    regions = find_stable_regions(
        slope if regions_are == "bright" else -slope,
        SPACING_MM,
        delta=15.0,
        smallest_volume_ml=0.2,
        largest_volume_ml=5.0,
        regions_are=regions_are,
    )
    found = np.zeros_like(inside)
    found[regions[0].box] = regions[0].mask
    assert 2 * (found & inside).sum() / (found.sum() + inside.sum()) > 0.9
    assert regions[0].volume_ml == pytest.approx(found.sum() * 2.0 / 1000.0)


@given(seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_stable_regions_are_components_that_vary_as_they_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(10, 11, 6)), 1.0)
    image = np.round(8 * (image - image.min()) / (image.max() - image.min()))
    regions = find_stable_regions(
        image,
        (10.0, 10.0, 10.0),
        delta=2.0,
        levels=9,
        smallest_volume_ml=2.0,
        largest_volume_ml=400.0,
        largest_variation=3.0,
    )
    for region in regions:
        mask = np.zeros(image.shape, np.bool_)
        mask[region.box] = region.mask
        inside = tuple(np.argwhere(mask)[0])
        numbers, _ = ndimage.label(image >= region.threshold)
        np.testing.assert_array_equal(mask, numbers == numbers[inside])
        lower, _ = ndimage.label(image >= region.threshold - 2.0)
        grown = (lower == lower[inside]).sum()
        assert region.variation == pytest.approx((grown - mask.sum()) / mask.sum())
    for one, other in itertools.combinations(regions, 2):
        smaller, larger = sorted((one.volume_ml, other.volume_ml))
        if one.box == other.box:
            assert (larger - smaller) / larger >= 0.2


def test_tree_sizes_agree_with_scikit_image() -> None:
    morphology = pytest.importorskip("skimage.morphology")
    from medseg.classical.stable_regions import _Tree

    image = np.random.default_rng(3).integers(0, 6, (9, 8, 7)).astype(np.float32)
    tree = _Tree.of(image, np.arange(6.0), "faces")
    # A component of one threshold that is the same at the next is one node of scikit-image's tree.
    parent, order = morphology.max_tree(image.astype(np.uint8), connectivity=1)
    area = np.ones(image.size, np.int64)
    for pixel in order[::-1]:
        if parent.ravel()[pixel] != pixel:
            area[parent.ravel()[pixel]] += area[pixel]
    flat, up = image.ravel(), parent.ravel()
    nodes = [pixel for pixel in order if up[pixel] == pixel or flat[up[pixel]] != flat[pixel]]
    theirs = sorted((int(flat[pixel]), int(area[pixel])) for pixel in nodes)
    changes = [
        (int(level), int(size))
        for index, (level, size) in enumerate(zip(tree.level, tree.sizes, strict=True))
        if not any(tree.sizes[child] == size for child in np.flatnonzero(tree.parent == index))
    ]
    assert sorted(changes) == theirs


FLAT = np.zeros((4, 5, 6))
SEEDS = seed_at(FLAT.shape, (1, 1, 1))
GROWING: dict[str, Any] = {"low": 0, "high": 1, "spacing_mm": (1.0, 1.0, 1.0)}
BLOBS: dict[str, Any] = {"smallest_radius_mm": 1.0, "largest_radius_mm": 2.0, "threshold": 1.0}
STABLE: dict[str, Any] = {"delta": 1.0, "smallest_volume_ml": 0.1, "largest_volume_ml": 1.0}


@pytest.mark.parametrize(
    ("call", "kind", "what"),
    [
        (lambda: grow_region(FLAT, ~SEEDS[1:], **GROWING), GeometryError, "differ in shape"),
        (lambda: grow_region(FLAT, SEEDS & ~SEEDS, **GROWING), InputError, "no seed"),
        (lambda: grow_region(FLAT + np.nan, SEEDS, **GROWING), InputError, "NaN"),
        (lambda: grow_region(FLAT, SEEDS, **{**GROWING, "low": 2}), ConfigError, "no intensity"),
        (lambda: grow_region(FLAT, SEEDS, **GROWING, farthest_mm=-1.0), ConfigError, "no distance"),
        (
            lambda: confidence_region(FLAT, SEEDS, spacing_mm=(1, 1, 1), deviations=0),
            ConfigError,
            "deviations",
        ),
        (lambda: find_blobs(FLAT, (1, 1), **BLOBS), GeometryError, "no spacing"),
        (lambda: find_blobs(FLAT + np.inf, (1, 1, 1), **BLOBS), InputError, "NaN"),
        (lambda: find_blobs(FLAT, (1, 1, 1), **{**BLOBS, "threshold": 0.0}), ConfigError, "threshold"),
        (lambda: find_blobs(FLAT, (1, 1, 1), **{**BLOBS, "smallest_radius_mm": 3.0}), ConfigError, "radius"),
        (lambda: find_blobs(FLAT, (1, 1, 1), **BLOBS, scales=1), ConfigError, "scales"),
        (lambda: find_stable_regions(FLAT, (1, 1, 1), **{**STABLE, "delta": 0.0}), ConfigError, "delta"),
        (lambda: find_stable_regions(FLAT + np.nan, (1, 1, 1), **STABLE), InputError, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        call()


def test_a_flat_image_has_no_candidates() -> None:
    assert find_stable_regions(FLAT, (1.0, 1.0, 1.0), **STABLE) == []
    assert find_blobs(FLAT, (1.0, 1.0, 1.0), **BLOBS) == []
    assert grow_region(FLAT, SEEDS, **GROWING).all()
