from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, RandomizableTransform

from medseg.errors import ConfigError
from medseg.transforms import Augmentd, augment_patch

KEYS, KINDS = ["scan", "truth"], ["image", "label"]
NAMES = {1: "left lung", 2: "right lung"}


def _sample() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "scan": torch.randn(1, 14, 14, 14, generator=generator),
        "truth": torch.randint(0, 3, (1, 14, 14, 14), generator=generator),
        "name": "case",
    }


def _augment(**changes: Any) -> Augmentd:
    return Augmentd(
        **{"keys": KEYS, "patch_size": (8, 8, 8), "ct_channels": [False], "holds": KINDS, **changes}
    )


def test_a_seed_gives_the_same_patch_again() -> None:
    augment = _augment(options={"spatial_probability": 1.0, "noise_probability": 1.0})
    assert isinstance(augment, RandomizableTransform)
    first = Compose([augment]).set_random_state(1)(_sample())
    drawn = augment.last_draw
    again, other = (Compose([augment]).set_random_state(seed)(_sample()) for seed in (1, 2))
    assert torch.equal(first["scan"], again["scan"])
    assert not torch.equal(first["scan"], other["scan"])
    assert first["name"] == "case"
    replayed = augment_patch({"image": _sample()["scan"], "label": _sample()["truth"]}, drawn)
    assert torch.equal(replayed["image"], first["scan"])
    assert torch.equal(replayed["label"], first["truth"])


def test_a_bundle_can_name_it() -> None:
    parser = ConfigParser(
        {
            "augment": {
                "_target_": "medseg.transforms.Augmentd",
                "keys": KEYS,
                "holds": KINDS,
                "patch_size": [8, 8, 8],
                "ct_channels": [False],
                "labels": {"1": "left lung", "2": "right lung"},
                "spacing_mm": [1.0, 1.0, 3.0],
                "options": {"mirror": "all", "rotation_degrees": 10},
            }
        }
    )
    augment = parser.get_parsed_content("augment")
    assert augment.augmenter.axes == (0, 1, 2)
    assert augment(_sample())["scan"].shape == (1, 8, 8, 8)


def test_metadata_is_left_behind_and_missing_keys_are_passed_over() -> None:
    sample = {"scan": MetaTensor(_sample()["scan"])}
    with pytest.raises(KeyError):
        _augment()(dict(sample))
    changed = _augment(allow_missing_keys=True)(dict(sample))
    assert type(changed["scan"]) is torch.Tensor


def test_it_may_do_nothing_at_times() -> None:
    augment = _augment(prob=0.0, options={"spatial_probability": 1.0, "brightness_probability": 1.0})
    changed = augment.set_random_state(0)(_sample())
    assert torch.equal(changed["scan"], _sample()["scan"][:, 3:11, 3:11, 3:11])
    assert augment.last_draw == augment.augmenter.nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"rotation": 3}}, r"options.rotation: .*use the keys of a recipe's augmentation"),
        ({"options": {"scale": 2.0}}, "options.scale"),
        ({"holds": ["image", "image"]}, "holds: "),
        ({"holds": ["label", "weight"]}, "name 'image'"),
        ({"holds": ["image", "mask"]}, "use image, label, weight"),
        ({"patch_size": (8, 8)}, "give three sizes"),
        ({"ct_channels": []}, "one entry per channel"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "three positive numbers"),
        ({"labels": NAMES, "options": {"mirror_sides": "keep"}}, "mirror_sides"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _augment(**change)
