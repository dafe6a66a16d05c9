from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Affine

from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms import augmentation_margin, augmentation_transforms, mirror_axes

SIDES = LabelScheme.from_names({1: "left lung", 2: "right lung"})
NO_SIDES = LabelScheme.from_names({1: "liver"})


@pytest.mark.parametrize(
    ("mirror", "axcodes", "labels", "axes"),
    [
        ("left_right", "RAS", NO_SIDES, (0,)),
        ("left_right", "PIR", NO_SIDES, (2,)),
        ("left_right", "RAS", SIDES, ()),
        ("all", "RAS", NO_SIDES, (0, 1, 2)),
        ("all", "RAS", SIDES, (1, 2)),
        ("all", "LPS", SIDES, (1, 2)),
        ("all", "PIR", SIDES, (0, 1)),
        ("none", "RAS", NO_SIDES, ()),
    ],
)
def test_axes_that_may_be_mirrored(
    mirror: Any, axcodes: str, labels: LabelScheme, axes: tuple[int, ...]
) -> None:
    assert mirror_axes(Augmentation(mirror=mirror), axcodes, labels) == axes


def test_margins_by_hand() -> None:
    turn = Augmentation(rotation_degrees=30, scale=0.0)
    # Along each axis of a cube: (10 cos 30 + 10 sin 30 - 10) / 2 = 1.83.
    assert augmentation_margin(turn, (10, 10, 10)) == (2, 2, 2)
    # The short axis must reach where the long one turns to: (4 cos 30 + 20 sin 30 - 4) / 2 = 4.73.
    assert augmentation_margin(turn, (20, 20, 4)) == (4, 4, 5)
    assert augmentation_margin(Augmentation(rotation_degrees=0, scale=0.2), (10, 20, 40)) == (1, 2, 4)
    assert augmentation_margin(Augmentation(rotation_degrees=0, scale=0.0), (10, 20, 40)) == (0, 0, 0)


def test_thick_slices_are_turned_within_themselves_alone() -> None:
    turn = Augmentation(rotation_degrees=30, scale=0.0, spatial_probability=1.0, mirror="none")
    # Within the slice as by hand above; nothing from other slices.
    assert augmentation_margin(turn, (10, 10, 10), (1.0, 1.5, 5.0)) == (2, 2, 0)
    assert augmentation_margin(turn, (10, 10, 10), (1.0, 1.0, 1.9)) == (2, 2, 2)
    quiet = {f"{name}_probability": 0.0 for name in ("noise", "blur", "brightness", "gamma")}
    transforms = augmentation_transforms(
        turn.model_copy(update=quiet), (8, 8, 8), axcodes="RAS", labels=NO_SIDES, spacing_mm=(1.0, 1.0, 5.0)
    )
    slices = torch.arange(8.0).expand(1, 12, 12, 8)
    rows = torch.arange(12.0)[:, None, None].expand(1, 12, 12, 8)
    sample = {"image": torch.cat([slices, rows]), "label": torch.zeros(1, 12, 12, 8)}
    turned = []
    for seed in range(10):
        transforms.set_random_state(seed)
        image = torch.as_tensor(transforms(dict(sample))["image"])
        # Every slice stays in its place, whatever happens within.
        torch.testing.assert_close(image[0], torch.arange(8.0).expand(8, 8, 8), atol=1e-4, rtol=0)
        turned.append(float(image[1].std(dim=1).max()) > 0.1)
    assert sum(turned) > 5


def test_without_movement_there_is_no_margin() -> None:
    assert augmentation_margin(None, (8, 8, 8)) == (0, 0, 0)
    assert augmentation_margin(Augmentation(spatial_probability=0.0), (8, 8, 8)) == (0, 0, 0)


