"""Sums over the processes of one training that have each a part of the batch, with their gradients.

Thin words for ``torch.distributed``: whoever calls one of these in one process must call it in all of them,
in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor

__all__ = ["gather_from_processes", "process_count", "process_number", "sum_over_processes"]


def process_count() -> int:
    """How many processes work together; 1 where nothing has joined them.

    Example:
        >>> process_count()
        1
    """
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if joined else 1


def process_number() -> int:
    """Which of them this one is, from 0.

    Example:
        >>> process_number()
        0
    """
    return torch.distributed.get_rank() if process_count() > 1 else 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of what each process gives, in every one of them; one process alone gets its own back.

    The gradient is that of the sum of all processes' losses, as each of them is a function of every
    process's part. Averaged over the processes afterwards, as PyTorch's ``DistributedDataParallel`` does
    with gradients of weights, it becomes the gradient of their mean loss.

    Args:
        tensor: Of the same shape and type in each process.

    Example:
        >>> sum_over_processes(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """
    if process_count() == 1:
        return tensor
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def gather_from_processes(tensor: Tensor) -> Tensor:
    """What each process gives, one after another along a new first axis, without gradients.

    Args:
        tensor: Of the same shape and type in each process.

    Example:
        >>> gather_from_processes(torch.tensor([1.0, 2.0])).tolist()
        [[1.0, 2.0]]
    """
    count = process_count()
    if count == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(count)]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total
