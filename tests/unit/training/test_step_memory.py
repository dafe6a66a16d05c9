"""Memory of a training step, against what autograd keeps and against the graph's own count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build_network, network_names, summarize
from medseg.runs import NetworkPlan
from medseg.training.step_memory import step_memory

UNET = {"features": [4, 8], "strides": [[2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2}


def _kept_bytes(options: dict[str, Any], shape: tuple[int, ...]) -> int:
    """What autograd keeps of a real pass, with real numbers."""
    network = build_network("unet", **options)
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = network(torch.zeros(shape))
    assert scores.requires_grad
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


@pytest.mark.parametrize("side", [16, 24, 40])
def test_it_is_what_autograd_keeps_and_what_is_made_of_it(side: int) -> None:
    plan = NetworkPlan(name="unet", options=UNET)
    memory = step_memory(plan, (2, 2, 2))
    voxels = 2 * side**3
    widest = 2 * 8 * 4 * voxels  # two gradients of the concatenated maps of eight channels
    expected = _kept_bytes(UNET, (2, 1, side, side, side)) + widest
    assert memory.bytes_of((side,) * 3, 2) - memory.fixed_bytes == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ["unet", "segnet", "vnet"])
def test_it_is_near_what_the_graph_counts(name: str) -> None:
    options = {"features": [16, 32]}
    with torch.device("meta"):
        summary = summarize(build_network(name, **options), (1, 1, 32, 32, 32))
    memory = step_memory(NetworkPlan(name=name, options=options), (4, 4, 4))
    assert memory.fixed_bytes == 20 * summary.parameters
    assert 1.0 < memory.bytes_per_voxel * 32**3 / summary.training_bytes < 1.5


def test_many_classes_take_what_a_loss_makes_of_their_scores() -> None:
    few, many = (
        step_memory(NetworkPlan(name="unet", options={**UNET, "out_channels": classes}), (2, 2, 2))
        for classes in (2, 100)
    )
    # Four copies of 100 scores, instead of two of eight maps.
    assert many.bytes_per_voxel - few.bytes_per_voxel == pytest.approx(4 * 100 * 4 - 2 * 8 * 4, rel=0.02)


def test_heads_on_coarser_levels_count() -> None:
    features = [4, 8, 16]
    options = {"features": features, "out_channels": 100}
    plain = step_memory(NetworkPlan(name="unet", options=options), (4, 4, 4))
    deep = step_memory(NetworkPlan(name="unet", options={**options, "deep_supervision": True}), (4, 4, 4))
    assert deep.bytes_per_voxel > 1.1 * plain.bytes_per_voxel


@pytest.mark.parametrize("name", network_names())
def test_every_network_is_counted(name: str) -> None:
    memory = step_memory(NetworkPlan(name=name, options={"in_channels": 2, "out_channels": 3}), (16, 16, 16))
    assert memory.fixed_bytes > 1000
    assert memory.bytes_per_voxel > 100.0


def test_what_cannot_be_built_is_refused_with_the_network_s_name() -> None:
    with pytest.raises(ConfigError, match="network 'unet': has no option 'nrom'"):
        step_memory(NetworkPlan(name="unet", options={"nrom": None}))
