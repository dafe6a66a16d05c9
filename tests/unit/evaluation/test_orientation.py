"""A flipped prediction is called flipped when flipping explains it, and only then."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.evaluation import Pair, evaluate, find_flip
from medseg.geometry import AxisMap, Grid
from medseg.io import read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume

Labels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def cube() -> Labels:
    """Two structures that no turn or mirror image maps onto themselves."""
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[2:8, 3:7, 4:20] = 1
    labels[2:4, 7:12, 14:20] = 1
    labels[12:16, 13:22, 2:6] = 5
    return labels


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_every_turn_and_mirror_image_is_recognised(
    cube: Labels, order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    moved = AxisMap(order, flips).inverse().apply(cube)
    found = find_flip(moved, cube, [1, 5], "RAS")
    if order == (0, 1, 2) and not any(flips):
        assert found is None
        return
    assert found is not None
    assert (found.order, found.flipped) == (order, tuple(axis for axis in range(3) if flips[axis]))
    assert found.dice < 0.5
    assert found.dice_unflipped == 1.0


@pytest.mark.parametrize(
    ("axes", "axcodes", "words"),
    [
        (AxisMap((0, 1, 2), (True, False, False)), "RAS", "flipped along axis 0 (left-right)"),
        (AxisMap((0, 1, 2), (True, False, False)), "PIR", "flipped along axis 0 (front-back)"),
        (
            AxisMap((0, 1, 2), (True, False, True)),
            "LPS",
            "flipped along axes 0 (left-right) and 2 (foot-head)",
        ),
        (
            AxisMap((1, 0, 2), (False, False, False)),
            "RAS",
            "with axes 0 (left-right) and 1 (front-back) exchanged",
        ),
        (AxisMap((1, 2, 0), (False, False, False)), "RAS", "with its axes in the order 2, 0, 1"),
        (
            AxisMap((0, 2, 1), (False, True, False)),
            "RAS",
            "with axes 1 (front-back) and 2 (foot-head) exchanged and flipped along axis 1 (front-back)",
        ),
    ],
)
def test_it_is_told_in_words(cube: Labels, axes: AxisMap, axcodes: str, words: str) -> None:
    found = find_flip(axes.inverse().apply(cube), cube, [1, 5], axcodes)
    assert found is not None
    assert found.description == words


def test_what_is_good_as_it_is_or_good_in_no_way_is_not_called_flipped(cube: Labels) -> None:
    generator = np.random.default_rng(0)
    noise = (generator.random(cube.shape) < 0.1).astype(np.uint8)
    empty = np.zeros_like(cube)
    for prediction in (cube, np.roll(cube, 1, axis=0), np.roll(cube, 10, axis=0), noise, empty):
        assert find_flip(prediction, cube, [1, 5], "RAS") is None
    assert find_flip(cube, empty, [1, 5], "RAS") is None


def test_a_symmetric_structure_cannot_be_flipped() -> None:
    ball = np.zeros((21, 21, 21), np.uint8)
    ball[6:15, 6:15, 6:15] = 1
    assert find_flip(np.roll(ball, 7, axis=0), ball, [1], "RAS") is None


def test_axes_of_different_length_are_not_exchanged() -> None:
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[1:4, 2:9, 3:6] = 1
    found = find_flip(labels[:, ::-1, ::-1], labels, [1], "RAS")
    assert found is not None
    assert (found.flipped, found.order) == ((1, 2), (0, 1, 2))


def test_large_volumes_are_looked_at_coarsely() -> None:
    labels = np.zeros((300, 280, 12), np.uint8)  # thick slices are not left out
    labels[20:90, 30:170, 2:5] = 2
    labels[150:260, 40:60, 7:9] = 3
    noisy = np.roll(labels, 2, axis=1)[::-1, :, ::-1]
    found = find_flip(noisy, labels, [2, 3], "LPS")
    assert found is not None
    assert found.flipped == (0, 2)
    assert found.dice_unflipped > 0.9


@settings(max_examples=25, deadline=None)
@given(st.from_type(AxisMap), st.integers(0, 1000))
def test_random_blobs_are_brought_back(axes: AxisMap, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.zeros((12, 12, 12), np.uint8)
    for value in (1, 2, 3):
        start = generator.integers(0, 8, 3)
        stop = start + generator.integers(1, 5, 3)
        labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    moved = axes.inverse().apply(labels)
    found = find_flip(moved, labels, [1, 2, 3], "RAS")
    if found is None:
        present = np.unique(labels[labels > 0])
        dice = [
            2 * ((moved == v) & (labels == v)).sum() / ((moved == v).sum() + (labels == v).sum())
            for v in present
        ]
        assert np.mean(dice) >= 0.5
    else:
        flips = tuple(axis in found.flipped for axis in range(3))
        back = AxisMap(found.order, flips).apply(moved)  # type: ignore[arg-type]
        assert (back == labels).mean() > 0.9


def test_an_evaluation_names_the_flipped_case(tmp_path: Path, cube: Labels) -> None:
    grid = Grid(cube.shape, np.eye(4))  # type: ignore[arg-type]
    for name, array in {"ref": cube, "good": cube, "bad": cube[:, ::-1]}.items():
        write_volume(Volume(array[None], grid), tmp_path / f"{name}.nii", labels=True)
    pairs = [Pair(name, tmp_path / f"{name}.nii", tmp_path / "ref.nii") for name in ("bad", "good")]
    bad, good = evaluate(pairs, LabelScheme.from_names({1: "a", 5: "b"})).notes
    assert good.flip is None
    assert bad.flip is not None
    assert (bad.case, bad.flip.description) == ("bad", "flipped along axis 1 (front-back)")


@pytest.mark.data
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_real_structures_that_were_flipped_are_named(test_data: Path, axis: int) -> None:
    volume = read_volume(test_data / "ct" / "totalsegmentator" / "example_seg.nii.gz")
    labels = volume.array[0]
    values = [int(value) for value in np.unique(labels) if value]
    found = find_flip(np.flip(labels, axis), labels, values, volume.grid.axcodes)
    assert found is not None
    assert (found.flipped, found.order) == ((axis,), (0, 1, 2))
    assert find_flip(np.roll(labels, 1, axis), labels, values, volume.grid.axcodes) is None
