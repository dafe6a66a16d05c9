from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Affine
from scipy import ndimage
from scipy.interpolate import BSpline
from torch.nn import functional

from medseg.errors import GeometryError, InputError
from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms import Augmenter
from medseg.transforms.augmentation import ElasticDraw, SpatialDraw
from medseg.transforms.augmentation.spatial import move, swap_classes
from medseg.transforms.augmentation.tensor_products import cubic_spline_weights

QUARTER = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
BENT = ((1.103, 0.207, -0.098), (-0.151, 0.906, 0.053), (0.097, -0.104, 1.047))


def _image(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _moved(draw: SpatialDraw, image: torch.Tensor) -> torch.Tensor:
    return move(draw, [image], [])[0][0]


def test_nothing_drawn_gives_the_patch_bit_for_bit() -> None:
    image, label = _image((2, 5, 6, 7)), torch.arange(210).reshape(1, 5, 6, 7)
    (same,), (same_label,) = move(SpatialDraw((5, 6, 7)), [image], [label])
    assert torch.equal(same, image)
    assert torch.equal(same_label, label)


def test_what_was_read_around_a_patch_is_cut_off() -> None:
    image = _image((1, 9, 6, 8))
    assert torch.equal(_moved(SpatialDraw((5, 6, 6)), image), image[:, 2:7, :, 1:7])


@pytest.mark.parametrize("matrix", [None, QUARTER, BENT])
@pytest.mark.parametrize("mirrored", [(True, False, False), (False, True, True)])
def test_a_flipped_patch_is_the_patch_flipped(matrix: Any, mirrored: Any) -> None:
    image, label = _image((2, 14, 12, 10)), torch.randint(0, 4, (1, 14, 12, 10), dtype=torch.uint8)
    axes = [1 + axis for axis in range(3) if mirrored[axis]]
    elastic = ElasticDraw((4, 5, 4), tuple(np.random.default_rng(0).uniform(-1, 1, 240).tolist()))
    for bend in (None, elastic):
        straight = move(SpatialDraw((8, 8, 6), matrix, bend), [image], [label])
        flipped = move(SpatialDraw((8, 8, 6), matrix, bend, mirrored), [image], [label])
        torch.testing.assert_close(flipped[0][0], straight[0][0].flip(axes), atol=1e-5, rtol=0)
        assert (flipped[1][0] == straight[1][0].flip(axes)).float().mean() > 0.99


def test_a_quarter_turn_is_rot90() -> None:
    image, label = _image((2, 7, 7, 5)), torch.randint(0, 4, (1, 7, 7, 5), dtype=torch.int32)
    (turned,), (turned_label,) = move(SpatialDraw((7, 7, 5), QUARTER), [image], [label])
    torch.testing.assert_close(turned, torch.rot90(image, 1, (2, 1)), atol=1e-5, rtol=0)
    assert torch.equal(turned_label, torch.rot90(label, 1, (2, 1)))
    assert turned_label.dtype == torch.int32


@pytest.mark.parametrize("patch_size", [(9, 10, 8), (14, 12, 11), (1, 10, 8)])
def test_a_resampled_patch_is_scipys(patch_size: tuple[int, int, int]) -> None:
    """Also where it reaches beyond what was read: an image whose border is 0 fades out alike."""
    image = functional.pad(_image((12, 10, 9)), (1, 1) * 3)
    matrix = np.asarray(BENT)
    starts = [(size - wanted) // 2 for size, wanted in zip(image.shape, patch_size, strict=True)]
    middle = np.array([start + (wanted - 1) / 2 for start, wanted in zip(starts, patch_size, strict=True)])
    offset = middle - matrix @ (np.asarray(patch_size) - 1) / 2
    arguments = {"offset": offset, "output_shape": patch_size, "mode": "constant", "prefilter": False}
    draw = SpatialDraw(patch_size, BENT)
    label = (torch.arange(image.numel()).reshape(1, *image.shape) % 250).to(torch.uint8)
    label *= functional.pad(torch.ones(12, 10, 9, dtype=torch.uint8), (1, 1) * 3)
    (moved,), (moved_label,) = move(draw, [image[None]], [label])
    expected = ndimage.affine_transform(image.numpy(), matrix, order=1, **arguments)
    np.testing.assert_allclose(moved[0].numpy(), expected, atol=1e-4)
    expected = ndimage.affine_transform(label[0].numpy(), matrix, order=0, **arguments)
    assert (moved_label[0].numpy() == expected).mean() > 0.995


def test_a_turned_and_scaled_patch_is_monais(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter((10, 12, 8), spatial_probability=1.0, rotation_degrees=25, scale=0.3)
    image = _image((1, 24, 26, 22))
    for seed in range(5):
        draw = augmenter.draw(np.random.default_rng(seed)).spatial
        affine = np.eye(4)
        affine[:3, :3] = draw.matrix
        monai = Affine(affine=affine, spatial_size=(10, 12, 8), padding_mode="zeros", image_only=True)
        expected = torch.as_tensor(np.asarray(monai(image)))
        torch.testing.assert_close(_moved(draw, image), expected, atol=1e-4, rtol=0)


def test_the_margin_of_a_draw_is_enough(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter(
        (10, 12, 6), spatial_probability=0.8, elastic_probability=0.8, scale=0.3, mirror="all"
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        draw = augmenter.draw(rng).spatial
        shape = [size + 2 * edge for size, edge in zip(draw.patch_size, draw.margin, strict=True)]
        torch.testing.assert_close(_moved(draw, torch.ones(1, *shape)), torch.ones(1, *draw.patch_size))


def test_a_deformation_of_no_movement_moves_nothing() -> None:
    image, label = _image((1, 8, 7, 6)), torch.randint(0, 9, (1, 8, 7, 6))
    draw = SpatialDraw((8, 7, 6), elastic=ElasticDraw((4, 4, 4), (0.0,) * 192))
    (moved,), (moved_label,) = move(draw, [image], [label])
    assert draw.resamples
    torch.testing.assert_close(moved, image, atol=1e-6, rtol=0)
    assert torch.equal(moved_label, label)


def test_equal_movements_of_all_points_shift_the_patch() -> None:
    image = _image((1, 12, 12, 12))
    shift = ElasticDraw((4, 5, 6), (2.0,) * 120 + (0.0,) * 120 + (-1.0,) * 120)
    moved = _moved(SpatialDraw((8, 8, 8), elastic=shift), image)
    torch.testing.assert_close(moved, image[:, 4:12, 2:10, 1:9], atol=1e-5, rtol=0)
    assert shift.reach == (2.0, 0.0, 1.0)


def test_a_deformation_is_scipys_spline() -> None:
    points, size = (5, 4, 6), (9, 7, 8)
    moves = np.random.default_rng(1).uniform(-1.5, 1.5, (3, *points))
    ramp = np.stack(np.meshgrid(*(np.arange(n + 8.0) for n in size), indexing="ij"))
    draw = SpatialDraw(size, elastic=ElasticDraw(points, tuple(moves.ravel().tolist())))
    moved = _moved(draw, torch.from_numpy(ramp).float()).numpy()
    bases = []
    for count, voxels in zip(points, size, strict=True):
        spline = BSpline(np.arange(-3, count + 1), np.eye(count), 3)
        bases.append(spline(np.linspace(0, count - 3, voxels)))
    field = np.einsum("axyz,ix,jy,kz->aijk", moves, *bases)
    start = np.meshgrid(*(np.arange(4.0, n + 4) for n in size), indexing="ij")
    np.testing.assert_allclose(moved, np.stack(start) + field, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(4, 9))
def test_spline_weights_share_out_one_and_keep_straight_lines(voxels: int, points: int) -> None:
    weights = cubic_spline_weights(voxels, points)
    torch.testing.assert_close(weights.sum(1), torch.ones(voxels))
    places = weights @ (torch.arange(points) - 1.0)
    expected = torch.linspace(0, points - 3, voxels) if voxels > 1 else torch.tensor([(points - 3) / 2])
    torch.testing.assert_close(places, expected, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_deformation_never_folds(seed: int) -> None:
    augmenter = Augmenter(
        Augmentation(spatial_probability=0, elastic_probability=1, elastic=0.39, mirror="none"),
        (24, 20, 6),
        axcodes="RAS",
        labels=LabelScheme.from_names({1: "one"}),
        ct_channels=[True],
        spacing_mm=(1.0, 1.0, 4.0),
    )
    draw = augmenter.draw(np.random.default_rng(seed)).spatial
    shape = [size + 2 * edge for size, edge in zip(draw.patch_size, draw.margin, strict=True)]
    ramp = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    slopes = np.stack([np.stack(np.gradient(axis)) for axis in _moved(draw, ramp).numpy()])
    assert np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1))).min() > 0.0


def test_left_and_right_labels_change_places_by_hand(make_augmenter: Callable[..., Augmenter]) -> None:
    label = torch.tensor([1, 1, 0, 3, 2], dtype=torch.uint8).reshape(1, 5, 1, 1)
    draw = SpatialDraw((5, 1, 1), mirrored=(True, False, False), swapped=(0, 2, 1, 3))
    flipped = move(draw, [], [label])[1][0]
    assert swap_classes(flipped, draw.swapped or ()).flatten().tolist() == [1, 3, 0, 2, 2]
    augmenter = make_augmenter(names=("left lung", "right lung", "heart"), axcodes="PIR", mirror="all")
    drawn = [augmenter.draw(np.random.default_rng(seed)).spatial for seed in range(60)]
    assert all((d.swapped == (0, 2, 1, 3)) == d.mirrored[2] for d in drawn)
    assert {d.mirrored for d in drawn} == {(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}


def test_values_that_are_no_class_stay() -> None:
    for dtype in (torch.uint8, torch.int16, torch.int64):
        label = torch.tensor([0, 1, 2, 255 if dtype == torch.uint8 else -1], dtype=dtype)
        swapped = swap_classes(label, (0, 2, 1))
        assert swapped.dtype == dtype
        assert swapped.tolist() == [0, 2, 1, label[-1]]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = _image((1, 16, 14, 12)), torch.randint(0, 9, (1, 16, 14, 12))
    elastic = ElasticDraw((4, 5, 4), tuple(np.random.default_rng(0).uniform(-1, 1, 240).tolist()))
    draw = SpatialDraw((12, 10, 9), BENT, elastic)
    whole = move(draw, [image], [label])
    monkeypatch.setattr("medseg.transforms.augmentation.spatial._BLOCK_VOXELS", 200)
    parts = move(draw, [image], [label])
    torch.testing.assert_close(parts[0][0], whole[0][0], atol=1e-5, rtol=0)
    assert (parts[1][0] == whole[1][0]).float().mean() > 0.999


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"patches of \(8, 8, 8\) are wanted; read it with the margin"):
        _moved(SpatialDraw((8, 8, 8)), _image((1, 8, 7, 8)))
    with pytest.raises(GeometryError, match="others"):
        move(SpatialDraw((4, 4, 4)), [_image((1, 4, 4, 4))], [_image((1, 4, 4, 5))])
    with pytest.raises(InputError, match="at least 4 points"):
        ElasticDraw((4, 4, 3), (0.0,) * 144)
    with pytest.raises(InputError, match="3 numbers for each"):
        ElasticDraw((4, 4, 4), (0.0,) * 64)


def test_turns_and_scales_keep_to_their_bounds(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter(spatial_probability=1.0, rotation_degrees=0.0, scale=0.2)
    turner = make_augmenter(
        spatial_probability=1.0, rotation_degrees=30.0, scale=0.0, spacing_mm=(1.0, 1.0, 9.0)
    )
    factors, angles = [], []
    for seed in range(100):
        scaled = np.asarray(augmenter.draw(np.random.default_rng(seed)).spatial.matrix)
        assert np.array_equal(scaled, np.diag(np.diag(scaled)))
        factors.extend(np.diag(scaled))
        turned = np.asarray(turner.draw(np.random.default_rng(seed)).spatial.matrix)
        angles.append(math.degrees(math.atan2(turned[1, 0], turned[0, 0])))
    assert 0.8 <= min(factors) < 0.82 < 1.18 < max(factors) <= 1.2
    assert -30 <= min(angles) < -27 < 27 < max(angles) <= 30
