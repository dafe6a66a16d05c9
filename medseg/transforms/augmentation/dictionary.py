"""Augmentation as a dictionary transform, for MONAI scripts and the train configs of bundles."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from pydantic import ValidationError

from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.runs import Augmentation
from medseg.transforms.augmentation.applying import augment_patch
from medseg.transforms.augmentation.drawing import Augmenter
from medseg.transforms.augmentation.draws import PatchDraw

__all__ = ["Augmentd"]

_KINDS = ("image", "label", "weight")


class Augmentd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Turn, deform, flip and spoil a patch at random.

    ``set_random_state(seed)`` before a call gives the same patch again; what was drawn last is ``last_draw``,
    which ``medseg.transforms.augment_patch`` applies to other arrays. Tensors come back without metadata:
    patches have left their grid.

    Args:
        keys: The image, and label and weights if there are: tensors (C, X, Y, Z) of one shape.
        patch_size: Shape of what comes out. Reading ``augmentation_margin`` more on either side fills turned
            patches with image.
        ct_channels: For each channel of the image whether it is CT, which has none of MR's artefacts.
        holds: For each of ``keys``: ``"image"`` (one, interpolated linearly), ``"label"`` (class indices,
            nearest) or ``"weight"`` (linearly).
        labels: Names of the classes by index, for the sides; without them no class has one.
        axcodes: Orientation of the patches.
        spacing_mm: Spacing along each axis; equal along all of them if left out.
        options: What is drawn, and how far: the keys of a recipe's ``augmentation``.
        prob: How often anything is drawn at all.
        allow_missing_keys: Whether a missing key is passed over.

    Raises:
        ConfigError: An option does not exist or fit, or left and right cannot be mirrored as wanted.

    Example:
        >>> import torch
        >>> augment = Augmentd(["image", "label"], (8, 8, 4), ct_channels=[False], holds=["image", "label"])
        >>> patch = {"image": torch.rand(1, 12, 12, 6), "label": torch.ones(1, 12, 12, 6, dtype=torch.uint8)}
        >>> augment.set_random_state(3)(patch)["label"].shape
        torch.Size([1, 8, 8, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: Sequence[int],
        ct_channels: Sequence[bool],
        holds: Sequence[Literal["image", "label", "weight"]] | Literal["image"] = "image",
        labels: Mapping[int | str, str] | None = None,
        axcodes: str = "RAS",
        spacing_mm: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.holds = ensure_tuple_rep(holds, len(self.keys))
        if sorted(set(self.holds)) != sorted(self.holds) or "image" not in self.holds:
            raise ConfigError(f"is {self.holds}", where="holds", fix="name 'image', and others once at most")
        if not set(self.holds) <= set(_KINDS):
            raise ConfigError(f"is {self.holds}", where="holds", fix=f"use {', '.join(_KINDS)}")
        names = {int(index): name for index, name in (labels or {}).items()}
        self.augmenter = Augmenter(
            _options(options or {}),
            patch_size,
            axcodes=axcodes,
            labels=LabelScheme.from_names(names),
            ct_channels=ct_channels,
            spacing_mm=spacing_mm,
        )
        self.last_draw: PatchDraw = self.augmenter.nothing

    def randomize(self, data: Any = None) -> None:  # noqa: ARG002 - MONAI's signature
        """Draw what the next patch undergoes."""
        super().randomize(None)
        # The seed is drawn in any case, so that ``prob`` does not change what later patches undergo.
        generator = np.random.default_rng(int(self.R.randint(2**32, dtype=np.uint64)))
        drawn = self.augmenter.draw(generator)
        self.last_draw = drawn if self._do_transform else self.augmenter.nothing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change the tensors of ``keys``; all else is passed on."""
        self.randomize()
        result = dict(data)
        found = {kind: key for key, kind in self.key_iterator(result, self.holds)}
        patch = {kind: _plain(result[key]) for kind, key in found.items()}
        changed = augment_patch(patch, self.last_draw)
        result.update({key: changed[kind] for kind, key in found.items()})
        return result


def _options(options: Mapping[str, Any]) -> Augmentation:
    try:
        return Augmentation.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["options", *map(str, first["loc"])])
        raise ConfigError(first["msg"], where=where, fix="use the keys of a recipe's augmentation") from error


def _plain(value: Any) -> Any:
    return value.as_tensor() if isinstance(value, MetaTensor) else value
