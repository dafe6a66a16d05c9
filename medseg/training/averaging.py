"""Weights averaged over the last steps, and batch norms whose statistics fit the weights that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

__all__ = ["average_of", "averaging_decay", "has_batch_norm", "recalibrate_batch_norm"]

_SHARE_OF_STEPS = 10


def averaging_decay(step: int, most: float) -> float:
    """How much of the average stays at a step, counted from 0: little at first, ``most`` in the end.

    An average that kept ``most`` from the start would remember the random weights for long: the
    average of step n reaches back over a tenth of the steps so far.

    Example:
        >>> averaging_decay(0, 0.999), averaging_decay(90, 0.999), averaging_decay(10**6, 0.999)
        (0.1, 0.91, 0.999)
    """
    return min(most, (1 + step) / (_SHARE_OF_STEPS + step))


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights, which ``update_parameters(network)`` carries on.

    Buffers, such as the statistics of batch norms, are the network's own.

    Args:
        network: What learns.
        decay: How much of the average stays at each step, in the end.

    References:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim.
        1992.
    """

    def carry_on(averages: Sequence[Tensor], current: Sequence[Tensor], step: Tensor | int) -> None:
        torch._foreach_lerp_(list(averages), list(current), 1.0 - averaging_decay(int(step), decay))

    average = AveragedModel(network, multi_avg_fn=carry_on)
    return average.requires_grad_(False)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer keeps statistics of what went through it."""
    return any(isinstance(layer, _BatchNorm) and layer.track_running_stats for layer in network.modules())


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Measure the batch norms' statistics anew, as plain means over batches.

    While a network learns, its statistics trail behind its weights; those of averaged weights were
    never measured at all.

    Args:
        network: Its running means and variances are replaced; its mode stays.
        images: Batches (B, C, X, Y, Z).

    References:
        Izmailov et al., Averaging weights leads to wider optima, UAI 2018, section 3.2.
    """
    with _counting(network):
        for batch in images:
            network(batch)


@contextmanager
def _counting(network: nn.Module) -> Iterator[None]:
    """Batch norms learn cumulative means; all other layers are as in evaluation (dropout is off)."""
    modes = {layer: layer.training for layer in network.modules()}
    norms = [layer for layer in modes if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    network.eval()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
