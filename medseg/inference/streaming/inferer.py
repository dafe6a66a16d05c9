"""A whole volume through a network in slabs, as a MONAI inferer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import monai.inferers
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError, did_you_mean
from medseg.inference.compute import SHORT_PRECISIONS
from medseg.inference.restore import best_class
from medseg.inference.slabs import Box, MemoryPlan, Read
from medseg.inference.streaming.captured import device_of, local_graph, simplified
from medseg.inference.streaming.engine import Stream
from medseg.inference.streaming.planning import Request, choose_plan, schedule_of

__all__ = ["BACKENDS", "StreamingInferer"]

BACKENDS = ("auto", "torch")
"""What computes the layers."""


class StreamingInferer(monai.inferers.Inferer):  # type: ignore[misc]
    """What one pass of the network over the whole volume would give, computed slab by slab.

    Each voxel of each layer is computed once, and kept for no longer than another layer needs it: memory
    does not grow with the length of the volume. Networks with layers that look at the whole volume, as
    instance norm does, are refused. The network is evaluated, whatever mode it is in; it is not changed.

    Args:
        axis: Spatial axis along which the volume is streamed, from 0; ``"auto"`` takes the one that needs
            the least memory.
        slab: Slices of the output a step; chosen if not given.
        reduce: ``"argmax"`` gives labels (B, 1, X, Y, Z) instead of scores.
        precision: ``"fp32"`` or ``"bf16"``.
        backend: ``"auto"`` or ``"torch"``.
        max_ram_bytes: Limit of what the call takes beyond the process, the network's weights and the image.
            Where it is tight, slabs are made thinner, then the plane is cut into tiles (the result stays
            the same), then skip connections wait in half precision.

    Raises:
        ConfigError: An argument is none of these.

    Example:
        >>> network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1))
        >>> image = torch.rand(1, 1, 20, 9, 7)
        >>> with torch.no_grad():
        ...     torch.allclose(StreamingInferer(slab=3)(image, network), network(image), atol=1e-5)
        True
        >>> StreamingInferer(reduce="argmax")(image, network).shape
        torch.Size([1, 1, 20, 9, 7])
    """

    def __init__(
        self,
        axis: int | str = "auto",
        slab: int | None = None,
        reduce: str | None = None,
        precision: str = "fp32",
        backend: str = "auto",
        max_ram_bytes: int | None = None,
    ) -> None:
        super().__init__()
        if axis != "auto" and (not isinstance(axis, int) or axis not in range(3)):
            raise ConfigError(f"unknown axis {axis!r}", where="axis", fix="give 'auto', 0, 1 or 2")
        _require_choice("reduce", reduce, (None, "argmax"))
        _require_choice("precision", precision, tuple(SHORT_PRECISIONS))
        _require_choice("backend", backend, BACKENDS)
        _require_positive("slab", slab)
        _require_positive("max_ram_bytes", max_ram_bytes)
        self.axis = axis
        self.slab = slab
        self.reduce = reduce
        self.precision = precision
        self.backend = backend
        self.max_ram_bytes = max_ram_bytes

    def plan(self, network: nn.Module, shape: Sequence[int], *, result: bool = False) -> MemoryPlan:
        """How an image is gone through, and what memory that takes; see ``SlabInferer``.

        The slab that was given out last counts as held while the next one is computed.

        Args:
            network: The network.
            shape: Of the image, (B, C, X, Y[, Z]).
            result: Count what the call takes for an image in single precision, instead of :meth:`slabs`.

        Raises:
            ConfigError: The network cannot be streamed; the error names the layer.
            InputError: The network does not take this shape.
            ResourceError: No way keeps to ``max_ram_bytes``; the error names the least that would do.
        """
        return self._choose(network, tuple(shape), torch.float32 if result else None)

    @torch.no_grad()
    def slabs(
        self, read: Read, network: nn.Module, shape: Sequence[int], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Compute, from the first slice along ``plan.axis`` to the last.

        Args:
            read: Gives the input's slices [start, stop) along that axis, (B, C, X, Y[, Z]); asked for each
                slice once, in order.
            network: From (B, C, X, Y[, Z]) to scores (B, K, X', Y'[, Z']).
            shape: Of the whole input.
            plan: As :meth:`plan` gave it, or where that has tiles one of its ``parts``.

        Yields:
            The first slice and the slab of scores in single precision, on the network's device.

        Raises:
            ConfigError: The plan has tiles, each of which has to be gone through by itself.
        """
        if plan.tiles:
            raise ConfigError(
                f"the plan cuts the plane into {len(plan.tiles)} tiles",
                where="plan",
                fix="go through each of plan.parts, or allow more memory",
            )
        passage = _Passage(network, tuple(shape), plan, SHORT_PRECISIONS[self.precision])
        for start, slab in passage.slabs(read):
            yield start, _in_single_precision(slab)
            del slab  # the next one is made while the receiver may still hold its own

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run ``network`` over an image.

        Args:
            inputs: Shape (B, C, X, Y[, Z]); a MetaTensor comes back as one.
            network: Takes one tensor and gives scores (B, K, X', Y'[, Z']).
            *args: None are taken.
            **kwargs: None are taken.

        Returns:
            Scores in the floating point type of the image, or with ``reduce="argmax"`` labels
            (B, 1, X', Y'[, Z']), of 8 bit for up to 256 classes and else of 32; where the image lies.

        Raises:
            ConfigError: The network cannot be streamed, the error names the layer; or it would take more
                arguments than the image.
            InputError: The network does not take this shape.
            ResourceError: No way keeps to ``max_ram_bytes``; the error names the least that would do.
        """
        if args or kwargs:
            raise ConfigError(
                f"a stream gives the network an image and nothing else, {len(args) + len(kwargs)} more given",
                fix="bind other arguments to the network beforehand",
            )
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        plan = self._choose(network, tuple(image.shape), _scores_type(image.dtype))
        result = self._empty_result(image, network)
        for part in plan.parts:
            self._fill(result, image, network, part)
        if isinstance(inputs, MetaTensor):
            return cast(Tensor, MetaTensor(result).copy_meta_from(inputs))
        return result

    def _choose(self, network: nn.Module, shape: tuple[int, ...], result: torch.dtype | None) -> MemoryPlan:
        """The plan for the call, whose scores have the type ``result``; without one, for :meth:`slabs`."""
        dims = len(shape) - 2
        if self.axis != "auto" and int(self.axis) >= dims:
            raise ConfigError(
                f"an image of {dims} axes has no axis {self.axis}", where="axis", fix="use 'auto'"
            )
        request = Request(
            axes=tuple(range(dims)) if self.axis == "auto" else (int(self.axis),),
            slab=self.slab,
            dtype=SHORT_PRECISIONS[self.precision],
            limit_bytes=self.max_ram_bytes,
            labels=result is not None and self.reduce == "argmax",
            result_itemsize=None if result is None else result.itemsize,
        )
        return choose_plan(network, shape, request)

    def _empty_result(self, image: Tensor, network: nn.Module) -> Tensor:
        graph = local_graph(network, tuple(image.shape))
        output = graph.nodes[graph.outputs[0]]
        if self.reduce is None:
            dtype = _scores_type(image.dtype) if output.dtype.is_floating_point else output.dtype
            return torch.empty(output.shape, dtype=dtype, device=image.device)
        if len(output.shape) != len(image.shape) or not output.dtype.is_floating_point:
            raise InputError(
                f"the network gives {output.dtype} of shape {output.shape}, which are no scores of classes",
                fix="leave out reduce='argmax'",
            )
        dtype = torch.uint8 if output.shape[1] <= 256 else torch.int32
        return torch.empty((output.shape[0], 1, *output.size), dtype=dtype, device=image.device)

    def _fill(self, result: Tensor, image: Tensor, network: nn.Module, plan: MemoryPlan) -> None:
        """Write what the plan, or one tile of it, answers for."""

        def read(start: int, stop: int) -> Tensor:
            return image.narrow(2 + plan.axis, start, stop - start)

        dims = image.ndim - 2
        behind = result.ndim - dims
        passage = _Passage(network, tuple(image.shape), plan, SHORT_PRECISIONS[self.precision])
        target = result
        for axis, (start, stop) in enumerate(plan.tile.own if plan.tile else ()):
            if axis != plan.axis:
                target = target.narrow(behind + axis, start, stop - start)
        for start, slab in passage.slabs(read):
            piece = passage.own(slab)
            if self.reduce == "argmax":
                piece = torch.stack([best_class(scores)[None] for scores in piece])
            length = piece.shape[behind + plan.axis]
            target.narrow(behind + plan.axis, start, length).copy_(piece)
            del slab, piece  # they need not wait for the next


@dataclass
class _Passage:
    """One way through a volume or one of its tiles, between axes in natural order and the stream's.

    Attributes:
        network: The network.
        shape: Of the whole image.
        plan: Of the way; without tiles, or for one of them.
        dtype: What layers compute in.
    """

    network: nn.Module
    shape: tuple[int, ...]
    plan: MemoryPlan
    dtype: torch.dtype

    def slabs(self, read: Read) -> Iterator[tuple[int, Tensor]]:
        """First slice and slab of scores in natural order of axes, of the whole plane or of the tile's."""
        device = device_of(self.network, torch.device("cpu"))
        order = self._order

        def turned(start: int, stop: int) -> Tensor:
            piece = read(start, stop)
            if self.plan.tile is not None:
                piece = self._cut(piece, 2, self.plan.tile.reads)
            return _channels_last(_moved(piece, device).permute(0, 1, *(2 + axis for axis in order)))

        back = [order.index(axis) for axis in range(len(order))]
        for start, slab in self._stream(order).slabs(turned, device):
            behind = slab.ndim - len(order)
            natural = slab.permute(*range(behind), *(behind + axis for axis in back))
            yield start, self._given(natural)
            del slab, natural

    def own(self, slab: Tensor) -> Tensor:
        """What the tile alone answers for, of what :meth:`slabs` gives."""
        tile = self.plan.tile
        if tile is None:
            return slab
        inner = tuple(
            (mine[0] - all_[0], mine[1] - all_[0]) for mine, all_ in zip(tile.own, tile.scores, strict=True)
        )
        return self._cut(slab, slab.ndim - len(inner), inner)

    @property
    def _order(self) -> tuple[int, ...]:
        """Spatial axes as the stream has them, the streaming axis first."""
        axis = self.plan.axis
        return (axis, *(other for other in range(len(self.shape) - 2) if other != axis))

    def _stream(self, order: tuple[int, ...]) -> Stream:
        shape = self.shape
        if self.plan.tile is not None:
            shape = (*shape[:2], *(stop - start for start, stop in self.plan.tile.reads))
        network = simplified(self.network, shape)
        half_tails = bool(self.plan.details["half_tails"])
        schedule = schedule_of(network.graph, self.plan.axis, self.plan.slab, half_tails=half_tails)
        return Stream(network, schedule, order, self.dtype)

    def _given(self, scores: Tensor) -> Tensor:
        """Of a tile's scores those that are as the whole's."""
        tile = self.plan.tile
        if tile is None:
            return scores
        graph = local_graph(self.network, self.shape)
        scales = (graph.scales(axis)[graph.outputs[0]] for axis in range(len(tile.reads)))
        starts = [int(reads[0] / scale) for reads, scale in zip(tile.reads, scales, strict=True)]
        inner = tuple(
            (first - start, last - start) for (first, last), start in zip(tile.scores, starts, strict=True)
        )
        return self._cut(scores, scores.ndim - len(inner), inner)

    def _cut(self, tensor: Tensor, behind: int, box: Box) -> Tensor:
        """A box of the plane; along the streaming axis all that there is."""
        for axis, (start, stop) in enumerate(box):
            if axis != self.plan.axis:
                tensor = tensor.narrow(behind + axis, start, stop - start)
        return tensor


def _moved(piece: Tensor, device: torch.device) -> Tensor:
    """The slices where the network lies; copied from pinned memory while the device still computes."""
    plain = piece.as_tensor() if isinstance(piece, MetaTensor) else piece
    if device.type == "cuda" and plain.device.type == "cpu":
        return plain.contiguous().pin_memory().to(device, non_blocking=True)
    return plain.to(device)


def _channels_last(images: Tensor) -> Tensor:
    layout = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
    return images.contiguous(memory_format=layout)


def _in_single_precision(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype.is_floating_point else scores


def _scores_type(image: torch.dtype) -> torch.dtype:
    return image if image.is_floating_point else torch.float32


def _require_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        known = [choice for choice in choices if choice is not None]
        raise ConfigError(f"unknown {name} {value!r}", where=name, fix=did_you_mean(str(value), known))


def _require_positive(name: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{value!r} is no positive whole number", where=name, fix="give 1 or more")
