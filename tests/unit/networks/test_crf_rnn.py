"""The trainable CRF: gradients, agreement with the classical one, and its way behind a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from medseg.classical import dense_crf
from medseg.classical.links import intensity_step
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import ConfigError, InputError
from medseg.inference.streaming.captured import local_graph
from medseg.networks import build_network
from medseg.networks.blocks import PermutohedralLattice
from medseg.networks.crf_rnn import CRFRNN
from medseg.runs import NetworkPlan, Recipe
from medseg.training.architecture import plan_network, plan_topology
from medseg.training.step_memory import step_memory


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    crf = CRFRNN(3, (1.0, 1.5, 2.0), iterations=2).double()
    images = torch.randn(1, 2, 3, 2, 2, dtype=torch.float64)
    scores = torch.randn(1, 3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in crf.named_parameters()]

    def run(given: Tensor, *parameters: Tensor) -> Tensor:
        chosen = dict(zip(names, parameters, strict=True))
        result: Tensor = functional_call(crf, chosen, (images, given))
        return result

    assert torch.autograd.gradcheck(run, (scores, *crf.parameters()))


@pytest.mark.parametrize("dims", [1, 3, 5])
def test_the_lattice_s_gradient_is_its_transpose(dims: int) -> None:
    torch.manual_seed(dims)
    lattice = PermutohedralLattice(2.0 * torch.rand(dims, 30, dtype=torch.float64))
    eye = torch.eye(30, dtype=torch.float64, requires_grad=True)
    matrix = lattice.filter(eye)
    weights = torch.randn(30, 30, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((matrix * weights).sum(), eye)
    torch.testing.assert_close(gradient, matrix.detach().T @ weights)


@pytest.mark.parametrize(("dims", "passes", "mean_off"), [(2, 1, 0.05), (4, 1, 0.08), (4, 2, 0.05)])
def test_the_lattice_sums_gaussians(dims: int, passes: int, mean_off: float) -> None:
    torch.manual_seed(0)
    points = 3.0 * torch.rand(dims, 300, dtype=torch.float64)
    values = torch.rand(300, 2, dtype=torch.float64)
    lattice = PermutohedralLattice(points, passes)
    exact = torch.exp(-0.5 * torch.cdist(points.T, points.T) ** 2) @ values
    found = lattice.filter(values)
    assert float(((found - exact) / exact).abs().mean()) < mean_off
    own = torch.diagonal(lattice.filter(torch.eye(300, dtype=torch.float64)))
    torch.testing.assert_close(lattice.own_weights(), own, atol=0.03, rtol=0.0)


def test_vertices_too_many_for_a_table_are_numbered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    points, values = 2.0 * torch.rand(3, 200), torch.rand(200, 2)
    one = PermutohedralLattice(points).filter(values)
    monkeypatch.setattr("medseg.networks.blocks.permutohedral._TABLE_CELLS", 0)
    monkeypatch.setattr("medseg.networks.blocks.permutohedral._POINTS_AT_A_TIME", 70)
    torch.testing.assert_close(PermutohedralLattice(points).filter(values), one)


def test_as_it_starts_it_is_the_classical_one() -> None:
    rng = np.random.default_rng(0)
    images, scores = rng.normal(size=(1, 1, 6, 5, 4)), rng.normal(size=(1, 3, 6, 5, 4))
    step = intensity_step(images[0])[0]
    crf = CRFRNN(3, (1.0, 2.0, 0.5), iterations=4, intensity_sigma=step)
    found = crf(torch.from_numpy(images).float(), torch.from_numpy(scores).float())
    expected = dense_crf(scores[0], images[0], (1.0, 2.0, 0.5), iterations=4)
    np.testing.assert_allclose(found.log_softmax(dim=1).detach().numpy()[0], expected, atol=1e-4)


def test_a_network_learns_with_it() -> None:
    torch.manual_seed(0)
    network = build_network("unet", 2, 1, 3, features=[4, 8], deep_supervision=True, crf={"iterations": 2})
    images = torch.randn(2, 1, 16, 16)
    levels = network.forward_deep(images)
    assert levels[0].shape == (2, 3, 16, 16)
    torch.nn.functional.cross_entropy(levels[0], torch.randint(0, 3, (2, 16, 16))).backward()
    without = [name for name, weight in network.crf.named_parameters() if weight.grad is None]
    assert without == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(images).shape == (2, 3, 16, 16)


def test_it_has_the_data_s_spacing_in_a_plan(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path, count=1, test_count=0, shape=(16, 16, 16))
    recipe = Recipe.model_validate({"network": {"name": "unet", "options": {"crf": {"iterations": 3}}}})
    topology = plan_topology((16, 16, 16), (1.0, 1.0, 2.0))
    plan = plan_network(dataset, recipe, topology, (1.0, 1.0, 2.0), {})
    assert plan.options["crf"] == {"iterations": 3, "spacing_mm": [1.0, 1.0, 2.0]}
    assert build_network("unet", **plan.options).crf.spacing_mm == (1.0, 1.0, 2.0)


def test_memory_is_planned_with_it() -> None:
    small = {"features": [4, 8]}
    plain, with_crf = (
        step_memory(NetworkPlan(name="unet", options={**small, **options})) for options in ({}, {"crf": {}})
    )
    assert plain.bytes_per_voxel < with_crf.bytes_per_voxel < 4.0 * plain.bytes_per_voxel


def test_it_is_not_streamed() -> None:
    network = build_network("unet", 3, 1, 2, features=[4, 8], crf={}).eval()
    with pytest.raises(InputError, match="a CRF looks at the whole image"):
        local_graph(network, (1, 1, 8, 8, 8))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: build_network("unet", crf={"iteration": 3}), "did you mean 'iterations'"),
        (lambda: build_network("unet", crf=True), "no options"),
        (lambda: build_network("unet", crf={"iterations": 0}), "iterations=0"),
        (lambda: build_network("unet", crf={"spatial_sigma_mm": 0.0}), "spatial_sigma_mm"),
        (lambda: build_network("unet", crf={"spacing_mm": [1.0, 1.0]}), "give 3"),
    ],
)
def test_options_that_do_not_fit_are_refused(make: Callable[[], object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make()
