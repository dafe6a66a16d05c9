"""The plane cut into tiles so that each gives what the whole would give, for less memory.

A tile reads beyond what it answers for, by the reach of the network, and begins at a multiple of the
network's stride, so that its layers see the same phases as the whole's. All tiles have one size: one graph
and one timetable serve them all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medseg.inference.slabs import Box, Tile
from medseg.network_graph import Graph, Node
from medseg.ranges import AxisRange, Broadcast, Interpolation, Shift, Slices, Unpooling, Whole

__all__ = ["Cut", "cuts", "is_part_of", "tiles_of"]

_AHEAD = 64
"""Slices looked at together: further than any layer's phases reach."""


@dataclass(frozen=True)
class Cut:
    """One axis cut into overlapping tiles.

    Attributes:
        length: Voxels of the image that each tile reads.
        starts: The first of them, for each tile.
        own: What each tile alone answers for, in voxels of the scores.
        scores: What each gives: one voxel more, where another tile follows.
        computed: Voxels read by all tiles, as a multiple of the axis' length.
    """

    length: int
    starts: tuple[int, ...]
    own: tuple[Slices, ...]
    scores: tuple[Slices, ...]
    computed: float

    @classmethod
    def uncut(cls, length: int, scores: int) -> Cut:
        """The axis as a whole."""
        return cls(length, (0,), ((0, scores),), ((0, scores),), 1.0)


def tiles_of(cut: Sequence[Cut]) -> tuple[Tile, ...]:
    """All tiles of a volume whose axes are cut so, in order."""
    numbers = itertools.product(*(range(len(axis.starts)) for axis in cut))

    def tile(which: tuple[int, ...]) -> Tile:
        along = list(zip(cut, which, strict=True))
        reads: Box = tuple((axis.starts[k], axis.starts[k] + axis.length) for axis, k in along)
        scores: Box = tuple(axis.scores[k] for axis, k in along)
        return Tile(reads, scores, tuple(axis.own[k] for axis, k in along))

    return tuple(tile(which) for which in numbers)


