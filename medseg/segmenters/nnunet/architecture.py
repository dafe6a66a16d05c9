"""The network of a plan of nnU-Net's, or why it is not built here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.errors import ConfigError
from medseg.networks.nnunet import NnunetBlocks, NnunetUNet
from medseg.runs.nnunet import Architecture

__all__ = ["build_nnunet"]

_COUNTS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
_ACTIVATIONS = {"LeakyReLU": "leaky_relu", "ReLU": "relu", "ELU": "elu", "GELU": "gelu", "SiLU": "silu"}
_KNOWN = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder",
    "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs",
    "nonlin_first", "deep_supervision", *_COUNTS.values(),
}  # fmt: skip
_FIX = "predict by nnU-Net itself"


def build_nnunet(architecture: Architecture, in_channels: int, out_channels: int) -> NnunetUNet:
    """The network that a plan describes.

    Args:
        architecture: Of the plan.
        in_channels: Of the image.
        out_channels: Classes.

    Raises:
        ConfigError: It is another network than nnU-Net's two U-Nets, or has a part that these have not.
    """
    name = architecture.network_class_name.rpartition(".")[2]
    options = {key: value for key, value in architecture.arch_kwargs.items() if value is not None}
    if name not in _COUNTS:
        raise ConfigError(f"has the network '{name}', which medseg has not", fix=_FIX)
    if unknown := sorted(options.keys() - _KNOWN):
        raise ConfigError(f"has a network with '{unknown[0]}', which medseg has not", fix=_FIX)
    dims = _dims(options)
    try:
        stages = int(options["n_stages"])
        blocks = NnunetBlocks(
            spatial_dims=dims,
            norm=_named(options, "norm_op", _NORMS, f"{dims}d"),
            norm_options=options.get("norm_op_kwargs", {}),
            activation=_named(options, "nonlin", _ACTIVATIONS, ""),
            activation_options=options.get("nonlin_kwargs", {}),
            bias=bool(options.get("conv_bias", False)),
            activation_first=bool(options.get("nonlin_first", False)),
        )
        return NnunetUNet(
            in_channels,
            out_channels,
            _each(options["features_per_stage"], stages),
            _each(options["kernel_sizes"], stages),
            _each(options["strides"], stages),
            _each(options[_COUNTS[name]], stages),
            _each(options["n_conv_per_stage_decoder"], stages - 1),
            residual=name == "ResidualEncoderUNet",
            blocks=blocks,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"describes no network ({reason})", fix="copy plans.json again") from error


def _dims(options: Mapping[str, Any]) -> int:
    operator = str(options.get("conv_op", ""))
    for dims in (2, 3):
        if operator.endswith(f".Conv{dims}d"):
            return dims
    raise ConfigError(f"has convolutions '{operator}', which medseg has not", fix=_FIX)


def _named(options: Mapping[str, Any], key: str, names: Mapping[str, str], suffix: str) -> str | None:
    """What medseg calls a class of PyTorch's, which is told by name and never looked up."""
    if key not in options:
        return None
    name = str(options[key]).rpartition(".")[2].removesuffix(suffix)
    if not str(options[key]).startswith("torch.nn.") or name not in names:
        raise ConfigError(f"has '{options[key]}' in its network, which medseg has not", fix=_FIX)
    return names[name]


def _each(value: Any, stages: int) -> list[Any]:
    found = [value] * stages if isinstance(value, int) else list(value)
    if len(found) != stages:
        raise ValueError(f"{len(found)} numbers for {stages} stages")
    return found
