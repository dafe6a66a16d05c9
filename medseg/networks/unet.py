"""U-Net in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medseg.networks.blocks import (
    UNITS,
    ConvEncoder,
    CropConcat,
    GatedConcat,
    LinearUpsample,
    SegmentationNetwork,
    TransposedUpsample,
    check_images,
    choice,
    convolution,
    he_initialise,
    is_symbolic,
    level_geometry,
    open_gates,
    positive,
    shrink_branches,
)

__all__ = ["CONFIGURATIONS", "UNet", "UNetDecoder"]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "unet_2015": {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "features": (64, 128, 256, 512, 1024),
        "norm": None,
        "dropout": 0.5,
        "padding": "valid",
    },
    "unet3d_2016": {
        "spatial_dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "features": (64, 128, 256, 512),
        "norm": "batch",
        "padding": "valid",
        "widening": "before_pooling",
    },
}
"""The papers' own networks, as keyword arguments of :class:`UNet`."""

# On the way down and on the way up.
_UNITS = {
    "plain": ("plain", "plain"),
    "residual": ("residual", "residual"),
    "residual_encoder": ("residual", "plain"),
}
_UPSAMPLE = {"transposed": TransposedUpsample, "linear": LinearUpsample}


class UNet(SegmentationNetwork):
    """U-Net: a contracting path, an expanding path, and skips between them.

    Every level has two convolutions; max pooling leads down, an up-convolution that halves the channels
    leads up (without ``norm`` followed by the activation, as in the first paper's published network),
    where the skip is joined on. With ``padding="same"`` any input size is taken and given back;
    with ``"valid"`` the border that the convolutions cannot see is lost and only some sizes fit
    (:meth:`output_size`, :meth:`nearest_sizes`).

    :meth:`forward` always gives the one full-resolution score map. :meth:`forward_deep`, for training
    with deep supervision, gives it with those of the levels below. The weights that both share have the
    same names and, by seed, the same values with ``deep_supervision`` on and off.

    :data:`CONFIGURATIONS` has the papers' own networks. ``unet_2015`` has 31,030,658 parameters.
    ``unet3d_2016`` has 19,073,187, the paper says 19,069,955: it counts a bias for each convolution but
    none for the up-convolutions, and not the batch norms' scales and shifts; here the up-convolutions have
    biases (+896) and the convolutions norms instead of theirs (-2,336 + 4,672).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from the finest to the coarsest; its length is the depth.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout at the end of the contracting path (its two coarsest levels).
        padding: ``"same"`` or ``"valid"``; the latter only with plain units and max pooling.
        upsample: ``"transposed"`` or ``"linear"`` (interpolation and a 1x1x1 convolution).
        kernel_sizes: One a level, each one number or one an axis, such as ``(3, 3, 1)`` where the third
            axis is coarse; 3 if not given.
        strides: One for each step down, that is one fewer than the levels; 2 if not given.
        deep_supervision: Whether to have heads on the coarser levels of the expanding path.
        units: What a level's two convolutions make up: ``"plain"``, one behind the other;
            ``"residual"``, with a sum around them; ``"residual_encoder"``, that on the way down alone.
        downsample: ``"max"`` pools, ``"conv"`` strides in the first convolution of each level.
        attention: Whether a gate weighs each skip, steered by what it is joined to.
        widening: Where channels double: in the first convolution ``"after_pooling"``, or in the last one
            ``"before_pooling"``, from half of the level's ``features``; the up-convolutions then keep
            the channels instead of halving them.

    Raises:
        ValueError: An option is invalid, or two do not go together.

    Example:
        >>> import torch
        >>> network = UNet(2, in_channels=1, out_channels=3, features=(8, 16))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015; Çiçek et al., 3D U-Net, MICCAI 2016
        (``widening``); Oktay et al., Attention U-Net, MIDL 2018 (``attention``); He et al., Deep residual
        learning, CVPR 2016 (``units``); Isensee et al., nnU-Net, Nature Methods 2021, whose plain network
        has ``norm="instance"``, ``activation="leaky_relu"``, ``downsample="conv"``.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128, 256, 320),
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        padding: str = "same",
        upsample: str = "transposed",
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        deep_supervision: bool = False,
        units: str = "plain",
        downsample: str = "max",
        attention: bool = False,
        widening: str = "after_pooling",
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides)
        super().__init__(spatial_dims, in_channels, out_channels, steps, norm)
        self.features = widths
        self.kernel_sizes = kernels
        self.padding = choice(padding, ("same", "valid"), "padding")
        self.deep_supervision = deep_supervision
        down_units, up_units = _UNITS[choice(units, tuple(_UNITS), "units")]
        early = choice(widening, ("after_pooling", "before_pooling"), "widening") == "before_pooling"

        blocks: dict[str, Any] = {"norm": norm, "activation": activation, "padding": self.padding}
        geometry = (self.features, self.kernel_sizes, self.strides)
        self.encoder = ConvEncoder(
            spatial_dims,
            self.in_channels,
            *geometry,
            widths=[(max(1, width // 2) if early else width, width) for width in widths],
            dropout=dropout,
            downsample=downsample,
            units=down_units,
            **blocks,
        )
        self.decoder = UNetDecoder(
            spatial_dims,
            *geometry,
            upsample=upsample,
            keeps_channels=early,
            attention=attention,
            units=up_units,
            **blocks,
        )
        self.head = convolution(spatial_dims, self.features[0], self.out_channels, 1)
        he_initialise(self)
        shrink_branches(self)
        open_gates(self)
        # Last, so that by seed the rest is the same with and without them.
        coarser = self.features[1:-1] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(
            convolution(spatial_dims, width, self.out_channels, 1) for width in coarser
        )
        he_initialise(self.deep_heads)

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`; without padding the scores are smaller than the images."""
        scores: Tensor = self.head(self.decoder(self.encoder(images))[-1])
        return scores

    def forward_deep(self, images: Tensor) -> list[Tensor]:
        """Class scores of every supervised level, the full resolution first.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Returns:
            What :meth:`forward` gives, then, with ``deep_supervision``, the scores of each coarser level
            but the coarsest, each on its own grid.

        Raises:
            ValueError: The network cannot take this shape; the message names the nearest sizes it can.
        """
        self.check_input(images)
        maps = self.decoder(self.encoder(images))[::-1]
        heads = [self.head, *self.deep_heads]
        return [head(features) for head, features in zip(heads, maps, strict=False)]

    def check_input(self, images: Tensor) -> None:
        """Refuse a shape that this network cannot take.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Raises:
            ValueError: Axes, channels or sizes do not fit; the message names the nearest sizes that do.
        """
        if is_symbolic(images):
            return
        check_images(images, self.spatial_dims, self.in_channels)
        self.output_size(tuple(images.shape[2:]))
        super().check_input(images)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The output's size in voxels for an input of ``size`` voxels.

        Raises:
            ValueError: The network cannot take this size; the message names the nearest it can.

        Example:
            >>> import torch
            >>> with torch.device("meta"):
            ...     network = UNet(2, features=(64, 128, 256, 512, 1024), padding="valid")
            >>> network.output_size((572, 572))
            (388, 388)
        """
        if len(size) != self.spatial_dims:
            raise ValueError(
                f"size {tuple(size)} does not have {self.spatial_dims} axes; give one number each"
            )
        for axis, length in enumerate(size):
            if not self._fits(length, axis):
                near = " or ".join(str(n) for n in self.nearest_sizes(length, axis))
                raise ValueError(
                    f"axis {'XYZ'[axis]} has {length} voxels of size {tuple(size)}, which this network "
                    f"cannot pool evenly; pad or crop it to {near}"
                )
        return tuple(self._lengths(length, axis)[1] for axis, length in enumerate(size))

    def nearest_sizes(self, length: int, axis: int) -> tuple[int, ...]:
        """The nearest number of voxels along ``axis`` that fits at or below ``length``, and at or above.

        Args:
            length: Voxels.
            axis: 0, 1 or 2.

        Returns:
            One or two sizes, ascending: none may fit below.
        """
        below = next((n for n in range(length, 0, -1) if self._fits(n, axis)), None)
        above = next(n for n in itertools.count(max(1, length)) if self._fits(n, axis))
        return tuple(sorted({n for n in (below, above) if n is not None}))

    def coarsest_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Voxels per axis of the coarsest level for an input of ``size`` voxels; zeros if it does not fit."""
        return tuple(self._lengths(length, axis)[0] for axis, length in enumerate(size))

    def _fits(self, length: int, axis: int) -> bool:
        return self._lengths(length, axis)[1] >= 1

    def _lengths(self, length: int, axis: int) -> tuple[int, int]:
        """Voxels along one axis at the coarsest level and in the output; zeros if ``length`` does not fit."""
        if self.padding == "same":
            coarsest = length
            for stride in self.strides:
                coarsest = -(-coarsest // stride[axis])
            return coarsest, length
        # Two convolutions a level, each of which loses its kernel's width less one.
        losses = [2 * (kernel[axis] - 1) for kernel in self.kernel_sizes]
        for loss, stride in zip(losses, self.strides, strict=False):
            length -= loss
            if length < 1 or length % stride[axis]:
                return 0, 0
            length //= stride[axis]
        coarsest = length = length - losses[-1]
        for loss, stride in zip(losses[-2::-1], self.strides[::-1], strict=True):
            length = length * stride[axis] - loss
        return (coarsest, length) if length >= 1 else (0, 0)


class UNetDecoder(nn.Module):
    """The expanding path: feature maps of every level but the coarsest, the finest last.

    Args:
        spatial_dims: 2 or 3.
        features: Channels of each level.
        kernel_sizes: One a level, spelt out by axis.
        strides: One for each step down, spelt out by axis.
        upsample: As in :class:`UNet`.
        keeps_channels: Whether the up-convolutions keep the channels instead of taking the next level's.
        attention: As in :class:`UNet`.
        units: ``"plain"`` or ``"residual"``.
        **blocks: ``norm``, ``activation`` and ``padding`` of every block.
    """

    def __init__(
        self,
        spatial_dims: int,
        features: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        *,
        upsample: str = "transposed",
        keeps_channels: bool = False,
        attention: bool = False,
        units: str = "plain",
        **blocks: Any,
    ) -> None:
        super().__init__()
        make_upsample = _UPSAMPLE[choice(upsample, tuple(_UPSAMPLE), "upsample")]
        make_unit = UNITS[choice(units, tuple(UNITS), "units")]
        self.up = nn.ModuleList()
        self.join = nn.ModuleList()
        self.levels = nn.ModuleList()
        # A norm in the next block sets the scale: an activation would cost time for nothing.
        after_up = blocks["activation"] if blocks["norm"] is None else None
        for level in reversed(range(len(features) - 1)):
            width, below = features[level], features[level + 1]
            risen = below if keeps_channels else width
            self.up.append(make_upsample(spatial_dims, below, risen, strides[level], after_up))
            self.join.append(
                GatedConcat(spatial_dims, (width, risen), blocks["padding"], blocks["norm"])
                if attention
                else CropConcat(spatial_dims, blocks["padding"])
            )
            self.levels.append(
                make_unit(spatial_dims, width + risen, (width, width), kernel_sizes[level], **blocks)
            )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps (B, features[level], …) on the way up, the finest last.

        Args:
            maps: Those of the encoder, the finest first.
        """
        features = maps[-1]
        results: list[Tensor] = []
        for index, (up, join, level) in enumerate(zip(self.up, self.join, self.levels)):  # noqa: B905 (scripted)
            features = level(join(maps[-2 - index], up(features)))
            results.append(features)
        return results
