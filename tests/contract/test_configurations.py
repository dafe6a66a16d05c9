"""The papers' own configurations, to the parameter."""

from __future__ import annotations

import pytest
import torch

from medseg.networks import build_configuration, configurations, network_names

PARAMETERS = {
    "deconvnet_vgg16": 251_788_949,
    "deeplab_largefov_vgg16": 20_505_429,
    "deeplab_v2_resnet101": 44_048_532,
    "deeplab_v2_vgg16": 37_877_652,
    "deeplab_v3_resnet101": 58_040_405,
    "deeplab_v3_resnet50": 39_048_277,
    "dilated_context_basic": 134_374_973,
    "dilated_context_large": 141_149_720,
    "dilated_frontend": 134_346_581,
    "fc_densenet103": 9_318_075,
    "fc_densenet56": 1_375_019,
    "fc_densenet67": 3_460_475,
    "fcn16s": 134_364_410,
    "fcn32s": 134_346_581,
    "fcn8s": 134_376_863,
    "highres3dnet": 821_744,
    "refinenet_resnet101": 109_806_677,
    "refinenet_resnet101_2_cascaded": 85_617_493,
    "refinenet_resnet101_single": 80_306_773,
    "segnet_basic": 1_416_075,
    "segnet_vgg16": 29_441_419,
    "unet3d_2016": 19_073_187,
    "unet_2015": 31_030_658,
    "vnet_2016": 65_175_314,
    "vnet_monai": 45_597_658,
}
"""Exact counts; each network's documentation gives the paper's figure and where the two differ."""


def test_every_configuration_is_counted_and_named_unlike_a_network() -> None:
    assert set(configurations()) == set(PARAMETERS)
    assert not set(configurations()) & set(network_names())
    assert {network for network, _ in configurations().values()} == set(network_names())


@pytest.mark.parametrize("name", configurations())
def test_parameters_and_output(name: str) -> None:
    _, options = configurations()[name]
    dims, size = options["spatial_dims"], 316  # which the valid convolutions of both U-Nets can pool evenly
    with torch.device("meta"):
        network = build_configuration(name).eval()
        scores = network(torch.empty(1, options["in_channels"], *(size,) * dims))
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    assert scores.shape[:2] == (1, options["out_channels"])
    if options.get("padding") != "valid":
        assert scores.shape[2:] == (size,) * dims
