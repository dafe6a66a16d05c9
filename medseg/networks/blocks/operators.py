"""Upsampling operators by name: from a grid to one that is finer by a factor along each axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from medseg.networks.blocks.options import choice, per_axis
from medseg.networks.blocks.unpooling import MaxUnpool

__all__ = [
    "UPSAMPLING",
    "BedOfNails",
    "CubicInterpolation",
    "linear_interpolation",
    "nearest_neighbour",
    "transposed_operator",
    "upsampling_layer",
]

_LINEAR_MODE = {2: "bilinear", 3: "trilinear"}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def nearest_neighbour(spatial_dims: int, stride: int | Sequence[int] = 2) -> nn.Module:
    """Every voxel becomes a block of its value.

    Args:
        spatial_dims: 2 or 3.
        stride: Voxels of a block, one number or one an axis.

    Example:
        >>> import torch
        >>> nearest_neighbour(2)(torch.tensor([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
    """
    return nn.Upsample(scale_factor=_scale(stride, spatial_dims), mode="nearest")


def linear_interpolation(spatial_dims: int, stride: int | Sequence[int] = 2) -> nn.Module:
    """Bilinear or trilinear interpolation between the voxels' middles; the border's value holds beyond it.

    Args:
        spatial_dims: 2 or 3.
        stride: How many times finer the grid becomes, one number or one an axis.

    Example:
        >>> import torch
        >>> linear_interpolation(2, (1, 2))(torch.tensor([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.25, 1.75, 2.0]]]]
    """
    scale = _scale(stride, spatial_dims)
    return nn.Upsample(scale_factor=scale, mode=_LINEAR_MODE[spatial_dims], align_corners=False)


class BedOfNails(nn.Module):
    """Every voxel becomes the first of a block that is zero elsewhere.

    Args:
        spatial_dims: 2 or 3.
        stride: Voxels of a block, one number or one an axis.

    Example:
        >>> import torch
        >>> BedOfNails(2)(torch.tensor([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]
    """

    def __init__(self, spatial_dims: int, stride: int | Sequence[int] = 2) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.stride = per_axis(stride, spatial_dims, "stride")

    def forward(self, images: Tensor) -> Tensor:
        """From (B, C, X, Y[, Z]) to (B, C, X·s, Y·s[, Z·s])."""
        for axis in range(self.spatial_dims):
            # Each voxel of the axis gets an axis of its own, is followed there by zeros, and both are joined.
            padding = [0, 0] * (self.spatial_dims - 1 - axis) + [0, self.stride[axis] - 1]
            images = functional.pad(images.unsqueeze(axis + 3), padding).flatten(axis + 2, axis + 3)
        return images


class CubicInterpolation(nn.Module):
    """Interpolation by cubic convolution with a = -0.75, as torch's bicubic; in 3D as well.

    The kernel is a product of one along each axis, so that three dimensions are made of torch's two: the
    planes (Y, Z) first, then the axis X alone. Beyond the border the border's value holds.

    Args:
        spatial_dims: 2 or 3.
        stride: How many times finer the grid becomes, one number or one an axis.

    Example:
        >>> import torch
        >>> finer = CubicInterpolation(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
        >>> [round(value, 2) for value in finer[0, 0, 0].tolist()]
        [0.68, 1.02, 1.56, 1.89]

    References:
        Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981.
    """

    def __init__(self, spatial_dims: int, stride: int | Sequence[int] = 2) -> None:
        super().__init__()
        scale = _scale(stride, spatial_dims)
        self.spatial_dims = spatial_dims
        planes = scale if spatial_dims == 2 else scale[1:]
        self.planes = nn.Upsample(scale_factor=planes, mode="bicubic", align_corners=False)
        # Along an axis whose factor is 1 bicubic interpolation changes nothing.
        self.lines = nn.Upsample(scale_factor=(scale[0], 1.0), mode="bicubic", align_corners=False)

    def forward(self, images: Tensor) -> Tensor:
        """From (B, C, X, Y[, Z]) to (B, C, X·s, Y·s[, Z·s])."""
        if self.spatial_dims == 2:
            finer: Tensor = self.planes(images)
            return finer
        batch, channels, length = images.shape[0], images.shape[1], images.shape[2]
        planes = self.planes(images.flatten(1, 2))
        height, width = planes.shape[2], planes.shape[3]
        lines = self.lines(planes.reshape(batch, channels, length, height * width))
        volume: Tensor = lines.reshape(batch, channels, lines.shape[2], height, width)
        return volume


def transposed_operator(
    spatial_dims: int,
    stride: int | Sequence[int] = 2,
    *,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    padding: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    bias: bool = True,
) -> nn.Module:
    """A transposed convolution: the transpose of the matrix that a convolution of its kernel and stride is.

    Every voxel adds its multiple of the kernel to the output, ``stride`` further for each voxel.

    Args:
        spatial_dims: 2 or 3.
        stride: One number or one an axis.
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: One number or one an axis.
        padding: That of the convolution, by axis: what both ends of the full output lose. If not given,
            padding and output_padding make the output ``stride`` times as large as the input.
        output_padding: What the far end gets more, by axis: voxels of the convolution's input that its
            stride steps over; none if only ``padding`` is given.
        bias: Whether to add a bias.

    Raises:
        ValueError: The numbers do not fit the axes, or ``output_padding`` is not below the stride.

    Example:
        >>> import torch
        >>> transposed_operator(3, in_channels=8, out_channels=4)(torch.zeros(1, 8, 5, 6, 7)).shape
        torch.Size([1, 4, 10, 12, 14])
    """
    step = per_axis(stride, spatial_dims, "stride")
    kernel = per_axis(kernel_size, spatial_dims, "kernel_size")
    if padding is None:
        # Full size is (n - 1)·stride + kernel; n·stride is left of it where 2·padding - output_padding is
        # kernel - stride.
        excess = [size - pace for size, pace in zip(kernel, step, strict=True)]
        crop = tuple(max(0, -(-more // 2)) for more in excess)
        extra = tuple(2 * cut - more for cut, more in zip(crop, excess, strict=True))
    else:
        crop = tuple(padding)
        extra = (0,) * spatial_dims
    if output_padding is not None:
        extra = tuple(output_padding)
    if not len(crop) == len(extra) == spatial_dims:
        raise ValueError(
            f"padding={crop} and output_padding={extra} do not have {spatial_dims} numbers; give one an axis"
        )
    if any(more >= pace for more, pace in zip(extra, step, strict=True) if more > 0):
        raise ValueError(f"output_padding={extra} reaches the stride {step}; give less, along every axis")
    return _TRANSPOSED[spatial_dims](
        in_channels, out_channels, kernel, stride=step, padding=crop, output_padding=extra, bias=bias
    )


UPSAMPLING: dict[str, Callable[..., nn.Module]] = {
    "bed_of_nails": BedOfNails,
    "cubic": CubicInterpolation,
    "linear": linear_interpolation,
    "max_unpool": MaxUnpool,
    "nearest": nearest_neighbour,
    "transposed": transposed_operator,
}
"""Upsampling operators by name: what makes each from ``(spatial_dims, stride, …)``."""


def upsampling_layer(
    name: str, spatial_dims: int = 3, stride: int | Sequence[int] = 2, **options: Any
) -> nn.Module:
    """The upsampling operator called ``name``.

    All take a map (B, C, X, Y[, Z]) alone, but ``"max_unpool"`` takes (values, indices, before).

    Args:
        name: One of :data:`UPSAMPLING`.
        spatial_dims: 2 or 3.
        stride: How many times finer the grid becomes, one number or one an axis.
        **options: What else the operator takes: ``"max_unpool"`` a ``kernel_size``; ``"transposed"``
            ``in_channels`` and ``out_channels``, ``kernel_size``, ``padding``, ``output_padding``, ``bias``.

    Raises:
        ValueError: The name is unknown, or a value is invalid.

    Example:
        >>> import torch
        >>> upsampling_layer("nearest", 3, (2, 2, 1))(torch.zeros(1, 4, 5, 6, 7)).shape
        torch.Size([1, 4, 10, 12, 7])
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims={spatial_dims!r} is not supported; choose 2 or 3")
    return UPSAMPLING[choice(name, tuple(UPSAMPLING), "upsampling")](spatial_dims, stride, **options)


def _scale(stride: int | Sequence[int], spatial_dims: int) -> tuple[float, ...]:
    return tuple(float(step) for step in per_axis(stride, spatial_dims, "stride"))
