"""Choice of device and precision."""

from __future__ import annotations

import pytest
import torch

from medseg.errors import ConfigError, ResourceError
from medseg.inference import Compute, choose_compute


def test_names_are_understood() -> None:
    assert choose_compute("cpu", "bfloat16") == Compute(torch.device("cpu"), torch.bfloat16)
    assert choose_compute("cpu", "float32") == Compute(torch.device("cpu"), torch.float32)
    assert choose_compute("auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_compute("cpu", "auto").dtype in (torch.float32, torch.bfloat16)


def test_autocast_computes_in_the_precision_asked_for() -> None:
    network, image = torch.nn.Conv3d(1, 1, 1), torch.ones(1, 1, 2, 2, 2)

    with choose_compute("cpu", "bfloat16").autocast():
        assert network(image).dtype == torch.bfloat16
    with choose_compute("cpu", "float32").autocast():
        assert network(image).dtype == torch.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpus"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown device '{device}'; use auto, cpu"):
        choose_compute(device)


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown precision 'float23'; did you mean 'float32'"):
        choose_compute("cpu", "float23")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ResourceError, match="there is no device 'cuda:99'"):
        choose_compute("cuda:99")
