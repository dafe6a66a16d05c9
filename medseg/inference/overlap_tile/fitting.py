"""Which tiles a network takes, and how much border each needs, read off the network's graph.

A tile gives exactly what one pass over everything would give if three things hold along each axis. Its place
differs from every other tile's by a multiple of the network's stride, or pooling would begin elsewhere. Its
size differs from a size that the network takes evenly by such a multiple, or the network would cut or pad it
in another way. And what it gives depends on none of the padding that the network's own layers add, be it
zeros of a convolution or the ends of an interpolation: what does is thrown away. So a network with "same"
padding can be tiled too; it then sees mirrored voxels where it would have padded.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import nn

from medseg.errors import ConfigError
from medseg.inference.forward_memory import shadow_pass
from medseg.inference.mirroring import Mirrored
from medseg.network_graph import Graph, Node, capture
from medseg.ranges import Interpolation, Slices, Window

__all__ = ["AxisFit", "TileFit", "fit_tiles"]

# Without voxels a large image costs no more than a small one, and no border is felt in its middle.
_FIRST_LENGTH = 4096
_LAST_LENGTH = 65536
_LENGTHS_TRIED = 64
_LENGTHS_TRIED_APART = 16
_CAPTURES = 8
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True)
class AxisFit:
    """The tiles that fit along one axis.

    Attributes:
        stride: Voxels; places of tiles are multiples of it.
        remainder: What the size of a tile's result leaves when divided by the stride.
        before: Voxels of the image before a tile's result that the network needs.
        after: Voxels behind it.
        trim: Voxels of what the network gives that are thrown away before the result.
        trim_after: Voxels behind the result that are thrown away.
    """

    stride: int
    remainder: int
    before: int
    after: int
    trim: int = 0
    trim_after: int = 0

    def at_least(self, length: int) -> int:
        """The smallest result of a tile that has ``length`` voxels or more.

        Example:
            >>> AxisFit(stride=16, remainder=4, before=92, after=92).at_least(380)
            388
        """
        length = max(1, length)
        return length + (self.remainder - length) % self.stride

    def rounded(self, size: int, length: int) -> int:
        """The size of tiles for an image of ``length`` voxels: ``size`` or the next above that fits.

        Never more than it takes to cover the image by one tile, and never less than the stride if it takes
        several.
        """
        alone = self.at_least(length)
        return min(self.at_least(max(size, self.stride)), alone) if size < length else alone

    def mirrored(self) -> AxisFit:
        """What fits if the network is also asked about mirror images along this axis.

        What is thrown away at one end is then thrown away at both.

        Raises:
            ConfigError: The result does not lie in the middle of the image.
        """
        if self.before - self.trim != self.after - self.trim_after:
            raise ConfigError(
                "the network loses more at one end than at the other, so that mirror images do not meet",
                fix="run it without mirroring along this axis",
            )
        trim = max(self.trim, self.trim_after)
        lost = 2 * trim - self.trim - self.trim_after
        margin = self.before - self.trim + trim
        return AxisFit(self.stride, (self.remainder - lost) % self.stride, margin, margin, trim, trim)

    def input_length(self, size: int) -> int:
        """Voxels that the network is given for a result of ``size`` voxels."""
        return self.before + size + self.after

    def output_length(self, size: int) -> int:
        """Voxels that it gives then, with those that are thrown away."""
        return self.trim + size + self.trim_after


@dataclass(frozen=True)
class TileFit:
    """The tiles that a network takes.

    Attributes:
        axes: One for each spatial axis.
        classes: Channels of the scores.
        score_bytes: Bytes of one score.
    """

    axes: tuple[AxisFit, ...]
    classes: int
    score_bytes: int

    def input_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Voxels per axis that the network is given for a result of ``size``."""
        return tuple(fit.input_length(length) for fit, length in zip(self.axes, size, strict=True))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Voxels per axis that it gives then."""
        return tuple(fit.output_length(length) for fit, length in zip(self.axes, size, strict=True))


_FITS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, int], TileFit]] = weakref.WeakKeyDictionary()


def fit_tiles(network: nn.Module, channels: int, spatial_dims: int) -> TileFit:
    """Find out which tiles ``network`` takes; its weights do not matter.

    The answer is remembered for as long as the network exists.

    Args:
        network: From (B, C, X, Y[, Z]) to one map of scores as fine as its input.
        channels: C.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: A layer looks at the whole image, or works otherwise in one place than in another; the
            scores are coarser or finer than the image; there are several outputs.
        InputError: The network takes no image at all.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 3))
        >>> fit_tiles(network, channels=1, spatial_dims=2).axes[0]
        AxisFit(stride=1, remainder=0, before=2, after=2, trim=0, trim_after=0)
    """
    found = _FITS.setdefault(network, {})
    key = channels, spatial_dims
    if key not in found:
        found[key] = _fit(network, channels, spatial_dims)
    return found[key]


def _fit(network: nn.Module, channels: int, spatial_dims: int) -> TileFit:
    if isinstance(network, Mirrored):
        alone = fit_tiles(network.network, channels, spatial_dims)
        return replace(
            alone,
            axes=tuple(
                fit.mirrored() if axis in network.mirroring.axes else fit
                for axis, fit in enumerate(alone.axes)
            ),
        )
    length = _FIRST_LENGTH
    while length <= _LAST_LENGTH:
        graph = _even_graph(network, channels, spatial_dims, length)
        _require_tileable(graph)
        axes = [_axis_fit(graph, axis) for axis in range(spatial_dims)]
        complete = tuple(fit for fit in axes if fit is not None)
        if len(complete) == spatial_dims:
            output = graph.nodes[graph.outputs[0]]
            return TileFit(complete, output.shape[1], output.dtype.itemsize)
        length *= 2
    raise ConfigError(
        f"what one voxel depends on exceeds {_LAST_LENGTH} voxels",
        where=type(network).__name__,
        fix="run the network on sliding windows",
    )


def _require_tileable(graph: Graph) -> None:
    if len(graph.outputs) != 1:
        raise ConfigError(
            f"the network gives {len(graph.outputs)} outputs, tiles are laid out for one",
            fix="wrap the network so that it gives the scores alone",
        )
    for node in graph.whole():
        _refuse(node, "looks at the whole image, of which a tile shows a part")
    for node in graph.nodes.values():
        if any(isinstance(needs, Interpolation) and needs.align_corners for needs in node.ranges):
            _refuse(node, "aligns corners, so that it works otherwise in tiles of another size")
    output = graph.nodes[graph.outputs[0]]
    for axis in range(graph.spatial_dims):
        scale = graph.scales(axis).get(output.name)
        if scale != 1:
            raise ConfigError(
                f"the network gives one score per {scale} voxels along axis {axis}, tiles need one per voxel",
                fix="let the network resize its scores to the image",
            )


def _refuse(node: Node, why: str) -> None:
    raise ConfigError(
        f"layer '{node.title}' ({node.kind}) {why}",
        fix="run the network whole or on sliding windows, or build it without this layer",
    )


def _even_graph(network: nn.Module, channels: int, spatial_dims: int, length: int) -> Graph:
    """The graph at a size, from ``length`` on, that every pooling divides without a remainder if one does.

    What lies behind a crop can only be judged at a size that what lies before it divides: hence the steps.
    """
    shape = (1, channels, *_accepted_size(network, channels, spatial_dims, length))
    graph = capture(network, shape)
    for _ in range(_CAPTURES):
        _require_tileable(graph)
        size = tuple(_even_length(graph, axis) for axis in range(spatial_dims))
        if (1, channels, *size) == shape or not _takes(network, (1, channels, *size)):
            break
        shape = (1, channels, *size)
        graph = capture(network, shape)
    return graph


def _accepted_size(network: nn.Module, channels: int, spatial_dims: int, length: int) -> tuple[int, ...]:
    tried = (1, channels, *(length,) * spatial_dims)
    for size in _sizes_to_try(length, spatial_dims):
        if _takes(network, (1, channels, *size)):
            return size
    capture(network, tried)  # raises, and says why
    raise AssertionError("a network that takes no size was captured")


def _sizes_to_try(length: int, spatial_dims: int) -> Iterator[tuple[int, ...]]:
    """The same length along all axes; then another along one of them."""
    for extra in range(_LENGTHS_TRIED):
        yield (length + extra,) * spatial_dims
    lengths = range(length, length + _LENGTHS_TRIED_APART)
    for odd_one in reversed(range(spatial_dims)):
        for one, others in itertools.product(lengths, lengths):
            if one != others:
                yield tuple(one if axis == odd_one else others for axis in range(spatial_dims))


def _takes(network: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        shadow_pass(network, shape)
    except _REFUSALS:
        return False
    return True


def _even_length(graph: Graph, axis: int) -> int:
    """The first length, from that of the graph's input on, at which no window leaves voxels over."""
    length = graph.nodes[graph.input].size[axis]
    candidates = range(length, length + _stride(graph, axis))
    return next((n for n in candidates if not _leaves_over(graph, axis, n)), length)


