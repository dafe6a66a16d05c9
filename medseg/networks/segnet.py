"""SegNet and SegNet-Basic in 2D and 3D. Imports torch and :mod:`medseg.networks.blocks` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from medseg.networks.blocks import (
    ConvStack,
    PoolingEncoder,
    SegmentationNetwork,
    UnpoolingDecoder,
    choice,
    convolution,
    he_initialise,
    level_geometry,
    positive,
)

__all__ = ["CONFIGURATIONS", "SegNet"]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "segnet_vgg16": {
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 11,
        "features": (64, 128, 256, 512, 512),
        "counts": (2, 2, 3, 3, 3),
        "decoder": "mirrored",
    },
    "segnet_basic": {
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 11,
        "features": (64, 64, 64, 64),
        "kernel_sizes": (7, 7, 7, 7),
        "counts": 1,
        "decoder": "basic",
    },
}
"""The paper's own networks, as keyword arguments of :class:`SegNet`, for the 11 classes of CamVid."""


class SegNet(SegmentationNetwork):
    """SegNet: the way up is led by the indices that pooling remembered, and by nothing else of the way down.

    *Every* level of convolutions is pooled, the coarsest too, so that ``strides`` has one entry a level,
    not one fewer as in other networks. On the way up a map is unpooled (each value goes to where its
    maximum was, zeros elsewhere) and then made dense by as many convolutions as the level has on the way
    down. There are no skips: what the network keeps of the fine grid are the indices. Any input size is
    taken and given back. Scores are logits; the softmax is the loss's.

    The paper's SegNet (:data:`CONFIGURATIONS`, ``segnet_vgg16``) is VGG-16's 13 convolutions and their mirror
    image, of which the last, 3x3, is the classifier. For the 11 classes of its authors' published model it
    has 29,441,419 parameters here and 29,449,355 (the paper's table: 29.45 M) with a bias for each of the
    25 convolutions that a batch norm follows and takes away again; here these have none.

    SegNet-Basic (``segnet_basic``) has four levels of one 7x7 convolution of 64 channels and a decoder
    without activations, by ``decoder="basic"``. It has 1,416,075 parameters for 11 classes, 1,416,587 with
    the biases before the norms that the published model has although the paper says there are none; the
    paper's table says 1.425 M. What stands before the published Basic model, a local response
    normalisation of the image, belongs to preprocessing here.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes.
        features: Channels of each level, from the finest to the coarsest.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
        activation: ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"elu"``, ``"gelu"`` or ``"silu"``.
        dropout: Probability of dropout behind each of the two coarsest levels of the way down.
        kernel_sizes: One a level, each one number or one an axis; 3 if not given.
        strides: Of the pooling behind each level, as many as levels; 2 if not given. Where one is 1 along
            an axis, pooling and unpooling leave that axis as it is.
        counts: Convolutions of each level, one number or one a level.
        decoder: ``"mirrored"``: each level as on the way down, the very last convolution being the
            classifier. ``"basic"``: convolutions and norms without activation, the classifier a 1x1(x1)
            convolution of its own.

    Raises:
        ValueError: An option is invalid.

    Example:
        >>> import torch
        >>> network = SegNet(2, in_channels=1, out_channels=3, features=(8, 16))
        >>> network(torch.zeros(1, 1, 9, 12)).shape
        torch.Size([1, 3, 9, 12])

    References:
        Badrinarayanan, Kendall, Cipolla, SegNet: a deep convolutional encoder-decoder architecture for
        image segmentation, IEEE TPAMI 2017.
    """

    pools_last_level = True

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128),
        norm: str | None = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        counts: int | Sequence[int] = 2,
        decoder: str = "mirrored",
    ) -> None:
        widths = tuple(positive(width, "features") for width in features)
        kernels, steps = level_geometry(len(widths), spatial_dims, kernel_sizes, strides, pools_last=True)
        super().__init__(spatial_dims, in_channels, out_channels, steps, norm)
        self.features = widths
        self.kernel_sizes = kernels
        mirrored = choice(decoder, ("basic", "mirrored"), "decoder") == "mirrored"

        self.encoder = PoolingEncoder(
            spatial_dims,
            self.in_channels,
            widths,
            kernels,
            steps,
            counts=counts,
            dropout=dropout,
            norm=norm,
            activation=activation,
        )
        ways_out = _decoder_widths(widths, counts, last_is_classifier=mirrored)
        after = activation if mirrored else None
        self.decoder = UnpoolingDecoder(
            spatial_dims,
            steps,
            [
                ConvStack(spatial_dims, width, outs, kernel, norm=norm, activation=after)
                for width, outs, kernel in zip(widths, ways_out, kernels, strict=True)
            ],
        )
        self.head = convolution(spatial_dims, widths[0], self.out_channels, kernels[0] if mirrored else 1)
        he_initialise(self)
        if not mirrored:
            he_initialise(self.decoder, gain=1.0)
        self.decoder.allow_for_zeros()

    def class_scores(self, images: Tensor) -> Tensor:
        """See :meth:`SegmentationNetwork.forward`."""
        maps, indices, coarsest = self.encoder.pooled(images)
        scores: Tensor = self.head(self.decoder(maps, indices, coarsest))
        return scores


def _decoder_widths(
    features: Sequence[int], counts: int | Sequence[int], *, last_is_classifier: bool
) -> list[tuple[int, ...]]:
    """Channels of each level's convolutions on the way up, the finest level first.

    A level's last convolution gives the next finer level's channels; the finest level's last one is the
    classifier or keeps its channels.
    """
    convolutions = (counts,) * len(features) if isinstance(counts, int) else counts
    outs = [
        (width,) * (count - 1) + (finer,)
        for width, count, finer in zip(features, convolutions, (features[0], *features), strict=False)
    ]
    if last_is_classifier:
        outs[0] = outs[0][:-1]
    return outs
