"""Building parts that every network shares, in two and three dimensions. Imports torch alone.

A bundle carries a network's file and this one, and nothing else of medseg; bad options are therefore
``ValueError`` here, written as "what is wrong; how to fix it", and :func:`medseg.networks.build_network`
turns them into medseg's own errors.

Nothing here branches on a tensor's value, so that whatever is built of these blocks can be captured by
``torch.export``, ``torch.fx`` and ``torch.jit``.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "ConvBlock",
    "ConvStack",
    "CropConcat",
    "LinearUpsample",
    "TransposedUpsample",
    "activation_layer",
    "check_images",
    "choice",
    "convolution",
    "he_initialise",
    "is_symbolic",
    "max_pool",
    "norm_layer",
    "per_axis",
    "positive",
    "transposed_convolution",
]

_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_LINEAR_MODE = {2: "bilinear", 3: "trilinear"}

NORMS = ("batch", "instance", "group")
"""Normalisations by name; ``None`` stands for none."""

ACTIVATIONS = ("elu", "gelu", "leaky_relu", "prelu", "relu", "silu")
"""Activations by name."""

_MAX_GROUPS = 8


def choice(value: object, choices: Sequence[str], option: str) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: It is not; the message suggests the nearest.

    Example:
        >>> choice("same", ("same", "valid"), "padding")
        'same'
        >>> choice("vaild", ("same", "valid"), "padding")
        Traceback (most recent call last):
        ValueError: padding='vaild' is unknown; did you mean 'valid'?
    """
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
    fix = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(choices))}"
    raise ValueError(f"{option}={value!r} is unknown; {fix}")


def positive(value: object, option: str) -> int:
    """Return ``value`` if it is a whole number of at least one.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"{option}={value!r} is not a positive whole number; give 1 or more")


def per_axis(value: int | Sequence[int], spatial_dims: int, option: str) -> tuple[int, ...]:
    """Spell a number out for every spatial axis.

    Args:
        value: One number for all axes, or one for each.
        spatial_dims: 2 or 3.
        option: The option's name, for the error.

    Raises:
        ValueError: A number is not positive, or there are not ``spatial_dims`` of them.

    Example:
        >>> per_axis(3, 3, "kernel_sizes")
        (3, 3, 3)
        >>> per_axis((3, 3, 1), 3, "kernel_sizes")
        (3, 3, 1)
    """
    numbers: Iterable[object] = value if isinstance(value, Sequence) else (value,) * spatial_dims
    axes = tuple(positive(number, option) for number in numbers)
    if len(axes) != spatial_dims:
        raise ValueError(
            f"{option} has {len(axes)} numbers {axes} for {spatial_dims} axes; "
            f"give one number, or {spatial_dims}"
        )
    return axes


def is_symbolic(images: object) -> bool:
    """Whether a graph is being drawn, by ``torch.fx`` or ``torch.jit.trace``, and sizes are but symbols.

    What is captured must not depend on them, so that checks of sizes stand aside.
    """
    return isinstance(images, fx.Proxy) or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def check_images(images: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Refuse what is not a batch of images, before a layer fails with a message of its own.

    Args:
        images: Shape (B, C, X, Y) or (B, C, X, Y, Z).
        spatial_dims: 2 or 3.
        in_channels: The C that the network takes.

    Raises:
        ValueError: The number of axes or channels is wrong, or an axis is empty.
    """
    shape = tuple(images.shape)
    axes = "XYZ"[:spatial_dims]
    if len(shape) != spatial_dims + 2:
        raise ValueError(
            f"the input has shape {shape}, the network takes (B, C, {', '.join(axes)}); "
            f"add or drop axes to make it {spatial_dims + 2}"
        )
    if shape[1] != in_channels:
        raise ValueError(
            f"the input has {shape[1]} channels, the network takes {in_channels}; "
            f"build it with in_channels={shape[1]}"
        )
    for axis, size in zip(axes, shape[2:], strict=True):
        if size < 1:
            raise ValueError(f"the input's axis {axis} is empty, shape {shape}; give at least one voxel")


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
    spatial_dims: int, in_channels: int, out_channels: int, stride: int | Sequence[int] = 2
) -> nn.Module:
    """A transposed convolution whose kernel is its stride: every input voxel becomes one block."""
    step = per_axis(stride, spatial_dims, "stride")
    return _TRANSPOSED[spatial_dims](in_channels, out_channels, step, stride=step)


def max_pool(spatial_dims: int, stride: int | Sequence[int] = 2) -> nn.Module:
    """Max pooling over blocks of ``stride`` voxels; the last block may hang over the end.

    The overhang (``ceil_mode``) lets a network take any size: nothing is dropped, and where the stride
    divides the size it changes nothing.
    """
    step = per_axis(stride, spatial_dims, "stride")
    return _MAX_POOL[spatial_dims](step, stride=step, ceil_mode=True)


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
        return _INSTANCE_NORM[spatial_dims](channels, affine=True)
    return _BATCH_NORM[spatial_dims](channels)


