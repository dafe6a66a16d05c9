"""How convolutions are computed on tensors with channels last: by the routine that was measured fastest.

Measured on two cores of an AMD Zen 5 (AVX-512, bfloat16) with PyTorch 2.13, per core, in the shapes of a
U-Net of base 16 in slabs of 256 x 256; ``benchmarks/convolutions.py`` measures them anywhere.

* Convolutions: oneDNN by ``torch.mkldnn_convolution``, 150 to 250 GFLOP/s in single precision, 390 to 500 in
  bfloat16. ``conv3d`` hands small inputs to a routine of PyTorch's own, 2 to 12 times slower. Channels first,
  with a change to oneDNN's blocks and back at each call, is up to twice as slow.
* Weights reordered once (``torch.ops.mkldnn``, not public) gain 17 to 30 % where 256 channels meet in one
  slice of 16 x 16, 4 to 8 % a level above, and nothing elsewhere: at most 3 % of the stream, most of whose
  work lies in its finest levels. An activation computed within the convolution saves 1 % of it. Left out.
* One input channel: such a tensor is channels first and last at once, and PyTorch takes it for channels
  first, at half the speed and with a result that has to be turned. Strides that say "channels last" help.
  Taps taken for channels, blocks of voxels taken for channels, a matrix product of 27 columns: none wins.
* Transposed convolutions: PyTorch has columns and their sum in single precision, and for bfloat16, where the
  kernel is no multiple of the stride, a reference routine of oneDNN's. One convolution that makes all phases
  of the stride side by side as channels, written in their places, takes a fifth of the time where kernel and
  stride are both 2, half (a seventh in bfloat16) for 3 and 2, and as long for 4 and 2.
* Convolutions of single voxels: oneDNN again; ``addmm`` on the same memory takes 2.5 times as long.
* Memory: a third of a stream's time goes to new pages, for each large block is fresh from the system. Letting
  glibc keep them (``mallopt``) saves most of that, but holes raise the peak: by 3 % in a new process, by 60 %
  in one that has streamed before. Transparent huge pages save faults and no time. Both left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.inference.streaming.kernels.layer import Layer
from medseg.ranges import TransposedWindow

__all__ = ["Apply", "convolve", "convolve_transposed"]

Apply = Callable[[Tensor], Tensor]
"""From slices of a layer's input, (B, C, D, ...), to what they make."""

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def convolve(
    layer: Layer, *, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Apply:
    """The convolution of a layer, as a function of the slices that it sees.

    Args:
        layer: With weights of shape (outputs, inputs of a group, ...) and perhaps a bias.
        stride: Along each axis.
        padding: By zeros, at both ends of each axis.
        dilation: Along each axis.
    """
    weight, bias = layer.weights["weight"], layer.weights.get("bias")
    groups = int(layer.node.options.get("groups", 1))
    return _convolution(weight, bias, list(stride), list(padding), list(dilation), groups)


def convolve_transposed(layer: Layer, windows: Sequence[TransposedWindow]) -> Apply:
    """The transposed convolution of a layer, uncut along the streaming axis.

    Args:
        layer: With weights of shape (inputs, outputs of a group, ...) and perhaps a bias.
        windows: One for each axis, the streamed one first, of which padding and output padding do not count.
    """
    weight, bias = layer.weights["weight"], layer.weights.get("bias")
    groups = int(layer.node.options.get("groups", 1))
    if groups == 1 and all(window.dilation == 1 for window in windows) and _by_onednn(weight):
        return _side_by_side(weight, bias, windows)
    stride = [window.stride for window in windows]
    padding = [0, *(window.padding for window in windows[1:])]
    added = [0, *(window.output_padding for window in windows[1:])]
    dilation = [window.dilation for window in windows]
    apply = functional.conv_transpose2d if weight.ndim == 4 else functional.conv_transpose3d
    return lambda images: apply(images, weight, bias, stride, padding, added, groups, dilation)


def _convolution(
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Apply:
    if not _by_onednn(weight):
        apply = functional.conv2d if weight.ndim == 4 else functional.conv3d
        return lambda images: apply(images, weight, bias, stride, padding, dilation, groups)
    return lambda images: torch.mkldnn_convolution(
        _said_channels_last(images), weight, bias, padding, stride, dilation, groups
    )


def _by_onednn(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _said_channels_last(images: Tensor) -> Tensor:
    """The same memory, with strides that leave no doubt where there is only one channel."""
    if images.shape[1] != 1 or not images.is_contiguous():
        return images
    strides = torch.empty(images.shape, device="meta", memory_format=_LAYOUTS[images.ndim]).stride()
    return images.as_strided(images.shape, strides)


def _side_by_side(weight: Tensor, bias: Tensor | None, windows: Sequence[TransposedWindow]) -> Apply:
    """One convolution whose channels are the phases of the stride; each goes to its place in the result.

    Along an axis with stride s, tap s * t + r of a transposed convolution brings input i to output
    s * (i + t) + r: the outputs of phase r are a convolution with taps r, s + r, ... in reverse.
    """
    dims, channels = len(windows), weight.shape[1]
    stride = [window.stride for window in windows]
    begins = [0, *(window.padding for window in windows[1:])]
    # Output padding may ask for more than the taps reach: zeros stand for taps there.
    beyond = [0, *(max(0, window.output_padding - window.padding) for window in windows[1:])]
    added = [0, *(window.output_padding - 2 * window.padding for window in windows[1:])]
    taps = [-(-(window.kernel + more) // window.stride) for window, more in zip(windows, beyond, strict=True)]
    reach = [count - 1 for count in taps]
    biases = None if bias is None else bias.repeat(math.prod(stride))
    apply = _convolution(
        _phases(weight, stride, taps), biases, [1] * dims, [0, *reach[1:]], [1] * dims, groups=1
    )

    def run(images: Tensor) -> Tensor:
        size = [count + more for count, more in zip(images.shape[2:], reach, strict=True)]
        padded = functional.pad(images, [0] * (2 * dims - 2) + [reach[0]] * 2) if reach[0] else images
        places = [number for pair in zip(size, stride, strict=True) for number in pair]
        made = images.new_empty(images.shape[0], *places, channels)
        # Slice by slice, what is to be put in its place still lies in the processor's cache.
        for index in range(size[0]):
            slab = apply(padded.narrow(2, index, taps[0]))
            made.select(1, index).copy_(_by_place(slab, stride, channels))
        return cut(_as_images(made, dims), images.shape[2:])

    def cut(whole: Tensor, given: Sequence[int]) -> Tensor:
        for axis, window in enumerate(windows):
            length = (given[axis] - 1) * window.stride + window.kernel + added[axis]
            whole = whole.narrow(2 + axis, begins[axis], length)
        return whole

    return run


def _phases(weight: Tensor, stride: Sequence[int], taps: Sequence[int]) -> Tensor:
    """A transposed convolution's weights (inputs, outputs, ...) as (phases * outputs, inputs, taps ...)."""
    dims = len(stride)
    missing = [
        count * step - kernel for count, step, kernel in zip(taps, stride, weight.shape[2:], strict=True)
    ]
    whole = functional.pad(weight, [pad for more in reversed(missing) for pad in (0, more)])
    split = whole.reshape(*weight.shape[:2], *(n for pair in zip(taps, stride, strict=True) for n in pair))
    tap_axes, phase_axes = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    phases = split.flip(*tap_axes).permute(*phase_axes, 1, 0, *tap_axes).flatten(0, dims)
    return phases.contiguous(memory_format=_LAYOUTS[weight.ndim])


def _by_place(slab: Tensor, stride: Sequence[int], channels: int) -> Tensor:
    """From one slice of all phases, (B, phases * C, 1, H[, W]), to (B, phase, H, phase[, W, phase], C)."""
    dims = len(stride)
    last = slab.movedim(1, -1).squeeze(1)
    last = last.reshape(*last.shape[:-1], *stride, channels)
    in_plane = [axis for place in range(1, dims) for axis in (place, dims + place)]
    return last.permute(0, dims, *in_plane, 2 * dims)


def _as_images(made: Tensor, dims: int) -> Tensor:
    """From (B, D, phase, H, phase[, W, phase], C) to (B, C, D', H'[, W']), in the same memory."""
    for axis in range(1, dims + 1):
        made = made.flatten(axis, axis + 1)
    return made.movedim(-1, 1)
