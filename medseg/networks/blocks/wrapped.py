"""A network with something behind its class scores. Imports torch alone."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["WrappedNetwork"]


class WrappedNetwork(nn.Module):
    """A segmentation network whose class scores go through something more.

    What the network has, this has as well: its encoder, its checks, and the scores of its coarser levels,
    which are handed out as they are. A subclass has :meth:`behind`.

    Args:
        network: A segmentation network.
    """

    # A property is no part of what torch.jit.script compiles.
    __jit_unused_properties__ = ("encoder",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.spatial_dims = int(network.spatial_dims)  # type: ignore[arg-type]
        self.in_channels = int(network.in_channels)  # type: ignore[arg-type]
        self.out_channels = int(network.out_channels)  # type: ignore[arg-type]
        self.network = network

    @property
    def encoder(self) -> nn.Module:
        """The network's; its weights are named once, under the network."""
        encoder: nn.Module = self.network.encoder  # type: ignore[assignment]
        return encoder

    def behind(self, images: Tensor, scores: Tensor) -> Tensor:
        """What becomes of class scores (B, classes, X', Y'[, Z']) of images (B, C, X, Y[, Z])."""
        raise NotImplementedError

    def check_input(self, images: Tensor) -> None:
        """Refuse a shape that the network cannot take.

        Raises:
            ValueError: Axes, channels or sizes do not fit; the message says what does.
        """
        self.network.check_input(images)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, classes, X', Y'[, Z']) of images (B, C, X, Y[, Z]).

        Raises:
            ValueError: The network cannot take this shape.
        """
        scores: Tensor = self.behind(images, self.network(images))
        return scores

    def forward_deep(self, images: Tensor) -> list[Tensor]:
        """The finest class scores, then those of the coarser levels that the network supervises.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Raises:
            ValueError: The network cannot take this shape.
        """
        if not hasattr(self.network, "forward_deep"):
            return [self.forward(images)]
        scores: list[Tensor] = self.network.forward_deep(images)  # type: ignore[operator]
        return [self.behind(images, scores[0]), *scores[1:]]
