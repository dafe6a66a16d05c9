"""Postprocessing of label maps, as a recipe asks for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import BoolArray, Box, Connectivity, require_spacing
from medseg.errors import ConfigError, GeometryError, InputError, did_you_mean
from medseg.labels import BACKGROUND, LabelScheme
from medseg.postprocessing.masks import fill_holes, largest_component, remove_small
from medseg.postprocessing.objects import separate_objects
from medseg.runs.postprocess import InstanceChoice, PostprocessChoice

__all__ = ["PostprocessMemory", "find_instances", "postprocess", "postprocess_memory", "require_classes"]

_CLEANING_BYTES = 10
_SEPARATING_BYTES = 46
"""Per voxel, if one object fills the image: measured on blobs, plates and noise."""
_INSTANCE_BYTES = np.dtype(np.int32).itemsize


def postprocess(
    labels: npt.NDArray[Any],
    scheme: LabelScheme,
    spacing_mm: Sequence[float],
    choice: PostprocessChoice,
    *,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Clean a label map: drop small components, keep the largest, fill holes, in this order.

    What is dropped becomes background; holes are filled where they hold background then, so that a class
    takes no voxel from another but what was dropped of it. Classes are gone through in the order of their
    values. Done twice, it changes nothing more.

    Args:
        labels: Label values, shape (X, Y) or (X, Y, Z).
        scheme: Their classes.
        spacing_mm: Distance between voxels along each axis.
        choice: What is done; ``instances`` has no say here, see ``find_instances``, nor has ``refine``, which
            takes scores.
        out: Where the result goes, ``labels`` itself for one; a new array if left out.

    Returns:
        Label values, shape and type as ``labels``.

    Raises:
        ConfigError: A class is named that ``scheme`` does not have.
        InputError: Labels are no integers, or (seen where types are wider than 16 bits) not declared.
        GeometryError: There is not one positive spacing for each axis, or ``out`` has another shape or type.

    Example:
        >>> scheme = LabelScheme.from_names({1: "liver", 2: "tumour"})
        >>> labels = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 2, 1, 1, 0], [1, 1, 1, 1, 0]])
        >>> choice = PostprocessChoice(largest_component=("liver",), fill_holes=("liver",))
        >>> print(postprocess(labels, scheme, (1.0, 1.0), choice))
        [[1 1 1 0 0]
         [1 1 1 0 0]
         [1 2 1 1 0]
         [1 1 1 1 0]]
    """
    require_classes(choice, scheme)
    spacing = _checked(labels, spacing_mm)
    result = labels.copy(order="K") if out is None else out
    if (result.shape, result.dtype) != (labels.shape, labels.dtype):
        raise GeometryError(f"out is {result.shape} {result.dtype}, labels {labels.shape} {labels.dtype}")
    if out is not None and out is not labels:
        np.copyto(out, labels)
    boxes = _boxes(result, scheme)
    for around, value, mask in _each(result, scheme, boxes, choice.smallest_volume_ml):
        smallest_ml = choice.smallest_volume_ml[scheme.names[scheme.values.index(value)]]
        kept = remove_small(mask, spacing, smallest_ml, choice.connectivity)
        np.copyto(around, BACKGROUND, where=mask & ~kept)
    if choice.largest_component == "union":
        _keep_largest_union(result, choice.connectivity)
    else:
        for around, _, mask in _each(result, scheme, boxes, _named(choice.largest_component, scheme)):
            np.copyto(around, BACKGROUND, where=mask & ~largest_component(mask, choice.connectivity))
    for around, value, mask in _each(result, scheme, boxes, _named(choice.fill_holes, scheme)):
        np.copyto(around, value, where=fill_holes(mask) & (around == BACKGROUND))
    return result


def find_instances(
    labels: npt.NDArray[Any],
    scheme: LabelScheme,
    spacing_mm: Sequence[float],
    choice: InstanceChoice,
    connectivity: Connectivity = "faces",
) -> npt.NDArray[np.int32]:
    """Number the objects of a class of a label map; see ``separate_objects``.

    Args:
        labels: Label values, shape (X, Y) or (X, Y, Z).
        scheme: Their classes.
        spacing_mm: Distance between voxels along each axis.
        choice: Which class, and how its objects are told apart.
        connectivity: Voxels belong together that share a face, an edge or a corner.

    Returns:
        Objects numbered from 1, 0 elsewhere; shape of ``labels``.

    Raises:
        ConfigError: A class is named that ``scheme`` does not have, or none is, and there are several.
        InputError, GeometryError: As ``postprocess``.

    Example:
        >>> labels = np.array([[0, 1, 1, 0, 1, 1]])
        >>> find_instances(labels, LabelScheme.from_names({1: "cell"}), (1.0, 1.0), InstanceChoice()).tolist()
        [[0, 1, 1, 0, 2, 2]]
    """
    objects_of = _class_of_instances(choice, scheme)
    spacing = _checked(labels, spacing_mm)
    inside = labels == _value(scheme, objects_of)
    markers = None
    if choice.border is not None:
        markers = inside
        inside = markers | (labels == _value(scheme, choice.border))
    return separate_objects(
        inside,
        spacing,
        markers=markers,
        smoothing_mm=choice.smoothing_mm,
        neck_depth_mm=choice.neck_depth_mm,
        smallest_volume_ml=choice.smallest_volume_ml,
        connectivity=connectivity,
    )


