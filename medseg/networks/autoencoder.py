"""Autoencoders that share a segmentation network's encoder. Imports torch and its neighbours alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medseg.networks.blocks import (
    ConvBlock,
    LinearUpsample,
    SegmentationNetwork,
    check_images,
    choice,
    convolution,
    he_initialise,
)
from medseg.networks.encoder_layout import examine_encoder

__all__ = [
    "CODES",
    "Autoencoder",
    "CodeDecoder",
    "GaussianCode",
    "PlainCode",
    "Reconstruction",
    "SparseCode",
    "corrupt",
    "normal_divergence",
    "sparsity_divergence",
]

_IMAGE_WIDTH = 16
"""Channels at the image's resolution, where the encoder itself has no map that fine."""


def corrupt(images: Tensor, noise_std: float = 0.0, masked_fraction: float = 0.0) -> Tensor:
    """Spoil images for a denoising autoencoder to mend: Gaussian noise, then voxels set to zero.

    A masked voxel is zero in every channel. Draws from torch's current random state.

    Args:
        images: Shape (B, C, X, Y[, Z]).
        noise_std: Standard deviation of the noise.
        masked_fraction: Probability of a voxel to be masked.

    Returns:
        New images; the given ones are left as they are.

    Example:
        >>> corrupt(torch.ones(1, 1, 2, 2), masked_fraction=0.0).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0]

    References:
        Vincent et al., Extracting and composing robust features with denoising autoencoders, ICML 2008.
    """
    spoilt = images + noise_std * torch.randn_like(images) if noise_std > 0.0 else images.clone()
    if masked_fraction > 0.0:
        drawn = torch.rand(images.shape[0], 1, *images.shape[2:], device=images.device)
        spoilt = spoilt.masked_fill(drawn < masked_fraction, 0.0)
    return spoilt


def sparsity_divergence(activations: Tensor, target: float) -> Tensor:
    """Sum over units of KL(target || mean activation), both taken as probabilities of being active.

    A unit is a channel; its mean runs over batch and positions.

    Args:
        activations: Between 0 and 1, shape (B, C, X, Y[, Z]).
        target: Wanted mean activation, between 0 and 1.

    Returns:
        One number, zero where every unit's mean is the target.

    Example:
        >>> sparsity_divergence(torch.full((2, 3, 4, 4), 0.05), 0.05).abs().item() < 1e-6
        True

    References:
        Ng, Sparse autoencoder, CS294A lecture notes, Stanford 2011.
    """
    means = activations.float().mean(dim=(0, *range(2, activations.dim())))
    smallest = torch.finfo(means.dtype).eps
    means = means.clamp(smallest, 1.0 - smallest)
    wanted = torch.full_like(means, target)
    active = wanted * (wanted / means).log()
    silent = (1.0 - wanted) * ((1.0 - wanted) / (1.0 - means)).log()
    return (active + silent).sum()


def normal_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over the code, averaged over the batch.

    Args:
        mean: Shape (B, …).
        log_variance: Natural logarithms, same shape.

    Returns:
        One number: -1/2 Σ (1 + log σ² - μ² - σ²).

    Example:
        >>> normal_divergence(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)).item()
        2.0

    References:
        Kingma, Welling, Auto-encoding variational Bayes, ICLR 2014, appendix B.
    """
    mu, log_sigma2 = mean.float(), log_variance.float()
    return -0.5 * (1.0 + log_sigma2 - mu.square() - log_sigma2.exp()).flatten(1).sum(1).mean()


class PlainCode(nn.Module):
    """The coarsest feature map is the code, and no code is better than another."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        del spatial_dims, channels
        super().__init__()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The code (B, C, X, …), and a penalty of zero."""
        return features, features.new_zeros(())


class SparseCode(nn.Module):
    """Units between 0 and 1, of which few shall be active at a time.

    Rectified feature maps have no upper end, and the sigmoid of a rectified map none below 1/2: a 1x1(x1)
    convolution leads to the sigmoid.

    Args:
        spatial_dims: 2 or 3.
        channels: Of the coarsest map, and of the code.
        target: Wanted mean activation of a unit.

    Raises:
        ValueError: The target is not between 0 and 1.
    """

    def __init__(self, spatial_dims: int, channels: int, target: float = 0.05) -> None:
        super().__init__()
        if not 0.0 < target < 1.0:
            raise ValueError(f"target={target!r} is no mean activation; give a number between 0 and 1")
        self.target = target
        self.units = convolution(spatial_dims, channels, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The code (B, C, X, …), and its :func:`sparsity_divergence`."""
        activations = self.units(features).sigmoid()
        return activations, sparsity_divergence(activations, self.target)


class GaussianCode(nn.Module):
    """A normal distribution at each place of the code, kept near N(0, 1).

    In training a code is drawn from it, by its mean plus noise times its deviation so that gradients pass;
    otherwise the code is the mean.

    Args:
        spatial_dims: 2 or 3.
        channels: Of the coarsest map, and of the code.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.mean = convolution(spatial_dims, channels, channels, 1)
        self.log_variance = convolution(spatial_dims, channels, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The code (B, C, X, …), and its :func:`normal_divergence` per image."""
        mean, log_variance = self.mean(features), self.log_variance(features)
        code = mean
        if self.training:
            code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return code, normal_divergence(mean, log_variance)


