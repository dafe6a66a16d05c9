"""Max pooling that remembers where its maxima were, unpooling to there, and ways down and up by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks.levels import Axes, ConvEncoder
from medseg.networks.blocks.options import per_axis

__all__ = ["MaxUnpool", "PoolingEncoder", "UnpoolingDecoder", "max_pool_with_indices"]

_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def max_pool_with_indices(
    spatial_dims: int, stride: int | Sequence[int] = 2, kernel_size: int | Sequence[int] | None = None
) -> nn.Module:
    """Max pooling that gives the maxima and, for each, the index of the voxel it came from.

    The last window may hang over the end (``ceil_mode``), so that any size is pooled. Of equal voxels the
    first is the maximum. Where the stride is 1 along an axis (and no kernel says otherwise), that axis
    keeps its grid.

    Args:
        spatial_dims: 2 or 3.
        stride: One number or one an axis.
        kernel_size: The window, one number or one an axis; the stride if not given.

    Returns:
        A module from (B, C, X, Y[, Z]) to two tensors (B, C, X', Y'[, Z']): the maxima, and where in the
        flattened X·Y[·Z] voxels of their channel they were (int64).

    Example:
        >>> import torch
        >>> image = torch.tensor([[1.0, 2.0, 6.0, 3.0], [3.0, 5.0, 2.0, 1.0]])
        >>> maxima, indices = max_pool_with_indices(2)(image.view(1, 1, 2, 4))
        >>> maxima.tolist(), indices.tolist()
        ([[[[5.0, 6.0]]]], [[[[5, 2]]]])
    """
    step = per_axis(stride, spatial_dims, "stride")
    window = step if kernel_size is None else per_axis(kernel_size, spatial_dims, "kernel_size")
    return _MAX_POOL[spatial_dims](window, stride=step, ceil_mode=True, return_indices=True)


class MaxUnpool(nn.Module):
    """Unpooling: every value goes to the voxel that was its window's maximum, all other voxels are zero.

    A scatter into zeros, which unlike torch's ``MaxUnpool3d`` is deterministic and captured by
    ``torch.export``, ``torch.fx`` and ``torch.jit``.

    Windows that overlap (``kernel_size`` above ``stride``) may share their maximum; its voxel then gets
    the *sum* of their values. This makes unpooling the transpose of the matrix by which max pooling picks
    its maxima, as a transposed convolution is of a convolution: linear, independent of the order of the
    windows, and with the exact gradient, where taking one of the values would be none of these. Pooled
    values put back at once are therefore counted once for each window that shares them.

    Args:
        spatial_dims: 2 or 3.
        stride: That of the pooling, one number or one an axis.
        kernel_size: That of the pooling; the stride if not given.

    Example:
        >>> import torch
        >>> image = torch.tensor([[1.0, 2.0, 6.0, 3.0], [3.0, 5.0, 2.0, 1.0]]).view(1, 1, 2, 4)
        >>> maxima, indices = max_pool_with_indices(2)(image)
        >>> MaxUnpool(2)(maxima, indices, image).tolist()
        [[[[0.0, 0.0, 6.0, 0.0], [0.0, 5.0, 0.0, 0.0]]]]

    References:
        Zeiler, Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
    """

    def __init__(
        self,
        spatial_dims: int,
        stride: int | Sequence[int] = 2,
        kernel_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        step = per_axis(stride, spatial_dims, "stride")
        window = step if kernel_size is None else per_axis(kernel_size, spatial_dims, "kernel_size")
        self.spatial_dims = spatial_dims
        self.overlapping = any(width > pace for width, pace in zip(window, step, strict=True))

    def forward(self, values: Tensor, indices: Tensor, before: Tensor) -> Tensor:
        """Put ``values`` back.

        Args:
            values: Shape (B, C, X', Y'[, Z']).
            indices: Those that the pooling gave, of the same shape.
            before: What was pooled, or any tensor of its size (B, any, X, Y[, Z]); only its shape is read.

        Returns:
            Shape (B, C, X, Y[, Z]).
        """
        size = [values.shape[0], values.shape[1]]
        voxels = 1
        for axis in range(2, 2 + self.spatial_dims):
            size.append(before.shape[axis])
            voxels = voxels * before.shape[axis]
        zeros = values.new_zeros([values.shape[0], values.shape[1], voxels])
        if self.overlapping:
            return zeros.scatter_add(2, indices.flatten(2), values.flatten(2)).view(size)
        return zeros.scatter(2, indices.flatten(2), values.flatten(2)).view(size)


class PoolingEncoder(ConvEncoder):
    """Levels of convolutions with max pooling behind each of them, the last one too, by indices.

    Its convolutions are those of :class:`ConvEncoder`, under the same names.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        features: Channels of each level.
        kernel_sizes: One a level, spelt out by axis.
        strides: Of the pooling behind each level, spelt out by axis: as many as levels.
        **options: ``counts``, ``dropout`` and those of every block, as :class:`ConvEncoder` has them.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[Axes],
        strides: Sequence[Axes],
        **options: Any,
    ) -> None:
        kept = ((1,) * spatial_dims,) * (len(features) - 1)
        super().__init__(spatial_dims, in_channels, features, kernel_sizes, kept, **options)
        self.pools = nn.ModuleList(max_pool_with_indices(spatial_dims, stride) for stride in strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, features[level], …) of every level before it is pooled, the finest first."""
        maps, _, _ = self.pooled(images)
        return maps

    def pooled(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """All that the way up needs.

        Returns:
            The maps that :meth:`forward` gives; the indices of each one's maxima; the last pooled map.
        """
        maps: list[Tensor] = []
        indices: list[Tensor] = []
        for level, pool in zip(self.levels, self.pools):  # noqa: B905 (scripted)
            features = level(images)
            images, index = pool(features)
            maps.append(features)
            indices.append(index)
        return maps, indices, images


class UnpoolingDecoder(nn.Module):
    """The way up from a :class:`PoolingEncoder`: unpooling by its indices, then a level's layers, in turn.

    Args:
        spatial_dims: 2 or 3.
        strides: Those of the encoder's pooling, the finest first.
        levels: What follows each unpooling, the finest first; keeps the grid.
    """

    def __init__(
        self, spatial_dims: int, strides: Sequence[Sequence[int]], levels: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.unpooled_volumes = tuple(math.prod(stride) for stride in reversed(strides))
        self.unpools = nn.ModuleList(MaxUnpool(spatial_dims, stride) for stride in reversed(strides))
        self.levels = nn.ModuleList(reversed(levels))

    def allow_for_zeros(self) -> None:
        """Raise what He's initialisation drew for the layers behind unpoolings, which mostly see zeros.

        Unpooling leaves one value in ``volume`` voxels, which divides the mean square by it: weights times
        volume^0.5 make up for that. Pooling has raised the mean square before, for maxima are large; how
        much of it arrives here depends on how alike neighbours are, and was measured to be about
        volume^0.2 on smooth images, in 2D and in 3D. Hence volume^0.4: activations end on the scale on
        which they began.
        """
        for volume, level in zip(self.unpooled_volumes, self.levels, strict=True):
            layers = (layer for layer in level.modules() if isinstance(layer, _CONVOLUTIONS))
            first = next(layers, None)
            if first is not None:
                with torch.no_grad():
                    first.weight.mul_(volume**0.4)

    def forward(self, maps: list[Tensor], indices: list[Tensor], coarsest: Tensor) -> Tensor:
        """Bring ``coarsest`` back to the finest grid.

        Args:
            maps: Those of the encoder, the finest first; only their sizes are read.
            indices: Those of the encoder, the finest first.
            coarsest: On the last pooled map's grid and with its channels.
        """
        features = coarsest
        for index, (unpool, level) in enumerate(zip(self.unpools, self.levels)):  # noqa: B905 (scripted)
            features = level(unpool(features, indices[-1 - index], maps[-1 - index]))
        return features
