"""Large patches in little memory: intermediate results are computed again instead of kept."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpoint_activations"]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def checkpoint_activations(network: nn.Module) -> tuple[str, ...]:
    """Let a network keep for the gradient what goes into its blocks, not what happens within them.

    A block is the smallest part that holds two convolutions or more: the convolutions of a U-Net's level, a
    residual unit, a dense layer's pair. Each is computed once more when its gradient is. Results and
    gradients are the same, and so are the statistics of batch norms, which count each batch once.

    Args:
        network: Changed in place; names and weights stay, and nothing changes in evaluation.

    Returns:
        The names of the blocks.

    Example:
        >>> unit = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Conv3d(2, 2, 3))
        >>> checkpoint_activations(nn.Sequential(unit, nn.Conv3d(2, 2, 1)))
        ('0',)

    References:
        Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost, 2016.
    """
    names = tuple(name for name, module in network.named_modules() if name and _is_block(module))
    for name in names:
        block: Any = network.get_submodule(name)
        block.forward = functools.partial(_computed_twice, block)
    return names


def _is_block(module: nn.Module) -> bool:
    return _convolutions(module) >= 2 and all(_convolutions(child) < 2 for child in module.children())


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(layer, _CONVOLUTIONS) for layer in module.modules())


def _computed_twice(block: nn.Module, *inputs: Any) -> Any:
    compute = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return compute(*inputs)
    return checkpoint(
        compute, *inputs, use_reentrant=False, context_fn=functools.partial(_first_and_second, block)
    )


def _first_and_second(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_left_alone(block)


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    norms = [layer for layer in block.modules() if isinstance(layer, _BatchNorm)]
    buffers = [buffer for layer in norms for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
