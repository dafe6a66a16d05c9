"""Frames to volumes: series first, then what really differs between the frames of a series.

Frames of one volume are parallel, of one size, and lie each at a place of its own. Where several lie at one
place, a trait tells them apart, such as the b-value or the echo. A trait that takes a value of its own in
each slice, as the acquisition number often does, tells no volumes apart: it would give more parts than any
place has frames, and so is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from medseg.io.dicom.frame_checks import ORIENTATION_TOLERANCE, SPACING_TOLERANCE, same_orientation
from medseg.io.dicom.frames import Frame
from medseg.io.dicom.stack import DUPLICATE_MM, FloatArray, Stack, is_complete, is_even, missing_slices
from medseg.io.dicom.traits import TRAITS

__all__ = ["FrameGroup", "group_frames"]

_FEWEST_SLICES_OF_A_PART: Final = 3
"""A series without two frames at one place is split only into parts of as many slices, each of them even."""

_PLACE_TOLERANCE: Final = 0.1
"""How far a stray frame may be from a free place of a stack to be taken for its missing slice, in slices."""

_SAME_PLANE_MM: Final = 0.1
"""Frames at one height, but further apart than this in their plane, show different parts of the body."""


@dataclass(frozen=True)
class FrameGroup:
    """Frames that should make one volume.

    Attributes:
        frames: In no particular order.
        traits: What tells the group from the others of its series, by DICOM keyword.
    """

    frames: tuple[Frame, ...]
    traits: Mapping[str, object]


def group_frames(frames: Iterable[Frame]) -> list[FrameGroup]:
    """Split frames into volumes.

    Args:
        frames: Of any number of series, in a reproducible order.

    Returns:
        Groups in the order of study, series number, series and position.
    """
    by_series: dict[tuple[object, ...], list[Frame]] = {}
    for frame in frames:
        by_series.setdefault(_series_key(frame), []).append(frame)
    groups = []
    for _, members in sorted(by_series.items(), key=lambda entry: tuple(map(str, entry[0]))):
        parts = [part for plane in _planes(members) for part in _by_traits(plane)]
        groups += _named(parts)
    return groups


def _series_key(frame: Frame) -> tuple[object, ...]:
    series = frame.series
    number = -1 if series.number is None else series.number
    return (series.study_uid, f"{number:012d}", series.uid, series.sop_class_uid, series.modality)


def _planes(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Parts whose frames are parallel and of one size; what does not fit in is put where it belongs."""
    incomplete = []
    exact: dict[tuple[object, ...], list[Frame]] = {}
    for frame in frames:
        if is_complete(frame):
            key = (frame.rows, frame.columns, frame.samples, frame.spacing, frame.orientation)
            exact.setdefault(key, []).append(frame)
        else:
            incomplete.append(frame)
    parts = [part for alike in _of_one_size(exact) for part in _parallel(alike)]
    return _with_incomplete(_with_strays(parts), incomplete)


def _of_one_size(exact: Mapping[tuple[object, ...], list[Frame]]) -> list[list[list[Frame]]]:
    """Parts that agree in rows, columns and samples."""
    sizes: dict[tuple[object, ...], list[list[Frame]]] = {}
    for key, members in exact.items():
        sizes.setdefault(key[:3], []).append(members)
    return list(sizes.values())


def _parallel(parts: Sequence[list[Frame]]) -> list[list[Frame]]:
    """Join parts whose orientations and pixel spacings differ by rounding alone."""
    directions = np.array([part[0].orientation for part in parts])
    spacings = np.array([part[0].spacing for part in parts])
    waiting = np.arange(len(parts))
    joined = []
    while len(waiting):
        # Against all at once: a series that turns about an axis has an orientation for each slice.
        first = waiting[0]
        turned = np.abs(directions[waiting] - directions[first]).max(axis=1)
        scaled = np.abs(spacings[waiting] / spacings[first] - 1.0).max(axis=1)
        fitting = (turned <= ORIENTATION_TOLERANCE) & (scaled <= SPACING_TOLERANCE)
        joined.append([frame for index in waiting[fitting] for frame in parts[index]])
        waiting = waiting[~fitting]
    return joined


def _with_strays(parts: list[list[Frame]]) -> list[list[Frame]]:
    """Put frames of another size or orientation that fill a free place of a stack back into it.

    Alone they would leave the stack without a slice, and nobody would know why.
    """
    parts = sorted(parts, key=len, reverse=True)
    homes: list[tuple[Stack, list[Frame]]] = []
    kept = []
    for part in parts:
        home = next((frames for stack, frames in homes if _fills_places(part, stack)), None)
        if home is not None:
            home += part
            continue
        kept.append(part)
        if len(part) >= _FEWEST_SLICES_OF_A_PART:
            homes.append((Stack.of(part), part))
    return kept


