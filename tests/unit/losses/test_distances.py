"""Distances, boundary and Hausdorff losses: by hand, against brute force, against MONAI's."""

from __future__ import annotations

import itertools
import math

import monai.losses
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import HausdorffDTLoss as MonaiHausdorffDTLoss
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.losses import BoundaryLoss, DeepSupervisionLoss, HausdorffDTLoss
from medseg.losses.functional import boundary_errors, hausdorff_errors, signed_distances

# One row of five voxels: the structure is the second and third; the prediction is the third, fourth, fifth.
MASK = torch.tensor([[[[0, 1, 1, 0, 0]]]])
P = torch.tensor([[[[0.1, 0.4, 0.9, 0.6, 0.8]]]], dtype=torch.float64)


def example(seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 6, 7, 5, generator=generator)
    return scores, torch.randint(0, classes, (2, 1, 6, 7, 5), generator=generator)


def one_hot(labels: Tensor, classes: int = 3) -> Tensor:
    return nn.functional.one_hot(labels[:, 0], classes).movedim(-1, 1)


def brute_force(mask: np.ndarray, known: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """From each voxel to all known ones on the other side; NaN where there is none."""
    distances = np.full(mask.shape, np.nan)
    voxels = list(np.ndindex(*mask.shape))
    for voxel in voxels:
        others = [other for other in voxels if known[other] and mask[other] != mask[voxel]]
        if others:
            steps = (np.array(others) - voxel) * spacing_mm
            distances[voxel] = np.sqrt((steps**2).sum(1)).min() * (-1 if mask[voxel] else 1)
    return distances


def test_signed_distances_by_hand() -> None:
    assert signed_distances(MASK.bool()).flatten().tolist() == [1, -1, -1, 1, 2]
    assert signed_distances(MASK.bool(), (1.0, 3.0)).flatten().tolist() == [3, -3, -3, 3, 6]
    # With the fourth voxel unknown the third is two from the first, and from the fifth.
    known = torch.tensor([[[[True, True, True, False, True]]]])
    assert signed_distances(MASK.bool(), known=known).flatten()[[0, 1, 2, 4]].tolist() == [1, -1, -2, 2]


def test_a_structure_without_border_has_the_distance_it_is_given() -> None:
    masks = torch.tensor([[[[False, False]], [[True, True]], [[True, False]]]])
    known = torch.tensor([[[[True, False]]]])
    assert signed_distances(masks, without_border=5.0)[0, :, 0].tolist() == [[5, 5], [-5, -5], [-1, 1]]
    # The last has one no more once its outside is unknown.
    assert signed_distances(masks, known=known, without_border=5.0)[0, 2, 0].tolist() == [-5, 5]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.05, 0.5, 0.95]),
    certainty=st.sampled_from([0.3, 1.0]),
    spacing=st.lists(st.floats(0.2, 5.0), min_size=3, max_size=3),
)
def test_signed_distances_are_brute_force_s(
    shape: list[int], seed: int, density: float, certainty: float, spacing: list[float]
) -> None:
    random = np.random.default_rng(seed)
    mask, known = random.random(shape) < density, random.random(shape) < certainty
    spacing_mm = tuple(spacing[: len(shape)])
    expected = brute_force(mask, known, spacing_mm)
    given_known = None if known.all() else torch.from_numpy(known)[None, None]
    found = signed_distances(torch.from_numpy(mask)[None, None], spacing_mm, given_known)[0, 0].numpy()
    if (mask & known).any() and (~mask & known).any():
        np.testing.assert_allclose(found[known], expected[known], rtol=1e-6)
    else:
        assert not found.any()


def test_boundary_by_hand() -> None:
    # Σ φ (p - t) = 0.1 + 0.6 + 0.1 + 0.6 + 2·0.8.
    assert boundary_errors(P, MASK).item() == pytest.approx(3.0 / 5)
    assert boundary_errors(P, MASK, spacing_mm=(9.0, 2.0)).item() == pytest.approx(6.0 / 5)
    weights = torch.tensor([[[[1.0, 2.0, 1.0, 1.0, 5.0]]]])
    assert boundary_errors(P, MASK, weights).item() == pytest.approx((0.1 + 1.2 + 0.1 + 0.6 + 8.0) / 10)