def activation_layer(name: str) -> nn.Module:
    """The activation called ``name``, in place where its gradient allows.

    Raises:
        ValueError: The name is unknown.
    """
    makers: dict[str, Any] = {
        "elu": lambda: nn.ELU(inplace=True),
        "gelu": nn.GELU,
        "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
        "prelu": nn.PReLU,
        "relu": lambda: nn.ReLU(inplace=True),
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
        activation: One of :data:`ACTIVATIONS`.
        padding: ``"same"`` or ``"valid"``.
        dilation: One number or one an axis.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        norm: str | None = "batch",
        activation: str = "relu",
        padding: str = "same",
        dilation: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        self.add_module(
            "conv",
            convolution(
                spatial_dims,
                in_channels,
                out_channels,
                kernel_size,
                padding=padding,
                dilation=dilation,
                bias=norm is None,
            ),
        )
        normalise = norm_layer(norm, spatial_dims, out_channels)
        if normalise is not None:
            self.add_module("norm", normalise)
        self.add_module("act", activation_layer(activation))


class ConvStack(nn.Sequential):
    """Several :class:`ConvBlock` in a row, all of ``out_channels`` channels.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out of every block.
        kernel_size: One number or one an axis.
        count: How many blocks.
        **options: Of every block: ``norm``, ``activation``, ``padding``, ``dilation``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        count: int = 2,
        **options: Any,
    ) -> None:
        widths = [in_channels] + [out_channels] * count
        super().__init__(
            *(
                ConvBlock(spatial_dims, before, after, kernel_size, **options)
                for before, after in itertools.pairwise(widths)
            )
        )


class TransposedUpsample(nn.Sequential):
    """Up-convolution: a transposed convolution that learns how to upsample, then an activation or none.

    The U-Net paper's figure leaves the activation out; its authors' published network has it, and with
    it He's initialisation keeps the activations' scale, where no norm does so anyway.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int | Sequence[int] = 2,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.add_module("conv", transposed_convolution(spatial_dims, in_channels, out_channels, stride))
        if activation is not None:
            self.add_module("act", activation_layer(activation))


class LinearUpsample(nn.Sequential):
    """Linear interpolation (bilinear, trilinear) and a 1x1(x1) convolution, then an activation or none.

    The convolution stands before the interpolation: the weights of an interpolation sum to one, so that
    the two commute, and on the small grid it costs a fraction.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int | Sequence[int] = 2,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        scale = tuple(float(step) for step in per_axis(stride, spatial_dims, "stride"))
        self.add_module("conv", convolution(spatial_dims, in_channels, out_channels, 1))
        self.add_module(
            "resize", nn.Upsample(scale_factor=scale, mode=_LINEAR_MODE[spatial_dims], align_corners=False)
        )
        if activation is not None:
            self.add_module("act", activation_layer(activation))


class CropConcat(nn.Module):
    """Bring two feature maps to one size by cropping, and join their channels.

    With ``padding="valid"`` the skip is the larger one and loses its border evenly (Ronneberger 2015).
    With ``padding="same"`` the upsampled map is the larger one by what pooling hung over the end, and
    loses it there.

    Args:
        spatial_dims: 2 or 3.
        padding: ``"same"`` or ``"valid"``.
    """

    def __init__(self, spatial_dims: int, padding: str = "same") -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.crops_skip = choice(padding, ("same", "valid"), "padding") == "valid"

    def forward(self, skip: Tensor, upsampled: Tensor) -> Tensor:
        """Join (B, C1, X1, …) and (B, C2, X2, …) to (B, C1 + C2, X, …), X being the smaller size."""
        for axis in range(2, 2 + self.spatial_dims):
            if self.crops_skip:
                size = upsampled.shape[axis]
                skip = torch.narrow(skip, axis, (skip.shape[axis] - size) // 2, size)
            else:
                upsampled = torch.narrow(upsampled, axis, 0, skip.shape[axis])
        return torch.cat([skip, upsampled], dim=1)


def he_initialise(module: nn.Module) -> None:
    """Draw every convolution's weights as He 2015 does: normal with deviation sqrt(2 / N), biases zero.

    N is the fan-in, the number of products in one output voxel. Of a transposed convolution only one
    kernel entry in every stride reaches an output voxel, so that with kernel = stride N is its input
    channels.

    Args:
        module: Changed in place, with all that is in it.

    References:
        He et al., Delving deep into rectifiers, ICCV 2015.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            continue
        fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        if layer.transposed:
            fan_in = max(1, fan_in // math.prod(layer.stride))
        nn.init.normal_(layer.weight, std=math.sqrt(2.0 / fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
