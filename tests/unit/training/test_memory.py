from __future__ import annotations

import copy

import torch
from torch import nn

from medseg.networks import build_network
from medseg.training.memory import checkpoint_activations


def test_it_keeps_less_for_the_gradient() -> None:
    network = build_network("unet", features=(8, 16))
    kept: list[int] = []
    images = torch.randn(1, 1, 32, 32, 32)

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] += tensor.numel()
        return tensor

    for sparing in (False, True):
        if sparing:
            checkpoint_activations(network)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(counted, lambda tensor: tensor):
            network(images)
    assert kept[1] < 0.5 * kept[0]


def test_evaluation_is_untouched() -> None:
    network = build_network("unet", features=(2, 4)).eval()
    images = torch.randn(1, 1, 8, 8, 8)
    before = network(images)
    checkpoint_activations(network)
    assert torch.equal(network(images), before)


def test_a_copy_computes_with_its_own_weights() -> None:
    network = build_network("unet", features=(2, 4)).train()
    checkpoint_activations(network)
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    assert twin(torch.randn(1, 1, 8, 8, 8)).abs().max() == 0.0
