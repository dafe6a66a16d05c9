"""Networks by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medseg.errors import ConfigError
from medseg.networks import build_network, network_names
from medseg.networks.unet import UNet


def test_build_network_passes_everything_on() -> None:
    network = build_network(
        "unet", spatial_dims=2, in_channels=3, out_channels=4, features=(4, 6), norm="group"
    )
    assert isinstance(network, UNet)
    assert (network.spatial_dims, network.in_channels, network.out_channels) == (2, 3, 4)
    assert network.features == (4, 6)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown network 'u-net'; did you mean 'unet'"):
        build_network("u-net")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="network 'unet': has no option 'feature'; did you mean 'features'"):
        build_network("unet", feature=(4, 6))


def test_an_invalid_value_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError) as error:
        build_network("unet", padding="vaild")
    assert error.value.where == "network 'unet'"
    assert error.value.fix == "did you mean 'valid'?"


def test_a_value_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="network 'unet'"):
        build_network("unet", features=8)


def test_names_are_known_without_torch() -> None:
    code = "import sys, medseg.networks as n; n.network_names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert network_names() == tuple(sorted(network_names()))
