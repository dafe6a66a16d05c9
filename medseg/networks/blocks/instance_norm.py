"""PyTorch's instance norms with the same numbers, made cheaper to train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.blocks.options import is_symbolic

__all__ = ["InstanceNorm2d", "InstanceNorm3d"]


class InstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` that trains as :class:`InstanceNorm3d` does.

    Args:
        channels: Channels in and out; each has a learnt scale and shift.

    Example:
        >>> InstanceNorm2d(4)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """Images, shape (batch, channels, X, Y), each channel of each with mean 0 and deviation 1."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _normalised(input, self, torch.channels_last)
        return functional.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


class InstanceNorm3d(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` that keeps channels last and lets activations overwrite what it gives.

    PyTorch's copies channels to the front, so that all that follows has them there too and convolutions copy
    back and forth: a fifth of a training step of a U-Net on a CPU. Then it gives a view, and when an
    activation overwrites a view, autograd copies the whole gradient there and back: some 6 % of the step.

    Args:
        channels: Channels in and out; each has a learnt scale and shift.

    Example:
        >>> images = torch.rand(2, 4, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
        >>> normalised = InstanceNorm3d(4)(images)
        >>> normalised.is_contiguous(memory_format=torch.channels_last_3d), normalised._is_view()
        (True, False)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """Images, shape (batch, channels, X, Y, Z), each channel of each with mean 0 and deviation 1."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _normalised(input, self, torch.channels_last_3d)
        return functional.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


def _normalised(
    images: Tensor, norm: InstanceNorm2d | InstanceNorm3d, channels_last: torch.memory_format
) -> Tensor:
    scale, shift = norm.weight, norm.bias
    is_trained = norm.training and not is_symbolic(images)
    if is_trained and images.is_contiguous(memory_format=channels_last) and not images.is_contiguous():
        # Of one image a batch norm is the same, and PyTorch has it for either order of channels.
        each = [
            functional.batch_norm(image, None, None, scale, shift, training=True, eps=norm.eps)
            for image in torch.split(images, 1)
        ]
        return each[0] if len(each) == 1 else torch.cat(each)
    normalised = functional.instance_norm(images, weight=scale, bias=shift, eps=norm.eps)
    if is_trained:
        # What the view is of no one else sees, so that it may be a tensor of its own.
        normalised = torch.ops.aten._unsafe_view(normalised, normalised.shape)
    return normalised
