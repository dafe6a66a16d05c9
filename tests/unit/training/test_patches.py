from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from medseg.errors import ConfigError
from medseg.files import write_json
from medseg.labels import LabelScheme
from medseg.runs import Augmentation, Plan, Recipe
from medseg.training.arrays import StoredArray, write_array
from medseg.training.cache import CachedCase, _points
from medseg.training.patches import EpochSampler, PatchDataset, WholeCases, _read_box, patch_loader

NOTHING = {name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")}
QUIET = Augmentation(**{**NOTHING, "spatial_probability": 0.5, "elastic_probability": 0.2})
"""Augmentation that moves voxels and leaves their values."""

PLAIN = QUIET.model_copy(update={**NOTHING, "mirror": "none"})
"""Augmentation that draws nothing."""


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., CachedCase]:
    def make(
        image: npt.NDArray[Any],
        label: npt.NDArray[Any],
        name: str = "case",
        classes: int = 5,
        ignore: int | None = None,
    ) -> CachedCase:
        folder = tmp_path / name
        folder.mkdir()
        labels = LabelScheme.from_names({index: str(index) for index in range(1, classes)}, ignore)
        points, class_points = _points(label, labels, seed="0123456789abcdef")
        arrays = {"image": image.astype(np.float32), "label": label.astype(np.uint8), "points": points}
        boxes = {"points": (64, 3)}
        hashes = {
            key: write_array(array, folder / f"{key}.b2nd", boxes.get(key, (8, 8, 8)))
            for key, array in arrays.items()
        }
        description = {"inputs": {}, "arrays": hashes, "class_points": class_points}
        write_json(description, folder / "case.json")
        return CachedCase(name, folder)

    return make


def _patches(
    cases: Sequence[CachedCase],
    plan: Plan,
    augmentation: Augmentation | None = None,
    *,
    seed: int = 7,
    fraction: float = 0.5,
    **changes: Any,
) -> PatchDataset:
    recipe = Recipe(augmentation=augmentation, training={"foreground_fraction": fraction})
    return PatchDataset(cases, plan.model_copy(update={"class_sampling": ()} | changes), recipe, seed)


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first["image"], second["image"]) and torch.equal(first["label"], second["label"])


def test_a_patch_has_the_shape_and_types_that_training_needs(plan: Plan, cases: list[CachedCase]) -> None:
    for augmentation in (None, Augmentation()):
        patch = _patches(cases, plan, augmentation)[3]
        assert patch["image"].shape == patch["label"].shape == (1, *plan.patch_size)
        assert (patch["image"].dtype, patch["label"].dtype) == (torch.float32, torch.int64)
        assert type(patch["image"]) is type(patch["label"]) is torch.Tensor
        assert patch["image"].is_contiguous()


def test_a_number_names_a_patch_whatever_came_before(plan: Plan, cases: list[CachedCase]) -> None:
    numbers = [0, 1, 5, 6, 13, 1000]
    forwards = _patches(cases, plan, Augmentation())
    expected = {number: forwards[number] for number in numbers}
    np.random.default_rng(0)
    torch.manual_seed(99)
    backwards = _patches(cases, plan, Augmentation())
    for number in reversed(numbers):
        assert _equal(backwards[number], expected[number])
    assert not _equal(expected[0], expected[1])


