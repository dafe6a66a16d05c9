from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from medseg.runs import Plan, Recipe
from medseg.training import Budget
from medseg.training.module import SegmentationModule
from medseg.training.parts import build_loss


class _FirstClass(nn.Module):
    """Scores that always say class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(images), 5, *images.shape[2:])
        scores[:, 1] = 1.0
        return scores + self.weight


def _module(plan: Plan, network: nn.Module | None = None, **optimizer: Any) -> SegmentationModule:
    recipe = Recipe(optimizer=optimizer)
    return SegmentationModule(
        network or _FirstClass(), build_loss(recipe, plan), plan, recipe, Budget(max_steps=10), seed=3
    )


def _validate(module: SegmentationModule, *labels: torch.Tensor) -> None:
    module.on_validation_epoch_start()
    for label in labels:
        module.validation_step({"image": torch.zeros(1, 1, *label.shape), "label": label[None]}, 0)
    module.on_validation_epoch_end()


def test_dice_is_the_mean_over_cases_that_have_the_structure(plan: Plan) -> None:
    half, full = torch.zeros(2, 2, 2, dtype=torch.int32), torch.ones(2, 2, 2, dtype=torch.int32)
    half[0] = 1
    half[1, 0, 0] = 2
    module = _module(plan)
    _validate(module, half, full)
    # Class 1: 2 * 4 / (8 + 4) and 1. Class 2: missed once, then neither there nor given.
    assert module.measured["ventricles"] == pytest.approx((2 / 3 + 1) / 2)
    assert module.measured["left nucleus"] == 0.0
    assert module.measured["right nucleus"] is None
    assert module.mean_dice == pytest.approx((2 / 3 + 1) / 4)
    assert module.validated_step == 0


@pytest.mark.parametrize(
    ("mode", "size", "seen"),
    [
        ("streaming", (9, 7, 8), [(9, 8, 8)]),  # padded to the patch where it is smaller
        ("streaming", (16, 8, 8), [(16, 8, 8)]),
        ("streaming", (17, 8, 8), [(8, 8, 8)] * 4),  # more than twice the patch
        ("sliding-window", (9, 8, 8), [(8, 8, 8)] * 2),
    ],
)
def test_small_images_are_seen_at_once_where_layers_are_local(
    plan: Plan, mode: str, size: tuple[int, int, int], seen: list[tuple[int, int, int]]
) -> None:
    changed = plan.model_copy(update={"patch_size": (8, 8, 8), "inference_mode": mode})
    network = _FirstClass()
    shapes: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(
        lambda _, args: shapes.extend([tuple(args[0].shape[2:])] * len(args[0]))
    )
    _validate(_module(changed, network), torch.ones(size, dtype=torch.int32))
    assert shapes == seen


@pytest.mark.filterwarnings("error")
def test_structures_that_no_case_has_make_no_noise(plan: Plan) -> None:
    module = _module(plan)
    _validate(module, torch.ones(2, 2, 2, dtype=torch.int32))
    assert module.measured == {
        "ventricles": 1.0,
        "left nucleus": None,
        "right nucleus": None,
        "nodules": None,
    }
    assert module.mean_dice == 1.0


def test_each_validation_starts_anew(plan: Plan) -> None:
    module = _module(plan)
    _validate(module, torch.zeros(2, 2, 2, dtype=torch.int32))
    assert module.mean_dice == 0.0
    _validate(module, torch.ones(2, 2, 2, dtype=torch.int32))
    assert module.mean_dice == 1.0


@pytest.mark.parametrize(
    ("norm", "layout"),
    [(nn.BatchNorm3d(2), torch.channels_last_3d), (nn.InstanceNorm3d(2), torch.contiguous_format)],
)
def test_weights_and_batches_lie_as_the_norms_want_them(
    plan: Plan, norm: nn.Module, layout: torch.memory_format
) -> None:
    class Network(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.given = images
            scores: torch.Tensor = super().forward(images)
            return scores

    network = Network(nn.Conv3d(3, 2, 3, padding=1), norm, nn.Conv3d(2, 5, 1))
    batch = {"image": torch.rand(2, 3, 4, 4, 4), "label": torch.zeros(2, 1, 4, 4, 4, dtype=torch.long)}
    _module(plan, network).training_step(batch, 0)
    weight = network[0].weight
    assert isinstance(weight, torch.Tensor)
    (other,) = {torch.contiguous_format, torch.channels_last_3d} - {layout}
    for tensor in (network.given, weight):
        assert tensor.is_contiguous(memory_format=layout)
        assert not tensor.is_contiguous(memory_format=other)


def test_before_the_first_validation_there_is_no_score(plan: Plan) -> None:
    module = _module(plan)
    assert module.mean_dice == 0.0
    assert module.validated_step == -1


def test_biases_and_norms_are_not_decayed(plan: Plan) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    optimizer = _module(plan, network, weight_decay=0.3, learning_rate=0.7).configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, plain = optimizer.param_groups
    assert [parameter.ndim for parameter in decayed["params"]] == [5]
    assert [parameter.ndim for parameter in plain["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], plain["weight_decay"], decayed["lr"]) == (0.3, 0.0, 0.7)


def test_sgd_has_nesterov_momentum(plan: Plan) -> None:
    optimizer = _module(plan, name="sgd").configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.99, True)


def test_gradients_are_clipped_to_the_norm_that_the_recipe_allows(plan: Plan) -> None:
    module = _module(plan)
    optimizer = module.configure_optimizers()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 3.0)
    module.configure_gradient_clipping(optimizer, 12.0, "norm")
    norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None))
    before = 3.0 * sum(p.numel() for p in parameters) ** 0.5
    assert norm == pytest.approx(min(12.0, before), rel=1e-4)
    module.configure_gradient_clipping(optimizer, 0.5, "norm")
    after = torch.sqrt(sum((p.grad**2).sum() for p in parameters if p.grad is not None))
    assert after == pytest.approx(0.5, rel=1e-4)


def test_a_restored_module_goes_on_where_it_was(plan: Plan) -> None:
    torch.manual_seed(0)
    first = _module(plan, nn.Conv3d(1, 5, 1))
    optimizer = first.configure_optimizers()
    first.network(torch.ones(1, 1, 2, 2, 2)).sum().backward()
    optimizer.step()
    state = {
        "step": 6,
        "minutes": 2.0,
        "cpu_minutes": 3.0,
        "waited_seconds": 4.0,
        "network": first.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "validated_step": 4,
        "measured": {"ventricles": 0.25},
        "best_quality": 0.5,
    }
    second = _module(plan, nn.Conv3d(1, 5, 1))
    second.restore(state)
    assert (second.step, second.validated_step, second.best_quality, second.mean_dice) == (6, 4, 0.5, 0.25)
    assert second.progress == 0.6
    assert second.clock.minutes == pytest.approx(2.0, abs=0.1)
    assert second.clock.cpu_minutes == pytest.approx(3.0, abs=0.1)
    assert torch.equal(second.network.weight, first.network.weight)  # type: ignore[arg-type]
    restored = second.configure_optimizers()
    (before, *_), (after, *_) = optimizer.state.values(), restored.state.values()
    assert torch.equal(before["exp_avg"], after["exp_avg"])
    assert math.isclose(float(after["step"]), 1.0)