def cuts(graph: Graph, axis: int) -> list[Cut]:
    """How an axis may be cut: uncut, then in ever smaller tiles, as few of each size as there must be.

    Args:
        graph: Of the whole volume.
        axis: Spatial axis, from 0.
    """
    output = graph.nodes[graph.outputs[0]]
    length, scores = graph.nodes[graph.input].size[axis], output.size[axis]
    found = [Cut.uncut(length, scores)]
    alignment = _alignment(graph, axis)
    margin = None if alignment is None else _margin(graph, axis, alignment)
    if alignment is None or margin is None:
        return found
    unit = int(alignment / graph.scales(axis)[output.name])
    smallest: dict[int, int] = {}
    for units_less in range(1, -(-length // alignment)):
        sound = scores - units_less * unit - 2 * margin
        step = (sound - 1) // unit
        if step < 1:
            break
        smallest[1 - (-units_less // step)] = units_less
    return found + [
        _cut(length, scores, count, units_less, alignment, unit, margin)
        for count, units_less in sorted(smallest.items())
    ]


def is_part_of(part: Graph, whole: Graph) -> bool:
    """Whether a tile's layers do what the whole's do, so that away from its cut sides it gives the same.

    Checked layer by layer: the same windows, the same scale of every resizing, and sizes that differ by what
    the cut takes away at the layer's stride.
    """
    if list(part.nodes) != list(whole.nodes):
        return False
    image, cut_image = whole.nodes[whole.input], part.nodes[part.input]
    for axis in range(whole.spatial_dims):
        missing = image.size[axis] - cut_image.size[axis]
        scales = whole.scales(axis)
        for name, node in whole.nodes.items():
            other = part.nodes[name]
            if node.kind != other.kind or node.weights != other.weights:
                return False
            less = node.size[axis] - other.size[axis]
            if name in scales and less * scales[name] != missing:
                return False
            if not _alike(node.ranges[axis], other.ranges[axis], same_length=not less):
                return False
    return True


def _alike(whole: AxisRange, part: AxisRange, *, same_length: bool) -> bool:
    if whole == part:
        return same_length or not (isinstance(whole, Broadcast | Whole) or _is_circular(whole))
    if isinstance(whole, Interpolation) and isinstance(part, Interpolation):
        same_mode = whole.mode == part.mode and not whole.align_corners and not part.align_corners
        return same_mode and whole.scale == part.scale
    if isinstance(whole, Unpooling) and isinstance(part, Unpooling):
        return whole == replace(part, output_length=whole.output_length)
    return False


def _is_circular(needs: AxisRange) -> bool:
    return isinstance(needs, Shift) and needs.mode == "circular" and bool(needs.before or needs.after)


def _alignment(graph: Graph, axis: int) -> int | None:
    """The fewest voxels of the image that are whole slices of every layer."""
    scales = graph.scales(axis)
    found = math.lcm(*(scales[node.name].numerator for node in _placed(graph, axis)))
    return found if found < graph.nodes[graph.input].size[axis] else None


def _placed(graph: Graph, axis: int) -> tuple[Node, ...]:
    """Layers that have a place relative to the image; constants have none."""
    scales = graph.scales(axis)
    return tuple(node for node in graph.ancestors(graph.outputs[0]) if node.name in scales)


def _margin(graph: Graph, axis: int, alignment: int) -> int | None:
    """Scores that a cut spoils before or behind it, whichever are more; ``None`` if it spoils all.

    With the same margin on both sides, tiles seen in a mirror are tiles of the mirror image.
    """
    length = graph.nodes[graph.input].size[axis]
    middle = length // 2 // alignment * alignment
    before = _spoilt_behind(graph, axis, middle)
    after = _spoilt_before(graph, axis, middle)
    return None if before is None or after is None else max(before, after)


def _spoilt_behind(graph: Graph, axis: int, cut: int) -> int | None:
    """Scores from a cut on that depend on what lies before it, or on its being no end of the volume."""
    scales = graph.scales(axis)
    sound: dict[str, int] = {}
    for node in _placed(graph, axis):
        begin = int(cut / scales[node.name])
        reached = [sound[source] for source in node.inputs if source in sound]
        first, needs = begin, node.ranges[axis]
        while reached and first < node.size[axis] and needs.needs(first, first + _AHEAD)[0] < max(reached):
            first += 1
        if first >= node.size[axis]:
            return None
        sound[node.name] = first
    output = graph.outputs[0]
    return sound[output] - int(cut / scales[output])


def _spoilt_before(graph: Graph, axis: int, missing: int) -> int | None:
    """Scores before a cut, ``missing`` voxels from the image's end, that depend on what lies behind it."""
    scales = graph.scales(axis)
    sound: dict[str, int] = {}
    for node in _placed(graph, axis):
        end = node.size[axis] - int(missing / scales[node.name])
        reached = [sound[source] for source in node.inputs if source in sound]
        last, needs = end, node.ranges[axis]
        while reached and last > 0 and needs.needs(last - _AHEAD, last)[1] > min(reached):
            last -= 1
        if last <= 0:
            return None
        sound[node.name] = last
    output = graph.nodes[graph.outputs[0]]
    return output.size[axis] - int(missing / scales[output.name]) - sound[output.name]


def _cut(
    length: int,
    scores: int,
    count: int,
    units_less: int,
    alignment: int,
    unit: int,
    margin: int,
) -> Cut:
    places = [number * units_less // (count - 1) for number in range(count)]
    given = scores - units_less * unit
    borders = [0]
    for here, after in itertools.pairwise(places):
        # Between the first sound score of the next tile and the last of this one, fairly.
        first_of_next, end_of_this = after * unit + margin, here * unit + given - margin
        borders.append((first_of_next + end_of_this) // 2)
    own = tuple(itertools.pairwise([*borders, scores]))
    size = length - units_less * alignment
    return Cut(
        length=size,
        starts=tuple(place * alignment for place in places),
        own=own,
        scores=tuple((start, min(stop + 1, scores)) for start, stop in own),
        computed=count * size / length,
    )
