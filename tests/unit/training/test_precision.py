"""Convolutions whose bfloat16 gradients cannot be trusted compute in single precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.inference import Compute
from medseg.networks import build_network
from medseg.training.precision import avoid_faulty_gradients

BFLOAT16 = Compute(torch.device("cpu"), torch.bfloat16)


def _unet() -> nn.Module:
    torch.manual_seed(0)
    return build_network("unet", 3, 1, 2, features=(4, 8, 8))


def test_the_coarsest_level_alone_is_too_short() -> None:
    changed = avoid_faulty_gradients(_unet(), (2, 1, 8, 16, 16), BFLOAT16)
    assert changed == ("encoder.levels.2.convs.0.conv", "encoder.levels.2.convs.1.conv")


@pytest.mark.parametrize(
    ("shape", "compute"),
    [
        ((2, 1, 12, 8, 8), BFLOAT16),  # three voxels at the bottom
        ((2, 1, 4, 16, 16), BFLOAT16),  # one voxel there, but two in the middle
        ((2, 1, 8, 16, 16), Compute(torch.device("cpu"), torch.float32)),
        ((2, 1, 8, 16, 16), Compute(torch.device("cuda"), torch.bfloat16)),
    ],
)
def test_nothing_else_is_changed(shape: tuple[int, ...], compute: Compute) -> None:
    changed = avoid_faulty_gradients(_unet(), shape, compute)
    assert not any(name.startswith("encoder.levels.2") for name in changed)
    assert bool(changed) == (shape[2] == 4)


def test_a_wide_kernel_is_too_long_for_more_grids() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 5, padding=2))
    faulty = [size for size in range(1, 8) if avoid_faulty_gradients(network, (1, 1, size, 9, 9), BFLOAT16)]
    assert faulty == [3, 4]


def test_weights_keep_their_names_and_gradients_their_values() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1))
    twin = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1))
    twin.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 2, 8, 8)

    assert avoid_faulty_gradients(network, images.shape, BFLOAT16)
    with torch.autocast("cpu", torch.bfloat16):
        network(images).square().mean().backward()
    twin(images).square().mean().backward()

    assert network.state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(network[0].weight.grad, twin[0].weight.grad)
