"""Options of networks, refused with "what is wrong; how to fix it" where they do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx

__all__ = ["check_images", "choice", "is_symbolic", "per_axis", "positive", "probability"]


def choice(value: object, choices: Sequence[str], option: str) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: It is not; the message suggests the nearest.

    Example:
        >>> choice("same", ("same", "valid"), "padding")
        'same'
        >>> choice("vaild", ("same", "valid"), "padding")
        Traceback (most recent call last):
        ValueError: padding='vaild' is unknown; did you mean 'valid'?
    """
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
    fix = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(choices))}"
    raise ValueError(f"{option}={value!r} is unknown; {fix}")


def positive(value: object, option: str) -> int:
    """Return ``value`` if it is a whole number of at least one.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"{option}={value!r} is not a positive whole number; give 1 or more")


def probability(value: object, option: str) -> float:
    """Return ``value`` if it is a probability below one.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < 1.0:
        return float(value)
    raise ValueError(f"{option}={value!r} is no probability; give 0 or more, below 1")


def per_axis(value: int | Sequence[int], spatial_dims: int, option: str) -> tuple[int, ...]:
    """Spell a number out for every spatial axis.

    Args:
        value: One number for all axes, or one for each.
        spatial_dims: 2 or 3.
        option: The option's name, for the error.

    Raises:
        ValueError: A number is not positive, or there are not ``spatial_dims`` of them.

    Example:
        >>> per_axis(3, 3, "kernel_sizes")
        (3, 3, 3)
        >>> per_axis((3, 3, 1), 3, "kernel_sizes")
        (3, 3, 1)
    """
    numbers: Iterable[object] = value if isinstance(value, Sequence) else (value,) * spatial_dims
    axes = tuple(positive(number, option) for number in numbers)
    if len(axes) != spatial_dims:
        raise ValueError(
            f"{option} has {len(axes)} numbers {axes} for {spatial_dims} axes; "
            f"give one number, or {spatial_dims}"
        )
    return axes


def is_symbolic(images: object) -> bool:
    """Whether a graph is being drawn, by ``torch.fx`` or ``torch.jit.trace``, and sizes are but symbols.

    What is captured must not depend on them, so that checks of sizes stand aside.
    """
    return isinstance(images, fx.Proxy) or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def check_images(images: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Refuse what is not a batch of images, before a layer fails with a message of its own.

    Args:
        images: Shape (B, C, X, Y) or (B, C, X, Y, Z).
        spatial_dims: 2 or 3.
        in_channels: The C that the network takes.

    Raises:
        ValueError: The number of axes or channels is wrong, or an axis is empty.
    """
    shape = tuple(images.shape)
    axes = "XYZ"[:spatial_dims]
    if len(shape) != spatial_dims + 2:
        raise ValueError(
            f"the input has shape {shape}, the network takes (B, C, {', '.join(axes)}); "
            f"add or drop axes to make it {spatial_dims + 2}"
        )
    if shape[1] != in_channels:
        raise ValueError(
            f"the input has {shape[1]} channels, the network takes {in_channels}; "
            f"build it with in_channels={shape[1]}"
        )
    for axis, size in zip(axes, shape[2:], strict=True):
        if size < 1:
            raise ValueError(f"the input's axis {axis} is empty, shape {shape}; give at least one voxel")
