"""The U-Net's weight map, which makes a network learn the gaps between objects that touch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from scipy import ndimage

from medseg.components import require_spacing
from medseg.errors import ConfigError, GeometryError, InputError
from medseg.transforms.instance_distances import summed_distances_mm

__all__ = [
    "DEFAULT_SIGMA_SPACINGS",
    "DEFAULT_W0",
    "BorderWeightMapd",
    "ClassWeights",
    "border_weight_map",
    "border_weight_map_of_classes",
    "class_components",
    "separate_instances",
]

DEFAULT_W0 = 10.0
"""The paper's weight of a border, beside that of a class."""

DEFAULT_SIGMA_SPACINGS = 5.0
"""The paper's sigma of 5 pixels, as so many times the smallest spacing."""

ClassWeights = Literal["balanced"] | Mapping[int, float] | None
"""Weight of each class: all 1 (``None``), in inverse proportion to its voxels, or by value."""

_NEGLIGIBLE = 1e-5
"""Part of w0 below which a border counts as none; it is reached at a sum of distances of 4.8 sigma."""

_TABLE_VALUES = 1 << 24
"""Largest value that is looked up in a table; larger ones are sorted."""

Array = npt.NDArray[Any]


def border_weight_map(
    labels: Array,
    spacing_mm: Sequence[float],
    w0: float = DEFAULT_W0,
    sigma_mm: float | None = None,
    class_weights: ClassWeights = None,
    *,
    classes: Array | None = None,
) -> npt.NDArray[np.float32]:
    """The weight of each voxel, high where two instances are near: w_c + w0 exp(-(d1 + d2)^2 / 2 sigma^2).

    d1 and d2 are a voxel's distances in millimetres, from centre to centre, to the nearest and the second
    nearest instance; within an instance d1 is 0. With fewer than two instances the weight is that of the
    class alone. What is less than 1e-5 of w0 counts as zero.

    Time does not depend on the number of instances, and those that have no neighbour within 4.8 sigma cost
    nothing; memory is some 30 bytes a voxel.

    Args:
        labels: Instance ids, 0 for the background, in any order and with gaps; shape (X, Y) or (X, Y, Z).
        spacing_mm: Spacing along each axis.
        w0: Weight of a border that is infinitely thin; 0 leaves the class weights alone.
        sigma_mm: How fast the weight falls; five times the smallest spacing if left out.
        class_weights: w_c. ``None``: 1 everywhere. ``"balanced"``: n / (k n_c) for each of the k classes that
            are there, n voxels in all, so that each class weighs the same and the mean weight is 1. Or a
            weight for each class value; classes that are not named weigh 1.
        classes: Class of each voxel, of the shape of ``labels``; if left out, 0 outside of all instances
            and 1 within.

    Returns:
        float32, of the shape of ``labels``.

    Raises:
        InputError: ``labels`` or ``classes`` hold what are no ids, or are neither 2D nor 3D.
        GeometryError: Spacing or ``classes`` do not fit ``labels``.
        ConfigError: A weight is negative or not finite, or ``sigma_mm`` is not positive.

    Example:
        >>> line = np.array([[1, 0, 2, 0, 0]])
        >>> border_weight_map(line, (1.0, 2.0), sigma_mm=4.0).round(3)
        array([[7.065, 7.065, 7.065, 2.353, 1.111]], dtype=float32)
        >>> border_weight_map(line, (1.0, 2.0), w0=0.0, class_weights={0: 0.5})
        array([[1. , 0.5, 1. , 0.5, 0.5]], dtype=float32)

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015, equation 2 (https://arxiv.org/abs/1505.04597).
    """
    spacing = _checked_spacing(labels, spacing_mm)
    _check_number("w0", w0)
    sigma = DEFAULT_SIGMA_SPACINGS * min(spacing) if sigma_mm is None else sigma_mm
    _check_number("sigma_mm", sigma, zero=False)
    if classes is not None and classes.shape != labels.shape:
        raise GeometryError(
            f"has shape {classes.shape}, the instances {labels.shape}",
            where="classes",
            fix="give both on one grid",
        )
    ids, count = _numbered(labels, "labels")
    weights = _of_classes(ids > 0 if classes is None else classes, class_weights)
    if count < 2 or w0 == 0.0:
        return weights
    reach_mm = sigma * math.sqrt(-2.0 * math.log(_NEGLIGIBLE))
    summed = summed_distances_mm(ids, count, spacing, reach_mm)
    summed /= np.float32(sigma)
    weights += np.float32(w0) * np.exp(np.float32(-0.5) * summed * summed)
    return weights


def border_weight_map_of_classes(
    labels: Array,
    spacing_mm: Sequence[float],
    w0: float = DEFAULT_W0,
    sigma_mm: float | None = None,
    class_weights: ClassWeights = None,
) -> npt.NDArray[np.float32]:
    """As ``border_weight_map``, of a label map: each connected component of each class is an instance.

    Example:
        >>> border_weight_map_of_classes(np.array([[1, 0, 1, 0, 0]]), (1.0, 2.0), sigma_mm=4.0).round(3)
        array([[7.065, 7.065, 7.065, 2.353, 1.111]], dtype=float32)
    """
    return border_weight_map(
        class_components(labels), spacing_mm, w0, sigma_mm, class_weights, classes=labels
    )


