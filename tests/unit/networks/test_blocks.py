"""The shared blocks, against hand-computed arrays and torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg.networks import blocks


def test_per_axis_refuses_the_wrong_number_of_axes() -> None:
    with pytest.raises(ValueError, match=r"kernel_sizes has 2 numbers \(3, 3\) for 3 axes; give one"):
        blocks.per_axis((3, 3), 3, "kernel_sizes")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_positive_refuses(value: object) -> None:
    with pytest.raises(ValueError, match=r"features=.* is not a positive whole number"):
        blocks.positive(value, "features")


def test_choice_lists_all_where_none_is_near() -> None:
    with pytest.raises(ValueError, match="choose one of batch, group, instance"):
        blocks.choice("xyz", blocks.NORMS, "norm")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_same_convolution_keeps_the_size(spatial_dims: int) -> None:
    kernel, dilation = (3, 5, 1)[:spatial_dims], (2, 1, 3)[:spatial_dims]
    layer = blocks.convolution(spatial_dims, 1, 2, kernel, dilation=dilation)
    size = (7, 8, 9)[:spatial_dims]
    assert layer(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_same_convolution_refuses_even_kernels() -> None:
    with pytest.raises(ValueError, match="even"):
        blocks.convolution(3, 1, 1, (3, 3, 2))
    assert blocks.convolution(3, 1, 1, 2, padding="valid")(torch.zeros(1, 1, 4, 4, 4)).shape[2:] == (3, 3, 3)


def test_max_pool_keeps_what_hangs_over_the_end() -> None:
    line = torch.tensor([[[[1.0, 2.0, 5.0]]]])
    assert blocks.max_pool(2, (1, 2))(line).flatten().tolist() == [2.0, 5.0]


@pytest.mark.parametrize("name", blocks.ACTIVATIONS)
def test_activations_pass_gradients_behind_a_convolution(name: str) -> None:
    torch.manual_seed(0)
    block = blocks.ConvBlock(2, 1, 2, norm=None, activation=name)
    block(torch.randn(1, 1, 4, 4)).sum().backward()
    assert block.conv.weight.grad.abs().sum() > 0


def test_activation_refuses_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="activation='relo' is unknown; did you mean 'relu'"):
        blocks.activation_layer("relo")


@pytest.mark.parametrize(
    ("norm", "bias"), [("batch", False), ("instance", False), ("group", False), (None, True)]
)
def test_a_bias_stands_only_where_no_norm_follows(norm: str | None, bias: bool) -> None:
    block = blocks.ConvBlock(3, 1, 8, norm=norm)
    assert (block.conv.bias is not None) == bias
    assert hasattr(block, "norm") != bias


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_norms_standardise_and_learn_a_scale(norm: str) -> None:
    torch.manual_seed(0)
    layer = blocks.norm_layer(norm, 2, 4)
    assert layer is not None
    output = layer(5.0 + 3.0 * torch.randn(2, 4, 16, 16))
    assert abs(output.mean().item()) < 1e-5
    assert abs(output.std().item() - 1.0) < 1e-3
    assert [tuple(p.shape) for p in layer.parameters()] == [(4,), (4,)]


def autograd_steps(output: torch.Tensor) -> set[str]:
    """The names of everything that a backward pass from here goes through."""
    names, waiting = set(), [output.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is not None:
            names.add(step.name())
            waiting.extend(following for following, _ in step.next_functions)
    return names


LAYOUTS = {
    "channels first": {2: torch.contiguous_format, 3: torch.contiguous_format},
    "channels last": {2: torch.channels_last, 3: torch.channels_last_3d},
}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_instance_norm_is_torchs_in_its_layout_and_overwriting_it_copies_nothing(
    spatial_dims: int, layout: str, training: bool, batch: int, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    form = LAYOUTS[layout][spatial_dims]
    ours = blocks.norm_layer("instance", spatial_dims, 4)
    theirs = (nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d)(4, affine=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    values = 2.0 + torch.randn(batch, 4, *(7, 8, 9)[:spatial_dims])

    def passed(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        images = values.to(precision).contiguous(memory_format=form).requires_grad_()
        norm = norm.train(training).to(torch.float64 if precision == torch.float64 else torch.float32)
        normalised = norm(images)
        output = functional.leaky_relu_(normalised, 0.1)
        output.double().square().sum().backward()
        return output, normalised, [images.grad, *(parameter.grad for parameter in norm.parameters())]

    (output, normalised, gradients), (expected, _, expected_gradients) = passed(ours), passed(theirs)
    close = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.05}[precision]
    for one, other in zip((output, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close)
    assert "AsStridedBackward0" in autograd_steps(expected)
    if training:
        assert "AsStridedBackward0" not in autograd_steps(output)
        assert normalised.is_contiguous(memory_format=form)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_crop_concat_leaves_alone_what_has_the_size_already(padding: str) -> None:
    join = blocks.CropConcat(2, padding)
    skip, upsampled = torch.randn(2, 1, 3, 4, 5, requires_grad=True).unbind()
    assert "SliceBackward0" not in autograd_steps(join(skip, upsampled))
    longer = torch.randn(1, 3, 4, 6, requires_grad=True)
    assert "SliceBackward0" in autograd_steps(
        join(longer, upsampled) if padding == "valid" else join(skip, longer)
    )


@pytest.mark.parametrize("norm", ["batch", "instance", None])
def test_a_graph_of_a_block_still_cuts_what_is_longer(norm: str | None) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = blocks.ConvBlock(2, 1, 2, norm=norm)
            self.pool = blocks.max_pool(2)
            self.up = blocks.TransposedUpsample(2, 2, 2, (2, 2), "relu")
            self.join = blocks.CropConcat(2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            skip = self.down(images)
            joined: torch.Tensor = self.join(skip, self.up(self.pool(skip)))
            return joined

    block, even, odd = Block().eval(), torch.randn(1, 1, 8, 8), torch.randn(1, 1, 7, 9)
    for drawn in (torch.fx.symbolic_trace(block), torch.jit.trace(block, even), torch.jit.script(block)):
        torch.testing.assert_close(drawn(odd), block(odd))
    assert any("narrow" in str(node.target) or "slice" in str(node.target) for node in exported(block, even))


def exported(network: nn.Module, images: torch.Tensor) -> list[torch.fx.Node]:
    return list(torch.export.export(network, (images,), strict=False).graph.nodes)


def test_crop_concat_valid_takes_the_middle_of_the_skip() -> None:
    skip = torch.arange(6.0).view(1, 1, 1, 6)
    joined = blocks.CropConcat(2, "valid")(skip, -torch.ones(1, 1, 1, 2))
    assert joined.tolist() == [[[[2.0, 3.0]], [[-1.0, -1.0]]]]


def test_crop_concat_same_takes_the_beginning_of_what_was_upsampled() -> None:
    upsampled = torch.arange(4.0).view(1, 1, 1, 4)
    joined = blocks.CropConcat(2, "same")(-torch.ones(1, 1, 1, 3), upsampled)
    assert joined.tolist() == [[[[-1.0, -1.0, -1.0]], [[0.0, 1.0, 2.0]]]]


def test_linear_upsample_is_interpolation_then_convolution() -> None:
    torch.manual_seed(0)
    step = blocks.LinearUpsample(3, 4, 2, (2, 2, 1), activation="relu")
    nn.init.normal_(step.conv.bias)
    images = torch.randn(1, 4, 3, 4, 5)
    resized = functional.interpolate(
        images, scale_factor=(2.0, 2.0, 1.0), mode="trilinear", align_corners=False
    )
    expected = functional.conv3d(resized, step.conv.weight, step.conv.bias).relu()
    torch.testing.assert_close(step(images), expected)


def test_transposed_upsample_makes_one_block_of_each_voxel() -> None:
    step = blocks.TransposedUpsample(2, 1, 1, (2, 1), "relu")
    with torch.no_grad():
        step.conv.weight.copy_(torch.tensor([[[[1.0], [2.0]]]]))
        step.conv.bias.fill_(-1.0)
    assert step(torch.tensor([[[[3.0, 0.0]]]])).tolist() == [[[[2.0, 0.0], [5.0, 0.0]]]]


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Conv3d(16, 64, 3), 16 * 27),
        (nn.Conv2d(64, 64, (3, 1), groups=4), 16 * 3),
        (nn.ConvTranspose3d(64, 64, 2, stride=2), 64),
        (nn.ConvTranspose2d(64, 64, 4, stride=2), 64 * 4),
    ],
)
def test_he_initialisation_has_the_deviation_of_the_fan_in(layer: nn.Module, fan_in: int) -> None:
    torch.manual_seed(0)
    blocks.he_initialise(nn.Sequential(layer))
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2.0 / fan_in), rel=0.05)
    assert abs(layer.weight.mean().item()) < 0.05 * math.sqrt(2.0 / fan_in)
    assert layer.bias.abs().max() == 0.0


def test_he_initialisation_without_an_activation_behind_needs_half_the_variance() -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(16, 64, 3)
    blocks.he_initialise(layer, gain=1.0)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(1.0 / (16 * 27)), rel=0.05)


def test_he_initialisation_keeps_the_second_moment_through_an_up_convolution() -> None:
    torch.manual_seed(0)
    step = blocks.TransposedUpsample(3, 256, 256, 2, "relu")
    blocks.he_initialise(step)
    images = torch.randn(1, 256, 4, 4, 4).relu()
    assert step(images).square().mean().item() == pytest.approx(images.square().mean().item(), rel=0.15)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 2, 8, 8, 8), r"takes \(B, C, X, Y\)"),
        ((2, 8, 8), r"takes \(B, C, X, Y\)"),
        ((1, 3, 8, 8), "build it with in_channels=3"),
        ((1, 2, 8, 0), "axis Y is empty"),
    ],
)
def test_check_images_says_what_fits(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        blocks.check_images(torch.zeros(shape), 2, 2)