CODES: dict[str, Callable[..., nn.Module]] = {
    "gaussian": GaussianCode,
    "plain": PlainCode,
    "sparse": SparseCode,
}
"""Kinds of code by name."""


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder makes of images.

    Attributes:
        images: Shape (B, C, X, Y[, Z]), the images' own.
        penalty: One number that the code's kind wants small: zero of a plain one, the sum over units of a
            sparse one, the sum over an image's code of a gaussian one.
    """

    images: Tensor
    penalty: Tensor


class Autoencoder(nn.Module):
    """A segmentation network's encoder, a code, and a decoder that sees nothing but the code.

    The decoder goes up from the coarsest map alone, through the sizes of the encoder's other maps. The maps
    themselves stay closed to it: over such a bridge it could copy the image past the code.

    The encoder is the network's own module, and its weights have the same names, ``encoder.…``.

    Args:
        network: Any network with an ``encoder`` that keeps to :class:`SegmentationNetwork`'s contract.
        code: ``"plain"``, ``"sparse"`` or ``"gaussian"`` (variational).
        **options: Of the code, such as ``target`` of a sparse one.

    Raises:
        ValueError: The network has no such encoder, or loses its border to valid convolutions; an option is
            invalid.

    Example:
        >>> from medseg.networks import build_network
        >>> network = build_network("unet", spatial_dims=2, features=(4, 8))
        >>> Autoencoder(network)(torch.zeros(1, 1, 9, 7)).images.shape
        torch.Size([1, 1, 9, 7])

    References:
        Hinton, Salakhutdinov, Reducing the dimensionality of data with neural networks, Science 2006.
    """

    def __init__(self, network: SegmentationNetwork, code: str = "plain", **options: Any) -> None:
        super().__init__()
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module) or not hasattr(encoder, "features"):
            raise ValueError("the network has no encoder that gives feature maps; choose one that has")
        if getattr(network, "padding", "same") == "valid":
            raise ValueError("valid convolutions lose the image's border; build it with padding='same'")
        self.spatial_dims = network.spatial_dims
        self.in_channels = network.in_channels
        self.encoder = encoder
        features = tuple(int(width) for width in getattr(encoder, "features"))  # noqa: B009 (a Module's)
        make_code = CODES[choice(code, tuple(CODES), "code")]
        self.code = make_code(self.spatial_dims, features[-1], **options)
        self.layout = examine_encoder(encoder, self.spatial_dims, self.in_channels)
        self.decoder = CodeDecoder(
            self.spatial_dims, features, self.layout.strides, self.in_channels, network.norm
        )
        he_initialise(self.code)
        he_initialise(self.decoder)
        if isinstance(self.code, GaussianCode):  # deviations of 1, whatever the maps' scale
            nn.init.zeros_(self.code.log_variance.weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Reconstruction:
        """Reconstruct images.

        Args:
            images: Shape (B, C, X, Y[, Z]).

        Raises:
            ValueError: Axes or channels do not fit.
        """
        check_images(images, self.spatial_dims, self.in_channels)
        maps = self.encoder(images)
        code, penalty = self.code(maps[-1])
        sizes = [tuple(images.shape[2:]), *(tuple(features.shape[2:]) for features in maps[:-1])]
        return Reconstruction(self.decoder(code, sizes), penalty)


class CodeDecoder(nn.Module):
    """From a code up to images, one step for each of the encoder's maps.

    Step k leads from the k-th map to the next finer one, step 0 to the image: linear interpolation, cropped
    to that map's size, then a block of a convolution.

    Args:
        spatial_dims: 2 or 3.
        features: Channels of the encoder's maps, the finest first.
        strides: From the image to the first map, and from each map to the next, spelt out by axis.
        out_channels: Channels of the image.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``None``.
    """

    def __init__(
        self,
        spatial_dims: int,
        features: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        out_channels: int,
        norm: str | None,
    ) -> None:
        super().__init__()
        starts_at_image = max(strides[0]) == 1
        widths = [features[0] if starts_at_image else min(features[0], _IMAGE_WIDTH), *features]
        self.steps = nn.ModuleList(
            _StepUp(spatial_dims, width, finer, stride, norm)
            for finer, width, stride in zip(widths, features, strides, strict=False)
        )
        if starts_at_image:
            self.steps[0] = _Stay()
        self.head = convolution(spatial_dims, widths[0], out_channels, 1)

    def forward(self, code: Tensor, sizes: Sequence[tuple[int, ...]]) -> Tensor:
        """Images (B, C, X, …) from a code.

        Args:
            code: Shape (B, features[-1], …).
            sizes: Of the image, then of each map but the coarsest, the finest first.
        """
        for level in reversed(range(len(self.steps))):
            code = self.step(level, code, sizes[level])
        return code

    def step(self, level: int, features: Tensor, size: tuple[int, ...]) -> Tensor:
        """From the map of ``level`` to the next finer one, or from the finest to the image."""
        finer: Tensor = self.steps[level](features, size)
        return self.head(finer) if level == 0 else finer


class _Stay(nn.Module):
    def forward(self, features: Tensor, size: tuple[int, ...]) -> Tensor:
        del size
        return features


class _StepUp(nn.Module):
    def __init__(
        self, spatial_dims: int, width: int, finer: int, stride: tuple[int, ...], norm: str | None
    ) -> None:
        super().__init__()
        self.up = LinearUpsample(spatial_dims, width, finer, stride)
        self.block = ConvBlock(spatial_dims, finer, finer, norm=norm)

    def forward(self, features: Tensor, size: tuple[int, ...]) -> Tensor:
        upsampled: Tensor = self.up(features)
        for axis, length in enumerate(size, start=2):
            upsampled = torch.narrow(upsampled, axis, 0, length)
        finer: Tensor = self.block(upsampled)
        return finer
