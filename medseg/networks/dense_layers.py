"""The dense form of each layer of a classifier, and what the classifier has of a window behind it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medseg.networks.blocks import per_axis

__all__ = ["RULES", "SPATIAL_DIMS", "WindowState", "refuse_padding"]

_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_ADAPTIVE_MAX_POOL: dict[int, Any] = {2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
_ADAPTIVE_AVERAGE_POOL: dict[int, Any] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}

_POOLS = (_MAX_POOL, _AVERAGE_POOL, _ADAPTIVE_MAX_POOL, _ADAPTIVE_AVERAGE_POOL)

SPATIAL_DIMS: dict[type, int] = {
    kind: dims for kinds in (_CONVOLUTION, _BATCH_NORM, *_POOLS) for dims, kind in kinds.items()
}
"""Layers that say how many axes the images have."""


@dataclass(frozen=True)
class WindowState:
    """What the classifier has of one window between two layers.

    Attributes:
        channels: Of the feature map.
        size: Of the feature map in voxels, also once it is flat.
        stride: Voxels of the image per voxel of the map.
        flat: Whether a Flatten has put the map into one row.

    Example:
        >>> state = WindowState(channels=2, size=(6, 6), stride=(1, 1))
        >>> dense, behind = RULES[nn.MaxPool2d](nn.MaxPool2d(2), state)
        >>> behind.size, behind.stride
        ((3, 3), (2, 2))
    """

    channels: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    flat: bool = False

    def check_channels(self, wanted: int) -> None:
        """Refuse a layer that counts other channels than there are, of a flat map all its numbers."""
        here = self.channels * math.prod(self.size) if self.flat else self.channels
        if wanted != here:
            raise ValueError(
                f"takes {wanted} channels, but {here} come from {self.channels} of {self.size} voxels; "
                "check input_size"
            )

    def check_map(self, layer: nn.Module) -> None:
        """Refuse a layer that needs a map where there is a row, or a map of other axes."""
        if self.flat:
            raise ValueError("stands behind a Flatten; put it before")
        if SPATIAL_DIMS.get(type(layer), len(self.size)) != len(self.size):
            raise ValueError(f"meets a map of {len(self.size)} axes; use layers of one dimension")
        if getattr(layer, "return_indices", False):
            raise ValueError("gives indices beside its maxima; use return_indices=False")

    def check_apart(self) -> None:
        """Refuse a layer that tells numbers apart where those are still the window's voxels."""
        if self.flat and math.prod(self.size) != 1:
            raise ValueError(
                "stands between a Flatten and its Linear and treats each voxel of the window apart; "
                "put it before the Flatten or behind the Linear"
            )


def refuse_padding(layer: Any, state: WindowState) -> None:
    """Refuse a layer whose numbers depend on the window's border.

    Args:
        layer: Of the classifier.
        state: What stands before it.

    Raises:
        ValueError: It pads the window, or pools beyond its end.
    """
    padding = getattr(layer, "padding", 0)
    if isinstance(padding, str):
        is_padded = padding == "same" and any(size > 1 for size in layer.kernel_size)
    else:
        is_padded = padding != 0 if isinstance(padding, int) else any(padding)
    if is_padded or (getattr(layer, "ceil_mode", False) and _hangs_over(layer, state)):
        raise ValueError(
            "pads the window, so that its numbers depend on a border that a dense network does not have; "
            "use padding=0 and ceil_mode=False, or choose padded='keep'"
        )


def _hangs_over(pool: nn.Module, state: WindowState) -> bool:
    """Whether the last block of a pooling in ``ceil_mode`` is cut short by the window's end."""
    floored = copy.copy(pool)
    floored.ceil_mode = False  # type: ignore[assignment]
    return _size_behind(pool, state) != _size_behind(floored, state)


def _size_behind(layer: nn.Module, state: WindowState) -> tuple[int, ...]:
    """Size of the map that a layer leaves, as torch itself says."""
    dtype = next((parameter.dtype for parameter in layer.parameters()), torch.float32)
    probe = torch.empty(1, state.channels, *state.size, dtype=dtype, device="meta")
    try:
        return tuple(copy.deepcopy(layer).to("meta")(probe).shape[2:])
    except RuntimeError as error:
        raise ValueError(
            f"cannot take a map of {state.size} voxels; enlarge input_size ({str(error).splitlines()[0]})"
        ) from error


_Dense = tuple[nn.Module | None, WindowState]


def _pointwise(layer: nn.Module, state: WindowState) -> _Dense:
    return copy.deepcopy(layer), state


def _across_channels(layer: nn.Module, state: WindowState) -> _Dense:
    state.check_map(layer)
    return copy.deepcopy(layer), state


def _prelu(layer: Any, state: WindowState) -> _Dense:
    if layer.num_parameters != 1:
        state.check_apart()
        state.check_channels(layer.num_parameters)
    return copy.deepcopy(layer), state


