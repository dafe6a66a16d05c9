"""Networks by name, in two and three dimensions.

Each is a plain ``torch.nn.Module`` made of plain keyword arguments, so that it can also be named by
``_target_`` in a MONAI bundle.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from medseg.errors import ConfigError, did_you_mean
from medseg.registry import NETWORKS

if TYPE_CHECKING:
    from torch import nn

    from medseg.networks.receptive_fields import halo, receptive_field
    from medseg.networks.summary import summarize

__all__ = [
    "build_configuration",
    "build_network",
    "configurations",
    "halo",
    "network_names",
    "receptive_field",
    "summarize",
]

# Imported when asked for: they need PyTorch, and listing names shall not.
_LATER = {
    "halo": "medseg.networks.receptive_fields",
    "receptive_field": "medseg.networks.receptive_fields",
    "summarize": "medseg.networks.summary",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_LATER[name]), name)


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
            scores (:class:`medseg.networks.blocks.WithContext`), with the kernel of its finest level;
            ``crf``, with options of :class:`medseg.networks.crf_rnn.CRFRNN` or none, puts a trainable CRF
            behind all of it.

    Returns:
        The network, initialised by torch's current random state.

    Raises:
        ConfigError: The name or an option is unknown, or a value is invalid.

    Example:
        >>> build_network("unet", spatial_dims=2, features=(8, 16), nrom=None)
        Traceback (most recent call last):
        medseg.errors.ConfigError: network 'unet': has no option 'nrom'; did you mean 'norm'?
    """
    crf = options.pop("crf", None)
    has_its_own = "context" in inspect.signature(NETWORKS.resolve(name)).parameters
    context = None if has_its_own else options.pop("context", None)
    network: nn.Module = NETWORKS.build(
        name, spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels, **options
    )
    if context is not None:
        network = _with_context(network, name, context, options)
    return network if crf is None else _with_crf(network, name, crf)


def _with_context(network: nn.Module, name: str, context: str, options: dict[str, Any]) -> nn.Module:
    from medseg.networks.blocks import WithContext  # late, so that names are known without torch

    finest = (options.get("kernel_sizes") or [options.get("kernel_size", 3)])[0]
    try:
        return WithContext(network, context, finest)
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        raise ConfigError(what, where=f"network '{name}'", fix=fix) from error


def _with_crf(network: nn.Module, name: str, options: Any) -> nn.Module:
    from medseg.networks.crf_rnn import CRFRNN, WithCRF  # late, so that names are known without torch

    where = f"network '{name}', crf"
    if not isinstance(options, dict):
        raise ConfigError(f"{options!r} are no options", where=where, fix="give keys and values, or {}")
    known = [option for option in inspect.signature(CRFRNN).parameters if option != "classes"]
    for option in options:
        if option not in known:
            raise ConfigError(f"has no option '{option}'", where=where, fix=did_you_mean(option, known))
    try:
        return WithCRF(network, **options)
    except (TypeError, ValueError) as error:
        what, _, fix = str(error).partition("; ")
        raise ConfigError(what, where=where, fix=fix or "check the options") from error


def configurations() -> dict[str, tuple[str, dict[str, Any]]]:
    """The papers' own configurations: name → (network's name, options).

    Each network's module lists them as ``CONFIGURATIONS``; all of them are imported.

    Example:
        >>> network, options = configurations()["unet_2015"]
        >>> network, options["features"]
        ('unet', (64, 128, 256, 512, 1024))
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for network in NETWORKS.names():
        module = importlib.import_module(NETWORKS.entry(network).target.partition(":")[0])
        for name, options in getattr(module, "CONFIGURATIONS", {}).items():
            found[name] = (network, dict(options))
    return dict(sorted(found.items()))


def build_configuration(name: str) -> nn.Module:
    """Make the network of a paper.

    Args:
        name: One of :func:`configurations`.

    Raises:
        ConfigError: The name is unknown.

    Example:
        >>> build_configuration("unet2015")
        Traceback (most recent call last):
        medseg.errors.ConfigError: unknown configuration 'unet2015'; did you mean 'unet_2015'?
    """
    known = configurations()
    if name not in known:
        raise ConfigError(f"unknown configuration '{name}'", fix=did_you_mean(name, known))
    network, options = known[name]
    return build_network(network, **options)
