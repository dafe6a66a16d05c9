"""Turn a classifier of windows into the dense network that gives the same numbers at every position."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from medseg.networks.blocks import check_images, choice, is_symbolic, per_axis
from medseg.networks.dense_layers import RULES, SPATIAL_DIMS, WindowState, refuse_padding

__all__ = ["DenseClassifier", "convolutionalize"]


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
    state = WindowState(in_channels, window, stride=(1,) * len(window))
    layers: list[nn.Module] = []
    for name, layer in chain:
        try:
            if not keeps_padding:
                refuse_padding(layer, state)
            dense, state = RULES[type(layer)](layer, state)
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
        if type(layer) not in RULES:
            known = ", ".join(sorted(kind.__name__ for kind in RULES))
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
    dims = next((SPATIAL_DIMS[type(layer)] for _, layer in chain if type(layer) in SPATIAL_DIMS), None)
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
