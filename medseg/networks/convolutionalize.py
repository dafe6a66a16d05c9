"""Turn a classifier of windows into the dense network that gives the same numbers at every position."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from medseg.networks.blocks import check_images, choice, is_symbolic, per_axis

__all__ = ["DenseClassifier", "convolutionalize"]

_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_ADAPTIVE_MAX_POOL: dict[int, Any] = {2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
_ADAPTIVE_AVERAGE_POOL: dict[int, Any] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}

_POOLS = (_MAX_POOL, _AVERAGE_POOL, _ADAPTIVE_MAX_POOL, _ADAPTIVE_AVERAGE_POOL)

_SPATIAL_DIMS: dict[type, int] = {
    kind: dims for kinds in (_CONVOLUTION, _BATCH_NORM, *_POOLS) for dims, kind in kinds.items()
}
"""Layers that say how many axes the images have."""


class DenseClassifier(nn.Module):
    """What :func:`convolutionalize` makes: a classifier that slides over an image of any size.

    Attributes:
        layers: The layers, one behind the other.
        in_channels: Channels of the image.
        window: Voxels per axis of what one position sees, the classifier's input size.
        stride: Voxels per axis from one position to the next, the product of the layers' strides.
    """

    def __init__(
        self, layers: Sequence[nn.Module], in_channels: int, window: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.window = window
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Scores at every position.

        Args:
            images: Shape (B, C, X, Y[, Z]), not smaller than ``window``.

        Returns:
            Shape (B, classes, X', Y'[, Z']). Position (i, j[, k]) has what the classifier gives for the
            window that begins at voxel (i, j[, k]) times ``stride``. Every such window in the image has its
            position. Where the classifier never reads the last voxels of its window, as pooling drops
            what does not fill a block, the last windows may hang over the image's end by those.

        Raises:
            ValueError: The axes or channels are wrong, or the image is smaller than ``window``.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(images)
        scores: Tensor = self.layers(images)
        return scores

    def check_input(self, images: Tensor) -> None:
        """Refuse a shape that this network cannot take.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Raises:
            ValueError: The axes or channels are wrong, or the image is smaller than ``window``.
        """
        if is_symbolic(images):
            return
        check_images(images, len(self.window), self.in_channels)
        size = tuple(images.shape[2:])
        if any(length < least for length, least in zip(size, self.window, strict=True)):
            raise ValueError(
                f"an image of {size} voxels is smaller than the window; give {self.window} or more"
            )


def convolutionalize(
    classifier: nn.Module, input_size: int | Sequence[int], *, padded: str = "refuse"
) -> DenseClassifier:
    """Make the dense network of a classifier: its numbers at every position of an image, in one pass.

    The first ``Linear`` behind a ``Flatten`` becomes a convolution with a kernel of the feature map's size,
    further ones become convolutions with a kernel of 1. Global pooling (``AdaptiveAvgPool`` or
    ``AdaptiveMaxPool`` to one voxel) becomes pooling over the map's size at stride 1, ``BatchNorm1d`` behind
    a ``Linear`` that of the image's axes, and all else is kept. Weights are copied: the classifier stays as
    it is.

    **What is taken.** Any module that ``torch.fx`` can trace and whose layers form one chain, as every
    ``nn.Sequential`` does, nested ones included. Layers: convolution; max and average pooling; adaptive
    pooling to one voxel or to the size that the map has already; batch norm with running statistics; local
    response norm; ``Flatten``, ``Linear``; activations; ``Softmax`` and ``LogSoftmax`` over the classes;
    dropout. Anything else is refused by name: what looks at the whole window, as instance norm does, has no
    meaning in an image without windows, and what medseg does not know cannot be promised to be local.

    **Where the numbers are the same.** For a classifier without padding: at every position, in evaluation
    mode (in training mode batch norm and dropout depend on what else there is). A padded layer puts zeros
    around every window, where the dense network sees the window's surroundings. No one pass over the image
    gives both, so that padding, and pooling that hangs over the window's end, are refused. With
    ``padded="keep"`` they stay as they are, which is what the FCN paper does with VGG. The numbers are then
    the classifier's for an image of just one window; in a larger image those feature voxels are the same
    whose receptive field lies within the window, and the others see the image instead of zeros.

    Args:
        classifier: Takes (B, C, X, Y[, Z]), gives (B, classes).
        input_size: Voxels per axis that it takes: one number, or one an axis.
        padded: ``"refuse"`` or ``"keep"``.

    Returns:
        The dense network, on the classifier's device, in its number format and mode.

    Raises:
        ValueError: A layer is none of those above, or does not fit the layers before it; it is named.

    Example:
        >>> classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        >>> dense = convolutionalize(classifier, (4, 4))
        >>> dense.layers[-1]
        Conv2d(4, 3, kernel_size=(2, 2), stride=(1, 1))
        >>> image = torch.randn(1, 1, 6, 9)
        >>> dense(image).shape
        torch.Size([1, 3, 3, 6])
        >>> torch.allclose(dense(image)[..., 1, 2], classifier(image[..., 1:5, 2:6]), atol=1e-6)
        True

    References:
        Long, Shelhamer, Darrell, Fully convolutional networks for semantic segmentation, CVPR 2015.
    """
    keeps_padding = choice(padded, ("refuse", "keep"), "padded") == "keep"
    chain = _chain(classifier)
    window = _window(chain, input_size)
    in_channels = _in_channels(chain, window)
    state = _State(in_channels, window, stride=(1,) * len(window))
    layers: list[nn.Module] = []
    for name, layer in chain:
        try:
            if not keeps_padding:
                _refuse_padding(layer, state)
            dense, state = _RULES[type(layer)](layer, state)
        except ValueError as error:
            raise ValueError(f"layer '{name}' ({type(layer).__name__}) {error}") from error
        if dense is not None:
            layers.append(dense.train(layer.training))
    if math.prod(state.size) != 1:
        raise ValueError(
            f"the classifier ends with a map of {state.size} voxels for a window of {window}; "
            "end it with Flatten and Linear, or with pooling to one voxel"
        )
    network = DenseClassifier(layers, in_channels, window, state.stride)
    network.training = classifier.training
    return network


def _chain(classifier: nn.Module) -> list[tuple[str, nn.Module]]:
    """The classifier's layers by name, in the order in which they run.

    Raises:
        ValueError: They form no chain, or something is no layer.
    """
    try:
        nodes = list(fx.Tracer().trace(classifier).nodes)
    except (fx.proxy.TraceError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{type(classifier).__name__} cannot be traced ({error}); build it as nn.Sequential"
        ) from error
    chain: list[tuple[str, nn.Module]] = []
    for before, node in itertools.pairwise(nodes):
        if node.op != "output":
            chain.append(_layer_of(node, classifier))
        if node.all_input_nodes != [before] or len(before.users) != 1:
            raise ValueError(
                f"'{node.name}' does not take what is just before it, and that alone; "
                "only one chain of layers can be made dense"
            )
    if nodes[-1].args[0] is not nodes[-2]:
        raise ValueError("the classifier does not give one tensor; let it give the scores alone")
    return chain


def _layer_of(node: fx.Node, classifier: nn.Module) -> tuple[str, nn.Module]:
    """The layer that a node of the graph runs, by name; it has a rule."""
    if node.op == "call_module":
        name = str(node.target)
        layer = classifier.get_submodule(name)
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ValueError(f"layer '{name}' has hooks, whose effect is unknown; remove them")
        if type(layer) not in _RULES:
            known = ", ".join(sorted(kind.__name__ for kind in _RULES))
            raise ValueError(f"layer '{name}' ({type(layer).__name__}) has no dense form; use one of {known}")
        return name, layer
    if node.target in ("flatten", torch.flatten):
        # Its defaults are not those of nn.Flatten.
        given: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False))
        return node.name, nn.Flatten(**{"start_dim": 0, **given, **node.kwargs})
    if node.target in ("relu", torch.relu, nn.functional.relu):
        return node.name, nn.ReLU()
    raise ValueError(f"'{node.name}' is no layer of torch.nn; write it as one")


def _window(chain: list[tuple[str, nn.Module]], input_size: int | Sequence[int]) -> tuple[int, ...]:
    """The input size, one number an axis; the layers say how many axes there are."""
    dims = next((_SPATIAL_DIMS[type(layer)] for _, layer in chain if type(layer) in _SPATIAL_DIMS), None)
    if dims is None and isinstance(input_size, Sequence) and len(input_size) in (2, 3):
        dims = len(input_size)
    if dims is None:
        raise ValueError("no layer says how many axes the images have; give input_size two or three numbers")
    return per_axis(input_size, dims, "input_size")


def _in_channels(chain: list[tuple[str, nn.Module]], window: tuple[int, ...]) -> int:
    """Channels of the images, as the first layer that counts them says; the rules check them."""
    for _, layer in chain:
        for count in ("in_channels", "num_features"):
            if hasattr(layer, count):
                return int(getattr(layer, count))
        if isinstance(layer, nn.Linear):
            return max(1, layer.in_features // math.prod(window))
    raise ValueError("no layer of the classifier has weights; give one with convolutions or Linear layers")


@dataclass(frozen=True)
class _State:
    """What the classifier has of one window between two layers.

    Attributes:
        channels: Of the feature map.
        size: Of the feature map in voxels, also once it is flat.
        stride: Voxels of the image per voxel of the map.
        flat: Whether a Flatten has put the map into one row.
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
        if _SPATIAL_DIMS.get(type(layer), len(self.size)) != len(self.size):
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


