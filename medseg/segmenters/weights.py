"""Weights from files: tensors and nothing else; nothing in a file is executed."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from medseg.errors import BundleError, explain_os_errors

__all__ = ["load_all_weights", "named_like", "read_any_weights", "read_checkpoint", "read_weights"]

RETRAIN = "copy the run again, or train it anew"
_HOLDERS = ("state_dict", "model_state_dict", "network_weights", "model", "network", "net", "weights")
"""Where checkpoints with more in them than weights keep those."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What wrappers write before a network's own names: data parallelism, compilation, Lightning modules."""
_DEEPEST_WRAPPING = 4
# Whatever bytes a damaged file holds, PyTorch's reader fails in one of these ways.
_UNREADABLE = (
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    OSError,
    AttributeError,
    TypeError,
    pickle.UnpicklingError,
)
_REFUSED = {
    "unsupported global": "holds more than weights, which loading would execute",
    "torchscript": "holds a program (TorchScript), not weights alone",
}
"""Words of PyTorch's messages where a file asks for more than tensors, numbers and names."""


def load_all_weights(
    network: nn.Module,
    stored: Mapping[str, Tensor],
    where: str | Path,
    *,
    of: str = "plan",
    fix: str = RETRAIN,
) -> None:
    """Load weights into the network that they are of: all of them, and no other.

    Args:
        network: As its plan or configuration has it.
        stored: Its weights.
        where: What they are called in errors.
        of: What the network was made by.
        fix: What helps where they do not fit.

    Raises:
        BundleError: They do not fit, or one is NaN or infinite; the error names the first such tensor.
    """
    expected = network.state_dict()
    problem = None
    if missing := sorted(expected.keys() - stored.keys()):
        problem = f"'{missing[0]}' is missing"
    elif extra := sorted(stored.keys() - expected.keys()):
        problem = f"'{extra[0]}' belongs to another network"
    elif other := [name for name, tensor in expected.items() if stored[name].shape != tensor.shape]:
        have, need = tuple(stored[other[0]].shape), tuple(expected[other[0]].shape)
        problem = f"'{other[0]}' has shape {have} instead of {need}"
    elif broken := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        problem = f"'{broken[0]}' is NaN or infinite"
    if problem is not None:
        raise BundleError(f"the weights do not fit the {of}: {problem}", where=where, fix=fix)
    network.load_state_dict(stored)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read what a training wrote into ``last.pt`` or ``best.pt``.

    Raises:
        BundleError: There is no such file, it is damaged, or it holds something other than weights.
    """
    stored = read_checkpoint(path)
    if not isinstance(stored, dict) or not _are_weights(stored):
        raise BundleError("holds something other than weights", where=path, fix=RETRAIN)
    return cast(dict[str, Tensor], stored)


def read_any_weights(path: Path) -> dict[str, Tensor]:
    """A network's weights from a file that may hold more, such as an optimiser's state.

    Raises:
        BundleError: The file is damaged or holds no weights.
    """
    content = read_checkpoint(path)
    candidates = [content]
    if isinstance(content, dict):
        candidates += [content[key] for key in _HOLDERS if key in content]
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and _are_weights(candidate):
            return dict(candidate)
    raise BundleError(
        "holds no network's weights",
        where=path,
        fix="save network.state_dict() with torch.save, and give that",
    )


def named_like(wanted: Mapping[str, Tensor], stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """``stored`` without as many of its wrappers' prefixes as make most names known."""
    best = stored
    for _ in range(_DEEPEST_WRAPPING):
        stored = {_without_prefix(name): tensor for name, tensor in stored.items()}
        if len(stored.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best = stored
    return best


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)


def read_checkpoint(path: Path, also: list[Any] | None = None) -> Any:
    """Read tensors, numbers and names, however arranged; nothing in the file is executed.

    Args:
        path: The file.
        also: Types that it may hold beside.

    Raises:
        BundleError: There is no such file, or it is damaged or holds something else.
    """
    if not path.is_file():
        raise BundleError(
            "has no such weights", where=path, fix="choose --checkpoint last or best, or another fold"
        )
    with explain_os_errors(path):
        content = io.BytesIO(path.read_bytes())
    with (
        _explain_damage(path),
        warnings.catch_warnings(action="ignore"),
        torch.serialization.safe_globals(also or []),
    ):
        return torch.load(content, map_location="cpu", weights_only=True)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        told = str(error).casefold()
        for words, what in _REFUSED.items():
            if words in told:
                fix = "where you trust it, load it and save network.state_dict() alone"
                raise BundleError(what, where=path, fix=fix) from error
        raise BundleError("the weights are damaged", where=path, fix=RETRAIN) from error


def _are_weights(content: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
