"""From the stored image to what the network sees, and back, where MONAI has no transform for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep

__all__ = ["EnclosingSpacingd", "NormalizeChannelsd", "RequireImaged"]

FloatArray = npt.NDArray[np.float64]
Data = Mapping[Hashable, Any]

_TOLERANCE_VOXELS = 0.01
"""A grid has a spacing already if that moves none of its voxels by more than this."""

_ROUNDING_VOXELS = 1e-6
"""Rounding noise must not make a voxel read a neighbour that it does not need."""


class RequireImaged(MapTransform):  # type: ignore[misc]
    """Refuse images with another number of channels than the network's, and voxels that are not finite.

    Args:
        keys: Images of shape (C, X, Y, Z).
        channels: How many there must be.
        allow_missing_keys: Whether a missing key is passed over.

    Raises:
        ValueError: When called: there are others, or NaN or infinite voxels.
    """

    def __init__(self, keys: KeysCollection, channels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Pass on what is fine."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.ndim != 4 or len(image) != self.channels:
                raise ValueError(f"'{key}' has shape {tuple(image.shape)}, ({self.channels}, X, Y, Z) needed")
            if not torch.isfinite(image).all():
                raise ValueError(f"'{key}' holds voxels that are NaN or infinite")
        return result


class NormalizeChannelsd(MapTransform):  # type: ignore[misc]
    """Bring the intensities of each channel to a common scale, each channel by its own scheme.

    A scheme is a dictionary. ``{"scheme": "zscore"}``: mean 0 and standard deviation 1 over the image; with
    ``"background": value`` voxels of exactly this value have no say in both, unless all others are alike.
    ``{"scheme": "clip_zscore", "lower": …, "upper": …, "mean": …, "std": …}``: clipped, then ``mean``
    subtracted and divided by ``std``. ``{"scheme": "none"}``: left as stored. A channel that is constant
    becomes zero under ``"zscore"``.

    Args:
        keys: Images of shape (C, X, Y, Z).
        normalization: One scheme per channel.
        allow_missing_keys: Whether a missing key is passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        normalization: Sequence[Mapping[str, Any]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalization = [dict(scheme) for scheme in normalization]

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Replace each image by its normalised one, in single precision."""
        result = dict(data)
        for key in self.key_iterator(result):
            voxels = _plain(result[key]).to(torch.float32, copy=True)
            for channel, scheme in zip(voxels, self.normalization, strict=True):
                _normalize_(channel, scheme)
            result[key] = _wrapped(voxels, result[key])
        return result


def _normalize_(channel: torch.Tensor, scheme: Mapping[str, Any]) -> None:
    if scheme["scheme"] == "clip_zscore":
        channel.clamp_(scheme["lower"], scheme["upper"]).sub_(scheme["mean"]).div_(scheme["std"])
        return
    if scheme["scheme"] == "none":
        return
    counted = channel
    if scheme.get("background") is not None:
        body = channel[channel != scheme["background"]]
        if len(body) and body.min() < body.max():
            counted = body
    if counted.min() == counted.max():
        channel.zero_()
        return
    exact = counted.double()
    channel.sub_(exact.mean().item()).div_(exact.std(correction=0).item())


class EnclosingSpacingd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Resample onto a grid of another spacing with the same centre that encloses every old voxel centre.

    MONAI's ``Spacingd`` does not enclose: voxels at the border could then be restored by extrapolation only.
    An axis that has the spacing already stays as it is, and a single slice keeps its thickness. The inverse
    resamples back onto the grid that an image came on. Images are resampled as they are stored, before they
    are turned to the network's orientation, for that is what medseg does, to the last bit.

    Args:
        keys: Images of shape (C, X, Y, Z), MetaTensors.
        spacing_mm: Target spacing along each axis of ``axcodes``.
        axcodes: The orientation that the network sees.
        interpolation: ``"linear"`` or ``"nearest"``; one for all keys, or one per key.
        allow_missing_keys: Whether a missing key is passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float],
        axcodes: str = "RAS",
        interpolation: str | Sequence[str] = "linear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = np.asarray(spacing_mm, dtype=np.float64)
        self.axcodes = axcodes
        self.interpolation = ensure_tuple_rep(interpolation, len(self.keys))

    def __call__(self, data: Data) -> dict[Hashable, Any]:
        """Replace each image by the resampled one."""
        result = dict(data)
        for key, interpolation in self.key_iterator(result, self.interpolation):
            image = result[key]
            seen_as = _network_axes(image, self.axcodes)
            shape, affine = _enclosing_grid(image, self.spacing_mm[seen_as])
            extra = {"shape": [*image.shape[1:]], "affine": image.affine.tolist(), "how": interpolation}
            resampled = _onto(image, shape, affine, interpolation, np.argsort(seen_as)[::-1].tolist())
            self.push_transform(resampled, extra_info=extra)
            result[key] = resampled
        return result

    def inverse(self, data: Data) -> dict[Hashable, Any]:
        """Resample each image back onto the grid it came on."""
        result = dict(data)
        for key in self.key_iterator(result):
            extra = self.pop_transform(result[key])[TraceKeys.EXTRA_INFO]
            affine = np.asarray(extra["affine"], dtype=np.float64)
            result[key] = _onto(result[key], extra["shape"], affine, extra["how"])
        return result


def _network_axes(image: MetaTensor, axcodes: str) -> list[int]:
    """For each axis of an image, which of the network's axes it becomes."""
    pairs = ("LR", "AP", "IS")
    stored = nibabel.aff2axcodes(image.affine.detach().cpu().numpy())
    kinds = [next(pair for pair in pairs if code in pair) for code in axcodes]
    return [next(axis for axis, kind in enumerate(kinds) if code in kind) for code in stored]


def _enclosing_grid(image: MetaTensor, spacing_mm: FloatArray) -> tuple[list[int], FloatArray]:
    """Shape and affine of the grid that encloses an image's."""
    old_affine = image.affine.detach().cpu().numpy().astype(np.float64)
    old_spacing = np.linalg.norm(old_affine[:3, :3], axis=0)
    intervals = np.asarray(image.shape[1:]) - 1
    exact = intervals * old_spacing / spacing_mm
    new_intervals = np.ceil(exact - _TOLERANCE_VOXELS).astype(int)
    unchanged = (new_intervals == intervals) & (np.abs(exact - intervals) <= _TOLERANCE_VOXELS)
    affine = old_affine.copy()
    affine[:3, :3] *= np.where(unchanged, old_spacing, spacing_mm) / old_spacing
    affine[:3, 3] += old_affine[:3, :3] @ (intervals / 2) - affine[:3, :3] @ (new_intervals / 2)
    return [int(count) + 1 for count in new_intervals], affine


def _onto(
    image: MetaTensor, shape: Sequence[int], affine: FloatArray, how: str, order: Sequence[int] = (2, 1, 0)
) -> MetaTensor:
    """Read an image on a grid whose axes run along its own: axes in this order, channel by channel."""
    spacing = [
        np.linalg.norm(matrix[:3, :3], axis=0)
        for matrix in (image.affine.detach().cpu().numpy().astype(np.float64), affine)
    ]
    voxels = _plain(image)
    resampled = voxels.new_empty((len(voxels), *shape))
    for channel, target in zip(voxels, resampled, strict=True):
        for axis in order:
            scale = float(spacing[1][axis] / spacing[0][axis])
            channel = _along_axis(channel, axis, shape[axis], scale, how)
        target.copy_(channel)
    moved: MetaTensor = _wrapped(resampled, image)
    moved.affine = torch.from_numpy(affine.copy())
    return moved


def _along_axis(voxels: torch.Tensor, axis: int, count: int, scale: float, how: str) -> torch.Tensor:
    """Read ``count`` slices along an axis, ``scale`` old ones apart, about the same middle."""
    last = voxels.shape[axis] - 1
    positions = last / 2 + (np.arange(count) - (count - 1) / 2) * scale
    if count == last + 1 and np.abs(positions - np.arange(count)).max() <= _TOLERANCE_VOXELS:
        return voxels
    nearest = np.round(positions)
    positions = np.where(np.abs(positions - nearest) < _ROUNDING_VOXELS, nearest, positions)
    positions = np.clip(positions, 0.0, last)
    if how == "nearest":
        # Half-way, the voxel nearer to the middle of the axis, so that flips do not move anything.
        above = np.ceil(positions - 0.5)
        positions = np.where(positions > last / 2, above, np.floor(positions + 0.5))
    lower = np.floor(positions)
    below = torch.from_numpy(lower.astype(np.int64)).to(voxels.device)
    rows = voxels.index_select(axis, below)
    if how == "nearest":
        return rows
    weight = torch.from_numpy(positions - lower).to(voxels)
    weight = weight.reshape([-1 if dim == axis else 1 for dim in range(3)])
    following = voxels.index_select(axis, (below + 1).clamp_(max=last))
    return following.sub_(rows).mul_(weight).add_(rows)


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _wrapped(voxels: torch.Tensor, like: torch.Tensor) -> Any:
    return MetaTensor(voxels).copy_meta_from(like) if isinstance(like, MetaTensor) else voxels
