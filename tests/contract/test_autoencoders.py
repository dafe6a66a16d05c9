"""Every registered network's encoder can be learnt by an autoencoder, and handed back."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.networks import build_network, network_names
from medseg.networks.autoencoder import CODES, Autoencoder, corrupt
from medseg.networks.stacked import StackedStages

SMALL: dict[str, dict[str, Any]] = runpy.run_path(str(Path(__file__).with_name("test_networks.py")))["SMALL"]
"""The options that make each network tiny."""

CHANNELS = 2
CASES = list(itertools.product(network_names(), (2, 3)))
every_network = pytest.mark.parametrize(
    ("name", "dims"), CASES, ids=[f"{name}-{dims}d" for name, dims in CASES]
)


def _network(name: str, dims: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_network(name, dims, CHANNELS, 3, **SMALL.get(name, {}))


def _images(*size: int) -> Tensor:
    """Two images whose channels have means of 1 and -1."""
    torch.manual_seed(1)
    means = torch.tensor([1.0, -1.0]).view(1, 2, *(1,) * len(size))
    return means + 0.3 * torch.randn(2, CHANNELS, *size)


@every_network
@pytest.mark.parametrize("code", sorted(CODES))
def test_images_come_back_in_their_size(name: str, dims: int, code: str) -> None:
    autoencoder = Autoencoder(_network(name, dims), code)
    for size in ((8, 12, 8), (9, 13, 7)):
        images = _images(*size[:dims])
        made = autoencoder(images)
        assert made.images.shape == images.shape
        assert made.penalty.shape == ()
        assert torch.isfinite(made.images).all()
        assert (made.penalty == 0.0) == (code == "plain")


@every_network
def test_it_learns_and_hands_its_encoder_over(name: str, dims: int) -> None:
    network = _network(name, dims)
    before = {key: value.clone() for key, value in network.encoder.state_dict().items()}
    autoencoder = Autoencoder(network)
    images = _images(*(16, 12, 8)[:dims])
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=0.01)
    errors = []
    for _ in range(12):
        error = (autoencoder(images).images - images).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]
    learnt = {key: value for key, value in autoencoder.state_dict().items() if key.startswith("encoder.")}
    moved = [key for key, value in before.items() if not torch.equal(learnt[f"encoder.{key}"], value)]
    assert set(moved) >= {key for key, _ in network.encoder.named_parameters()}
    other = _network(name, dims, seed=1)
    other.encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in learnt.items()})
    assert {key for key in other.state_dict() if key.startswith("encoder.")} == set(learnt)
    maps = [each.encoder.eval()(images) for each in (other, autoencoder)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*maps, strict=True))


@every_network
def test_every_level_learns_in_its_stage_and_in_no_other(name: str, dims: int) -> None:
    autoencoder = Autoencoder(_network(name, dims))
    stages = StackedStages(autoencoder)
    images = _images(*(16, 12, 8)[:dims])
    assert len(stages) == len(autoencoder.encoder.features)
    seen: list[str] = []
    for stage in range(len(stages)):
        autoencoder.train()
        autoencoder.zero_grad()
        stages.enter(stage)
        before = {key: value.clone() for key, value in autoencoder.encoder.named_buffers()}
        stages.loss(stage, images, lambda clean: corrupt(clean, 0.3, 0.1)).backward()
        learning = [key for key, value in autoencoder.named_parameters() if value.grad is not None]
        assert learning
        assert not set(learning) & set(seen)
        seen += learning
        norms = [
            key
            for key, value in before.items()
            if not torch.equal(autoencoder.encoder.get_buffer(key), value)
        ]
        belonging = {key.rpartition(".")[0] for key in learning}
        assert {f"encoder.{key.rpartition('.')[0]}" for key in norms} <= belonging
    assert set(seen) == {key for key, _ in autoencoder.named_parameters()}
    stages.enter(None)
    assert all(parameter.requires_grad for parameter in autoencoder.parameters())
    assert all(module.training for module in autoencoder.modules() if not isinstance(module, nn.ModuleList))
