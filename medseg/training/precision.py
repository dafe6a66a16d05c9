"""Keeping single precision where a half-precision kernel errs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.inference import Compute

__all__ = ["avoid_faulty_gradients"]


def avoid_faulty_gradients(network: nn.Module, shape: Sequence[int], compute: Compute) -> tuple[str, ...]:
    """Let those convolutions compute in float32 whose bfloat16 gradients cannot be trusted on the CPU.

    Where the first spatial axis is shorter than a 3D convolution's kernel and longer than its padding,
    oneDNN's bfloat16 gradient of the weights is partly memory that nobody has written (seen in torch 2.13:
    NaN in one training step of five with two voxels and a kernel of three). Such grids are tiny, so that
    single precision costs nothing there.

    Args:
        network: Its convolutions are changed in place; names and weights stay.
        shape: Of the batches that it trains on, (B, C, X, Y, Z).
        compute: Where and in which precision it trains; elsewhere than in bfloat16 on the CPU nothing is
            done.

    Returns:
        The names of the convolutions that were changed.

    Example:
        >>> network = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1))
        >>> avoid_faulty_gradients(
        ...     network, (1, 1, 2, 8, 8), Compute(torch.device("cpu"), torch.bfloat16)
        ... )
        ('0',)
    """
    if compute.device.type != "cpu" or compute.dtype != torch.bfloat16:
        return ()
    faulty: set[str] = set()
    twin = copy.deepcopy(network).to("meta")
    for name, layer in twin.named_modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_pre_hook(functools.partial(_note_if_faulty, name, faulty))
    with torch.no_grad():
        twin(torch.empty(tuple(shape), device="meta"))
    for name in faulty:
        layer = network.get_submodule(name)
        layer.forward = functools.partial(_in_single_precision, layer)
    return tuple(sorted(faulty))


def _note_if_faulty(name: str, faulty: set[str], layer: nn.Conv3d, args: tuple[Tensor, ...]) -> None:
    padding = layer.padding[0] if isinstance(layer.padding, tuple) else 0
    if int(padding) < args[0].shape[2] < layer.kernel_size[0]:
        faulty.add(name)


def _in_single_precision(layer: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        result: Tensor = type(layer).forward(layer, images.float())
        return result
