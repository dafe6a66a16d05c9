"""Networks that see a tile at a time, with the border that they lose mirrored."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import monai.inferers
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError, did_you_mean
from medseg.inference.overlap_tile.fitting import TileFit, fit_tiles
from medseg.inference.overlap_tile.planning import Job, choose_plan, layout_of, wanted_slices
from medseg.inference.overlap_tile.tiles import PADDING_MODES, Layout, Span, Tile, cut_out
from medseg.inference.restore import best_class
from medseg.inference.slabs import MemoryPlan, Read
from medseg.network_graph.capture import evaluating

__all__ = ["OverlapTileInferer"]

_REDUCTIONS = (None, "argmax")
Window = Callable[[Span], tuple[Tensor, int]]
"""For a row of tiles, slices of the image and the number of the first."""


class OverlapTileInferer(monai.inferers.Inferer):  # type: ignore[misc]
    """Overlapping tiles with mirrored borders, for networks with valid convolutions.

    The result has the size of the image. Beyond its ends the image is mirrored, as often as the border that
    the network needs takes. What border that is, which sizes of tiles the network takes and at which places
    they may lie is read off the network itself. The result is what one pass over the mirrored image gives:
    there are no seams, and each voxel comes from one tile.

    Tiles follow each other at multiples of the network's stride. Where the size of their result is none (the
    U-Net of the paper gives 388 voxels at a stride of 16), up to a stride less one voxels at the end of each
    tile are thrown away and come from the next.

    A network with "same" padding is taken too, with a border as wide as what it looks at: then mirrored
    voxels stand where it would have padded, within each tile as at the image's ends.

    Args:
        tile_size: Voxels of a tile's result along each axis, or one number for all; rounded up to the next
            size that the network takes. If not given, the one with the least work that keeps to
            ``max_ram_bytes``, or to 2 GiB.
        padding_mode: ``"reflect"``, ``"replicate"`` or ``"constant"`` (zeros).
        reduce: ``"argmax"`` gives class indices instead of scores.
        tiles_at_a_time: Tiles that the network sees at once.
        max_ram_bytes: Memory that may be taken beyond the network and the image.

    Raises:
        ConfigError: An argument is none of those allowed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> OverlapTileInferer(tile_size=8)(torch.ones(1, 1, 20, 13), network).shape
        torch.Size([1, 2, 20, 13])

    References:
        Ronneberger, Fischer, Brox, U-Net, MICCAI 2015, figure 2.
    """

    def __init__(
        self,
        tile_size: int | Sequence[int] | None = None,
        padding_mode: str = "reflect",
        reduce: str | None = None,
        tiles_at_a_time: int = 1,
        max_ram_bytes: int | None = None,
    ) -> None:
        super().__init__()
        if padding_mode not in PADDING_MODES:
            fix = did_you_mean(padding_mode, PADDING_MODES)
            raise ConfigError(f"unknown padding mode '{padding_mode}'", where="padding_mode", fix=fix)
        if reduce not in _REDUCTIONS:
            raise ConfigError(f"unknown reduction '{reduce}'", where="reduce", fix="use 'argmax' or None")
        sizes = [tile_size] if isinstance(tile_size, int) else list(tile_size or [])
        counts = {"tile_size": sizes, "tiles_at_a_time": [tiles_at_a_time]}
        counts["max_ram_bytes"] = [] if max_ram_bytes is None else [max_ram_bytes]
        for name, numbers in counts.items():
            if any(number < 1 for number in numbers):
                raise ConfigError(f"{min(numbers)} is not positive", where=name, fix="give 1 or more")
        self.tile_size = tile_size
        self.padding_mode = padding_mode
        self.reduce = reduce
        self.tiles_at_a_time = tiles_at_a_time
        self.max_ram_bytes = max_ram_bytes

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run ``network``, in evaluation mode, over an image.

        Args:
            inputs: Shape (B, C, X, Y[, Z]); a MetaTensor comes back as one.
            network: From (B, C, X, Y[, Z]) to scores of as many voxels or fewer.
            *args: Passed on to ``network``.
            **kwargs: Passed on to ``network``.

        Returns:
            Scores (B, K, X, Y[, Z]) in the image's floating point type, or with ``reduce="argmax"`` class
            indices (B, 1, X, Y[, Z]) in 8 bit for up to 256 classes, else 32.

        Raises:
            ConfigError: The network cannot be tiled; the error says why.
            ResourceError: No tiles keep to ``max_ram_bytes``.
        """
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        result = self._empty_result(image, network)
        plan = self._choose(network, tuple(image.shape), result.nbytes)
        run = _Run(network, plan, tuple(image.shape), self._fit(network, image.shape), args, kwargs)
        with torch.no_grad(), evaluating(network):
            for span in run.layout.spans(plan.axis):
                for tile, scores in run.row(span, (image, 0)):
                    target = result[(slice(None), slice(None), *tile.target)]
                    if self.reduce == "argmax":
                        for entry, classes in zip(target, scores, strict=True):
                            entry.copy_(best_class(classes)[None])
                    else:
                        target.copy_(scores)
                    del scores  # or it would be held while the next tile is computed
        if isinstance(inputs, MetaTensor):
            return cast(Tensor, MetaTensor(result).copy_meta_from(inputs))
        return result

    def plan(self, network: nn.Module, shape: Sequence[int], *, result: bool = False) -> MemoryPlan:
        """How an image is gone through, and what memory that takes; see ``SlabInferer``.

        Args:
            network: The network.
            shape: Of the image, (B, C, X, Y[, Z]).
            result: Count what the call takes for an image in single precision, instead of :meth:`slabs`.

        Raises:
            ConfigError: The network cannot be tiled; the error says why.
            ResourceError: No tiles keep to ``max_ram_bytes``.
        """
        whole = self._empty_result(torch.empty(tuple(shape), device="meta"), network) if result else None
        return self._choose(network, tuple(shape), None if whole is None else whole.nbytes)

    def slabs(
        self, read: Read, network: nn.Module, shape: tuple[int, ...], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Scores, row of tiles by row of tiles; see ``SlabInferer``.

        Each slice is read once, in order; those that later rows still need are kept.
        """
        run = _Run(network, plan, tuple(shape), self._fit(network, shape))
        rows = zip(run.layout.spans(plan.axis), wanted_slices(run.layout, plan.axis), strict=True)
        window = _Window(read, plan.axis)
        for span, (first, last) in rows:
            window.move(first, last)
            scores = run.empty_row(span, window.slices)
            with torch.no_grad(), evaluating(network):
                for tile, part in run.row(span, (window.slices, first)):
                    target = list(tile.target)
                    target[plan.axis] = slice(0, span.used)
                    scores[(slice(None), slice(None), *target)] = part
                    del part
            yield span.start, scores
            del scores

    def _fit(self, network: nn.Module, shape: Sequence[int]) -> TileFit:
        return fit_tiles(network, channels=shape[1], spatial_dims=len(shape) - 2)

    def _choose(self, network: nn.Module, shape: tuple[int, ...], result_bytes: int | None) -> MemoryPlan:
        _require_images(shape)
        fit = self._fit(network, shape)
        job = Job(network, shape, fit, self.padding_mode, self.tiles_at_a_time, result_bytes)
        return choose_plan(job, self._tile_size(len(shape) - 2), self.max_ram_bytes)

    def _tile_size(self, spatial_dims: int) -> tuple[int, ...] | None:
        if self.tile_size is None or isinstance(self.tile_size, int):
            return None if self.tile_size is None else (self.tile_size,) * spatial_dims
        if len(self.tile_size) != spatial_dims:
            raise ConfigError(
                f"{len(self.tile_size)} numbers for an image of {spatial_dims} axes",
                where="tile_size",
                fix="give one number, or one for each axis",
            )
        return tuple(self.tile_size)

    def _empty_result(self, image: Tensor, network: nn.Module) -> Tensor:
        _require_images(image.shape)
        classes = self._fit(network, image.shape).classes
        if self.reduce == "argmax":
            dtype = torch.uint8 if classes <= 256 else torch.int32
            return image.new_empty((image.shape[0], 1, *image.shape[2:]), dtype=dtype)
        dtype = image.dtype if image.is_floating_point() else _dtype_of(network)
        return image.new_empty((image.shape[0], classes, *image.shape[2:]), dtype=dtype)


class _Run:
    """A network on the tiles of one image."""

    def __init__(
        self,
        network: nn.Module,
        plan: MemoryPlan,
        shape: tuple[int, ...],
        fit: TileFit,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.layout: Layout = layout_of(plan, shape, fit)
        self._network = network
        self._plan = plan
        self._shape = shape
        self._fit = fit
        self._args = args
        self._kwargs = kwargs or {}
        parameter = next(network.parameters(), None)
        self._device = None if parameter is None else parameter.device
        self._dtype = _dtype_of(network)

    def row(self, span: Span, held: tuple[Tensor, int]) -> Iterator[tuple[Tile, Tensor]]:
        """The tiles at one place along the plan's axis, each with its scores (B, K, …).

        Args:
            span: The place.
            held: Slices of the image, and the number of the first.
        """
        tiles = self.layout.row(self._plan.axis, span)
        for _, alike in itertools.groupby(tiles, key=operator.attrgetter("size")):
            while batch := list(itertools.islice(alike, self._plan.details["tiles_at_a_time"])):
                yield from zip(batch, self._scores(batch, *held), strict=True)

    def empty_row(self, span: Span, like: Tensor) -> Tensor:
        """Room for the scores of a row."""
        size = list(self._shape[2:])
        size[self._plan.axis] = span.used
        return like.new_empty((self._shape[0], self._fit.classes, *size), dtype=self._dtype)

    def _scores(self, tiles: Sequence[Tile], image: Tensor, first: int) -> list[Tensor]:
        seen = [self._seen(tile, image, first) for tile in tiles]
        batch = seen[0] if len(seen) == 1 else torch.cat(seen)
        del seen
        given = self._network(batch.to(self._device, self._dtype), *self._args, **self._kwargs)
        del batch
        expected = (len(tiles) * image.shape[0], self._fit.classes, *self._fit.output_size(tiles[0].size))
        if not isinstance(given, Tensor) or tuple(given.shape) != expected:
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ConfigError(
                f"for a tile the network gives {got}, its layers say {expected}",
                fix="run the network on sliding windows",
            )
        scores = []
        for tile, part in zip(tiles, given.chunk(len(tiles)), strict=True):
            axes = zip(self._fit.axes, tile.spans, strict=True)
            kept = [slice(fit.trim, fit.trim + span.used) for fit, span in axes]
            scores.append(part[(slice(None), slice(None), *kept)].to(image.device))
        return scores

    def _seen(self, tile: Tile, image: Tensor, first: int) -> Tensor:
        """What the network sees of the image for one tile."""
        indices = [self.layout.indices(axis, span) for axis, span in enumerate(tile.spans)]
        axis = self._plan.axis
        indices[axis] = [index - first if index >= 0 else -1 for index in indices[axis]]
        return cut_out(image, indices)


class _Window:
    """Slices of an image that is read forward only."""

    def __init__(self, read: Read, axis: int) -> None:
        self._read = read
        self._dim = 2 + axis
        self._first = self._last = 0
        self.slices = torch.empty(0)

    def move(self, first: int, last: int) -> None:
        """Hold slices [first, last)."""
        if last > self._last:
            begin = max(first, self._last)
            read = self._read(begin, last)
            read = read.as_tensor() if isinstance(read, MetaTensor) else read
            self.slices = torch.cat([self._tail(first), read], self._dim) if begin > first else read
        elif first > self._first:
            self.slices = self._tail(first).clone()
        self._first, self._last = first, last

    def _tail(self, first: int) -> Tensor:
        return self.slices.narrow(self._dim, first - self._first, self._last - first)


def _require_images(shape: Sequence[int]) -> None:
    if len(shape) not in (4, 5) or min(shape) < 1:
        raise InputError(f"shape {tuple(shape)} is no batch of images", fix="give (B, C, X, Y[, Z])")


def _dtype_of(network: nn.Module) -> torch.dtype:
    """What a network computes in."""
    floating = (parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)
