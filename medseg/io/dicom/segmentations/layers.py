"""Segments on one grid: label maps in which no segment overwrites another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import InputError
from medseg.geometry import Grid
from medseg.io.sizes import require_memory
from medseg.labels import CodedConcept, LabelClass, LabelScheme, smallest_integer_dtype
from medseg.volume import Volume

__all__ = ["LayerBuilder", "Segmentation", "scheme_of_segments"]

_LARGEST_VALUE = 65535


@dataclass(frozen=True)
class Segmentation:
    """What an object says of which voxels belong to which structure.

    Attributes:
        scheme: Value, name, colour and concept of every segment, whether or not it has voxels.
        label_maps: One that holds every segment, shape (1, X, Y, Z); or several where segments overlap. Each
            segment is whole in one of them.
        layer_of: For each value, the label map that holds it.
        notes: What could not be read, in words; empty if nothing was left out.
    """

    scheme: LabelScheme
    label_maps: tuple[Volume, ...]
    layer_of: dict[int, int]
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Of every label map."""
        return self.label_maps[0].grid

    def mask(self, value: int) -> npt.NDArray[np.bool_]:
        """Which voxels belong to a segment, shape (X, Y, Z).

        Raises:
            InputError: There is no such segment.
        """
        if value not in self.layer_of:
            raise InputError(f"segment {value} does not exist", fix="see the scheme for those that do")
        return np.asarray(self.label_maps[self.layer_of[value]].array[0] == value)


def scheme_of_segments(
    segments: Sequence[tuple[int, str, tuple[int, int, int] | None, CodedConcept | None]],
    where: str | PathLike[str],
) -> LabelScheme:
    """A scheme of segments as files have them: (number, name, colour, concept).

    Names that come twice get the number behind them. Missing colours are chosen.

    Raises:
        InputError: A number comes twice, is below 1, or too large.
    """
    numbers = [number for number, *_ in segments]
    if len(set(numbers)) != len(numbers) or any(not 0 < number <= _LARGEST_VALUE for number in numbers):
        raise InputError("its segment numbers are not valid", where=where, fix="export it again")
    names = [name or f"segment {number}" for number, name, *_ in segments]
    taken = {name for name in names if names.count(name) == 1} - {"background"}
    unique = {
        number: name if name in taken else f"{name} ({number})"
        for name, number in zip(names, numbers, strict=True)
    }
    plain = LabelScheme.from_names(unique)
    details = {number: (color, concept) for number, _, color, concept in segments}
    classes = [
        LabelClass(entry.value, entry.name, details[entry.value][0] or entry.color, details[entry.value][1])
        for entry in plain.foreground
    ]
    return LabelScheme((plain.classes[0], *classes))


class LayerBuilder:
    """Puts segment after segment into the first label map that has room for it.

    Args:
        grid: Shape (columns, rows, planes).
        values: Of all segments that may come.
        where: The file, for errors.

    Raises:
        ResourceError: One label map does not fit into memory.
    """

    def __init__(self, grid: Grid, values: Sequence[int], where: str | PathLike[str]) -> None:
        self._grid, self._where = grid, where
        self._dtype: np.dtype[Any] = smallest_integer_dtype([0, *values])
        self._layers: list[npt.NDArray[Any]] = []
        self.layer_of: dict[int, int] = {}
        self.new_layer()

    def new_layer(self) -> npt.NDArray[Any]:
        """Another empty label map, shape (planes, rows, columns)."""
        require_memory(self._grid.voxel_count * self._dtype.itemsize, self._where)
        layer = np.zeros(self._grid.shape[::-1], dtype=self._dtype)
        self._layers.append(layer)
        return layer

    @property
    def first(self) -> npt.NDArray[Any]:
        """The first label map, shape (planes, rows, columns)."""
        return self._layers[0]

    def add(self, value: int, planes: Sequence[int], mask_of: Callable[[int], npt.NDArray[np.bool_]]) -> None:
        """Add a segment.

        Args:
            value: Of the segment.
            planes: Where its frames lie.
            mask_of: Gives the mask of a frame, shape (rows, columns), by its index in ``planes``; called
                again for each label map that is tried, so that no segment is held in memory.
        """
        chosen = next(
            (number for number, layer in enumerate(self._layers) if _has_room(layer, planes, mask_of)),
            len(self._layers),
        )
        layer = self.new_layer() if chosen == len(self._layers) else self._layers[chosen]
        for index, plane in enumerate(planes):
            layer[plane][mask_of(index)] = value
        self.layer_of[value] = chosen

    def volumes(self) -> tuple[Volume, ...]:
        """The label maps, shape (1, columns, rows, planes)."""
        return tuple(Volume(layer.transpose(2, 1, 0)[np.newaxis], self._grid) for layer in self._layers)


def _has_room(
    layer: npt.NDArray[Any], planes: Sequence[int], mask_of: Callable[[int], npt.NDArray[np.bool_]]
) -> bool:
    occupied = {plane for plane in set(planes) if layer[plane].any()}
    return not any(
        plane in occupied and bool(layer[plane][mask_of(index)].any()) for index, plane in enumerate(planes)
    )