def require_classes(choice: PostprocessChoice, scheme: LabelScheme) -> None:
    """Refuse a choice that names classes which are not there.

    Raises:
        ConfigError: A class is unknown (the nearest name is suggested), or the class of instances is not
            named though there are several.

    Example:
        >>> scheme = LabelScheme.from_names({1: "liver", 2: "tumour"})
        >>> require_classes(PostprocessChoice(fill_holes=("lever",)), scheme)
        Traceback (most recent call last):
        medseg.errors.ConfigError: postprocess.fill_holes: unknown class 'lever'; did you mean 'liver'?
    """
    for key in ("smallest_volume_ml", "largest_component", "fill_holes"):
        named = getattr(choice, key)
        for name in () if isinstance(named, str) else named:
            _require_class(name, scheme, key)
    if choice.instances is not None:
        _class_of_instances(choice.instances, scheme)


@dataclass(frozen=True)
class PostprocessMemory:
    """Bytes that the label map of a whole image takes while it is postprocessed.

    Attributes:
        labels: Of the map itself, held from the first slab of the segmentation on.
        work: Beside it, for as long as it is worked on, if one object fills the image; less otherwise.
    """

    labels: int
    work: int


def postprocess_memory(
    shape: Sequence[int], dtype: np.dtype[Any], choice: PostprocessChoice
) -> PostprocessMemory:
    """What ``postprocess`` in place and ``find_instances`` take.

    Example:
        >>> postprocess_memory((100, 100, 100), np.dtype(np.uint8), PostprocessChoice(fill_holes="all"))
        PostprocessMemory(labels=1000000, work=10000000)
    """
    voxels = math.prod(shape)
    if choice.of_label_maps.does_nothing:
        return PostprocessMemory(0, 0)
    each = _CLEANING_BYTES if choice.instances is None else _INSTANCE_BYTES + _SEPARATING_BYTES
    return PostprocessMemory(voxels * dtype.itemsize, voxels * each)


def _checked(labels: npt.NDArray[Any], spacing_mm: Sequence[float]) -> tuple[float, ...]:
    if labels.dtype.kind not in "iu":
        raise InputError(f"labels of type {labels.dtype.name}, integers are needed")
    return require_spacing(spacing_mm, labels.ndim)


def _named(chosen: tuple[str, ...] | str, scheme: LabelScheme) -> tuple[str, ...]:
    """The classes of a list, or all."""
    return scheme.names[1:] if isinstance(chosen, str) else chosen


def _value(scheme: LabelScheme, name: str) -> int:
    return scheme.values[scheme.names.index(name)]


def _boxes(labels: npt.NDArray[Any], scheme: LabelScheme) -> dict[str, Box]:
    """Where each class lies, for those that are there; one pass over the labels finds all."""
    narrow = labels.dtype.itemsize <= 2
    numbers = scheme.values if narrow else range(len(scheme))
    found: Sequence[Box | None] = ndimage.find_objects(labels if narrow else scheme.to_indices(labels))
    boxes = {}
    for name, number in zip(scheme.names[1:], numbers[1:], strict=True):
        box = found[number - 1] if number <= len(found) else None
        if box is not None:
            boxes[name] = box
    return boxes


def _each(
    labels: npt.NDArray[Any], scheme: LabelScheme, boxes: dict[str, Box], names: Iterable[str]
) -> Iterator[tuple[npt.NDArray[Any], int, BoolArray]]:
    """For each class that is there: the labels around it, its value, and where it is."""
    for name in sorted(names, key=scheme.names.index):
        if name in boxes:
            around, value = labels[boxes[name]], _value(scheme, name)
            yield around, value, np.ascontiguousarray(around == value)


def _keep_largest_union(labels: npt.NDArray[Any], connectivity: Connectivity) -> None:
    foreground = np.ascontiguousarray(labels != BACKGROUND)
    np.copyto(labels, BACKGROUND, where=foreground & ~largest_component(foreground, connectivity))


def _require_class(name: str, scheme: LabelScheme, key: str) -> None:
    classes = scheme.names[1:]
    if name not in classes:
        raise ConfigError(
            f"unknown class '{name}'", where=f"postprocess.{key}", fix=did_you_mean(name, classes)
        )


def _class_of_instances(choice: InstanceChoice, scheme: LabelScheme) -> str:
    """The class whose objects are told apart.

    Raises:
        ConfigError: It is unknown, or not named though there are several; or the border's is unknown.
    """
    if choice.border is not None:
        _require_class(choice.border, scheme, "instances.border")
    if choice.of is not None:
        _require_class(choice.of, scheme, "instances.of")
        return choice.of
    possible = [name for name in scheme.names[1:] if name != choice.border]
    if len(possible) != 1:
        what = "no class is left for objects" if not possible else "several classes could be meant"
        raise ConfigError(
            what, where="postprocess.instances.of", fix=f"name one of {', '.join(scheme.names[1:])}"
        )
    return possible[0]
