"""Planning for every mode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import nn

from medseg.errors import ConfigError, ResourceError
from medseg.inference.planning import MODES, plan_memory
from medseg.networks import build_network

SHAPE = (1, 1, 40, 48, 56)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("unet", 3, 1, 3, features=(4, 6)).to("meta")


def test_a_plan_reads_well_and_goes_into_a_manifest(network: nn.Module) -> None:
    plan = plan_memory(network, SHAPE, max_ram_bytes=10**9)
    text = str(plan)
    assert text.startswith(f"streaming along axis {plan.axis}, {plan.slab} slices at a time: ")
    assert "tails: " in text
    assert "limit bytes: 1000000000" in text
    kept = json.loads(json.dumps(plan.as_dict()))
    assert kept["peak_bytes"] == sum(kept["by_stage"].values()) == plan.peak_bytes


def test_slabs_grow_thinner_as_the_limit_falls(network: nn.Module) -> None:
    free = plan_memory(network, SHAPE, axis=0, reduce="argmax")
    tight = plan_memory(network, SHAPE, axis=0, reduce="argmax", max_ram_bytes=int(0.8 * free.peak_bytes))
    assert tight.slab < free.slab
    assert tight.peak_bytes <= 0.8 * free.peak_bytes
    assert "exceed" in tight.details["why"]


def test_the_axis_that_takes_the_least_is_chosen(network: nn.Module) -> None:
    shape = (1, 1, 24, 96, 32)
    peaks = [plan_memory(network, shape, axis=axis, reduce="argmax").peak_bytes for axis in range(3)]
    chosen = plan_memory(network, shape, reduce="argmax")
    assert chosen.axis == peaks.index(min(peaks)) == 1


def test_the_result_counts(network: nn.Module) -> None:
    labels = plan_memory(network, SHAPE, axis=2, reduce="argmax")
    scores = plan_memory(network, SHAPE, axis=2)
    assert labels.by_stage["result"] < scores.by_stage["result"] == 3 * 4 * 40 * 48 * 56


def test_refusals(network: nn.Module) -> None:
    with pytest.raises(ResourceError, match="at least"):
        plan_memory(network, SHAPE, max_ram_bytes=10_000)
    with pytest.raises(ConfigError, match="unknown mode 'stream'"):
        plan_memory(network, SHAPE, mode="stream")
    with pytest.raises(ResourceError, match="max_ram_bytes"):
        plan_memory(network, SHAPE, mode="sliding-window", roi_size=(16, 16, 16), max_ram_bytes=1)


OPTIONS: dict[str, dict[str, Any]] = {
    "streaming": {"axis": 2},
    "sliding-window": {"roi_size": (16, 16, 16), "sw_batch_size": 8},
    "overlap-tile": {},
}


@pytest.mark.parametrize("mode", MODES)
def test_whatever_the_mode_the_result_counts(mode: str) -> None:
    network = build_network("unet", 3, 1, 3, features=(4, 6))
    plan = plan_memory(network, SHAPE, mode=mode, **OPTIONS[mode])
    assert plan.mode == mode
    assert plan.by_stage["result"] == 3 * 4 * 40 * 48 * 56


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_keeps_to_a_limit(mode: str) -> None:
    network = build_network("unet", 3, 1, 3, features=(4, 6))
    free = plan_memory(network, SHAPE, mode=mode, reduce="argmax", **OPTIONS[mode])
    limit = int(0.9 * free.peak_bytes)
    assert (
        plan_memory(
            network, SHAPE, mode=mode, reduce="argmax", max_ram_bytes=limit, **OPTIONS[mode]
        ).peak_bytes
        <= limit
    )
