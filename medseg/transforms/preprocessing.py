"""What a network sees: a ``PreprocessingSpec`` as MONAI transforms.

The order is orientation, normalisation, resampling. Orientation comes first since it moves voxels without
changing them; normalisation before resampling, so that statistics are those of the stored voxels.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, overload

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform, Orientationd
from monai.utils import TraceKeys, ensure_tuple_rep

from medseg.errors import GeometryError, InputError
from medseg.geometry import Grid, slab_maps
from medseg.runs import Normalization, PreprocessingSpec
from medseg.transforms.normalization import normalize_, spread_of
from medseg.transforms.resampling import Interpolation, resample
from medseg.volume import Volume

__all__ = [
    "NormalizeChannelsd",
    "ResampleToSpacingd",
    "SignedVoxelsd",
    "preprocess",
    "preprocessing_transforms",
    "require_channels",
]

_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_RAS_PLUS = (("L", "R"), ("P", "A"), ("I", "S"))


class SignedVoxelsd(MapTransform):  # type: ignore[misc]
    """Turn unsigned integers of 16 and 32 bits into signed ones of 32 and 64 bits.

    torch lacks the kernels for them: flips, for one, work for some memory layouts and fail for others.

    Args:
        keys: Images or labels.
        allow_missing_keys: Whether a missing key is passed over.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Widen what needs it; pass on the rest as it is."""
        result = dict(data)
        for key in self.key_iterator(result):
            wider = _SIGNED.get(result[key].dtype)
            if wider is not None:
                result[key] = result[key].to(wider)
        return result


class NormalizeChannelsd(MapTransform):  # type: ignore[misc]
    """Bring the intensities of each channel to a common scale, each channel by its own scheme.

    A channel that is constant becomes zero under ``"zscore"``. The input is left as it is.

    Args:
        keys: Images of shape (C, X, Y, Z).
        normalization: One scheme per channel; as a dictionary where it comes from a config.
        allow_missing_keys: Whether a missing key is passed over.

    Raises:
        InputError: The image has another number of channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        normalization: Sequence[Normalization | Mapping[str, Any]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalization = tuple(Normalization.model_validate(how) for how in normalization)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace each image by its normalised one, in single precision."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            require_channels(len(image), len(self.normalization))
            voxels = _plain(image).to(torch.float32, copy=True)
            for channel, how in zip(voxels, self.normalization, strict=True):
                needs_spread = how.scheme == "zscore"
                normalize_(channel, how, spread_of(channel, how.background) if needs_spread else None)
            result[key] = _wrapped(voxels, image)
        return result


def require_channels(given: int, needed: int) -> None:
    """Refuse an image that has not the number of channels that a network was trained on.

    Raises:
        InputError: The numbers differ.
    """
    if given != needed:
        raise InputError(
            f"has {given} channel{'s' if given != 1 else ''}, {needed} needed",
            fix="give the channels of the training data, in their order",
        )


class ResampleToSpacingd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Resample onto ``Grid.resampled(spacing_mm)``: same centre, same axes, enclosing every old voxel centre.

    MONAI's ``Spacingd`` does not enclose: voxels at the border could then be restored by extrapolation only.
    The inverse resamples back onto the grid that an image came on.

    Args:
        keys: Images of shape (C, X, Y, Z), MetaTensors.
        spacing_mm: Target spacing along each axis.
        interpolation: ``"linear"`` or ``"nearest"``; one for all keys, or one per key.
        allow_missing_keys: Whether a missing key is passed over.

    Raises:
        InputError: An image carries no affine.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float],
        interpolation: Interpolation | Sequence[Interpolation] = "linear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = tuple(float(length) for length in spacing_mm)
        self.interpolation = ensure_tuple_rep(interpolation, len(self.keys))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace each image by the resampled one."""
        result = dict(data)
        for key, interpolation in self.key_iterator(result, self.interpolation):
            image = result[key]
            source = _grid_of(image)
            target = source.resampled(self.spacing_mm)
            resampled = _resampled(image, source, target, interpolation)
            extra = {"shape": list(source.shape), "affine": source.affine.tolist(), "how": interpolation}
            self.push_transform(resampled, extra_info=extra)
            result[key] = resampled
        return result

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resample each image back onto the grid it came on."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            extra = self.pop_transform(image)[TraceKeys.EXTRA_INFO]
            target = Grid(tuple(extra["shape"]), extra["affine"])
            result[key] = _resampled(image, _grid_of(image), target, extra["how"])
        return result


def _resampled(image: MetaTensor, source: Grid, target: Grid, interpolation: Interpolation) -> MetaTensor:
    voxels = _plain(image)
    if target is not source:
        voxels = resample(voxels, slab_maps(source, target), interpolation)
    resampled = _wrapped(voxels, image)
    resampled.affine = torch.from_numpy(target.affine.copy())
    return resampled


def _grid_of(image: torch.Tensor) -> Grid:
    if not isinstance(image, MetaTensor):
        raise InputError("an image without an affine cannot be resampled", fix="give a MetaTensor")
    return Grid(tuple(image.shape[-3:]), image.affine.detach().cpu().numpy())


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def _wrapped(voxels: torch.Tensor, like: torch.Tensor) -> Any:
    return MetaTensor(voxels).copy_meta_from(like) if isinstance(like, MetaTensor) else voxels


def preprocessing_transforms(
    spec: PreprocessingSpec, image_key: str = "image", label_key: str | None = None
) -> Compose:
    """The MONAI dictionary transforms that a specification stands for.

    Args:
        spec: What is done.
        image_key: Key of the image, a MetaTensor (C, X, Y, Z).
        label_key: Key of the label map, where there is one: it is oriented and resampled alike, by nearest
            neighbours, and stays of an integer type.

    Returns:
        A composition that takes and gives dictionaries; images leave it in single precision.

    Example:
        >>> spec = PreprocessingSpec(spacing_mm=(2, 2, 2), normalization=[Normalization(scheme="none")])
        >>> image = MetaTensor(torch.ones(1, 5, 5, 5), affine=torch.eye(4))
        >>> tuple(preprocessing_transforms(spec)({"image": image})["image"].shape)
        (1, 3, 3, 3)
    """
    keys = (image_key,) if label_key is None else (image_key, label_key)
    steps: list[Any] = [
        SignedVoxelsd(keys),
        Orientationd(keys, axcodes=spec.axcodes, labels=_RAS_PLUS),
        NormalizeChannelsd(image_key, spec.normalization),
    ]
    if spec.spacing_mm is not None:
        modes: tuple[Interpolation, ...] = ("linear", "nearest")
        steps.append(ResampleToSpacingd(keys, spec.spacing_mm, modes[: len(keys)]))
    return Compose(steps)


@overload
def preprocess(image: Volume, spec: PreprocessingSpec) -> Volume: ...
@overload
def preprocess(image: Volume, spec: PreprocessingSpec, label: Volume) -> tuple[Volume, Volume]: ...


def preprocess(
    image: Volume, spec: PreprocessingSpec, label: Volume | None = None
) -> Volume | tuple[Volume, Volume]:
    """An image, and its label map if given, as a network sees them.

    Args:
        image: Channels on the native grid.
        spec: What is done.
        label: Labels on the same grid.

    Returns:
        The image in single precision on ``spec.network_grid(image.grid)``; with ``label``, both.

    Raises:
        InputError: The image has another number of channels than the specification.
        GeometryError: Image and label lie on different grids.

    Example:
        >>> import numpy as np
        >>> spec = PreprocessingSpec(axcodes="LPS", normalization=[Normalization(scheme="zscore")])
        >>> image = Volume(np.arange(8.0).reshape(1, 2, 2, 2), Grid((2, 2, 2), np.eye(4)))
        >>> preprocess(image, spec).grid.axcodes
        'LPS'
    """
    require_channels(image.channels, spec.channels)
    if label is None:
        done = _transforms_for(image.grid, spec)({"image": image.to_metatensor()})
        return Volume.from_metatensor(done["image"])
    if difference := image.grid.difference(label.grid):
        raise GeometryError(f"image and label lie on different grids: {difference}")
    pair = {"image": image.to_metatensor(), "label": label.to_metatensor()}
    done = _transforms_for(image.grid, spec, label_key="label")(pair)
    return Volume.from_metatensor(done["image"]), Volume.from_metatensor(done["label"])


def _transforms_for(grid: Grid, spec: PreprocessingSpec, label_key: str | None = None) -> Compose:
    """Those that change anything: turning a volume that lies right takes half the time of a small one."""
    transforms = preprocessing_transforms(spec, label_key=label_key).transforms
    lies_right = grid.axcodes == spec.axcodes
    return Compose([step for step in transforms if not (lies_right and isinstance(step, Orientationd))])