def test_hausdorff_by_hand() -> None:
    # Squared errors 0.01, 0.36, 0.01, 0.36, 0.64; to the target's border 1, 1, 1, 1, 2, to the prediction's
    # (third to fifth voxel) 2, 1, 1, 2, 3.
    squares = [0.01 * (1 + 4), 0.36 * (1 + 1), 0.01 * (1 + 1), 0.36 * (1 + 4), 0.64 * (4 + 9)]
    assert hausdorff_errors(P, MASK).item() == pytest.approx(sum(squares) / 5)
    assert hausdorff_errors(P, MASK, spacing_mm=(1.0, 3.0)).item() == pytest.approx(9 * sum(squares) / 5)
    linear = [0.01 * (1 + 2), 0.36 * (1 + 1), 0.01 * (1 + 1), 0.36 * (1 + 2), 0.64 * (2 + 3)]
    assert hausdorff_errors(P, MASK, alpha=1.0).item() == pytest.approx(sum(linear) / 5)


def test_without_border_what_is_wrong_counts_with_the_diagonal() -> None:
    p = torch.full((1, 1, 3, 4), 0.4, dtype=torch.float64)
    absent, everywhere = torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4)
    diagonal = math.hypot(3 * 1.0, 4 * 2.0)
    for target, error in ((absent, 0.4), (everywhere, 0.6)):
        assert boundary_errors(p, target, spacing_mm=(1.0, 2.0)).item() == pytest.approx(diagonal * error)
        assert hausdorff_errors(p, target, spacing_mm=(1.0, 2.0)).item() == pytest.approx(
            diagonal**2 * error**2
        )


def test_unknown_voxels_are_neither_counted_nor_measured_to() -> None:
    weights = torch.tensor([[[[1.0, 1.0, 1.0, 0.0, 1.0]]]])
    # As above, but the third voxel is two from the other side, and the fifth two from the structure.
    expected = (0.1 + 0.6 + 2 * 0.1 + 2 * 0.8) / 4
    for label in (0, 1):
        for p in (0.2, 0.9):
            target, prediction = MASK.clone(), P.clone()
            target[..., 3], prediction[..., 3] = label, p
            assert boundary_errors(prediction, target, weights).item() == pytest.approx(expected)
            squares = [0.01 * (1 + 4), 0.36 * (1 + 1), 0.01 * (4 + 1), 0.64 * (4 + 9)]
            assert hausdorff_errors(prediction, target, weights).item() == pytest.approx(sum(squares) / 4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), axis=st.sampled_from([-1, -2, -3]), factor=st.floats(0.1, 10.0))
def test_flips_change_nothing_and_spacing_scales(seed: int, axis: int, factor: float) -> None:
    scores, labels = example(seed)
    p, target = scores.double().softmax(1), one_hot(labels)
    spacing = (1.0, 2.0, 0.7)
    scaled = tuple(size * factor for size in spacing)
    for errors, power in ((boundary_errors, 1), (hausdorff_errors, 2)):
        value = errors(p, target, spacing_mm=spacing)
        torch.testing.assert_close(errors(p.flip(axis), target.flip(axis), spacing_mm=spacing), value)
        torch.testing.assert_close(
            errors(p, target, spacing_mm=scaled), value * factor**power, rtol=1e-5, atol=1e-9
        )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_error_is_negative_and_both_classes_of_a_pair_err_alike(seed: int) -> None:
    scores, labels = example(seed, classes=2)
    p, target = scores.double().softmax(1), one_hot(labels, 2)
    for errors in (boundary_errors, hausdorff_errors):
        values = errors(p, target)
        assert (values >= 0.0).all()
        torch.testing.assert_close(values[:, 0], values[:, 1])
        assert (errors(target.double(), target) == 0.0).all()


