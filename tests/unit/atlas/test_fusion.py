"""Label fusion: tiny arrays by hand, brute force, and SimpleITK's filters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.atlas.choices import FusionChoice
from medseg.atlas.fuse import fuse, local_weights, majority
from medseg.atlas.joint import best_offsets, joint_fusion, joint_weights
from medseg.atlas.patches import disputed, offsets_within
from medseg.atlas.staple import staple
from medseg.errors import GeometryError

METHODS = ("majority", "local", "staple", "joint")


def one_hot(decisions: np.ndarray, classes: int) -> np.ndarray:
    """(N, X, Y, Z) to (N, K, X, Y, Z)."""
    return np.stack([decisions == label for label in range(classes)], axis=1).astype(np.float32)


def raters(seed: int, count: int = 5, classes: int = 4, shape: tuple[int, ...] = (12, 11, 10)) -> np.ndarray:
    """Decisions of raters who err independently about blocks of labels."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, tuple(-(-size // 4) for size in shape))
    truth = blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(slice(0, size) for size in shape)]
    wrong = rng.random((count, *shape)) < rng.uniform(0.05, 0.35, (count, 1, 1, 1))
    return np.where(wrong, rng.integers(0, classes, (count, *shape)), truth)


def test_voting_agrees_with_simpleitk() -> None:
    decisions = raters(0)
    undecided = 99
    images = [sitk.GetImageFromArray(each.astype(np.uint8)) for each in decisions]
    theirs = sitk.GetArrayFromImage(sitk.LabelVoting(images, undecided))
    decided = theirs != undecided
    ours = majority(one_hot(decisions, 4)).argmax(axis=0)
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(ours[decided], theirs[decided])


def test_staple_agrees_with_simpleitk() -> None:
    decisions = raters(1)
    images = [sitk.GetImageFromArray(each.astype(np.uint8)) for each in decisions]
    method = sitk.MultiLabelSTAPLEImageFilter()
    method.SetMaximumNumberOfIterations(200)
    method.SetTerminationUpdateThreshold(1e-7)
    method.SetLabelForUndecidedPixels(99)
    theirs = sitk.GetArrayFromImage(method.Execute(images))
    ours = staple(one_hot(decisions, 4), iterations=200, tolerance=1e-7)
    assert (ours.probabilities.argmax(axis=0) == theirs).mean() > 0.999
    for rater in range(len(decisions)):
        confusion = np.reshape(method.GetConfusionMatrix(rater), (-1, 4))[:4]
        np.testing.assert_allclose(ours.confusion[rater], confusion, atol=2e-3)
    np.testing.assert_allclose(ours.confusion.sum(axis=1), 1.0, atol=1e-6)


def test_staple_of_two_labels_agrees_with_the_binary_filter() -> None:
    decisions = raters(2, classes=2)
    images = [sitk.GetImageFromArray(each.astype(np.uint8)) for each in decisions]
    method = sitk.STAPLEImageFilter()
    method.SetForegroundValue(1.0)
    theirs = sitk.GetArrayFromImage(method.Execute(images))
    ours = staple(one_hot(decisions, 2), iterations=500, tolerance=1e-8)
    np.testing.assert_allclose(ours.probabilities[1], theirs, atol=5e-3)
    np.testing.assert_allclose(ours.confusion[:, 1, 1], method.GetSensitivity(), atol=5e-3)


def test_staple_learns_whom_to_trust() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, (10, 10, 10))
    liars = [np.where(rng.random(truth.shape) < 0.45, 1 - truth, truth) for _ in range(3)]
    votes = one_hot(np.stack([truth, truth, *liars]), 2)
    assert (staple(votes).probabilities.argmax(axis=0) == truth).mean() > 0.999
    assert (majority(votes).argmax(axis=0) == truth).mean() < 0.95


