"""What a stream cannot compute is told before work starts, with the layer's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from medseg.errors import ConfigError
from medseg.inference.streaming.limits import require_streamable
from medseg.network_graph import capture

SHAPE = (1, 4, 8, 6)


class Forward(nn.Module):
    """A network that computes by a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def attention(images: Tensor) -> Tensor:
    voxels = images.flatten(2)
    return (voxels @ torch.softmax(voxels.transpose(1, 2) @ voxels, dim=-1)).reshape(images.shape)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.InstanceNorm2d(4), r"layer '1' \(instance_norm\) looks at the whole image"),
        (nn.GroupNorm(2, 4), r"layer '1' \(group_norm\) looks at the whole image"),
        (nn.BatchNorm2d(4, track_running_stats=False), r"layer '1' \(batch_norm\) looks at the whole image"),
        (nn.AdaptiveAvgPool2d(1), r"layer '1' \(adaptive_pool\) looks at the whole image"),
        (Forward(lambda images: images - images.mean((2, 3), keepdim=True)), "looks at the whole image"),
        (Forward(lambda images: torch.softmax(images, dim=2)), "looks at the whole image"),
        (Forward(attention), "layer '1'"),
        (Forward(lambda images: images.cumsum(2)), "'cumsum' is not known to work on one range of slices"),
        (
            Forward(lambda images: images * torch.rand(1, 1, 8, 6)),
            "layer '1': .*takes a constant that varies over space",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
            r"layer '1\.0': the operation 'flatten' reshapes space",
        ),
    ],
)
def test_what_is_not_local_is_refused_by_name(layer: nn.Module, why: str) -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), layer)
    with pytest.raises(ConfigError, match=why):
        require_streamable(capture(network, SHAPE))


def test_weights_computed_anew_are_refused_with_the_way_to_keep_them() -> None:
    network = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4))
    with pytest.raises(ConfigError, match=r"computes its weight anew .*parametrize\.remove_parametrizations"):
        require_streamable(capture(network, SHAPE))
    nn.utils.parametrize.remove_parametrizations(network[0], "weight")
    require_streamable(capture(network, SHAPE))


def test_several_outputs_are_refused() -> None:
    network = Forward(lambda images: (images + 1.0, images - 1.0))
    with pytest.raises(ConfigError, match=r"gives 2 outputs .* wrap it in a module"):
        require_streamable(capture(network, SHAPE))


def test_a_network_that_gives_several_outputs_in_training_alone_is_streamed() -> None:
    class Deep(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return [images, images * 2.0] if self.training else images * 3.0

    require_streamable(capture(Deep().train(), SHAPE))


def test_outputs_of_another_size_are_streamed(streamed: Callable[..., Tensor]) -> None:
    network = nn.Sequential(nn.Conv2d(4, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 2, (1, 3))).eval()
    images = torch.randn(1, 4, 17, 12)
    for axis in (0, 1):
        torch.testing.assert_close(streamed(network, images, axis, 2), network(images), atol=1e-5, rtol=0.0)
