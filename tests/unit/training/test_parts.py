from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.registry import LOSSES
from medseg.runs import NetworkPlan, Plan, Recipe
from medseg.training import parts
from medseg.training.parts import build_loss, require_fitting_parts


def _with_options(plan: Plan, **options: Any) -> Plan:
    network = NetworkPlan(name="unet", options=plan.network.options | options)
    return plan.model_copy(update={"network": network})


def test_a_planned_network_fits(plan: Plan, recipe: Recipe) -> None:
    require_fitting_parts(plan, recipe)
    network = build_network(plan.network.name, **plan.network.options)
    assert network(torch.zeros(2, 1, *plan.patch_size)).shape == (2, 5, *plan.patch_size)


def test_checking_costs_no_memory_and_no_randomness(plan: Plan, recipe: Recipe) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    huge = plan.model_copy(update={"patch_size": (2**14, 2**14, 2**12)})  # 2**40 voxels
    require_fitting_parts(huge, recipe)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "bach"}, "network 'unet': norm='bach' is unknown; did you mean 'batch'?"),
        ({"nrom": "batch"}, "network 'unet': has no option 'nrom'; did you mean 'norm'?"),
        ({"features": 3}, "network 'unet'"),
        ({"strides": [[2, 2, 2]] * 7}, "network 'unet'"),
        ({"padding": "valid"}, "network 'unet'"),
        ({"kernel_sizes": [2, 2]}, "network 'unet'"),
    ],
)
def test_a_network_that_does_not_suit_is_refused(
    options: dict[str, Any], words: str, plan: Plan, recipe: Recipe
) -> None:
    with pytest.raises(ConfigError) as caught:
        require_fitting_parts(_with_options(plan, **options), recipe)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"reduction": "none"}, {"weight": [1.0, 2.0]}, {"batsch": True}, {"smooth_nr": "much"}]
)
def test_a_loss_that_does_not_suit_is_refused(options: dict[str, Any], plan: Plan) -> None:
    recipe = Recipe(loss={"name": "dice_ce", "options": options})
    with pytest.raises(ConfigError) as caught:
        require_fitting_parts(plan, recipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_trains(name: str, plan: Plan) -> None:
    recipe = Recipe(loss={"name": name})
    require_fitting_parts(plan, recipe)
    scores = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    loss = build_loss(recipe, plan)(scores, torch.ones(1, 1, 4, 4, 4, dtype=torch.long))
    loss.backward()
    assert scores.grad is not None
    assert float(scores.grad[0, 1].max()) < 0.0  # more of the right class lowers it


def test_losses_measure_in_the_millimetres_of_the_plan(plan: Plan) -> None:
    assert plan.preprocessing.spacing_mm is not None
    boundary = build_loss(Recipe(loss={"name": "boundary"}), plan).loss
    assert boundary.spacing_mm == plan.preprocessing.spacing_mm
    told = Recipe(loss={"name": "boundary", "options": {"spacing_mm": [1.0, 2.0, 3.0]}})
    assert build_loss(told, plan).loss.spacing_mm == (1.0, 2.0, 3.0)


def test_one_level_is_the_loss_itself(plan: Plan) -> None:
    scores = torch.randn(1, 3, 4, 4, 4)
    target = torch.randint(0, 3, (1, 1, 4, 4, 4))
    plain = LOSSES.build("dice_ce", softmax=True, to_onehot_y=True)(scores, target)
    assert build_loss(Recipe(), plan)(scores, target) == plain


def test_scores_of_another_shape_and_losses_of_several_numbers_are_refused(
    plan: Plan, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parts, "build_network", lambda _name, **_options: nn.Conv3d(1, 5, 3))
        with pytest.raises(ConfigError, match=r"gives scores of shape \(2, 5, 14, 14, 6\), not"):
            require_fitting_parts(plan, recipe)
    monkeypatch.setattr(parts, "build_loss", lambda *_: lambda scores, _target: scores.mean(dim=1))
    with pytest.raises(ConfigError, match="loss 'dice_ce': gives 8 numbers, not one"):
        require_fitting_parts(plan, recipe)
