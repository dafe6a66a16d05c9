from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from medseg.training.batch_norm import _statistics, synchronise_batch_norms


def _passed(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    images = images.clone().requires_grad_()
    result = network(images)
    result.backward(torch.linspace(-1.0, 2.0, result.numel()).view(result.shape).to(result.dtype))
    assert images.grad is not None
    found = {"result": result.detach(), "of images": images.grad}
    found |= {f"of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | dict(network.named_buffers())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_batch_in_one_process_is_normalised_as_by_torch(
    dtype: torch.dtype, tolerance: float, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medseg.training.batch_norm.process_count", lambda: 2
    )  # of which one has all there is
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64).add(0.5).to(dtype)
    images = images.contiguous(memory_format=layout)
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    ours, theirs = (nn.BatchNorm3d(3, dtype=weights) for _ in range(2))
    for layer in (ours, theirs):
        nn.init.constant_(layer.weight, 1.5)
        nn.init.constant_(layer.bias, -0.5)
    assert synchronise_batch_norms(nn.Sequential(ours)) == ("0",)
    made, expected = _passed(ours, images), _passed(theirs, images)
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        assert made[name].dtype == tensor.dtype, name
        torch.testing.assert_close(made[name], tensor, rtol=tolerance, atol=tolerance)
    assert torch.equal(ours.eval()(images), nn.BatchNorm3d.forward(ours, images))


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.training.batch_norm.process_count", lambda: 2)
    layer = nn.BatchNorm2d(2).double()
    synchronise_batch_norms(nn.Sequential(layer))
    images = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: layer(given).square(), (images,))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1), (2, 0, 4)])
def test_statistics_of_parts_are_those_of_the_whole(
    sizes: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.randn(sum(sizes), 2, 3, 4, generator=torch.Generator().manual_seed(1)) + 1000.0
    rows: list[Tensor] = []

    def keep(row: Tensor) -> Tensor:
        rows.append(row)
        return torch.stack(rows)

    monkeypatch.setattr("medseg.training.batch_norm.gather_from_processes", keep)
    for part in whole.split([size for size in sizes if size]):
        mean, variance, count = _statistics(part)
    values = whole.double().movedim(1, 0).flatten(1)
    assert count == values.shape[1]
    torch.testing.assert_close(mean.double(), values.mean(1), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(variance.double(), values.var(1, correction=0), rtol=1e-4, atol=0.0)


def test_norms_of_other_kinds_stay() -> None:
    network = nn.Sequential(nn.InstanceNorm3d(2), nn.GroupNorm(1, 2), nn.Conv3d(2, 2, 1))
    assert synchronise_batch_norms(network) == ()
