"""The U-Net's heads on coarser levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medseg.networks.unet import UNet

SWITCHES: list[dict[str, Any]] = [
    {},
    {"units": "residual", "attention": True},
    {"downsample": "conv", "upsample": "linear", "widening": "before_pooling", "norm": None},
]
every_switch = pytest.mark.parametrize("options", SWITCHES, ids=["plain", "residual", "strided"])


@every_switch
def test_deep_supervision_adds_heads_and_changes_nothing_else(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    deep = UNet(3, features=(4, 6, 8, 10), deep_supervision=True, **options).eval()
    plain = UNet(3, features=(4, 6, 8, 10), **options).eval()
    heads = [f"deep_heads.{level}.{kind}" for level in (0, 1) for kind in ("weight", "bias")]
    missing, unexpected = plain.load_state_dict(deep.state_dict(), strict=False)
    assert missing == []
    assert unexpected == heads
    missing, unexpected = deep.load_state_dict(plain.state_dict(), strict=False)
    assert missing == heads
    assert unexpected == []
    images = torch.randn(1, 1, 9, 8, 8)
    assert torch.equal(deep(images), plain(images))
    maps = deep.forward_deep(images)
    assert [tuple(scores.shape) for scores in maps] == [(1, 2, 9, 8, 8), (1, 2, 5, 4, 4), (1, 2, 3, 2, 2)]
    assert torch.equal(maps[0], deep(images))
    assert len(plain.forward_deep(images)) == 1


@every_switch
def test_deep_supervision_by_seed_starts_as_without(options: dict[str, Any]) -> None:
    states = []
    for deep in (True, False):
        torch.manual_seed(3)
        states.append(UNet(2, features=(4, 6, 8), deep_supervision=deep, **options).state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_deep_heads_receive_gradients() -> None:
    torch.manual_seed(0)
    network = UNet(2, features=(4, 6, 8), deep_supervision=True)
    torch.stack(
        [scores.square().mean() for scores in network.forward_deep(torch.randn(2, 1, 16, 16))]
    ).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_forward_deep_checks_the_input_too() -> None:
    network = UNet(2, features=(4, 6), deep_supervision=True)
    with pytest.raises(ValueError, match="channels"):
        network.forward_deep(torch.zeros(1, 3, 8, 8))
