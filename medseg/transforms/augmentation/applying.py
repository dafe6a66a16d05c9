"""Applying draws to patches and to batches of them, on the device that they are on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medseg.errors import InputError
from medseg.transforms.augmentation.draws import IntensityDraw, PatchDraw
from medseg.transforms.augmentation.intensity import change_intensities
from medseg.transforms.augmentation.spatial import move, swap_classes

__all__ = ["augment_batch", "augment_patch"]

_IMAGE, _LABEL, _WEIGHT = "image", "label", "weight"


@torch.no_grad()
def augment_patch(patch: Mapping[str, Tensor], draw: PatchDraw) -> dict[str, Tensor]:
    """Do to a patch what was drawn.

    Nothing but ``draw`` decides what comes out. The patch itself is not changed; where nothing was drawn,
    what comes out may share its memory.

    Args:
        patch: ``"image"``, floating point (C, X, Y, Z), read with ``draw.spatial.margin`` or more around it,
            as many voxels on either side; what lies beyond is 0. If there are, ``"label"``: class indices
            (1, X, Y, Z) of any type, of which the nearest is taken; ``"weight"``: floating point
            (1, X, Y, Z), interpolated linearly. Other keys are passed on.
        draw: What was drawn.

    Returns:
        The same keys, each tensor (C, *patch_size) in its own type.

    Raises:
        InputError: The image has other channels than the draw.
        GeometryError: Shapes differ, or are smaller than the patch.

    Example:
        >>> from medseg.transforms.augmentation.draws import SpatialDraw
        >>> flip = SpatialDraw((1, 1, 3), mirrored=(False, False, True), swapped=(0, 2, 1))
        >>> patch = {"image": torch.tensor([[[[1.0, 2.0, 3.0]]]]), "label": torch.tensor([[[[0, 1, 1]]]])}
        >>> changed = augment_patch(patch, PatchDraw(flip, (IntensityDraw(brightness=2.0),)))
        >>> changed["image"].flatten(), changed["label"].flatten()
        (tensor([6., 4., 2.]), tensor([2, 2, 0]))
    """
    image = patch[_IMAGE]
    if image.ndim != 4 or len(image) != len(draw.channels):
        raise InputError(
            f"has shape {tuple(image.shape)}, the draw is for ({len(draw.channels)}, X, Y, Z)",
            where="image",
            fix="draw with one entry of ct_channels per channel",
        )
    linear = [key for key in (_IMAGE, _WEIGHT) if key in patch]
    nearest = [key for key in (_LABEL,) if key in patch]
    moved = move(draw.spatial, [patch[key] for key in linear], [patch[key] for key in nearest])
    result = dict(patch)
    result.update(zip([*linear, *nearest], [*moved[0], *moved[1]], strict=True))
    result[_IMAGE] = _change_channels(result[_IMAGE], draw.channels)
    if nearest and draw.spatial.swapped is not None:
        result[_LABEL] = swap_classes(result[_LABEL], draw.spatial.swapped)
    return result


def augment_batch(batch: Mapping[str, Tensor], draws: Sequence[PatchDraw]) -> dict[str, Tensor]:
    """Do to each patch of a batch what was drawn for it.

    On a GPU this takes the place of ``augment_patch`` in the workers: those read patches with
    ``augmentation_margin`` around them and send each draw along.

    Args:
        batch: As for ``augment_patch``, each tensor with the batch in front: (B, C, X, Y, Z).
        draws: One per patch, of one patch size.

    Returns:
        The same keys, each tensor (B, C, *patch_size), equal to the patches changed one by one.

    Raises:
        InputError: There are more or fewer draws than patches.
    """
    keys = [key for key in (_IMAGE, _LABEL, _WEIGHT) if key in batch]
    if not draws or any(len(batch[key]) != len(draws) for key in keys):
        raise InputError(f"{len(draws)} draws are given", where="draws", fix="give one for each patch")
    changed = [
        augment_patch({key: batch[key][place] for key in keys}, draw) for place, draw in enumerate(draws)
    ]
    return {**batch, **{key: torch.stack([patch[key] for patch in changed]) for key in keys}}


def _change_channels(image: Tensor, draws: Sequence[IntensityDraw]) -> Tensor:
    nothing = IntensityDraw()
    if all(draw == nothing for draw in draws):
        return image
    channels = [change_intensities(channel, draw) for channel, draw in zip(image, draws, strict=True)]
    return torch.stack(channels) if len(channels) > 1 else channels[0].unsqueeze(0)
