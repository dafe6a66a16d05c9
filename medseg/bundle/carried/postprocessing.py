"""What is done to a label map before it is written: small components, the largest one, holes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

__all__ = ["CleanLabelsd"]

BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[Any]

_CUBIC_MM_PER_ML = 1000.0
_ROUNDING = 1e-9
_SHARED = {"faces": 1, "edges": 2, "corners": 3}


class CleanLabelsd(MapTransform):  # type: ignore[misc]
    """Drop small components, keep the largest, fill holes, in this order; classes by increasing label value.

    What is dropped becomes background; holes are filled where they hold background then.

    Args:
        keys: Label maps of shape (1, X, Y, Z), MetaTensors.
        smallest_volume_ml: For label values, the volume below which components are dropped.
        largest_component: Label values of which the largest component alone is kept (of equal ones the
            first), or ``"union"``: the largest of all foreground together.
        fill_holes: Label values whose holes are filled.
        connectivity: Voxels belong together that share ``"faces"``, ``"edges"`` or ``"corners"``.
        allow_missing_keys: Whether a missing key is passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        smallest_volume_ml: Mapping[int, float] | None = None,
        largest_component: Sequence[int] | str = (),
        fill_holes: Sequence[int] = (),
        connectivity: str = "faces",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.smallest_volume_ml = {int(value): ml for value, ml in (smallest_volume_ml or {}).items()}
        self.largest_component = largest_component
        self.fill_holes = fill_holes
        self.neighbours = ndimage.generate_binary_structure(3, _SHARED[connectivity])

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Replace each label map by the cleaned one."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            affine = labels.affine.detach().cpu().numpy().astype(np.float64)
            voxel_mm3 = math.prod(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
            array = labels.as_tensor()[0].cpu().numpy().copy()
            self._clean_(array, voxel_mm3)
            cleaned = torch.from_numpy(array)[None].to(labels.device)
            result[key] = MetaTensor(cleaned).copy_meta_from(labels)
        return result

    def _clean_(self, labels: LabelArray, voxel_mm3: float) -> None:
        for value in sorted(self.smallest_volume_ml):
            volume = self.smallest_volume_ml[value] * _CUBIC_MM_PER_ML / voxel_mm3
            fewest = math.ceil(volume * (1.0 - _ROUNDING))
            self._keep_(labels, labels == value, partial(operator.le, fewest))
        for mask in self._masks(labels):
            self._keep_(labels, mask, lambda sizes: np.arange(sizes.size) == sizes.argmax())
        for value in sorted(self.fill_holes):
            filled = ndimage.binary_fill_holes(labels == value)
            labels[filled & (labels == 0)] = value

    def _masks(self, labels: LabelArray) -> Iterable[BoolArray]:
        """Of each of these, the largest component stays."""
        if self.largest_component == "union":
            yield labels != 0
        else:
            for value in sorted(int(value) for value in self.largest_component):
                yield labels == value

    def _keep_(
        self, labels: LabelArray, mask: BoolArray, wanted: Callable[[npt.NDArray[np.int64]], BoolArray]
    ) -> None:
        numbers, count = ndimage.label(mask, self.neighbours)
        if count:
            stays = np.concatenate([[True], wanted(np.bincount(numbers.ravel())[1:])])
            labels[~stays[numbers]] = 0