def _fills_places(few: Sequence[Frame], stack: Stack) -> bool:
    """Whether frames lie in gaps of a stack of more frames, or next to its ends."""
    first = stack.frames[0]
    if len(few) >= len(stack.frames) or few[0].samples != first.samples:
        return False
    steps = np.diff(stack.heights)
    step = float(np.sort(steps)[(len(steps) - 1) // 2])
    if step < DUPLICATE_MM:
        return False
    offsets = np.array([frame.position for frame in few]) - stack.corners[0]
    heights = offsets @ stack.normal
    near = np.abs(heights / step - np.round(heights / step)) <= _PLACE_TOLERANCE
    within = (heights > -1.5 * step) & (heights < stack.heights[-1] + 1.5 * step)
    above = np.clip(np.searchsorted(stack.heights, heights), 1, len(stack.heights) - 1)
    nearest = np.minimum(np.abs(heights - stack.heights[above - 1]), np.abs(heights - stack.heights[above]))
    if not same_orientation(few[0], first):
        # A plane that is turned shares no rows and columns; its corner has to lie on the line of corners.
        stray = offsets - heights[:, None] * stack.slice_direction
        near &= np.linalg.norm(stray, axis=1) <= _PLACE_TOLERANCE * step
    return bool((near & within & (nearest > 0.5 * step)).all())


def _with_incomplete(parts: list[list[Frame]], incomplete: Sequence[Frame]) -> list[list[Frame]]:
    """Put frames without position into the volume they must come from, which cannot be trusted then."""
    for frame in incomplete:
        size = (frame.rows, frame.columns, frame.samples, frame.traits.get("ImageType"))
        fitting = [
            part
            for part in parts
            if size == (part[0].rows, part[0].columns, part[0].samples, part[0].traits.get("ImageType"))
        ]
        if fitting:
            max(fitting, key=len).append(frame)
        else:
            parts.append([frame])
    return parts


def _by_traits(frames: list[Frame]) -> list[list[Frame]]:
    """Split parallel frames until each lies at a place of its own, or nothing tells them apart any more."""
    if len(frames) < 2 or not all(is_complete(frame) for frame in frames):
        return [frames]
    crowd = _crowd(frames)
    if crowd == 1:
        return _by_stacks(frames)
    for values in _separating_values(frames):
        parts = _parts(frames, values)
        if 1 < len(parts) <= crowd and max(_crowd(part) for part in parts) < crowd:
            return [smallest for part in parts for smallest in _by_traits(part)]
    return [frames]


def _by_stacks(frames: list[Frame]) -> list[list[Frame]]:
    """Split frames that are uneven together, where a trait makes even stacks of them."""
    heights = Stack.of(frames).heights
    if is_even(heights) or missing_slices(heights):
        return [frames]
    for values in _separating_values(frames):
        parts = _parts(frames, values)
        if len(parts) > 1 and all(
            len(part) >= _FEWEST_SLICES_OF_A_PART and is_even(Stack.of(part).heights) for part in parts
        ):
            return parts
    return [frames]


def _crowd(frames: Sequence[Frame]) -> int:
    """The largest number of frames at one place."""
    return int(np.bincount(_places(frames)).max())


def _places(frames: Sequence[Frame]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """For each frame the number of its place along the normal."""
    normal = _normal(frames[0])
    heights = np.array([frame.position for frame in frames]) @ normal
    order = np.argsort(heights, kind="stable")
    numbers = np.empty(len(frames), dtype=np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(heights[order]) >= DUPLICATE_MM)])
    return numbers


def _normal(frame: Frame) -> FloatArray:
    directions = np.asarray(frame.orientation).reshape(2, 3)
    normal = np.cross(directions[0], directions[1])
    return np.asarray(normal / max(float(np.linalg.norm(normal)), 1e-12), dtype=np.float64)


def _separating_values(frames: Sequence[Frame]) -> Iterable[list[object]]:
    """For each trait that varies, its value in each frame; then those that are no element of the header."""
    for name in TRAITS:
        values: list[object] = [frame.traits.get(name) for frame in frames]
        if len(set(values)) > 1:
            yield values
    yield [frame.thickness for frame in frames]
    yield _sides(frames)
    if any(frame.number or frame.tile for frame in frames):
        yield [frame.path for frame in frames]
    # An archive exported twice, into two folders, holds each slice twice.
    yield [frame.path.parent for frame in frames]


def _sides(frames: Sequence[Frame]) -> list[object]:
    """Where in their plane frames lie that share their heights, as breasts or hips shown one by one do."""
    normal = _normal(frames[0])
    corners = np.array([frame.position for frame in frames])
    in_plane = corners - (corners @ normal)[:, None] * normal
    return [tuple(np.round(corner / _SAME_PLANE_MM).astype(int).tolist()) for corner in in_plane]


def _parts(frames: Sequence[Frame], values: Sequence[object]) -> list[list[Frame]]:
    parts: dict[object, list[Frame]] = {}
    for frame, value in zip(frames, values, strict=True):
        parts.setdefault(value, []).append(frame)
    return list(parts.values())


def _named(parts: list[list[Frame]]) -> list[FrameGroup]:
    """Give each part of a series the traits that tell it from the others, and sort by them."""
    told: list[dict[str, object]] = [{} for _ in parts]
    for name in TRAITS if len(parts) > 1 else ():
        values = [{frame.traits.get(name) for frame in part} for part in parts]
        if all(len(found) == 1 for found in values) and len(set.union(*values)) > 1:
            for traits, found in zip(told, values, strict=True):
                traits[name] = found.pop()
    groups = [FrameGroup(tuple(part), traits) for part, traits in zip(parts, told, strict=True)]
    return sorted(groups, key=_sort_key)


def _sort_key(group: FrameGroup) -> tuple[object, ...]:
    """Numbers before texts, in the order of traits; then by file, so that the order never changes."""
    values = [group.traits.get(name) for name in TRAITS]
    numbers = tuple(value if isinstance(value, int | float) else -1.0 for value in values)
    first = group.frames[0]
    return (numbers, tuple(map(str, values)), str(first.path), first.number)
