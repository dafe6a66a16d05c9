from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medseg.training.averaging import (
    average_of,
    averaging_decay,
    has_batch_norm,
    recalibrate_batch_norm,
)


def test_three_steps_computed_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 8.0)
    average = average_of(network, decay=0.15)
    seen = []
    for weight in (1.0, 2.0, 3.0):
        nn.init.constant_(network.weight, weight)
        average.update_parameters(network)
        seen.append(float(average.module.weight))
    # The first is taken as it is; of the second 2/11 stays, which is more than 0.15.
    assert seen == pytest.approx([1.0, 0.15 * 1 + 0.85 * 2, 0.15 * 1.85 + 0.85 * 3])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 0.9999))
def test_what_stays_grows_to_the_most(step: int, most: float) -> None:
    assert 0.0 <= averaging_decay(step, most) <= averaging_decay(step + 1, most) <= most


def test_constant_weights_average_to_themselves() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    average = average_of(network, decay=0.9)
    for _ in range(5):
        average.update_parameters(network)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(average.module.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_it_agrees_with_torch_where_nothing_ramps() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    ours = average_of(network, decay=0.01)  # below every step of the ramp but the first, which copies
    theirs = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.01)
    )
    for _ in range(4):
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        ours.update_parameters(network)
        theirs.update_parameters(network)
    torch.testing.assert_close(ours.module.weight, theirs.module.weight)


def _norms() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3), nn.Dropout(0.5), nn.BatchNorm3d(3))


def test_statistics_are_means_over_batches() -> None:
    torch.manual_seed(0)
    network = _norms()
    batches = [torch.randn(2, 1, 4, 4, 4) * 3 + 5 for _ in range(4)]
    recalibrate_batch_norm(network, batches)
    with torch.no_grad():
        maps = [network[0](batch) for batch in batches]  # type: ignore[index]
    means = torch.stack([features.mean(dim=(0, 2, 3, 4)) for features in maps]).mean(dim=0)
    variances = torch.stack([features.var(dim=(0, 2, 3, 4)) for features in maps]).mean(dim=0)
    torch.testing.assert_close(network[1].running_mean, means)  # type: ignore[index]
    torch.testing.assert_close(network[1].running_var, variances)  # type: ignore[index]


def test_it_agrees_with_torch() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(
        nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.Conv3d(3, 2, 1), nn.BatchNorm3d(2)
    )
    theirs = copy.deepcopy(ours)
    batches = [torch.randn(2, 1, 5, 5, 5) for _ in range(3)]
    recalibrate_batch_norm(ours, batches)
    torch.optim.swa_utils.update_bn(batches, theirs)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)


@pytest.mark.parametrize("training", [True, False])
def test_mode_momentum_and_weights_stay(training: bool) -> None:
    network = _norms().train(training)
    weights = copy.deepcopy(list(network.parameters()))
    recalibrate_batch_norm(network, [torch.randn(2, 1, 2, 2, 2)])
    assert all(layer.training == training for layer in network.modules())
    assert network[1].momentum == 0.1  # type: ignore[index]
    assert all(map(torch.equal, weights, network.parameters()))


def test_networks_with_and_without() -> None:
    assert has_batch_norm(_norms())
    assert not has_batch_norm(nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1)))
