"""The networks of models that others made or exported, to be looked at."""

from __future__ import annotations

import os

import torch
from torch import nn

from medseg.errors import BundleError, ConfigError
from medseg.networks import build_network
from medseg.runs.bundle import is_bundle
from medseg.runs.nnunet import NnunetFolder
from medseg.segmenters.bundles.configured import configured
from medseg.segmenters.bundles.metadata import network_format
from medseg.segmenters.bundles.opening import open_bundle
from medseg.segmenters.bundles.zoo import without_content
from medseg.segmenters.nnunet.segmenter import nnunet_parts

__all__ = ["foreign_network"]


def foreign_network(
    path: str | os.PathLike[str], *, trust: bool = False
) -> tuple[nn.Module, tuple[int, ...] | None] | None:
    """The network of a MONAI bundle or of a model of nnU-Net's, without its weights.

    Args:
        path: A bundle's folder or ``.zip``, or nnU-Net's folder with ``plans.json``.
        trust: Whether a bundle that was not made here may execute code of its own.

    Returns:
        The network on the meta device, and the size of image that it is meant for, where that is told;
        ``None`` if there is neither a bundle nor a model of nnU-Net's.

    Raises:
        BundleError: It is damaged, would execute code and is not trusted, or cannot be reproduced.
    """
    if NnunetFolder.is_one(path):
        model = NnunetFolder.open(path)
        with torch.device("meta"):
            parts = nnunet_parts(model, next(iter(model.checkpoints().values())))
        return parts.network, parts.configuration.patch_size
    if not is_bundle(path):
        return None
    bundle = open_bundle(path)
    if bundle.is_run:
        plan = bundle.plan()
        try:
            with torch.device("meta"):
                return build_network(plan.network.name, **plan.network.options), plan.patch_size
        except ConfigError as error:
            raise BundleError(error.what, where=bundle.name, fix=error.fix) from error
    network = without_content(configured(bundle, trust=trust).network)
    return network, network_format(bundle.metadata() or {}, bundle.name).input_shape