def _leaves_over(graph: Graph, axis: int, length: int) -> bool:
    lengths: dict[str, Fraction] = {}
    for node in graph.ancestors(graph.outputs[0]):
        before = next((lengths[source] for source in node.inputs if source in lengths), None)
        needs = node.ranges[axis]
        if before is None:
            lengths[node.name] = Fraction(length if node.name == graph.input else node.size[axis])
        elif isinstance(needs, Window):
            if before.denominator != 1 or _remainder(needs, int(before)):
                return True
            lengths[node.name] = Fraction(needs.length_after(int(before)))
        else:
            # As many more as the network's stride says, whatever size the layer was told to give.
            source = next(source for source in node.inputs if source in lengths)
            more = before - graph.nodes[source].size[axis]
            lengths[node.name] = node.size[axis] + more / needs.scale
    return False


def _remainder(window: Window, length: int) -> int:
    """Voxels that no window reaches, or that the last one lacks where it may hang over."""
    count = window.length_after(length)
    end = (count - 1) * window.stride - window.padding[0] + window.extent
    return max(length - end, 0) or max(end - length - window.padding[1], 0)


def _axis_fit(graph: Graph, axis: int) -> AxisFit | None:
    """What fits along one axis; ``None`` if the whole of the result feels the image's ends."""
    length = graph.nodes[graph.input].size[axis]
    output = graph.nodes[graph.outputs[0]]
    given = output.size[axis]
    # The result's grid is taken to lie in the middle of the image's.
    before = (length - given) // 2
    after = length - given - before

    def reaches(start: int, stop: int, beyond: Callable[[Node, Slices], bool]) -> bool:
        found = graph.needed(output.name, axis, start, stop)
        return any(beyond(graph.nodes[name], slices) for name, slices in found.items())

    trim = _first(given, lambda i: not reaches(i, given, lambda _, needed: needed[0] < 0))
    trim_after = _first(
        given, lambda i: not reaches(0, given - i, lambda node, needed: needed[1] > node.size[axis])
    )
    kept = given - trim - trim_after
    stride = _stride(graph, axis)
    if kept < stride:
        return None
    return AxisFit(stride, kept % stride, before + trim, after + trim_after, trim, trim_after)


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first number below ``count`` for which a condition holds that does so from then on."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _stride(graph: Graph, axis: int) -> int:
    """Voxels after which every layer repeats itself."""
    scales = graph.scales(axis)
    names = (node.name for node in graph.ancestors(graph.outputs[0]))
    return math.lcm(*(scales[name].numerator for name in names if name in scales))
