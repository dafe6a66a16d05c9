"""Where a network computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from medseg.errors import ConfigError, ResourceError, did_you_mean

__all__ = ["PRECISIONS", "SHORT_PRECISIONS", "Compute", "choose_compute", "short_name"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What a network may compute in, by name; ``"auto"`` chooses."""

SHORT_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The same, as ``StreamingInferer`` calls them."""


@dataclass(frozen=True)
class Compute:
    """A device and a precision.

    Attributes:
        device: Where tensors lie.
        dtype: ``torch.float32``, or ``torch.bfloat16`` for convolutions and products (mixed precision).
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which a network runs in this precision."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def choose_compute(device: str = "auto", precision: str = "float32") -> Compute:
    """Choose device and precision.

    Args:
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``. Auto takes bfloat16 where the hardware
            computes in it: there it is faster, elsewhere it is emulated and slower.

    Raises:
        ConfigError: No such device or precision is known.
        ResourceError: The device is not there.

    Example:
        >>> choose_compute("cpu", "float32")
        Compute(device=device(type='cpu'), dtype=torch.float32)
    """
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in {"cpu", "cuda"} or (number and not number.isdigit()):
        raise ConfigError(f"unknown device '{device}'", where="--device", fix="use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ResourceError(f"there is no device '{device}'", where="--device", fix="use --device cpu")
    if precision == "auto":
        precision = "bfloat16" if _computes_in_bfloat16(kind) else "float32"
    if precision not in PRECISIONS:
        choices = ("auto", *PRECISIONS)
        raise ConfigError(
            f"unknown precision '{precision}'", where="--precision", fix=did_you_mean(precision, choices)
        )
    place = f"{kind}:{number}" if kind == "cuda" and number else kind
    return Compute(torch.device(place), PRECISIONS[precision])


def short_name(dtype: torch.dtype) -> str:
    """The name of a precision among :data:`SHORT_PRECISIONS`.

    Example:
        >>> short_name(torch.bfloat16)
        'bf16'
    """
    return next(name for name, known in SHORT_PRECISIONS.items() if known == dtype)


def _computes_in_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
