"""The context module: convolutions ever further spread, which look around in class scores.

It takes and gives the same channels on the same grid, and hands its input on as it starts, so that it can
be put behind any network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.networks.blocks.layers import ConvBlock, convolution
from medseg.networks.blocks.options import choice, positive
from medseg.networks.blocks.wrapped import WrappedNetwork

__all__ = ["CONTEXTS", "ContextModule", "WithContext"]

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
"""Of the layers that look around; an eighth, pointwise one follows."""

WIDTHS = {"basic": (1, 1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32, 1)}
"""Channels that each layer gives, as multiples of the module's."""

CONTEXTS = tuple(sorted(WIDTHS))
"""Context modules by name."""

NOISE = 0.01
"""Deviation of the weights that are noise, as a part of those that hand the input on."""


class ContextModule(nn.Sequential):
    """Seven dilated convolutions, each followed by max(x, 0), and a pointwise one.

    The seven spread their kernels by 1, 1, 2, 4, 8, 16 and 1, so that with kernels of 3 an output voxel sees
    3, 5, 9, 17, 33, 65, 67 and 67 voxels along each axis, layer by layer. *Basic* has ``channels``
    throughout; *large* has 2, 2, 4, 8, 16, 32, 32 times as many, and ``channels`` again at its end.

    As it starts, it hands its input on. The maps of each layer fall into C = ``channels`` groups, one for
    each channel of the input; from a layer of c maps to one of c', those of the same group are joined by the
    weight C / c' at the kernel's centre. As c / C maps are summed, a signal is multiplied by c / c', which
    over all layers makes one. All other weights are 0 in *basic*, whose output is max(input, 0) exactly; in
    *large* they are noise of deviation C / (100 c'), which tells the maps of a group apart, and the output
    is max(input, 0) but for that noise.

    In 2D *basic* has 64 C² weights, as the paper says, and 8 C biases; *large* has 15,422 C² weights and
    97 C biases. In 3D they have 190 C² and 46,202 C² weights.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels in and out.
        kind: ``"basic"`` or ``"large"``.
        kernel_size: Odd, one number or one an axis; along an axis of 1 nothing is looked at.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> ContextModule(2, channels=1)(torch.tensor([[[[-1.0, 2.0]]]])).tolist()
        [[[[0.0, 2.0]]]]

    References:
        Yu, Koltun, Multi-scale context aggregation by dilated convolutions, ICLR 2016.
    """

    def __init__(
        self, spatial_dims: int, channels: int, kind: str = "basic", kernel_size: int | Sequence[int] = 3
    ) -> None:
        super().__init__()
        groups = positive(channels, "channels")
        multiples = WIDTHS[choice(kind, CONTEXTS, "context")]
        widths = [groups * multiple for multiple in (1, *multiples)]
        for index, (before, after) in enumerate(itertools.pairwise(widths[:-1])):
            spread = DILATIONS[index]
            block = ConvBlock(spatial_dims, before, after, kernel_size, norm=None, dilation=spread)
            self.add_module(str(index), block)
        self.add_module(str(len(DILATIONS)), convolution(spatial_dims, widths[-2], widths[-1], 1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                _hand_on(layer, groups, 0.0 if kind == "basic" else NOISE)


def _hand_on(layer: nn.Conv2d | nn.Conv3d, groups: int, noise: float) -> None:
    """Let the maps of each group carry the mean of that group's maps before, as far as noise allows."""
    before, after = layer.in_channels, layer.out_channels
    weight = groups / after
    device = layer.weight.device
    group_before = torch.arange(before, device=device) * groups // before
    group_after = torch.arange(after, device=device) * groups // after
    same = group_after[:, None] == group_before
    with torch.no_grad():
        if noise > 0.0:
            layer.weight.normal_(std=noise * weight)
        else:
            layer.weight.zero_()
        entries = layer.weight.flatten(2)
        entries[..., entries.shape[2] // 2].masked_fill_(same, weight)
        if layer.bias is not None:
            layer.bias.zero_()


class WithContext(WrappedNetwork):
    """A segmentation network whose class scores go through a context module.

    As it starts, *basic* gives max(scores, 0).

    Args:
        network: A segmentation network.
        context: ``"basic"`` or ``"large"``.
        kernel_size: Of the context module, one number or one an axis.

    Raises:
        ValueError: An option is invalid.
    """

    def __init__(
        self, network: nn.Module, context: str = "basic", kernel_size: int | Sequence[int] = 3
    ) -> None:
        super().__init__(network)
        self.context = ContextModule(self.spatial_dims, self.out_channels, context, kernel_size)

    def behind(self, images: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`WrappedNetwork`."""
        seen: Tensor = self.context(scores)
        return seen
