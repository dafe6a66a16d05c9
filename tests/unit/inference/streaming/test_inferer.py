"""The streaming inferer: equal to the whole pass, within its limit, and strict about arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medseg.errors import ConfigError, InputError, ResourceError
from medseg.inference.streaming import StreamingInferer
from medseg.networks import build_network


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = build_network("unet", 3, 1, 5, features=(4, 6)).train()
    with torch.no_grad():
        made(torch.randn(2, 1, 8, 8, 8))
    return made.eval()


def whole(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 1, 17, 68, 62, generator=torch.Generator().manual_seed(1))


def assert_alike(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())


def least(network: nn.Module, image: Tensor, **options: Any) -> int:
    """The peak of slabs of one slice over whole planes."""
    return StreamingInferer(slab=1, **options).plan(network, image.shape, result=True).peak_bytes


def test_a_tight_limit_leads_to_tiles_that_change_nothing(network: nn.Module, image: Tensor) -> None:
    limit = int(0.9 * least(network, image, reduce="argmax"))
    inferer = StreamingInferer(max_ram_bytes=limit, reduce="argmax")
    plan = inferer.plan(network, image.shape, result=True)
    assert len(plan.tiles) > 1
    assert plan.peak_bytes <= limit
    assert not plan.details["half_tails"]
    scores = whole(network, image)
    found = inferer(image, network)
    best, second = scores.topk(2, dim=1).values.unbind(1)
    clear = (best - second)[:, None] > 2e-5 * (scores.max() - scores.min())
    assert torch.equal(found[clear], scores.argmax(1, keepdim=True).to(torch.uint8)[clear])
    assert clear.float().mean() > 0.95


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_of_tiles_are_those_of_the_whole(network: nn.Module, image: Tensor, axis: int) -> None:
    turned = image.permute(0, 1, *(2 + (other - axis) % 3 for other in range(3))).contiguous()
    plain = StreamingInferer(axis=axis, slab=1).plan(network, turned.shape)
    inferer = StreamingInferer(axis=axis, max_ram_bytes=int(0.9 * plain.peak_bytes))
    plan = inferer.plan(network, turned.shape)
    assert plan.tiles
    scores = whole(network, turned)
    covered = torch.zeros(scores.shape[2:])
    for part in plan.parts:
        assert part.tile is not None
        box = [slice(*span) for span in part.tile.scores]
        for start, slab in inferer.slabs(
            lambda a, b: turned.narrow(2 + axis, a, b - a), network, turned.shape, part
        ):
            box[axis] = slice(start, start + slab.shape[2 + axis])
            assert_alike(slab, scores[(slice(None), slice(None), *box)])
            covered[tuple(box)] += 1
    assert (covered >= 1).all()


def test_slabs_refuse_a_plan_of_several_tiles(network: nn.Module, image: Tensor) -> None:
    limit = int(0.9 * least(network, image, reduce="argmax"))
    inferer = StreamingInferer(max_ram_bytes=limit, reduce="argmax")
    plan = inferer.plan(network, image.shape, result=True)
    with pytest.raises(ConfigError, match="tiles"):
        next(inferer.slabs(lambda a, b: image[:, :, a:b], network, image.shape, plan))


def test_scores_are_those_of_the_whole(network: nn.Module, image: Tensor) -> None:
    for slab in (1, 7, None):
        assert_alike(StreamingInferer(slab=slab)(image, network), whole(network, image))


def test_weights_are_read_at_each_call(image: Tensor) -> None:
    torch.manual_seed(2)
    network = nn.Conv3d(1, 2, 3, padding=1)
    inferer = StreamingInferer()
    inferer(image, network)
    with torch.no_grad():
        network.weight.mul_(-2)
    assert_alike(inferer(image, network), whole(network, image))


def test_another_setting_of_a_module_is_noticed(image: Tensor) -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.LeakyReLU(0.1))
    inferer = StreamingInferer()
    inferer(image, network)
    network[1].negative_slope = 0.9
    assert_alike(inferer(image, network), whole(network, image))


def test_types_and_shapes_of_results(network: nn.Module) -> None:
    image = torch.randn(2, 1, 8, 8, 8)
    assert StreamingInferer()(image.double(), network).dtype == torch.float64
    assert StreamingInferer()(image.half(), network).dtype == torch.float16
    labels = StreamingInferer(reduce="argmax")(image, network)
    assert (labels.shape, labels.dtype) == ((2, 1, 8, 8, 8), torch.uint8)
    many = nn.Conv3d(1, 300, 1)
    assert StreamingInferer(reduce="argmax")(image, many).dtype == torch.int32


def test_meta_tensors_come_back_as_such(network: nn.Module) -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 1, 8, 8, 8), affine=affine)
    found = StreamingInferer()(image, network)
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, affine)
    assert_alike(found.as_tensor(), whole(network, image.as_tensor()))


def test_results_may_be_changed_in_place(network: nn.Module) -> None:
    StreamingInferer()(torch.randn(1, 1, 8, 8, 8), network).add_(1).requires_grad_()


def test_bfloat16_is_near(network: nn.Module, image: Tensor) -> None:
    wanted = whole(network, image)
    found = StreamingInferer(precision="bf16")(image, network)
    assert found.dtype == torch.float32
    error = (found - wanted).abs().max() / (wanted.max() - wanted.min())
    assert 1e-5 < error < 0.05


def test_half_tails_where_tiles_do_not_help() -> None:
    torch.manual_seed(3)
    network = build_network("unet", 3, 1, 2, features=(8, 8, 8)).eval()
    image = torch.randn(1, 1, 64, 40, 40)
    tight = int(0.97 * least(network, image, reduce="argmax", axis=0))
    inferer = StreamingInferer(axis=0, max_ram_bytes=tight, reduce="argmax")
    plan = inferer.plan(network, image.shape, result=True)
    assert plan.details["half_tails"]
    assert not plan.tiles
    same = inferer(image, network)[:, 0] == whole(network, image).argmax(1)
    assert same.float().mean() > 0.99


def test_the_least_that_would_do_is_named(network: nn.Module, image: Tensor) -> None:
    with pytest.raises(ResourceError, match=r"takes .* at least, 1\.0 kB are allowed; allow") as caught:
        StreamingInferer(max_ram_bytes=1000)(image, network)
    assert "allow" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"axis": "x"}, "unknown axis"),
        ({"axis": 3}, "unknown axis"),
        ({"slab": 0}, "slab"),
        ({"slab": 2.5}, "slab"),
        ({"reduce": "max"}, "reduce"),
        ({"precision": "fp16"}, "precision"),
        ({"backend": "tensorrt"}, "backend"),
        ({"max_ram_bytes": -1}, "max_ram_bytes"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StreamingInferer(**options)


def test_what_cannot_be_streamed_is_refused(image: Tensor) -> None:
    with pytest.raises(ConfigError, match="whole image"):
        StreamingInferer()(image, nn.Sequential(nn.InstanceNorm3d(1)))
    with pytest.raises(ConfigError, match="no layers"):
        StreamingInferer()(image, lambda images: images)
    with pytest.raises(ConfigError, match="nothing else"):
        StreamingInferer()(image, nn.Conv3d(1, 1, 1), 3)
    with pytest.raises(ConfigError, match="no axis 2"):
        StreamingInferer(axis=2)(torch.zeros(1, 1, 4, 4), nn.Conv2d(1, 1, 1))


def test_labels_need_scores(image: Tensor) -> None:
    class Labels(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.argmax(1, keepdim=True)

    with pytest.raises(InputError, match="no scores"):
        StreamingInferer(reduce="argmax")(image, Labels())
