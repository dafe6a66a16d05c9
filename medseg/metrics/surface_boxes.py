"""Where in an image structures are: the smallest boxes that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.components import Box, bounding_box

__all__ = ["boxes_of_labels", "union"]

_FEW_LABELS = 12
"""Up to here, looking for one label after the other is faster than looking for all in one pass."""

_LARGEST_LABEL = 1 << 16
"""``scipy.ndimage.find_objects`` keeps an entry for every value up to the largest."""


def boxes_of_labels(label_map: npt.NDArray[Any], values: Sequence[int]) -> list[Box | None]:
    """The box of each label value, in the order of ``values``; nothing for those that do not occur.

    Args:
        label_map: Numbers, of any shape.
        values: Any distinct integers, however large.

    Example:
        >>> boxes_of_labels(np.array([0, 70000, 70000, 5]), [5, 6, 70000])
        [(slice(3, 4, None),), None, (slice(1, 3, None),)]
    """
    if len(values) <= _FEW_LABELS:
        return [bounding_box(label_map == value) for value in values]
    in_place = label_map.dtype.kind in "iu" and label_map.dtype.itemsize <= 4
    if in_place and min(values) > 0 and max(values) <= _LARGEST_LABEL:
        found = ndimage.find_objects(label_map, max_label=max(values))
        return [found[value - 1] for value in values]
    ordered = np.sort(np.asarray(values))
    found = ndimage.find_objects(_numbered(label_map, ordered), max_label=len(ordered))
    return [found[place] for place in np.searchsorted(ordered, values)]


def union(one: Box | None, other: Box | None) -> Box | None:
    """The smallest box that holds both.

    Example:
        >>> union((slice(1, 3),), (slice(2, 7),))
        (slice(1, 7, None),)
    """
    if one is None or other is None:
        return one or other
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _numbered(label_map: npt.NDArray[Any], ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The place of each value in the ordered ones, from 1; 0 for all other values."""
    numbers = np.empty(label_map.shape, dtype=np.int32)
    for part, out in zip(label_map, numbers, strict=True):  # a plane at a time, for places are large
        places = np.minimum(np.searchsorted(ordered, part), len(ordered) - 1)
        out[...] = np.where(ordered[places] == part, places + 1, 0)
    return numbers
