"""Ways up from a coarse grid to a finer one, and how two maps meet there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.networks.blocks.layers import activation_layer, convolution, transposed_convolution
from medseg.networks.blocks.options import choice, is_symbolic, per_axis

__all__ = ["CropConcat", "LinearUpsample", "TransposedUpsample", "crop_like", "linear_resize"]

_LINEAR_MODE = {2: "bilinear", 3: "trilinear"}


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


def linear_resize(spatial_dims: int, stride: int | Sequence[int]) -> nn.Module:
    """Linear interpolation (bilinear, trilinear) to ``stride`` times as many voxels; no weights."""
    step = per_axis(stride, spatial_dims, "stride")
    if all(size == 1 for size in step):
        return nn.Identity()
    scale = tuple(float(size) for size in step)
    return nn.Upsample(scale_factor=scale, mode=_LINEAR_MODE[spatial_dims], align_corners=False)


def crop_like(features: Tensor, like: Tensor, spatial_dims: int) -> Tensor:
    """Cut off at the ends what ``features`` (B, C1, X, …) is longer than ``like`` (B, C2, X, …)."""
    for axis in range(2, 2 + spatial_dims):
        features = _cut(features, axis, 0, like.shape[axis])
    return features


def _cut(features: Tensor, axis: int, start: int, size: int) -> Tensor:
    """``torch.narrow`` that leaves alone what has the size already, where a cut would copy the gradient.

    A graph that is drawn of the network keeps the cut, which may be one for images of another size.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        is_drawn = torch.compiler.is_compiling() or is_symbolic(features)
        if not is_drawn and features.shape[axis] == size:
            return features
    return torch.narrow(features, axis, start, size)


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

    def crop(self, skip: Tensor, upsampled: Tensor) -> tuple[Tensor, Tensor]:
        """Bring (B, C1, X1, …) and (B, C2, X2, …) to one size, the smaller one along each axis."""
        for axis in range(2, 2 + self.spatial_dims):
            if self.crops_skip:
                size = upsampled.shape[axis]
                skip = _cut(skip, axis, (skip.shape[axis] - size) // 2, size)
            else:
                upsampled = _cut(upsampled, axis, 0, skip.shape[axis])
        return skip, upsampled

    def forward(self, skip: Tensor, upsampled: Tensor) -> Tensor:
        """Join (B, C1, X1, …) and (B, C2, X2, …) to (B, C1 + C2, X, …), X being the smaller size."""
        skip, upsampled = self.crop(skip, upsampled)
        return torch.cat([skip, upsampled], dim=1)
