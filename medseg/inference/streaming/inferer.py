"""A whole volume through a network in slabs, as a MONAI inferer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import monai.inferers
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError
from medseg.inference.restore import best_class
from medseg.inference.streaming.engine import Stream
from medseg.inference.streaming.memory import measure_schedule
from medseg.inference.streaming.schedule import Schedule, make_schedule
from medseg.inference.streaming.simplify import simplify
from medseg.network_graph import Graph, capture

__all__ = ["StreamingInferer"]

_THICKNESS = 16
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class StreamingInferer(monai.inferers.Inferer):  # type: ignore[misc]
    """What one pass of the network over the whole volume would give, computed slab by slab.

    Args:
        axis: Spatial axis along which the volume is streamed; ``"auto"`` takes the one that needs the
            least memory.
        slab: Slices of the output a step.
        reduce: ``"argmax"`` gives labels (B, 1, X, Y, Z) instead of scores.
        precision: ``"fp32"`` or ``"bf16"``.
    """

    def __init__(
        self,
        axis: int | str = "auto",
        slab: int | None = None,
        reduce: str | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.axis = axis
        self.slab = slab
        self.reduce = reduce
        self.dtype = _PRECISIONS[precision]

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run ``network`` over an image.

        Args:
            inputs: Shape (B, C, X, Y[, Z]); a MetaTensor comes back as one.
            network: In evaluation mode or not, it is evaluated.
            *args: None are taken.
            **kwargs: None are taken.

        Raises:
            ConfigError: A layer cannot be streamed; the error names it.
        """
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        graph = capture(network, plain.shape)
        _require_local(graph)
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        with torch.inference_mode():
            simplified = simplify(graph, {name: value.detach() for name, value in tensors.items()})
            schedule = self._schedule(simplified.graph)
            order = (schedule.axis, *(a for a in range(graph.spatial_dims) if a != schedule.axis))
            stream = Stream(simplified, schedule, order, self.dtype)
            result = self._run(plain, stream, schedule, order)
        if isinstance(inputs, MetaTensor):
            return cast(Tensor, MetaTensor(result).copy_meta_from(inputs))
        return result

    def _schedule(self, graph: Graph) -> Schedule:
        thickness = self.slab or _THICKNESS
        axes = range(graph.spatial_dims) if self.axis == "auto" else [int(self.axis)]
        schedules = [make_schedule(graph, axis, thickness) for axis in axes]
        return min(schedules, key=lambda schedule: measure_schedule(schedule).peak_bytes)

    def _run(self, inputs: Tensor, stream: Stream, schedule: Schedule, order: Sequence[int]) -> Tensor:
        output = schedule.graph.nodes[schedule.graph.outputs[0]]
        dims = len(order)
        turned = inputs.permute(0, 1, *(2 + axis for axis in order))
        layout = torch.channels_last if dims == 2 else torch.channels_last_3d
        leading = output.shape[:-dims]
        shape = (leading[0], 1, *output.size) if self.reduce == "argmax" else output.shape
        dtype = torch.uint8 if self.reduce == "argmax" and leading[1] <= 256 else output.dtype
        result = torch.empty(shape, dtype=dtype, device=inputs.device)
        behind = len(shape) - dims
        view = result.permute(*range(behind), *(behind + axis for axis in order))

        def read(start: int, stop: int) -> Tensor:
            return turned.narrow(2, start, stop - start).contiguous(memory_format=layout)

        for start, slab in stream.slabs(read, inputs.device):
            piece = slab
            if self.reduce == "argmax":
                piece = torch.stack([best_class(scores)[None] for scores in slab])
            view.narrow(behind, start, piece.shape[piece.ndim - dims]).copy_(piece)
        return result


def _require_local(graph: Graph) -> None:
    whole = graph.whole()
    if whole:
        raise ConfigError(
            f"layer '{whole[0].title}' ({whole[0].kind}) looks at the whole image, which a stream never holds",
            fix="run the network on sliding windows, or build it with norm='batch'",
        )