def class_components(labels: Array) -> npt.NDArray[np.int32]:
    """Number the connected components of every class from 1; voxels are connected where they share a face.

    Args:
        labels: Class of each voxel, 0 for the background; shape (X, Y) or (X, Y, Z).

    Raises:
        InputError: It holds what are no classes.

    Example:
        >>> class_components(np.array([[7, 7, 2, 0, 7]])).tolist()
        [[2, 2, 1, 0, 3]]
    """
    classes, count = _numbered(labels, "labels")
    components = np.zeros(classes.shape, dtype=np.int32)
    found = 0
    for index, box in enumerate(ndimage.find_objects(classes, max_label=count), start=1):
        parts, number = ndimage.label(classes[box] == index)
        inside = parts > 0
        components[box][inside] = parts[inside] + found
        found += number
    return components


def separate_instances(instances: Array) -> npt.NDArray[np.bool_]:
    """Foreground in which instances that touch have a gap of background, as the U-Net paper's truth has.

    Where voxels of two instances share a face, the one of the larger instance gives way (of the higher id,
    if they are equally large), so that what is thin is not lost on both sides. Instances are then the
    components of the foreground, connected by faces, unless a gap has cut one in pieces.

    Args:
        instances: Instance ids, 0 for the background; shape (X, Y) or (X, Y, Z).

    Returns:
        Booleans of the same shape.

    Raises:
        InputError: It holds what are no ids.

    Example:
        >>> separate_instances(np.array([[5, 5, 2, 0, 5]])).astype(int).tolist()
        [[1, 0, 1, 0, 1]]
    """
    ids, count = _numbered(instances, "instances")
    sizes = np.bincount(ids.ravel(), minlength=count + 1)
    rank = np.zeros(count + 1, dtype=np.int32)
    rank[1 + np.argsort(sizes[1:], kind="stable")] = np.arange(1, count + 1)
    ranks = rank[ids]
    foreground = ranks > 0
    for axis in range(ranks.ndim):
        along, kept = np.moveaxis(ranks, axis, 0), np.moveaxis(foreground, axis, 0)
        before, after = along[:-1], along[1:]
        touching = (before > 0) & (after > 0)
        kept[:-1][touching & (before > after)] = False
        kept[1:][touching & (after > before)] = False
    return foreground


class BorderWeightMapd(MapTransform):  # type: ignore[misc]
    """Add the U-Net's weight map of each label map, for a loss that takes a ``weight_map``.

    Args:
        keys: Label maps or instance maps of shape (1, X, Y[, Z]).
        weight_keys: Where the weights go; one key for each of ``keys``.
        holds: ``"classes"``: each connected component of each class is an instance. ``"instances"``: the
            maps hold instance ids.
        class_keys: Of instance maps, where the class of each voxel is; one key for each of ``keys``. If left
            out, class 0 is the background and 1 are all instances.
        spacing_mm: Spacing along each axis; that of the map's affine if left out.
        w0: As for ``border_weight_map``.
        sigma_mm: As for ``border_weight_map``.
        class_weights: As for ``border_weight_map``.
        allow_missing_keys: Whether a missing key is passed over.

    Raises:
        ConfigError: The options contradict each other.
        InputError: A map has no affine and no spacing is given, has several channels, or holds no ids.

    Example:
        >>> affine = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0]))
        >>> label = MetaTensor(torch.tensor([[[1, 0, 1, 0, 0]]]), affine=affine)
        >>> weighted = BorderWeightMapd("label", sigma_mm=4.0)({"label": label})
        >>> weighted["weight"].as_tensor()
        tensor([[[7.0653, 7.0653, 7.0653, 2.3534, 1.1111]]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        weight_keys: KeysCollection = "weight",
        holds: Literal["classes", "instances"] = "classes",
        class_keys: KeysCollection | None = None,
        spacing_mm: Sequence[float] | None = None,
        w0: float = DEFAULT_W0,
        sigma_mm: float | None = None,
        class_weights: ClassWeights = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.weight_keys = ensure_tuple_rep(weight_keys, len(self.keys))
        self.holds = holds
        self.class_keys = ensure_tuple_rep(class_keys, len(self.keys))
        self.spacing_mm = spacing_mm
        self.w0 = w0
        self.sigma_mm = sigma_mm
        self.class_weights = class_weights
        if holds not in ("classes", "instances"):
            raise ConfigError(f"is '{holds}'", where="holds", fix="use 'classes' or 'instances'")
        if holds == "classes" and class_keys is not None:
            raise ConfigError(
                "is given, but the maps hold classes themselves", where="class_keys", fix="leave it out"
            )
        if len(set(self.weight_keys)) < len(self.weight_keys):
            raise ConfigError("names a key twice", where="weight_keys", fix="give one for each map")

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Add weights, float32 (1, X, Y[, Z]), on the device and with the affine of the map."""
        result = dict(data)
        for key, weight_key, class_key in self.key_iterator(result, self.weight_keys, self.class_keys):
            result[weight_key] = self._weights(
                result[key], str(key), None if class_key is None else result[class_key]
            )
        return result

    def _weights(self, labels: torch.Tensor, key: str, classes: torch.Tensor | None) -> torch.Tensor:
        spacing_mm = self._spacing_mm(labels, key)
        options = (self.w0, self.sigma_mm, self.class_weights)
        if self.holds == "classes":
            weights = border_weight_map_of_classes(_voxels(labels, key), spacing_mm, *options)
        else:
            class_map = None if classes is None else _voxels(classes, "class_keys")
            weights = border_weight_map(_voxels(labels, key), spacing_mm, *options, classes=class_map)
        tensor = torch.from_numpy(weights)[None].to(labels.device)
        return MetaTensor(tensor).copy_meta_from(labels) if isinstance(labels, MetaTensor) else tensor

    def _spacing_mm(self, labels: torch.Tensor, key: str) -> Sequence[float]:
        if self.spacing_mm is not None:
            return self.spacing_mm
        if not isinstance(labels, MetaTensor):
            raise InputError("carries no affine", where=key, fix="give a MetaTensor, or spacing_mm")
        return [float(length) for length in labels.pixdim[: labels.ndim - 1]]