def brute_weights(target: np.ndarray, images: np.ndarray, voxel: tuple[int, ...], radius: int) -> np.ndarray:
    """The joint error matrix of one voxel, by its definition."""

    def patch(image: np.ndarray) -> np.ndarray:
        part = image[tuple(slice(i - radius, i + radius + 1) for i in voxel)].astype(np.float64).ravel()
        return (part - part.mean()) / part.std()

    errors = np.stack([np.abs(patch(image) - patch(target)) for image in images])
    matrix = np.empty((len(images), len(images)))
    for i, j in itertools.product(range(len(images)), repeat=2):
        matrix[i, j] = np.mean(errors[i] * errors[j]) ** 2
    solved = np.linalg.inv(matrix + 0.1 * np.eye(len(images))) @ np.ones(len(images))
    return solved / solved.sum()


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), radius=st.integers(1, 2))
def test_joint_weights_are_those_of_the_definition(seed: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    target, images = rng.random((7, 8, 9), np.float32), rng.random((4, 7, 8, 9), np.float32)
    voxels = [(2, 2, 2), (3, 4, 5), (4, 5, 6)]
    flat = np.array([np.ravel_multi_index(voxel, target.shape) for voxel in voxels])
    ours = joint_weights(target, images, flat, np.tile(flat, (4, 1)), radius, beta=2, alpha=0.1)
    for number, voxel in enumerate(voxels):
        np.testing.assert_allclose(ours[:, number], brute_weights(target, images, voxel, radius), atol=1e-4)


def test_the_most_similar_patch_is_found_by_brute_force_too() -> None:
    rng = np.random.default_rng(4)
    target, images = rng.random((9, 9, 9), np.float32), rng.random((2, 9, 9, 9), np.float32)
    images[1] = np.roll(target, (1, 0, -1), axis=(0, 1, 2))
    found, offsets = best_offsets(target, images, 1, 1), offsets_within(1)

    def patch(image: np.ndarray, voxel: np.ndarray) -> np.ndarray:
        part = image[tuple(slice(i - 1, i + 2) for i in voxel)].astype(np.float64)
        return (part - part.mean()) / part.std()

    for voxel in np.argwhere(np.ones((5, 5, 5))) + 2:
        wanted = patch(target, voxel)
        distances = [np.sum((patch(images[0], voxel + step) - wanted) ** 2) for step in offsets]
        assert found[0][tuple(voxel)] == np.argmin(distances)
        assert offsets[found[1][tuple(voxel)]].tolist() == [1, 0, -1]
    assert offsets[best_offsets(target, np.zeros_like(images), 1, 1)].any() == np.False_


def test_two_copies_of_an_atlas_count_as_one() -> None:
    rng = np.random.default_rng(5)
    target = rng.random((7, 7, 7), np.float32)
    one, other = (target + 0.4 * rng.random((2, 7, 7, 7), np.float32)).astype(np.float32)
    flat = np.array([np.ravel_multi_index((3, 3, 3), target.shape)])
    alone = joint_weights(target, np.stack([one, other]), flat, np.tile(flat, (2, 1)), 2, 2, 1e-4)[:, 0]
    twice = joint_weights(target, np.stack([one, one, other]), flat, np.tile(flat, (3, 1)), 2, 2, 1e-4)[:, 0]
    np.testing.assert_allclose([twice[0] + twice[1], twice[2]], alone, atol=0.02)


def test_local_weights_by_hand() -> None:
    rng = np.random.default_rng(6)
    target, images = rng.random((7, 7, 7), np.float32), rng.random((3, 7, 7, 7), np.float32)
    part = (slice(1, 6),) * 3

    def scaled(image: np.ndarray) -> np.ndarray:
        patch = image[part].astype(np.float64)
        return (patch - patch.mean()) / patch.std()

    errors = np.array([np.mean((scaled(image) - scaled(target)) ** 2) for image in images])
    expected = errors**-2.0 / np.sum(errors**-2.0)
    np.testing.assert_allclose(local_weights(target, images, 2, 2)[:, 3, 3, 3], expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_atlas_that_is_the_target_wins_or_is_outvoted(method: str) -> None:
    rng = np.random.default_rng(7)
    target = rng.random((12, 12, 12), np.float32)
    truth = (target > 0.5).astype(int)
    others = rng.random((3, 12, 12, 12), np.float32)
    images = np.concatenate([target[None], others])
    votes = one_hot(np.stack([truth, *np.zeros((3, 12, 12, 12), int)]), 2)
    choice = FusionChoice(method=method, vote_radius=0, patch_radius=1)
    found = fuse(target, images, votes, choice).argmax(axis=0)
    right = (found == truth).mean()
    assert right > 0.99 if method in ("local", "joint") else right < 0.6


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000))
def test_what_must_hold_of_any_fusion(method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, count, classes = (8, 7, 6), 4, 3
    target, images = rng.random(shape, np.float32), rng.random((count, *shape), np.float32)
    votes = rng.dirichlet(np.ones(classes), (count, *shape)).astype(np.float32).transpose(0, 4, 1, 2, 3)
    votes = np.ascontiguousarray(votes)
    votes[..., :3] = votes[:1, ..., :3]  # what all atlases agree on
    choice = FusionChoice(method=method, patch_radius=1)
    found = fuse(target, images, votes, choice)
    assert found.shape == (classes, *shape)
    assert found.min() >= 0.0
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(found[..., :3], votes[0][..., :3], atol=2e-3)
    order = rng.permutation(count)
    np.testing.assert_allclose(fuse(target, images[order], votes[order], choice), found, atol=5e-3)
    kinds = rng.permutation(classes)
    np.testing.assert_allclose(fuse(target, images, votes[:, kinds], choice), found[kinds], atol=5e-3)


def test_votes_of_patches_by_hand() -> None:
    # With equal images all weights are equal, and what is left is the mean over atlases and neighbours.
    target = np.random.default_rng(8).random((5, 5, 5), np.float32)
    images = np.stack([target, target])
    votes = np.zeros((2, 2, 5, 5, 5), np.float32)
    votes[:, 0] = 1.0
    votes[0, :, 2, 2, 2] = 0.0, 1.0  # one voxel is disputed: it alone is worked on
    found = joint_fusion(target, images, votes, patch_radius=1, search_radius=0, vote_radius=1)
    assert disputed(votes).sum() == 1
    np.testing.assert_allclose(found[:, 2, 2, 2], [0.5, 0.5], atol=1e-5)
    votes[0, :, 2, 2, 3] = 0.0, 1.0
    found = joint_fusion(target, images, votes, patch_radius=1, search_radius=0, vote_radius=1)
    np.testing.assert_allclose(found[1, 2, 2, 2:4], 0.5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    target, images = np.zeros((3, 3, 3), np.float32), np.zeros((2, 3, 3, 3), np.float32)
    votes = np.ones((2, 1, 3, 3, 3), np.float32)
    choice = FusionChoice()
    with pytest.raises(GeometryError, match="no atlas"):
        fuse(target, images[:0], votes[:0], choice)
    with pytest.raises(GeometryError, match="images are"):
        fuse(target, images[:, :2], votes, choice)
    with pytest.raises(GeometryError, match="probabilities are"):
        fuse(target, images, votes[..., :2], choice)
    with pytest.raises(GeometryError, match="2 images and 1 label maps"):
        fuse(target, images, votes[:1], choice)
    with pytest.raises(GeometryError, match="not \\(N, K, X, Y, Z\\)"):
        fuse(target, images, votes[:, 0], choice)
