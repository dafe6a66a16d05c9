"""Max pooling that remembers where each maximum was, and unpooling that puts values back there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.networks.blocks.options import per_axis

__all__ = ["MaxUnpool", "max_pool_with_indices"]

_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


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