@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_hausdorff_is_monai_s(include_background: bool, reduction: str, alpha: float) -> None:
    scores, labels = example()
    options = {"include_background": include_background, "reduction": reduction, "alpha": alpha}
    for activation in ("softmax", "sigmoid"):
        ours = HausdorffDTLoss(**options, **{activation: True}, to_onehot_y=True)
        theirs = MonaiHausdorffDTLoss(**options, **{activation: True}, to_onehot_y=True)
        torch.testing.assert_close(ours(scores, labels), theirs(scores, labels))


@pytest.mark.skipif(not hasattr(monai.losses, "BoundaryLoss"), reason="MONAI has it from 1.6 on")
@pytest.mark.parametrize("include_background", [False, True])
def test_boundary_is_monai_s_but_for_a_constant_and_the_voxel_inside(include_background: bool) -> None:
    scores, labels = example()
    options = {"include_background": include_background, "softmax": True, "to_onehot_y": True}
    first = 0 if include_background else 1
    p, target = scores.softmax(1)[:, first:], one_hot(labels)[:, first:]
    # Theirs is the mean of (φ + t) p, ours of φ (p - t).
    constant = (signed_distances(target.bool()) * target).mean()
    theirs = monai.losses.BoundaryLoss(**options)(scores, labels)
    torch.testing.assert_close(
        BoundaryLoss(**options)(scores, labels), theirs - constant - (p * target).mean()
    )


def test_distances_of_whole_number_targets_are_not_truncated() -> None:
    target = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    target[..., 2, 2] = 1
    p = torch.full((1, 1, 5, 5), 0.2)
    values = [loss(p, target) for loss in (HausdorffDTLoss(alpha=1.0), BoundaryLoss())]
    expected = [loss(p, target.float()) for loss in (HausdorffDTLoss(alpha=1.0), BoundaryLoss())]
    assert values == expected
    whole = MonaiHausdorffDTLoss(alpha=1.0, include_background=True)
    assert whole(p, target) < whole(p, target.float())


def test_deep_supervision_measures_coarse_levels_in_their_own_voxels() -> None:
    labels = torch.zeros(1, 1, 8, 8, 4, dtype=torch.long)
    labels[:, :, 2:6, 4:, :] = 1
    coarse = torch.randn(1, 2, 4, 2, 4, generator=torch.Generator().manual_seed(0))
    for make in (BoundaryLoss, HausdorffDTLoss):
        options = {"softmax": True, "to_onehot_y": True}
        wrapped = DeepSupervisionLoss(make(**options, spacing_mm=(1.0, 0.5, 3.0)), weights=(1.0,))
        alone = make(**options, spacing_mm=(2.0, 2.0, 3.0))
        torch.testing.assert_close(wrapped([coarse], labels), alone(coarse, labels[:, :, 1::2, 2::4]))
        in_voxels = DeepSupervisionLoss(make(**options), weights=(1.0,))
        alone = make(**options, spacing_mm=(2.0, 4.0, 1.0))
        torch.testing.assert_close(in_voxels([coarse], labels), alone(coarse, labels[:, :, 1::2, 2::4]))


def test_errors_far_away_cost_more() -> None:
    target = torch.zeros(1, 1, 1, 20)
    target[..., :5] = 1.0
    for loss in (BoundaryLoss(), HausdorffDTLoss()):
        values = []
        for position in (6, 12, 18):
            p = target.clone()
            p[..., position] = 1.0
            values.append(loss(p, target).item())
        assert all(near < far for near, far in itertools.pairwise(values))


def test_invalid_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^spacing_mm: \(1.0, 0.0\) are no sizes of voxels"):
        BoundaryLoss(spacing_mm=(1.0, 0.0))
    with pytest.raises(ConfigError, match=r"^alpha: -2.0 is not 0 or more"):
        HausdorffDTLoss(alpha=-2.0)
    with pytest.raises(ConfigError, match=r"^spacing_mm: 2 spacings for 3 axes"):
        BoundaryLoss(softmax=True, to_onehot_y=True, spacing_mm=(1.0, 2.0))(*example())
    with pytest.raises(ConfigError, match=r"^spacing_mm: 1 spacings for 2 axes"):
        boundary_errors(P, MASK, spacing_mm=(1.0,))
