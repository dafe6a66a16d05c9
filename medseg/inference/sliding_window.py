"""Networks that see a window at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import monai.inferers
import torch
from monai.data import MetaTensor

__all__ = ["SlidingWindowInferer"]


class SlidingWindowInferer(monai.inferers.SlidingWindowInferer):  # type: ignore[misc]
    """MONAI's sliding window with medseg's defaults: overlapping by half, blended by a Gaussian.

    An image smaller than the window is padded with zeros, the mean of normalised intensities; the result
    has the size of the image. Whatever precision the network computes in, windows are added up in that of
    the image.

    Args:
        roi_size: Size of the window in voxels.
        sw_batch_size: Windows that the network sees at a time.
        overlap: Of neighbouring windows, as a part of their size.
        mode: Weight of a window's voxels: ``"gaussian"`` favours its centre, ``"constant"`` none.
        **options: As for MONAI's.

    Example:
        >>> inferer = SlidingWindowInferer((4, 4, 4))
        >>> inferer(torch.ones(1, 1, 9, 3, 5), lambda window: 2 * window).unique()
        tensor([2.])
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: float | Sequence[float] = 0.5,
        mode: str = "gaussian",
        **options: Any,
    ) -> None:
        super().__init__(roi_size, sw_batch_size=sw_batch_size, overlap=overlap, mode=mode, **options)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Run ``network`` over an image.

        Args:
            inputs: Shape (B, C, X, Y, Z); a MetaTensor comes back as one.
            network: From (N, C, *roi_size) to (N, K, *roi_size).
            *args: Passed on to ``network``.
            **kwargs: As for MONAI's.

        Returns:
            Shape (B, K, X, Y, Z).
        """
        # Every operation on a MetaTensor copies its history; windows need none of it.
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs

        def in_the_images_precision(windows: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
            # MONAI rounds the blending weights to the precision of the network's output.
            return network(windows, *more, **named).to(plain.dtype)

        outputs = cast(torch.Tensor, super().__call__(plain, in_the_images_precision, *args, **kwargs))
        if isinstance(inputs, MetaTensor):
            return cast(torch.Tensor, MetaTensor(outputs).copy_meta_from(inputs))
        return outputs
