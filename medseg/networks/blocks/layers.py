"""Layers that every network shares, in two and three dimensions: convolution, pooling, norm, activation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from medseg.networks.blocks.instance_norm import InstanceNorm2d, InstanceNorm3d
from medseg.networks.blocks.options import choice, per_axis

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "ConvBlock",
    "ConvStack",
    "activation_layer",
    "convolution",
    "he_initialise",
    "max_pool",
    "norm_layer",
    "sliding_max_pool",
    "transposed_convolution",
]

_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {2: InstanceNorm2d, 3: InstanceNorm3d}

NORMS = ("batch", "instance", "group")
"""Normalisations by name; ``None`` stands for none."""

ACTIVATIONS = ("elu", "gelu", "leaky_relu", "prelu", "relu", "silu")
"""Activations by name."""

_MAX_GROUPS = 8


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    padding: str = "same",
    bias: bool = True,
) -> nn.Module:
    """A convolution; ``padding="same"`` pads with zeros so that stride 1 keeps the size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Odd, one number or one an axis.
        stride: One number or one an axis.
        dilation: One number or one an axis.
        padding: ``"same"`` or ``"valid"`` (none).
        bias: Whether to add a bias.

    Raises:
        ValueError: An even kernel with ``padding="same"``, which has no middle, or an unknown padding.

    Example:
        >>> convolution(3, 1, 8, (3, 3, 1))
        Conv3d(1, 8, kernel_size=(3, 3, 1), stride=(1, 1, 1), padding=(1, 1, 0))
    """
    kernel = per_axis(kernel_size, spatial_dims, "kernel_size")
    spread = per_axis(dilation, spatial_dims, "dilation")
    pad = (0,) * spatial_dims
    if choice(padding, ("same", "valid"), "padding") == "same":
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(f"kernel size {kernel} is even, so that no padding keeps the size; use odd ones")
        pad = tuple(gap * (size // 2) for size, gap in zip(kernel, spread, strict=True))
    return _CONVOLUTION[spatial_dims](
        in_channels,
        out_channels,
        kernel,
        stride=per_axis(stride, spatial_dims, "stride"),
        padding=pad,
        dilation=spread,
        bias=bias,
    )


def transposed_convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    stride: int | Sequence[int] = 2,
    *,
    bias: bool = True,
) -> nn.Module:
    """A transposed convolution whose kernel is its stride: every input voxel becomes one block."""
    step = per_axis(stride, spatial_dims, "stride")
    return _TRANSPOSED[spatial_dims](in_channels, out_channels, step, stride=step, bias=bias)


def max_pool(spatial_dims: int, stride: int | Sequence[int] = 2) -> nn.Module:
    """Max pooling over blocks of ``stride`` voxels; the last block may hang over the end.

    The overhang (``ceil_mode``) lets a network take any size: nothing is dropped, and where the stride
    divides the size it changes nothing.
    """
    step = per_axis(stride, spatial_dims, "stride")
    return _MAX_POOL[spatial_dims](step, stride=step, ceil_mode=True)


def sliding_max_pool(
    spatial_dims: int, kernel_size: int | Sequence[int], stride: int | Sequence[int] = 1
) -> nn.Sequential:
    """Max pooling over windows that overlap, centred on every ``stride``-th voxel; stride 1 keeps the size.

    One axis after another, which is the same maximum from 3k instead of k^3 voxels.

    Args:
        spatial_dims: 2 or 3.
        kernel_size: Odd, one number or one an axis.
        stride: One number or one an axis.

    Raises:
        ValueError: An even kernel, which has no middle.

    Example:
        >>> len(sliding_max_pool(3, (5, 5, 1)))
        2
    """
    kernel = per_axis(kernel_size, spatial_dims, "kernel_size")
    step = per_axis(stride, spatial_dims, "stride")
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"kernel size {kernel} is even, so that no voxel is its middle; use odd ones")
    pools = nn.Sequential()
    for axis in range(spatial_dims):
        if kernel[axis] == step[axis] == 1:
            continue
        window, hop, pad = [1] * spatial_dims, [1] * spatial_dims, [0] * spatial_dims
        window[axis], hop[axis], pad[axis] = kernel[axis], step[axis], kernel[axis] // 2
        pools.append(_MAX_POOL[spatial_dims](tuple(window), stride=tuple(hop), padding=tuple(pad)))
    return pools


def norm_layer(name: str | None, spatial_dims: int, channels: int) -> nn.Module | None:
    """The normalisation called ``name``, with a learnt scale and shift; ``None`` for none.

    Group norm takes 8 groups, or the largest number below that divides the channels.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> norm_layer("group", 3, 36).num_groups
        4
    """
    if name is None:
        return None
    kind = choice(name, NORMS, "norm")
    if kind == "group":
        return nn.GroupNorm(math.gcd(channels, _MAX_GROUPS), channels)
    if kind == "instance":
        return _INSTANCE_NORM[spatial_dims](channels)
    return _BATCH_NORM[spatial_dims](channels)


def activation_layer(name: str, *, inplace: bool = True) -> nn.Module:
    """The activation called ``name``.

    Args:
        name: One of :data:`ACTIVATIONS`.
        inplace: Whether to overwrite the input where the gradient allows; not where something else, such
            as a skip, reads the input too.

    Raises:
        ValueError: The name is unknown.
    """
    makers: dict[str, Any] = {
        "elu": lambda: nn.ELU(inplace=inplace),
        "gelu": nn.GELU,
        "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=inplace),
        "prelu": nn.PReLU,
        "relu": lambda: nn.ReLU(inplace=inplace),
        "silu": nn.SiLU,
    }
    module: nn.Module = makers[choice(name, ACTIVATIONS, "activation")]()
    return module


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, activation.

    The convolution has a bias only where no normalisation follows, which would take it away again.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: One number or one an axis.
        norm: One of :data:`NORMS` or ``None``.
        activation: One of :data:`ACTIVATIONS` or ``None``.
        padding: ``"same"`` or ``"valid"``.
        dilation: One number or one an axis.
        stride: One number or one an axis.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        norm: str | None = "batch",
        activation: str | None = "relu",
        padding: str = "same",
        dilation: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        self.add_module(
            "conv",
            convolution(
                spatial_dims,
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                dilation=dilation,
                padding=padding,
                bias=norm is None,
            ),
        )
        normalise = norm_layer(norm, spatial_dims, out_channels)
        if normalise is not None:
            self.add_module("norm", normalise)
        if activation is not None:
            self.add_module("act", activation_layer(activation))


class ConvStack(nn.Sequential):
    """Several :class:`ConvBlock` in a row.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out of every block; or of each, one by one, which says how many there are.
        kernel_size: One number or one an axis.
        count: How many blocks, where ``out_channels`` is one number.
        stride: Of the first block; the others have 1.
        **options: Of every block: ``norm``, ``activation``, ``padding``, ``dilation``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int | Sequence[int],
        kernel_size: int | Sequence[int] = 3,
        *,
        count: int = 2,
        stride: int | Sequence[int] = 1,
        **options: Any,
    ) -> None:
        outs = (out_channels,) * count if isinstance(out_channels, int) else tuple(out_channels)
        pairs = itertools.pairwise((in_channels, *outs))
        super().__init__(
            *(
                ConvBlock(spatial_dims, before, after, kernel_size, stride=1 if index else stride, **options)
                for index, (before, after) in enumerate(pairs)
            )
        )


def he_initialise(module: nn.Module, *, gain: float = 2.0) -> None:
    """Draw every convolution's weights as He 2015 does: normal with deviation sqrt(gain / N), biases zero.

    N is the fan-in, the number of products in one output voxel. Of a transposed convolution only one
    kernel entry in every stride reaches an output voxel, so that with kernel = stride N is its input
    channels.

    Args:
        module: Changed in place, with all that is in it.
        gain: 2 where rectifiers halve what comes in; 1 where no activation does.

    References:
        He et al., Delving deep into rectifiers, ICCV 2015.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            continue
        fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        if layer.transposed:
            fan_in = max(1, fan_in // math.prod(layer.stride))
        nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
