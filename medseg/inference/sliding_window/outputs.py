"""Networks that give one tensor, several, or a dictionary of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from medseg.errors import ConfigError

__all__ = ["flatten", "pack"]


def flatten(made: Any) -> tuple[tuple[Hashable, ...] | None, tuple[Tensor, ...]]:
    """Keys in order if a network gives a dictionary, and its tensors.

    Raises:
        ConfigError: It gives something else.

    Example:
        >>> import torch
        >>> flatten({"b": torch.zeros(1), "a": torch.ones(1)})
        (('a', 'b'), (tensor([1.]), tensor([0.])))
    """
    keys = tuple(sorted(made)) if isinstance(made, Mapping) else None
    if keys is not None:
        tensors = tuple(made[key] for key in keys)
    else:
        tensors = tuple(made) if isinstance(made, Sequence) else (made,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise ConfigError(
            f"the network gives {type(made).__name__}: no tensor, no sequence and no dictionary of them",
            fix="wrap it in a function that gives its scores",
        )
    return keys, tensors


def pack(keys: tuple[Hashable, ...] | None, tensors: Sequence[Tensor]) -> Any:
    """Undo ``flatten``; a single tensor stands for a sequence of one."""
    if keys is not None:
        return dict(zip(keys, tensors, strict=True))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
