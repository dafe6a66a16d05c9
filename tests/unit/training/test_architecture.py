"""How levels and a network's options follow from size and spacing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from medseg.data import Dataset
from medseg.errors import ConfigError
from medseg.labels import LabelScheme
from medseg.registry import NETWORKS
from medseg.runs import Fingerprint, NetworkPlan, Recipe, load_any_recipe, load_recipe, recipe_names
from medseg.runs.recipe import InferenceChoice
from medseg.training.architecture import MOST_LEVELS, Topology, plan_network, plan_topology
from medseg.training.parts import require_fitting_parts
from medseg.training.planning import plan_from_fingerprint

DATASET = Dataset(
    name="any",
    folder=Path(),
    source=Path("dataset.json"),
    cases=(),
    labels=LabelScheme.from_names({1: "a", 2: "b"}),
    channel_names=("MRI", "DWI"),
)
NETWORK_RECIPES = [name for name in recipe_names() if isinstance(load_any_recipe(name), Recipe)]
TOPOLOGY = Topology(((3, 3, 1), (3, 3, 3), (3, 3, 3)), ((2, 2, 1), (2, 2, 2)))


def test_equal_voxels_are_halved_alike() -> None:
    topology = plan_topology((40, 40, 40), (1.0, 1.0, 1.0))
    assert topology.strides == ((2, 2, 2),) * 3  # 40, 20, 10, 5: half of it would be below 4
    assert topology.kernel_sizes == ((3, 3, 3),) * 4
    assert topology.divisor == (8, 8, 8)


def test_long_voxels_are_left_whole_until_the_others_catch_up() -> None:
    topology = plan_topology((128, 128, 16), (0.5, 0.5, 3.0))
    # 6 times as long, then 3 times, then 1.5 times.
    assert topology.strides[:3] == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert topology.kernel_sizes[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_a_single_slice_is_a_plane() -> None:
    topology = plan_topology((64, 64, 1), (1.0, 1.0, 1.0))
    assert all(stride[2] == 1 for stride in topology.strides)
    assert topology.divisor == (16, 16, 1)


def test_an_axis_of_few_fine_voxels_does_not_hold_the_others_up() -> None:
    topology = plan_topology((6, 64, 64), (0.5, 2.0, 2.0))
    assert topology.strides == ((1, 2, 2),) * 4
    assert topology.kernel_sizes == ((3, 3, 3),) * 5


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((7, 7, 7), (2, 2, 2)), ((1, 1, 2), (1, 1, 2)), ((1, 1, 1), (2, 2, 2)), ((7, 5, 5), (2, 1, 1))],
)
def test_the_smallest_network_has_two_levels(
    shape: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    assert plan_topology(shape, (1.0, 1.0, 1.0)).strides == (stride,)


def test_depth_ends() -> None:
    assert len(plan_topology((10_000,) * 3, (1.0,) * 3).kernel_sizes) == MOST_LEVELS


class PooledThroughout(nn.Module):
    """Pools behind every level."""

    pools_last_level = True

    def __init__(self, features: Any, kernel_sizes: Any, strides: Any) -> None:
        super().__init__()
        self.levels = (features, kernel_sizes, strides)


class FullResolution(nn.Module):
    """Keeps the grid."""

    def __init__(self, kernel_size: Any, base_features: int, spacing_mm: Any) -> None:
        super().__init__()
        self.grid = (kernel_size, base_features, spacing_mm)


class Fixed(nn.Module):
    """Leaves nothing to choose."""


def _planned(
    network: type[nn.Module], monkeypatch: pytest.MonkeyPatch, **choice: Any
) -> tuple[NetworkPlan, dict[str, str]]:
    monkeypatch.setattr(type(NETWORKS), "resolve", lambda _registry, _name: network)
    reasons: dict[str, str] = {}
    recipe = Recipe(network=choice)
    return plan_network(DATASET, recipe, TOPOLOGY, (1.0, 1.0, 2.0), reasons), reasons


CHANNELS = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3}


def test_where_the_last_level_is_pooled_the_coarsest_grid_has_no_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, reasons = _planned(PooledThroughout, monkeypatch, base_features=8)
    assert plan.options == {
        **CHANNELS,
        "features": [8, 16],
        "kernel_sizes": [[3, 3, 1], [3, 3, 3]],
        "strides": [[2, 2, 1], [2, 2, 2]],
    }
    assert "3 levels" in reasons["network"]
    with pytest.raises(ConfigError, match="features has 3 levels, this data suits 2"):
        _planned(PooledThroughout, monkeypatch, options={"features": [8, 16, 32]})


def test_a_network_without_levels_gets_its_width_kernel_and_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, reasons = _planned(FullResolution, monkeypatch, base_features=8)
    assert plan.options == {
        **CHANNELS,
        "kernel_size": [3, 3, 1],
        "base_features": 8,
        "spacing_mm": [1.0, 1.0, 2.0],
    }
    assert "keeps the grid" in reasons["network"]


def test_a_width_that_a_network_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _planned(Fixed, monkeypatch)[0].options == CHANNELS
    with pytest.raises(ConfigError, match="takes no network"):
        _planned(Fixed, monkeypatch, base_features=8)


@pytest.mark.parametrize("name", NETWORK_RECIPES)
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((36, 50, 35), (1.0, 1.0, 1.0)), ((160, 160, 24), (0.6, 0.6, 3.0)), ((12, 9, 40), (2.0, 2.0, 2.0))],
)
def test_every_recipe_suits_data_of_any_shape(
    name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    # Whether it can be streamed takes long to find out, and is asked elsewhere.
    windows = InferenceChoice(mode="sliding-window")
    recipe = load_recipe(name).model_copy(update={"inference": windows})
    # Of several classes, a recipe that tells objects apart would have to name one.
    classes = {1: "a"} if recipe.postprocess.instances is not None else {1: "a", 2: "b"}
    dataset = replace(DATASET, labels=LabelScheme.from_names(classes))
    facts = Fingerprint(
        cases=3,
        median_shape=shape,
        largest_shape=shape,
        median_spacing_mm=spacing,
        foreground_intensity=({"lower": -10.0, "upper": 90.0, "mean": 40.0, "std": 20.0},) * 2,
        class_voxels=(1,) * len(dataset.labels),
    )
    require_fitting_parts(plan_from_fingerprint(dataset, facts, recipe), recipe)


def test_every_network_has_a_recipe() -> None:
    assert {load_recipe(name).network.name for name in NETWORK_RECIPES} >= set(NETWORKS.names())