def _refuse_padding(layer: Any, state: _State) -> None:
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


def _hangs_over(pool: nn.Module, state: _State) -> bool:
    """Whether the last block of a pooling in ``ceil_mode`` is cut short by the window's end."""
    floored = copy.copy(pool)
    floored.ceil_mode = False  # type: ignore[assignment]
    return _size_behind(pool, state) != _size_behind(floored, state)


def _size_behind(layer: nn.Module, state: _State) -> tuple[int, ...]:
    """Size of the map that a layer leaves, as torch itself says."""
    dtype = next((parameter.dtype for parameter in layer.parameters()), torch.float32)
    probe = torch.empty(1, state.channels, *state.size, dtype=dtype, device="meta")
    try:
        return tuple(copy.deepcopy(layer).to("meta")(probe).shape[2:])
    except RuntimeError as error:
        raise ValueError(
            f"cannot take a map of {state.size} voxels; enlarge input_size ({str(error).splitlines()[0]})"
        ) from error


_Dense = tuple[nn.Module | None, _State]


def _pointwise(layer: nn.Module, state: _State) -> _Dense:
    return copy.deepcopy(layer), state


def _across_channels(layer: nn.Module, state: _State) -> _Dense:
    state.check_map(layer)
    return copy.deepcopy(layer), state


