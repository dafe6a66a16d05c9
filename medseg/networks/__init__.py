"""Networks by name, in two and three dimensions.

Each is a plain ``torch.nn.Module`` made of plain keyword arguments, so that it can also be named by
``_target_`` in a MONAI bundle.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from medseg.errors import ConfigError
from medseg.registry import NETWORKS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_network", "network_names"]


def network_names() -> tuple[str, ...]:
    """Names of all registered networks, sorted.

    Example:
        >>> "unet" in network_names()
        True
    """
    return NETWORKS.names()


def build_network(
    name: str, spatial_dims: int = 3, in_channels: int = 1, out_channels: int = 2, **options: Any
) -> nn.Module:
    """Make the network called ``name``.

    Args:
        name: One of :func:`network_names`.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes, background included.
        **options: What else the network takes, such as ``features``, ``norm`` or ``padding``. Every network
            takes ``context`` besides: ``"basic"`` or ``"large"`` puts a context module behind its class
            scores (:class:`medseg.networks.blocks.WithContext`), with the kernel of its finest level.

    Returns:
        The network, initialised by torch's current random state.

    Raises:
        ConfigError: The name or an option is unknown, or a value is invalid.

    Example:
        >>> build_network("unet", spatial_dims=2, features=(8, 16), nrom=None)
        Traceback (most recent call last):
        medseg.errors.ConfigError: network 'unet': has no option 'nrom'; did you mean 'norm'?
    """
    has_its_own = "context" in inspect.signature(NETWORKS.resolve(name)).parameters
    context = None if has_its_own else options.pop("context", None)
    network: nn.Module = NETWORKS.build(
        name, spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels, **options
    )
    return network if context is None else _with_context(network, name, context, options)


def _with_context(network: nn.Module, name: str, context: str, options: dict[str, Any]) -> nn.Module:
    from medseg.networks.blocks import WithContext  # late, so that names are known without torch

    finest = (options.get("kernel_sizes") or [options.get("kernel_size", 3)])[0]
    try:
        return WithContext(network, context, finest)
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        raise ConfigError(what, where=f"network '{name}'", fix=fix) from error
