"""What a bundle's metadata say of its network, held against the network itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from medseg.errors import BundleError, ConfigError
from medseg.networks import build_network
from medseg.runs import Plan
from medseg.runs.bundle import BundleFolder, channel_names

__all__ = ["NetworkFormat", "network_format", "require_network_as_told", "require_true_metadata"]

_FIX = "do not trust the bundle, or correct its configs/metadata.json"
_MOST_CHANNELS = 65_536


@dataclass(frozen=True)
class NetworkFormat:
    """``network_data_format`` of the metadata, as far as it is numbers.

    Attributes:
        channels: Of the image.
        classes: Channels of the prediction.
        input_shape: Voxels per axis of an image; ``None`` where it is told by a rule, as ``"16*n"``.
        output_shape: Of the prediction to it; ``None`` likewise.
        channel_names: Of the image, where each is named.
        class_names: Of the prediction, where each is named.
    """

    channels: int
    classes: int
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    channel_names: tuple[str, ...] | None
    class_names: tuple[str, ...] | None


def require_true_metadata(bundle: BundleFolder, plan: Plan) -> None:
    """Refuse a bundle of medseg's whose metadata contradict its plan or its network; without metadata, pass.

    Raises:
        BundleError: They do; the error names what they say and what is.
    """
    metadata = bundle.metadata()
    if metadata is None:
        return
    told = network_format(metadata, bundle.name)
    for what, says, is_so in (
        ("channels of the image", told.channels, len(plan.channel_names)),
        ("classes", told.classes, len(plan.labels)),
    ):
        if says != is_so:
            raise BundleError(
                f"metadata.json tells of {says} {what}, the plan of {is_so}", where=bundle.name, fix=_FIX
            )
    try:
        with torch.device("meta"):
            network = build_network(plan.network.name, **plan.network.options)
    except ConfigError as error:
        raise BundleError(
            f"the plan's network cannot be built: {error.what}", where=bundle.name, fix=error.fix
        ) from error
    require_network_as_told(network, told, bundle.name)


def network_format(metadata: dict[str, Any], where: str) -> NetworkFormat:
    """Read ``network_data_format``.

    Raises:
        BundleError: It is not there, or contradicts itself.
    """
    image, pred = (_tensor(metadata, side, name, where) for side, name in _TENSORS)
    names = [channel_names(metadata, side, name) for side, name in _TENSORS]
    for entry, described, (side, _) in zip((image, pred), names, _TENSORS, strict=True):
        if described is not None and len(described) != entry[0]:
            raise BundleError(
                f"metadata.json counts {entry[0]} channels of the {side} and names {len(described)}",
                where=where,
                fix=_FIX,
            )
    named_channels, named_classes = (None if found is None else tuple(found.values()) for found in names)
    return NetworkFormat(image[0], pred[0], image[1], pred[1], named_channels, named_classes)


def require_network_as_told(network: nn.Module, told: NetworkFormat, where: str) -> None:
    """Prove that a network takes and gives what the metadata say; nothing is computed.

    Args:
        network: On the meta device, where tensors have shapes and no content.
        told: What the metadata say.
        where: What the bundle is called in errors.

    Raises:
        BundleError: It does not.
    """
    if told.input_shape is None:
        return
    shape = (1, told.channels, *told.input_shape)
    try:
        with torch.no_grad():
            given = network.eval()(torch.empty(shape, device="meta"))
    except NotImplementedError:  # an operation that has no shape without content: nothing can be told
        return
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BundleError(
            f"metadata.json tells of an input {shape}, which the network does not take ({reason})",
            where=where,
            fix=_FIX,
        ) from error
    scores: Any = given[0] if isinstance(given, list | tuple) and given else given
    if not isinstance(scores, Tensor):
        return
    claimed = (1, told.classes, *(told.output_shape or scores.shape[2:]))
    if tuple(scores.shape) != claimed:
        raise BundleError(
            f"metadata.json tells of an output {claimed}, the network gives {tuple(scores.shape)}",
            where=where,
            fix=_FIX,
        )


_TENSORS = (("inputs", "image"), ("outputs", "pred"))


def _tensor(metadata: dict[str, Any], side: str, name: str, where: str) -> tuple[int, tuple[int, ...] | None]:
    """Number of channels and spatial shape of one tensor."""
    found: Any = metadata
    for key in ("network_data_format", side, name):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise BundleError(
            f"metadata.json does not tell of network_data_format {side} {name}",
            where=where,
            fix="add it, as MONAI's bundle specification has it",
        )
    channels, shape = found.get("num_channels"), found.get("spatial_shape")
    if not _is_count(channels) or channels > _MOST_CHANNELS:
        raise BundleError(
            f"metadata.json tells of {channels!r} channels of the {side}", where=where, fix=_FIX
        )
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        return channels, None
    if len(shape) not in (2, 3) or math.prod(shape) > 2**40:
        raise BundleError(f"metadata.json tells of the impossible shape {shape}", where=where, fix=_FIX)
    return channels, tuple(shape)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