def _prelu(layer: Any, state: _State) -> _Dense:
    if layer.num_parameters != 1:
        state.check_apart()
        state.check_channels(layer.num_parameters)
    return copy.deepcopy(layer), state


def _softmax(layer: Any, state: _State) -> _Dense:
    state.check_apart()
    if layer.dim != 1 and not (state.flat and layer.dim == -1):
        raise ValueError(f"is over axis {layer.dim} instead of the classes; give it dim=1")
    dense = copy.deepcopy(layer)
    dense.dim = 1
    return dense, state


def _batch_norm(layer: Any, state: _State) -> _Dense:
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


def _flatten(layer: Any, state: _State) -> _Dense:
    axes = 2 if state.flat else 2 + len(state.size)
    if layer.start_dim % axes != 1 or layer.end_dim % axes != axes - 1:
        raise ValueError(
            f"takes axes {layer.start_dim} to {layer.end_dim}; flatten 1 to -1, all but the batch"
        )
    return None, replace(state, flat=True)


def _linear(layer: Any, state: _State) -> _Dense:
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


def _convolution(layer: Any, state: _State) -> _Dense:
    state.check_map(layer)
    state.check_channels(layer.in_channels)
    size = _size_behind(layer, state)
    stride = tuple(before * step for before, step in zip(state.stride, layer.stride, strict=True))
    return copy.deepcopy(layer), _State(layer.out_channels, size, stride)


def _pool(layer: Any, state: _State) -> _Dense:
    state.check_map(layer)
    dense = copy.deepcopy(layer)
    # Where no window has an overhang, none that the image has at its end belongs to a window.
    dense.ceil_mode = layer.ceil_mode and _hangs_over(layer, state)
    steps = per_axis(layer.stride, len(state.size), "stride")
    stride = tuple(before * step for before, step in zip(state.stride, steps, strict=True))
    return dense, replace(state, size=_size_behind(layer, state), stride=stride)


def _adaptive_pool(layer: Any, state: _State) -> _Dense:
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


_RULES: dict[type, Callable[[Any, _State], _Dense]] = {
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
"""Each layer's rule. A subclass has none: it may do anything."""