@pytest.mark.parametrize("degrees", [5, 20, 45, 90, 180])
@pytest.mark.parametrize("patch", [(12, 12, 12), (20, 12, 6)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_margin_covers_a_turn_about_one_axis(
    degrees: float, patch: tuple[int, int, int], axis: int
) -> None:
    choice = Augmentation(rotation_degrees=degrees, scale=0.2)
    margin = augmentation_margin(choice, patch)
    grown = [size + 2 * edge for size, edge in zip(patch, margin, strict=True)]
    for share in (0.25, 0.5, 0.75, 1.0):
        angles = [0.0, 0.0, 0.0]
        angles[axis] = math.radians(share * degrees)
        turn = Affine(
            rotate_params=angles,
            scale_params=(1 + choice.scale,) * 3,
            spatial_size=patch,
            padding_mode="zeros",
            image_only=True,
        )
        assert float(turn(torch.ones(1, *grown)).min()) > 0.999


def _transforms(choice: Augmentation, patch: tuple[int, int, int] = (8, 8, 8)) -> Any:
    return augmentation_transforms(choice, patch, axcodes="RAS", labels=NO_SIDES)


def _sample(shape: tuple[int, int, int] = (14, 14, 14)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(2, *shape, generator=generator),
        "label": torch.randint(0, 3, (1, *shape), generator=generator).float(),
    }


ALWAYS = Augmentation(
    spatial_probability=1.0,
    noise_probability=1.0,
    blur_probability=1.0,
    brightness_probability=1.0,
    gamma_probability=1.0,
)


def test_a_seed_gives_the_same_patch_again() -> None:
    transforms = _transforms(ALWAYS)

    def draw(seed: int) -> torch.Tensor:
        transforms.set_random_state(seed)
        image: torch.Tensor = transforms(_sample())["image"]
        return torch.as_tensor(np.array(image))

    first, other, again = draw(1), draw(2), draw(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


NEVER = Augmentation(
    spatial_probability=0.0,
    noise_probability=0.0,
    blur_probability=0.0,
    brightness_probability=0.0,
    gamma_probability=0.0,
    mirror="none",
)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_probability": 1.0},
        {"blur_probability": 1.0},
        {"brightness_probability": 1.0},
        {"gamma_probability": 1.0},
    ],
)
def test_intensities_change_in_the_image_alone(change: dict[str, float]) -> None:
    sample = _sample((8, 8, 8))
    changed = _transforms(NEVER.model_copy(update=change)).set_random_state(3)(sample)
    assert torch.equal(torch.as_tensor(changed["label"]), sample["label"])
    assert not torch.allclose(torch.as_tensor(changed["image"]), sample["image"])
    assert changed["image"].shape == sample["image"].shape


def test_what_is_never_drawn_leaves_all_as_it_is() -> None:
    sample = _sample((8, 8, 8))
    changed = _transforms(NEVER).set_random_state(3)(sample)
    assert torch.equal(torch.as_tensor(changed["image"]), sample["image"])
    assert torch.equal(torch.as_tensor(changed["label"]), sample["label"])


def test_noise_and_brightness_keep_to_their_bounds() -> None:
    zeros, ones = torch.zeros(1, 16, 16, 16), torch.ones(1, 16, 16, 16)
    noisy = _transforms(NEVER.model_copy(update={"noise_probability": 1.0, "noise_std": 0.5}), (16, 16, 16))
    bright = _transforms(NEVER.model_copy(update={"brightness_probability": 1.0}), (16, 16, 16))
    spreads, factors = [], []
    for seed in range(40):
        noisy.set_random_state(seed)
        spreads.append(float(noisy({"image": zeros, "label": zeros})["image"].std()))
        bright.set_random_state(seed)
        factors.append(float(bright({"image": ones, "label": ones})["image"].mean()))
    assert 0.0 <= min(spreads) < 0.15
    assert 0.35 < max(spreads) <= 0.52
    assert 0.75 <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.25


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_patch_of_one_value_stays_finite(value: float) -> None:
    transforms = _transforms(ALWAYS.model_copy(update={"noise_probability": 0.0}))
    sample = {"image": torch.full((1, 14, 14, 14), value), "label": torch.zeros(1, 14, 14, 14)}
    for seed in range(5):
        transforms.set_random_state(seed)
        assert bool(torch.as_tensor(transforms(dict(sample))["image"]).isfinite().all())