def _voxels(labels: torch.Tensor, key: str) -> Array:
    if len(labels) != 1:
        raise InputError(f"has {len(labels)} channels, a label map has one", where=key, fix="merge them")
    plain = labels.as_tensor() if isinstance(labels, MetaTensor) else labels
    voxels: Array = plain[0].detach().cpu().numpy()
    return voxels


def _checked_spacing(labels: Array, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    if labels.ndim not in (2, 3):
        raise InputError(
            f"has {labels.ndim} dimensions, 2 or 3 are needed", where="labels", fix="give one map at a time"
        )
    return require_spacing(spacing_mm, labels.ndim)


def _check_number(name: str, value: float, *, zero: bool = True) -> None:
    if not (0.0 <= value < math.inf) or (value == 0.0 and not zero):
        needed = "0 or more" if zero else "a positive number"
        raise ConfigError(f"is {value}", where=name, fix=f"use {needed}")


def _numbered(labels: Array, where: str) -> tuple[npt.NDArray[np.int32], int]:
    """The values that are there, numbered from 1 in their order; and how many there are."""
    present, indices = _ranked(_whole_numbers(labels, where))
    shift = 0 if len(present) and present[0] == 0 else 1
    if shift:
        indices += 1
    return indices, len(present) - 1 + shift


def _ranked(whole: Array) -> tuple[Array, npt.NDArray[np.int32]]:
    """The values that are there, rising, and which of them each voxel holds."""
    if whole.size and int(whole.max()) >= _TABLE_VALUES:
        present, indices = np.unique(whole, return_inverse=True)
        return present, indices.reshape(whole.shape).astype(np.int32)
    table = np.zeros(int(whole.max(initial=0)) + 1, dtype=np.int32)
    table[whole] = 1
    present = np.flatnonzero(table)
    table[present] = np.arange(len(present))
    return present, table[whole]


def _whole_numbers(values: Array, where: str) -> Array:
    """As integers, if they are whole and none is negative."""
    fix = "give integers, 0 for the background"
    whole = values
    if values.dtype == np.bool_:
        whole = values.view(np.uint8)
    elif not np.issubdtype(values.dtype, np.integer):
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            raise InputError("holds values that are no whole numbers", where=where, fix=fix)
    if whole.size and int(whole.min()) < 0:
        raise InputError("holds negative values", where=where, fix=fix)
    return whole


def _class_value(value: int | str) -> int:
    """A class value, which JSON writes as text where it is a key."""
    try:
        return int(value)
    except ValueError:
        fix = "name classes by their values"
        raise ConfigError(f"'{value}' is no class value", where="class_weights", fix=fix) from None


def _of_classes(classes: Array, class_weights: ClassWeights) -> npt.NDArray[np.float32]:
    """w_c of each voxel."""
    if class_weights is None:
        return np.ones(classes.shape, dtype=np.float32)
    present, indices = _ranked(_whole_numbers(classes, "classes"))
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            fix = "use 'balanced', or a weight for each class"
            raise ConfigError(f"is '{class_weights}'", where="class_weights", fix=fix)
        table = indices.size / (len(present) * np.bincount(indices.ravel()))
    else:
        by_value = {_class_value(value): float(weight) for value, weight in class_weights.items()}
        for value, weight in by_value.items():
            _check_number(f"class_weights[{value}]", weight)
        table = np.array([by_value.get(int(value), 1.0) for value in present])
    return table.astype(np.float32)[indices]