def _softmax(layer: Any, state: WindowState) -> _Dense:
    state.check_apart()
    if layer.dim != 1 and not (state.flat and layer.dim == -1):
        raise ValueError(f"is over axis {layer.dim} instead of the classes; give it dim=1")
    dense = copy.deepcopy(layer)
    dense.dim = 1
    return dense, state


def _batch_norm(layer: Any, state: WindowState) -> _Dense:
    if layer.running_mean is None:
        raise ValueError("has no running statistics and takes each batch's own; use track_running_stats=True")
    state.check_channels(layer.num_features)
    if not isinstance(layer, nn.BatchNorm1d):
        state.check_map(layer)
        return copy.deepcopy(layer), state
    if not state.flat:
        raise ValueError(f"stands before a Flatten; use BatchNorm{len(state.size)}d")
    state.check_apart()
    dense = _BATCH_NORM[len(state.size)](
        layer.num_features, layer.eps, layer.momentum, layer.affine, device="meta"
    )
    # Both have the same parameters and buffers by the same names: only the axes differ.
    source = copy.deepcopy(layer)
    dense._parameters, dense._buffers = source._parameters, source._buffers
    return dense, state


def _flatten(layer: Any, state: WindowState) -> _Dense:
    axes = 2 if state.flat else 2 + len(state.size)
    if layer.start_dim % axes != 1 or layer.end_dim % axes != axes - 1:
        raise ValueError(
            f"takes axes {layer.start_dim} to {layer.end_dim}; flatten 1 to -1, all but the batch"
        )
    return None, replace(state, flat=True)


def _linear(layer: Any, state: WindowState) -> _Dense:
    if not state.flat:
        raise ValueError("stands before a Flatten; put nn.Flatten() before it")
    state.check_channels(layer.in_features)
    dense = _CONVOLUTION[len(state.size)](
        state.channels, layer.out_features, state.size, bias=layer.bias is not None, device="meta"
    )
    source = copy.deepcopy(layer)
    weight = source.weight.detach().reshape(dense.weight.shape)
    dense.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    dense.bias = source.bias
    return dense, replace(state, channels=layer.out_features, size=(1,) * len(state.size))


def _convolution(layer: Any, state: WindowState) -> _Dense:
    state.check_map(layer)
    state.check_channels(layer.in_channels)
    size = _size_behind(layer, state)
    stride = tuple(before * step for before, step in zip(state.stride, layer.stride, strict=True))
    return copy.deepcopy(layer), WindowState(layer.out_channels, size, stride)


def _pool(layer: Any, state: WindowState) -> _Dense:
    state.check_map(layer)
    dense = copy.deepcopy(layer)
    # Where no window has an overhang, none that the image has at its end belongs to a window.
    dense.ceil_mode = layer.ceil_mode and _hangs_over(layer, state)
    steps = per_axis(layer.stride, len(state.size), "stride")
    stride = tuple(before * step for before, step in zip(state.stride, steps, strict=True))
    return dense, replace(state, size=_size_behind(layer, state), stride=stride)


def _adaptive_pool(layer: Any, state: WindowState) -> _Dense:
    state.check_map(layer)
    size = _size_behind(layer, state)
    if any(after not in (1, before) for after, before in zip(size, state.size, strict=True)):
        raise ValueError(
            f"pools a map of {state.size} voxels to {size}, neither one voxel nor the size that is there; "
            "pool by a fixed kernel, or change input_size"
        )
    kernel = tuple(before if after == 1 else 1 for after, before in zip(size, state.size, strict=True))
    if math.prod(kernel) == 1:
        return None, state
    pools = _AVERAGE_POOL if type(layer) in _ADAPTIVE_AVERAGE_POOL.values() else _MAX_POOL
    return pools[len(size)](kernel, stride=1), replace(state, size=size)


RULES: dict[type, Callable[[Any, WindowState], _Dense]] = {
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.AlphaDropout), _pointwise),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU), _pointwise),
    **dict.fromkeys((nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Sigmoid, nn.Tanh), _pointwise),
    **dict.fromkeys((nn.Dropout2d, nn.Dropout3d, nn.LocalResponseNorm), _across_channels),
    nn.PReLU: _prelu,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), _softmax),
    **dict.fromkeys((nn.BatchNorm1d, *_BATCH_NORM.values()), _batch_norm),
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    **dict.fromkeys(_CONVOLUTION.values(), _convolution),
    **dict.fromkeys((*_MAX_POOL.values(), *_AVERAGE_POOL.values()), _pool),
    **dict.fromkeys((*_ADAPTIVE_MAX_POOL.values(), *_ADAPTIVE_AVERAGE_POOL.values()), _adaptive_pool),
}
"""Each layer's rule: from the layer and the state before it to its dense form (none if that does nothing) and
the state behind it. It raises ``ValueError`` if there is none. A subclass has no rule: it may do anything."""
