"""MONAI's sliding window, its class scores reduced slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import monai.inferers
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.utils import optional_import
from torch import Tensor, nn

from medseg.errors import ConfigError, did_you_mean
from medseg.inference.restore import best_class
from medseg.inference.slabs import MemoryPlan, Read
from medseg.inference.sliding_window.blend import Blend, FinishedSlab
from medseg.inference.sliding_window.layout import Layout, Visit
from medseg.inference.sliding_window.memory import Pass, plan_pass
from medseg.inference.sliding_window.outputs import pack
from medseg.inference.sliding_window.show import Show
from medseg.inference.sliding_window.windows import SlicesAtHand, pad, window_of

__all__ = ["SlidingWindowInferer"]

_MODES = ("gaussian", "constant")
_PADDING_MODES = ("constant", "reflect", "replicate", "circular")

tqdm, _ = optional_import("tqdm", name="tqdm")


class SlidingWindowInferer(monai.inferers.SlidingWindowInferer):  # type: ignore[misc]
    """MONAI's sliding window with medseg's defaults: overlapping by half, blended by a Gaussian.

    Windows come in layers along one axis. What no later layer touches is finished at once, so that with
    ``reduce="argmax"``, and through ``slabs``, class scores exist for one layer only.

    An image smaller than the window is padded with zeros, the mean of normalised intensities; the result
    has the size of the image. Whatever precision the network computes in, windows are added up in that of
    the image.

    Args:
        roi_size: Size of the window in voxels; along axes where it is 0 or -1, the whole image.
        sw_batch_size: Windows that the network sees at a time.
        overlap: Of neighbouring windows, as a part of their size; one for all axes, or one for each.
        mode: Weight of a window's voxels: ``"gaussian"`` favours its centre, ``"constant"`` none.
        reduce: ``None`` gives scores, ``"argmax"`` the index of the best class at each voxel.
        axis: Spatial axis along which windows come in layers; ``"auto"`` takes the one whose layers are the
            smallest part of the image.
        max_ram_bytes: Memory that may be taken; fewer windows are shown at a time to keep to it.
        **options: As for MONAI's: ``sigma_scale``, ``padding_mode``, ``cval``, ``sw_device``, ``device``,
            ``cache_roi_weight_map``, ``cpu_thresh``, ``with_coord``, ``progress``. ``buffer_steps`` and
            ``buffer_dim`` are taken and change nothing: sums are always as small as they can be.

    Raises:
        ConfigError: An argument is out of range.

    Example:
        >>> inferer = SlidingWindowInferer((4, 4, 4))
        >>> inferer(torch.ones(1, 1, 9, 3, 5), lambda window: 2 * window).shape
        torch.Size([1, 1, 9, 3, 5])
        >>> inferer = SlidingWindowInferer((4, 4), reduce="argmax")
        >>> inferer(torch.ones(1, 1, 5, 6), lambda window: torch.cat([window, 2 * window], 1)).unique()
        tensor([1], dtype=torch.uint8)
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: float | Sequence[float] = 0.5,
        mode: str = "gaussian",
        *args: Any,
        reduce: str | None = None,
        axis: int | str = "auto",
        max_ram_bytes: int | None = None,
        **options: Any,
    ) -> None:
        _require("mode", str(mode), _MODES)
        if reduce not in (None, "argmax"):
            raise ConfigError(f"unknown reduction '{reduce}'", where="reduce", fix="use None or 'argmax'")
        if axis != "auto" and not isinstance(axis, int):
            raise ConfigError(f"unknown axis '{axis}'", where="axis", fix="use 'auto' or a number from 0")
        if sw_batch_size < 1:
            raise ConfigError(
                f"{sw_batch_size} windows at a time", where="sw_batch_size", fix="give 1 or more"
            )
        super().__init__(roi_size, sw_batch_size, overlap, mode, *args, **options)
        _require("padding_mode", str(self.padding_mode), _PADDING_MODES)
        self.reduce = reduce
        self.axis = axis
        self.max_ram_bytes = max_ram_bytes

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,
        process_fn: Callable[..., Any] | None = None,
        roi_weight_map: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run ``network`` over images.

        Args:
            inputs: Shape (B, C, X, Y[, Z]) of floating point; a MetaTensor comes back as one.
            network: From (N, C, *roi_size) to (N, K, *roi_size), or several such, in a sequence or a
                dictionary, which may be of other scales. With ``with_coord`` it is also given where the
                windows lie, for each of them slices of the padded (B, C, X, Y[, Z]).
            *args: Passed on to ``network``.
            process_fn: Called with the outputs, the windows and the weights (X, Y[, Z]); gives new outputs
                and weights.
            roi_weight_map: Weights of a window's voxels in place of those of ``mode``.
            **kwargs: Passed on to ``network``. ``condition``, of the inputs' shape, is cut into windows like
                them; ``device`` stands in for that of the inferer.

        Returns:
            Shape (B, K, X, Y[, Z]) in the inputs' type; with ``reduce="argmax"`` (B, 1, X, Y[, Z]), 8 bit
            for up to 256 classes. As many as the network gives, packed likewise.

        Raises:
            ConfigError: Window, image and what the network makes of them do not fit.
            ResourceError: The memory limit does not suffice.
        """
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        shape = tuple(plain.shape)
        layout = self._layout(shape, plain.dtype)
        # What process_fn does may hang on the order of windows, which MONAI lays along the first axis.
        axis = 0 if process_fn is not None else self._axis_of(layout)
        where = self._where_sums_lie(plain, kwargs.pop("device", self.device))
        for name in ("buffer_steps", "buffer_dim"):
            kwargs.pop(name, None)
        blend = Blend(layout, axis, len(plain), keep_all=self.reduce is None, dtype=plain.dtype, device=where)
        condition = kwargs.pop("condition", None)
        show = Show(
            network,
            self._cutter(plain, layout),
            layout.window,
            self._weights(layout, plain, roi_weight_map),
            torch.device(self.sw_device or plain.device),
            with_coord=self.with_coord,
            cut_condition=None if condition is None else self._cutter(_like(condition, plain), layout),
            process_fn=process_fn,
            args=args,
            kwargs=kwargs,
        )
        visits = [replace(visit, image=image) for image in range(len(plain)) for visit in layout.visits(axis)]
        count = self._windows_at_a_time(network, shape)
        # Labels have no gradients, and sums that wait for them would hold every window's activations.
        with nullcontext() if self.reduce is None else torch.no_grad():
            results = self._results(self._passed(visits, count, show, blend), blend, axis, len(plain))
        return pack(blend.keys, [_with_meta(result, inputs) for result in results])

    def plan(self, network: nn.Module, shape: tuple[int, ...], *, result: bool = False) -> MemoryPlan:
        """How windows go through an image, and what memory that takes; see ``SlabInferer``.

        Args:
            network: From windows to scores.
            shape: Of the image, (B, C, X, Y[, Z]).
            result: Count what the call takes for an image in single precision, instead of :meth:`slabs`.

        Raises:
            ConfigError: The windows do not fit the image.
            ResourceError: The memory limit does not suffice; the error names the least that would do.
        """
        layout = self._layout(shape)
        passing = Pass(layout, self._axis_of(layout), shape, self.reduce, whole_images=result)
        return plan_pass(network, passing, self.sw_batch_size, self.max_ram_bytes)

    def slabs(
        self, read: Read, network: nn.Module, shape: tuple[int, ...], plan: MemoryPlan
    ) -> Iterator[tuple[int, Tensor]]:
        """Scores of images that are read forwards; see ``SlabInferer.slabs``.

        Windows are laid, weighted and added up as ``__call__`` does it. The network works where its weights
        lie, unless ``sw_device`` says otherwise, and slabs come from ``device``, or else from there.

        Raises:
            ConfigError: The network gives several outputs.
        """
        layout, axis = self._layout(shape), plan.axis
        slices = SlicesAtHand(read, layout, axis, str(self.padding_mode), self.cval)
        visits = [replace(visit, image=image) for visit in layout.visits(axis) for image in range(shape[0])]
        first = slices.window(0, visits[0].corner)
        self._layout(shape, first.dtype)
        home = torch.device(self.sw_device or next((p.device for p in network.parameters()), first.device))
        where = torch.device(self.device or home)
        blend = Blend(layout, axis, shape[0], keep_all=False, dtype=first.dtype, device=where)
        show = Show(
            network,
            lambda visit: slices.window(visit.image, visit.corner),
            layout.window,
            self._weights(layout, first.to(home), None),
            home,
            with_coord=self.with_coord,
        )
        waiting: dict[int, list[Tensor]] = {}
        for slab in self._passed(visits, plan.details["windows_at_a_time"], show, blend, gradients=False):
            if slab.output > 0:
                raise ConfigError(
                    "the network gives several outputs, of which slabs of scores can be made of one only",
                    fix="wrap it in a module that gives its scores",
                )
            images = waiting.setdefault(slab.start, [])
            images.append(slab.scores)
            if len(images) == shape[0]:
                del waiting[slab.start]
                yield slab.start, images[0][None] if shape[0] == 1 else torch.stack(images)

    def _layout(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Layout:
        if len(shape) not in (3, 4, 5):
            raise ConfigError(f"{shape} is no batch of images", where="inputs", fix="give (B, C, X, Y[, Z])")
        if not dtype.is_floating_point:
            raise ConfigError(
                f"scores cannot be blended in {dtype}, the image's type",
                where="inputs",
                fix="convert the image to floating point",
            )
        return Layout.of(shape[2:], self.roi_size, self.overlap)

    def _axis_of(self, layout: Layout) -> int:
        if self.axis == "auto":
            return layout.thinnest_axis()
        axis = int(self.axis)
        if not 0 <= axis < len(layout.image):
            raise ConfigError(
                f"there is no axis {axis}", where="axis", fix=f"use 'auto' or 0 to {len(layout.image) - 1}"
            )
        return axis

    def _where_sums_lie(self, inputs: Tensor, device: torch.device | str | None) -> torch.device:
        large = self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh
        return torch.device(device or ("cpu" if large else inputs.device))

    def _cutter(self, images: Tensor, layout: Layout) -> Callable[[Visit], Tensor]:
        padded = pad(images, layout.padding, str(self.padding_mode), self.cval)
        return lambda visit: window_of(padded, visit.image, visit.corner, layout.window)

    def _weights(self, layout: Layout, like: Tensor, given: Tensor | None) -> Tensor:
        device = torch.device(self.sw_device or like.device)
        weights = self.roi_weight_map if given is None else given
        if weights is None:
            weights = compute_importance_map(
                layout.window, mode=self.mode, sigma_scale=self.sigma_scale, device=device
            )
        return torch.as_tensor(weights).to(device, like.dtype)

    def _windows_at_a_time(self, network: Callable[..., Any], shape: tuple[int, ...]) -> int:
        if self.max_ram_bytes is None:
            return int(self.sw_batch_size)
        if not isinstance(network, nn.Module):
            raise ConfigError(
                "what a function allocates cannot be foreseen",
                where="max_ram_bytes",
                fix="give the network itself, or no limit",
            )
        return int(self.plan(network, shape, result=True).details["windows_at_a_time"])

    def _passed(
        self, visits: Sequence[Visit], count: int, show: Show, blend: Blend, *, gradients: bool = True
    ) -> Iterator[FinishedSlab]:
        """Show all windows, ``count`` at a time."""
        batches: Any = range(0, len(visits), count)
        for first in tqdm(batches) if self.progress else batches:
            batch = visits[first : first + count]
            with nullcontext() if gradients else torch.no_grad():
                shown = show(batch)
            finished = blend.add(batch, *shown)
            del shown  # else it would live on beside the next windows' activations
            yield from finished

    def _results(
        self, finished: Iterator[FinishedSlab], blend: Blend, axis: int, images: int
    ) -> list[Tensor]:
        labels: dict[int, Tensor] = {}
        for slab in finished:
            if self.reduce is None:
                continue
            classes = best_class(slab.scores)
            if slab.output not in labels:
                size = (images, 1, *blend.outputs[slab.output].grid.image)
                labels[slab.output] = torch.empty(size, dtype=classes.dtype, device=classes.device)
            thickness = classes.shape[axis]
            labels[slab.output][slab.image, 0].narrow(axis, slab.start, thickness).copy_(classes)
        if self.reduce is None:
            return [output.scores() for output in blend.outputs]
        return [labels[index] for index in range(len(blend.outputs))]


def _require(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} '{value}'", where=name, fix=did_you_mean(value, known))


def _like(condition: Tensor, inputs: Tensor) -> Tensor:
    if condition.shape != inputs.shape:
        raise ConfigError(
            f"has the shape {tuple(condition.shape)}, the inputs {tuple(inputs.shape)}",
            where="condition",
            fix="give one of the inputs' shape",
        )
    return condition.as_tensor() if isinstance(condition, MetaTensor) else condition


def _with_meta(result: Tensor, inputs: Tensor) -> Tensor:
    """What lies on the image's grid is described by what describes the image; other scales are not."""
    if not isinstance(inputs, MetaTensor) or result.shape[2:] != inputs.shape[2:]:
        return result
    described: Tensor = MetaTensor(result).copy_meta_from(inputs)
    return described