def test_another_seed_gives_other_patches(plan: Plan, cases: list[CachedCase]) -> None:
    assert not _equal(_patches(cases, plan, seed=1)[4], _patches(cases, plan, seed=2)[4])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_do_not_change_patches(workers: int, plan: Plan, cases: list[CachedCase]) -> None:
    patches = _patches(cases, plan, Augmentation())
    loader = patch_loader(patches, 2, steps_per_epoch=3, workers=workers, steps_done=lambda: 4)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert loader.waited_seconds > 0.0
    images = torch.cat([batch["image"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    for place, number in enumerate(range(8, 14)):
        assert torch.equal(images[place], patches[number]["image"])
        assert torch.equal(labels[place], patches[number]["label"])


def test_epochs_count_on_from_the_steps_made() -> None:
    steps = 0
    sampler = EpochSampler(batch_size=2, steps_per_epoch=3, steps_done=lambda: steps)
    assert list(sampler) == [0, 1, 2, 3, 4, 5]
    steps = 3
    assert list(sampler) == [6, 7, 8, 9, 10, 11]
    assert len(sampler) == 6


def test_patches_can_be_sent_to_processes_that_do_not_share_memory(
    plan: Plan, cases: list[CachedCase]
) -> None:
    patches = _patches(cases, plan, Augmentation())
    expected = patches[2]
    assert _equal(pickle.loads(pickle.dumps(patches))[2], expected)
    assert all(len(pickle.dumps(case)) < 1000 for case in cases)  # no voxel travels with them


def test_every_case_comes_once_per_pass_centred_or_not(
    make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    label = np.zeros((17, 17, 9), np.uint8)
    label[8, 8, 4] = 1
    cases = [make_case(np.full((1, 17, 17, 9), number + 1.0), label, f"case_{number}") for number in range(5)]
    patches = _patches(cases, plan, patch_size=(1, 1, 1), fraction=0.5)
    drawn = [patches[number]["image"].item() for number in range(40)]
    for half in (drawn[0::2], drawn[1::2]):
        passes = [half[start : start + 5] for start in range(0, 20, 5)]
        assert all(sorted(order) == [1.0, 2.0, 3.0, 4.0, 5.0] for order in passes)
        assert len({tuple(order) for order in passes}) > 1
    assert all(patches[number]["label"].item() == 1 for number in range(1, 40, 2))


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_so_many_patches_are_centred_on_foreground(
    fraction: float, make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    label = np.zeros((60, 60, 60), np.uint8)
    label[30, 30, 30] = 1
    case = make_case(np.zeros((1, 60, 60, 60)), label)
    patches = _patches([case], plan, fraction=fraction, patch_size=(4, 4, 4))
    centred = [patches[number]["label"][0, 2, 2, 2].item() for number in range(50)]
    assert sum(centred) == pytest.approx(50 * fraction, abs=1)


def test_rare_classes_are_centred_on_as_often_as_large_ones(
    make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    label = np.ones((20, 20, 20), np.uint8)
    label[10, 10, 10] = 2
    case = make_case(np.zeros((1, 20, 20, 20)), label)
    patches = _patches([case], plan, fraction=1.0, patch_size=(1, 1, 1))
    centres = [patches[number]["label"].item() for number in range(400)]
    assert np.mean(np.array(centres) == 2) == pytest.approx(0.5, abs=0.1)


def test_a_class_that_one_case_of_many_holds_is_met(make_case: Callable[..., CachedCase], plan: Plan) -> None:
    label = np.ones((6, 6, 6), np.uint8)
    cases = [make_case(np.zeros((1, 6, 6, 6)), label, f"case_{number}") for number in range(9)]
    rare = label.copy()
    rare[3, 3, 3] = 2
    cases.append(make_case(np.ones((1, 6, 6, 6)), rare, "rare"))
    patches = _patches(cases, plan, fraction=1.0, patch_size=(1, 1, 1))
    centres = np.array([patches[number]["label"].item() for number in range(300)])
    assert np.mean(centres == 2) == pytest.approx(0.5, abs=0.1)


def test_classes_are_drawn_by_the_plan_s_weights(make_case: Callable[..., CachedCase], plan: Plan) -> None:
    label = np.arange(5, dtype=np.uint8).reshape(5, 1, 1).repeat(4, axis=1)
    case = make_case(np.zeros((1, *label.shape)), label)
    patches = _patches([case], plan, fraction=1.0, patch_size=(1, 1, 1), class_sampling=(3.0, 0.0, 1.0, 0.0))
    centres = [patches[number]["label"].item() for number in range(400)]
    shares = np.bincount(centres, minlength=5) / 400
    np.testing.assert_allclose(shares, [0, 0.75, 0, 0.25, 0], atol=0.08)
    with pytest.raises(ConfigError, match="no weights of 4 classes"):
        _patches([case], plan, class_sampling=(1.0, 2.0))


def test_patches_are_centred_where_someone_has_labelled(
    make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    label = np.full((40, 40, 40), 5, np.uint8)  # one past the last of five classes: not labelled
    label[3, 4, 5], label[20, 21, 22], label[20, 21, 23] = 0, 2, 0
    case = make_case(_positions(label.shape), label, ignore=9)
    patches = _patches([case], plan, fraction=0.5, patch_size=(1, 1, 1))
    drawn = [
        (tuple(patches[n]["image"].ravel().int().tolist()), patches[n]["label"].item()) for n in range(60)
    ]
    centred, others = drawn[1::2], drawn[0::2]
    assert set(centred) == {((21, 22, 23), 2)}
    assert set(others) == {((21, 22, 23), 2), ((21, 22, 24), 0), ((4, 5, 6), 0)}


def test_a_case_without_foreground_gives_patches_of_anywhere(
    make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    case = make_case(np.arange(20.0**3).reshape(1, 20, 20, 20), np.zeros((20, 20, 20), np.uint8))
    patches = _patches([case], plan, fraction=1.0, patch_size=(1, 1, 1))
    drawn = np.array([patches[number]["image"].item() for number in range(300)])
    assert len(np.unique(drawn)) > 250
    assert drawn.mean() == pytest.approx(4000, abs=500)


def test_patches_stay_inside_a_volume_that_is_large_enough(
    make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    case = make_case(np.ones((1, 9, 9, 9)), np.ones((9, 9, 9), np.uint8))
    patches = _patches([case], plan, patch_size=(8, 8, 8))
    assert all((patches[number]["image"] == 1).all() for number in range(30))


def test_a_smaller_volume_is_padded_with_zeros_on_both_sides(
    make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    image = 1 + np.arange(3 * 20 * 4.0).reshape(1, 3, 20, 4)
    label = np.ones((3, 20, 4), np.uint8)
    patch = _patches([make_case(image, label)], plan, patch_size=(8, 20, 8))[0]
    expected = np.pad(image, ((0, 0), (2, 3), (0, 0), (2, 2)))
    np.testing.assert_array_equal(patch["image"], expected)
    np.testing.assert_array_equal(patch["label"], expected > 0)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_boxes_are_read_as_from_a_padded_array(data: st.DataObject, tmp_path: Path) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    size = data.draw(st.tuples(*[st.integers(1, 8)] * 3))
    margin = data.draw(st.tuples(*[st.integers(0, 4)] * 3))
    start = [data.draw(st.integers(1 - size[axis], shape[axis] - 1)) for axis in range(3)]
    array = np.random.default_rng(0).integers(1, 100, (2, *shape)).astype(np.int16)
    padded = np.pad(array, [(0, 0)] + [(20, 20)] * 3)
    box = tuple(
        slice(20 + first - edge, 20 + first + length + edge)
        for first, length, edge in zip(start, size, margin, strict=True)
    )
    write_array(array, tmp_path / "array.b2nd", size)
    read = _read_box(StoredArray(tmp_path / "array.b2nd"), start, size, margin)
    np.testing.assert_array_equal(read, padded[(slice(None), *box)])
    assert read.dtype == array.dtype


def test_nothing_drawn_changes_nothing(plan: Plan, cases: list[CachedCase]) -> None:
    plain, augmented = _patches(cases, plan), _patches(cases, plan, PLAIN)
    assert all(_equal(plain[number], augmented[number]) for number in range(6))


def _positions(shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    return np.stack(np.meshgrid(*(np.arange(1.0, size + 1) for size in shape), indexing="ij"))


def test_image_and_label_move_together(make_case: Callable[..., CachedCase], plan: Plan) -> None:
    # One channel is the position along x, which interpolation keeps linear; the label is the nearest one. The
    # other tells where the patch is filled with image.
    shape = (60, 60, 60)
    image = np.stack([_positions(shape)[0], np.ones(shape)])
    patches = _patches(
        [make_case(image, image[0].astype(np.uint8), classes=61)],
        plan,
        QUIET.model_copy(update={"spatial_probability": 1.0, "mirror": "all"}),
        patch_size=(12, 12, 12),
        labels=LabelScheme.from_names({index: str(index) for index in range(1, 61)}),
        channel_names=("MRI", "MRI"),
    )
    moved = 0
    for number in range(20):
        patch = patches[number]
        inside = patch["image"][1] > 0.9999
        assert inside.float().mean() > 0.5
        error = (patch["image"][0] - patch["label"][0])[inside].abs()
        assert error.max() <= 0.5 + 1e-3
        moved += bool(error.max() > 0.1)
    assert moved > 15


def test_labels_stay_class_indices(plan: Plan, cases: list[CachedCase]) -> None:
    patches = _patches(cases, plan, Augmentation(spatial_probability=1.0, mirror="all"))
    values = {int(value) for number in range(30) for value in patches[number]["label"].unique()}
    assert values == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("names", "sides", "mirrored"),
    [
        (("left kidney", "right kidney"), "never", False),
        (("left kidney", "right kidney"), "auto", True),
        (("left atrium", "aorta"), "auto", False),
        (("liver", "spleen"), "never", True),
    ],
)
def test_left_and_right_are_exchanged_in_image_and_label_or_in_neither(
    names: tuple[str, str], sides: str, mirrored: bool, make_case: Callable[..., CachedCase], plan: Plan
) -> None:
    labels = LabelScheme.from_names(dict(enumerate(names, 1)))
    case = make_case(_positions((40, 40, 40)), np.ones((40, 40, 40), np.uint8), classes=3)
    augmentation = QUIET.model_copy(update={"mirror": "all", "mirror_sides": sides})
    three = ("MRI",) * 3
    patches = _patches([case], plan, augmentation, patch_size=(8, 8, 8), labels=labels, channel_names=three)
    flipped = np.zeros(3, dtype=bool)
    for number in range(40):
        image = patches[number]["image"].numpy()
        slopes = [np.median(np.diff(image[axis, 2:-2, 2:-2, 2:-2], axis=axis)) for axis in range(3)]
        flipped |= np.array(slopes) < 0
        swapped = labels.has_sides and slopes[0] < 0
        assert patches[number]["label"].max() == (2 if swapped else 1)
    assert flipped.tolist() == [mirrored, True, True]


def test_whole_cases_are_as_they_lie_in_the_cache(cases: list[CachedCase]) -> None:
    whole = WholeCases(cases)
    assert len(whole) == 6
    (first, *_) = DataLoader(whole, batch_size=1)
    np.testing.assert_array_equal(first["image"][0], cases[0].image)
    np.testing.assert_array_equal(first["label"][0], cases[0].label)
