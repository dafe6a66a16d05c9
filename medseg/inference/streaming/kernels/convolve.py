"""How convolutions are computed: by the routine that is fastest for tensors with channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.kernels.layer import Layer
from medseg.ranges import TransposedWindow

__all__ = ["convolve", "convolve_transposed"]

Apply = Callable[[Tensor], Tensor]


def convolve(
    layer: Layer, *, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Apply:
    """The convolution of a layer, as a function of the slices that it sees."""
    groups = int(layer.node.options.get("groups", 1))
    weight, bias = layer.weights["weight"], layer.weights.get("bias")
    steps, pads, gaps = list(stride), list(padding), list(dilation)
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # PyTorch hands small inputs to a routine of its own, which is several times slower.
        return lambda images: torch.mkldnn_convolution(images, weight, bias, pads, steps, gaps, groups)
    apply = functional.conv2d if weight.ndim == 4 else functional.conv3d
    return lambda images: apply(images, weight, bias, steps, pads, gaps, groups)


def convolve_transposed(layer: Layer, windows: Sequence[TransposedWindow]) -> Apply:
    """The transposed convolution of a layer, uncut along the streaming axis."""
    groups = int(layer.node.options.get("groups", 1))
    weight, bias = layer.weights["weight"], layer.weights.get("bias")
    stride = [window.stride for window in windows]
    padding = [0, *(window.padding for window in windows[1:])]
    added = [0, *(window.output_padding for window in windows[1:])]
    dilation = [window.dilation for window in windows]
    apply = functional.conv_transpose2d if weight.ndim == 4 else functional.conv_transpose3d
    return lambda images: apply(images, weight, bias, stride, padding, added, groups, dilation)
