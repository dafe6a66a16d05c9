"""What medseg offers is usable from a MONAI config by ``_target_``, without the rest of medseg."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from medseg.registry import LOSSES, NETWORKS


def _made(config: dict[str, Any]) -> Any:
    return ConfigParser({"thing": config}).get_parsed_content("thing")


@pytest.mark.parametrize("name", NETWORKS.names())
def test_networks(name: str) -> None:
    target = NETWORKS.entry(name).target.replace(":", ".")
    named = inspect.signature(NETWORKS.resolve(name)).parameters
    narrow = {"features": [2, 4]} if "features" in named else {"base_features": 2}
    network = _made({"_target_": target, "spatial_dims": 3, "in_channels": 1, "out_channels": 3, **narrow})
    assert network(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 3, 8, 8, 8)


@pytest.mark.parametrize("name", LOSSES.names())
def test_losses(name: str) -> None:
    target = LOSSES.entry(name).target.replace(":", ".")
    options = {} if name == "weighted_cross_entropy" else {"softmax": True}
    loss = _made({"_target_": target, "to_onehot_y": True, **options})
    value = loss(torch.zeros(1, 3, 4, 4, 4), torch.ones(1, 1, 4, 4, 4).long())
    assert value.ndim == 0
    assert value > 0.0


def test_the_inferer() -> None:
    inferer = _made(
        {"_target_": "medseg.inference.SlidingWindowInferer", "roi_size": [4, 4, 4], "overlap": 0.25}
    )
    image = torch.rand(1, 1, 9, 7, 5)
    assert torch.allclose(inferer(image, lambda window: 2 * window), 2 * image, atol=1e-6)


def test_transforms() -> None:
    resample = _made(
        {"_target_": "medseg.transforms.ResampleToSpacingd", "keys": ["image"], "spacing_mm": [2.0, 2.0, 2.0]}
    )
    image = MetaTensor(torch.ones(1, 5, 5, 5), affine=torch.eye(4))
    assert resample({"image": image})["image"].shape == (1, 3, 3, 3)
    normalize = _made(
        {
            "_target_": "medseg.transforms.NormalizeChannelsd",
            "keys": ["image"],
            "normalization": [{"scheme": "clip_zscore", "lower": 0.0, "upper": 4.0, "mean": 2.0, "std": 0.5}],
        }
    )
    assert normalize({"image": torch.tensor([[[[-9.0, 3.0, 9.0]]]])})["image"].ravel().tolist() == [
        -4.0,
        2.0,
        4.0,
    ]
