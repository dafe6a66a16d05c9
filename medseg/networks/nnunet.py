"""The two U-Nets of nnU-Net v2, with its names, so that its weights fit.

Written anew after what nnU-Net's plans say; nothing of nnU-Net is needed. They are not among the networks
that medseg trains: they are there to read what nnU-Net has trained.

Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
Nature Methods 18 (2021); Isensee et al., nnU-Net revisited, MICCAI 2024, for the residual encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["BasicBlock", "ConvNorm", "NnunetBlocks", "NnunetUNet"]

_CONVOLUTIONS: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOLINGS: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_NORMS: dict[tuple[str, int], type[nn.Module]] = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class NnunetBlocks:
    """What all blocks of a network have in common.

    Attributes:
        spatial_dims: 2 or 3.
        norm: ``"instance"``, ``"batch"`` or ``None``.
        norm_options: Of the norm's constructor.
        activation: One of ``"leaky_relu"``, ``"relu"``, ``"elu"``, ``"gelu"``, ``"silu"``, or ``None``.
        activation_options: Of the activation's constructor.
        bias: Of convolutions.
        activation_first: Activation before norm.
    """

    spatial_dims: int = 3
    norm: str | None = "instance"
    norm_options: Mapping[str, Any] = field(default_factory=lambda: {"eps": 1e-5, "affine": True})
    activation: str | None = "leaky_relu"
    activation_options: Mapping[str, Any] = field(default_factory=dict)
    bias: bool = True
    activation_first: bool = False

    def convolution(
        self, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool
    ) -> nn.Module:
        """A convolution whose output has the input's size over the stride, for odd kernels."""
        padding = tuple((size - 1) // 2 for size in kernel)
        made = _CONVOLUTIONS[self.spatial_dims]
        return made(in_channels, out_channels, tuple(kernel), tuple(stride), padding, bias=bias)

    def normalization(self, channels: int) -> nn.Module | None:
        """The norm, if there is one."""
        if self.norm is None:
            return None
        return _NORMS[self.norm, self.spatial_dims](channels, **self.norm_options)

    def activated(self) -> nn.Module:
        """The activation, or nothing."""
        if self.activation is None:
            return nn.Identity()
        return _ACTIVATIONS[self.activation](**{**self.activation_options, "inplace": True})

    def whole(self, size: int | Sequence[int]) -> tuple[int, ...]:
        """One number for each axis."""
        return (size,) * self.spatial_dims if isinstance(size, int) else tuple(size)


class ConvNorm(nn.Module):
    """Convolution, norm, activation.

    Args:
        blocks: What all have in common.
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Size along each axis.
        stride: Along each axis.
        bias: Of the convolution; that of ``blocks`` if left out.
        activate: Whether there is an activation.
    """

    def __init__(
        self,
        blocks: NnunetBlocks,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool | None = None,
        activate: bool = True,
    ) -> None:
        super().__init__()
        with_bias = blocks.bias if bias is None else bias
        self.conv = blocks.convolution(in_channels, out_channels, kernel, stride, bias=with_bias)
        norm = blocks.normalization(out_channels)
        if norm is not None:
            self.norm = norm
        activation = blocks.activated() if activate else nn.Identity()
        steps = [step for step in (norm, activation) if step is not None]
        self._then = tuple(reversed(steps)) if blocks.activation_first and activate else tuple(steps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to (B, C', …)."""
        x = self.conv(x)
        for step in self._then:
            x = step(x)
        return x


def _in_a_row(
    kind: Callable[..., nn.Module],
    blocks: NnunetBlocks,
    count: int,
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
) -> nn.Sequential:
    """Several of a kind, of which the first takes the stride and changes the number of channels."""
    first = kind(blocks, in_channels, out_channels, kernel, stride)
    ones = blocks.whole(1)
    others = (kind(blocks, out_channels, out_channels, kernel, ones) for _ in range(count - 1))
    return nn.Sequential(first, *others)


class _Convs(nn.Module):
    """Convolutions in a row."""

    def __init__(
        self,
        blocks: NnunetBlocks,
        count: int,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        self.convs = _in_a_row(ConvNorm, blocks, count, in_channels, out_channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.convs(x))


class BasicBlock(nn.Module):
    """Two convolutions beside a skip, which is pooled where there is a stride, as in ResNet-D.

    Args:
        blocks: What all have in common.
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Size along each axis.
        stride: Along each axis.
    """

    def __init__(
        self,
        blocks: NnunetBlocks,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        ones = blocks.whole(1)
        self.conv1 = ConvNorm(blocks, in_channels, out_channels, kernel, stride)
        self.conv2 = ConvNorm(blocks, out_channels, out_channels, kernel, ones, activate=False)
        self.nonlin2 = blocks.activated()
        skip: list[nn.Module] = []
        if math.prod(stride) != 1:
            skip.append(_POOLINGS[blocks.spatial_dims](tuple(stride), tuple(stride)))
        if in_channels != out_channels:
            skip.append(ConvNorm(blocks, in_channels, out_channels, ones, ones, bias=False, activate=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to (B, C', …)."""
        skipped = self.skip(x)
        return cast(Tensor, self.nonlin2(self.conv2(self.conv1(x)) + skipped))


class _ResidualStage(nn.Module):
    def __init__(
        self,
        blocks: NnunetBlocks,
        count: int,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        self.blocks = _in_a_row(BasicBlock, blocks, count, in_channels, out_channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.blocks(x))


class _Encoder(nn.Module):
    def __init__(
        self,
        blocks: NnunetBlocks,
        in_channels: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        residual: bool,
    ) -> None:
        super().__init__()
        if residual:
            self.stem = _Convs(blocks, 1, in_channels, features[0], kernels[0], blocks.whole(1))
            in_channels = features[0]
        self._has_stem = residual
        stages: list[nn.Module] = []
        for count, out_channels, kernel, stride in zip(counts, features, kernels, strides, strict=True):
            if residual:
                stages.append(_ResidualStage(blocks, count, in_channels, out_channels, kernel, stride))
            else:
                convs = _Convs(blocks, count, in_channels, out_channels, kernel, stride)
                stages.append(nn.Sequential(convs))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, finest first."""
        if self._has_stem:
            x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class _Decoder(nn.Module):
    def __init__(
        self,
        blocks: NnunetBlocks,
        classes: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        counts: Sequence[int],
    ) -> None:
        super().__init__()
        up = _TRANSPOSED[blocks.spatial_dims]
        ones = blocks.whole(1)
        stages, transposed, heads = [], [], []
        for count, level in zip(counts, reversed(range(len(features) - 1)), strict=True):
            below, here, stride = features[level + 1], features[level], tuple(strides[level + 1])
            transposed.append(up(below, here, stride, stride, bias=blocks.bias))
            stages.append(_Convs(blocks, count, 2 * here, here, kernels[level], ones))
            heads.append(blocks.convolution(here, classes, ones, ones, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transposed)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips[-1]
        for stage, up, skip in zip(self.stages, self.transpconvs, reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
        return cast(Tensor, self.seg_layers[-1](x))


class NnunetUNet(nn.Module):
    """nnU-Net's ``PlainConvUNet`` or ``ResidualEncoderUNet``, its full-resolution output alone.

    Args:
        in_channels: Of the image.
        out_channels: Classes.
        features: Of each stage, finest first.
        kernel_sizes: Of each stage, along each axis or one number for all.
        strides: Of each stage; the first one's is usually 1.
        encoder_counts: Convolutions of each stage, or residual blocks.
        decoder_counts: Convolutions of each stage of the decoder, coarsest first.
        residual: Whether the encoder is made of residual blocks behind a stem.
        blocks: What all blocks have in common.

    Example:
        >>> network = NnunetUNet(1, 3, [4, 8], [3, 3], [1, 2], [2, 2], [2])
        >>> tuple(network(torch.zeros(1, 1, 8, 8, 8)).shape)
        (1, 3, 8, 8, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[int | Sequence[int]],
        strides: Sequence[int | Sequence[int]],
        encoder_counts: Sequence[int],
        decoder_counts: Sequence[int],
        *,
        residual: bool = False,
        blocks: NnunetBlocks | None = None,
    ) -> None:
        super().__init__()
        common = blocks or NnunetBlocks()
        self.spatial_dims = common.spatial_dims
        kernels = [common.whole(kernel) for kernel in kernel_sizes]
        steps = [common.whole(stride) for stride in strides]
        self.encoder = _Encoder(
            common, in_channels, features, kernels, steps, encoder_counts, residual=residual
        )
        self.decoder = _Decoder(common, out_channels, features, kernels, steps, decoder_counts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to class scores (B, K, …) of the same size, where strides divide it."""
        return cast(Tensor, self.decoder(self.encoder(x)))

    @staticmethod
    def own_names(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """nnU-Net's weights without the second names that it has for many of them.

        Example:
            >>> one = torch.ones(1)
            >>> stored = {"encoder.a": one, "decoder.encoder.a": one, "a.all_modules.0.w": one}
            >>> list(NnunetUNet.own_names(stored))
            ['encoder.a']
        """
        return {
            name: tensor
            for name, tensor in stored.items()
            if not name.startswith("decoder.encoder.") and ".all_modules." not in name
        }
