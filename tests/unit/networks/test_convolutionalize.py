"""A classifier made dense, against the classifier itself run window by window."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from medseg.networks.convolutionalize import DenseClassifier, convolutionalize

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
MAX: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
GLOBAL_AVERAGE: dict[int, Any] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
GLOBAL_MAX: dict[int, Any] = {2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}


def vgg_like(
    dims: int, map_size: int, widths: tuple[int, ...] = (4, 6, 8), padding: int = 0
) -> nn.Sequential:
    """VGG's shape: blocks of convolutions with pooling behind each, then fc6, fc7 and the classes."""
    body = nn.Sequential()
    before = 2
    for width in widths:
        body.append(nn.Sequential(CONV[dims](before, width, 3, padding=padding), nn.ReLU(inplace=True)))
        body.append(nn.Sequential(CONV[dims](width, width, 3, padding=padding), nn.ReLU(inplace=True)))
        body.append(MAX[dims](2))
        before = width
    head = nn.Sequential(
        nn.Linear(before * map_size**dims, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 12), nn.ReLU(),
        nn.Dropout(), nn.Linear(12, 5),
    )  # fmt: skip
    return nn.Sequential(body, nn.Flatten(), head).eval()


def awake(classifier: nn.Module) -> nn.Module:
    """Let norms and biases hold anything but their first values."""
    for name, value in (*classifier.named_parameters(), *classifier.named_buffers()):
        if name.endswith("var"):
            nn.init.uniform_(value, 0.5, 2.0)
        elif value.dim() == 1:
            nn.init.normal_(value)
    return classifier.eval()


def window_by_window(
    classifier: nn.Module, images: Tensor, window: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    """What the classifier gives for every window at multiples of the stride, on their grid."""
    starts = [range(0, n - w + 1, s) for n, w, s in zip(images.shape[2:], window, stride, strict=True)]
    scores = [
        classifier(images[(..., *(slice(a, a + w) for a, w in zip(start, window, strict=True)))])
        for start in itertools.product(*starts)
    ]
    return torch.stack(scores, dim=-1).unflatten(-1, [len(each) for each in starts])


def assert_same_numbers(
    classifier: nn.Module, window: tuple[int, ...], image: tuple[int, ...]
) -> DenseClassifier:
    channels = next(layer.in_channels for layer in classifier.modules() if hasattr(layer, "in_channels"))
    before = copy.deepcopy(classifier.state_dict())
    dense = convolutionalize(classifier, window)
    images = torch.randn(2, channels, *image)
    with torch.no_grad():
        expected = window_by_window(classifier, images, window, dense.stride)
        assert expected[0, 0].numel() > 1
        torch.testing.assert_close(dense(images), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    return dense


def test_a_vgg_like_classifier_in_2d() -> None:
    torch.manual_seed(0)
    dense = assert_same_numbers(awake(vgg_like(2, map_size=3)), (52, 52), (68, 76))
    assert dense.stride == (8, 8)
    assert dense.window == (52, 52)
    kernels = [layer.kernel_size for layer in dense.layers if isinstance(layer, nn.Conv2d)]
    assert kernels == [(3, 3)] * 6 + [(3, 3), (1, 1), (1, 1)]
    assert dense(torch.zeros(1, 2, 52, 52)).shape == (1, 5, 1, 1)


def test_a_vgg_like_classifier_in_3d() -> None:
    torch.manual_seed(0)
    classifier = awake(vgg_like(3, map_size=2, widths=(3, 4)))
    assert assert_same_numbers(classifier, (20, 20, 20), (24, 28, 20)).stride == (4, 4, 4)


def test_the_corner_of_an_example_by_hand() -> None:
    """One convolution of ones over 2x2, the map of 2x2 weighed by 1, 2, 3, 4."""
    classifier = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        classifier[0].weight.fill_(1.0)
        classifier[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    image = torch.zeros(1, 1, 3, 4)
    image[0, 0, 1, 1] = 1.0
    # Every sum of 2x2 with the middle voxel counts: all four of the first window, of the second the left two.
    assert convolutionalize(classifier, 3)(image).tolist() == [[[[10.0, 4.0]]]]


def norms_and_global_pooling(dims: int, pool: dict[int, Any]) -> nn.Module:
    return nn.Sequential(
        CONV[dims](1, 4, 3, bias=False), NORM[dims](4), nn.LeakyReLU(), nn.LocalResponseNorm(3),
        CONV[dims](4, 6, 3, stride=2, groups=2), nn.PReLU(6), AVERAGE[dims](2, stride=1), pool[dims](1),
        nn.Flatten(), nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.PReLU(8), nn.Linear(8, 3),
        nn.Softmax(dim=-1),
    )  # fmt: skip


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("pool", [GLOBAL_AVERAGE, GLOBAL_MAX], ids=["average", "max"])
def test_norms_and_global_pooling(dims: int, pool: dict[int, Any]) -> None:
    torch.manual_seed(0)
    classifier = awake(norms_and_global_pooling(dims, pool))
    dense = assert_same_numbers(classifier, (11, 13, 9)[:dims], (15, 15, 11)[:dims])
    assert dense.stride == (2,) * dims
    kinds = [type(layer) for layer in dense.layers]
    assert kinds.count(NORM[dims]) == 2
    assert nn.BatchNorm1d not in kinds
    pooling = (
        next(layer for layer in dense.layers if type(layer) in (nn.MaxPool2d, nn.MaxPool3d))
        if (pool is GLOBAL_MAX)
        else [layer for layer in dense.layers if type(layer) is AVERAGE[dims]][-1]
    )
    assert (pooling.kernel_size, pooling.stride) == ((3, 4, 2)[:dims], 1)


def test_global_pooling_that_ends_a_classifier_without_linear_layers() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d((1, None)), nn.Conv2d(3, 2, (1, 4)), nn.Flatten()
    )
    assert_same_numbers(classifier, (6, 6), (9, 8))


def test_adaptive_pooling_to_the_size_that_is_there_is_nothing() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d((4, 3)), nn.Flatten(), nn.Linear(36, 2)
    )
    dense = assert_same_numbers(classifier, (6, 5), (9, 8))
    assert [type(layer) for layer in dense.layers] == [nn.Conv2d, nn.Conv2d]
    with pytest.raises(
        ValueError, match=r"'1' \(AdaptiveAvgPool2d\) pools a map of \(6, 6\) voxels to \(4, 3\)"
    ):
        convolutionalize(classifier, 8)


class Written(nn.Module):
    """A classifier that is no Sequential, as torchvision's VGG."""

    def __init__(self, head: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        x = self.avgpool(torch.relu(self.features(images)))
        return self.classifier(torch.flatten(x, 1)) if self.head is None else self.head(self, x)


@pytest.mark.parametrize(
    "head",
    [
        None,
        lambda net, x: net.classifier(x.flatten(1).relu()),
        lambda net, x: net.classifier(functional.relu(torch.flatten(x, start_dim=1), inplace=True)),
    ],
)
def test_a_written_forward(head: Callable[[nn.Module, Tensor], Tensor] | None) -> None:
    torch.manual_seed(0)
    dense = assert_same_numbers(Written(head), (6, 6), (8, 10))
    assert dense.stride == (2, 2)


def test_a_classifier_of_linear_layers_alone() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4 * 5, 6), nn.Tanh(), nn.Linear(6, 2))
    dense = convolutionalize(classifier, (3, 4, 5))
    images = torch.randn(1, 2, 4, 6, 5)
    expected = window_by_window(classifier, images, (3, 4, 5), (1, 1, 1))
    torch.testing.assert_close(dense(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="give input_size two or three numbers"):
        convolutionalize(classifier, 3)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_valid_kernels_strides_and_dilations(data: st.DataObject) -> None:
    def number(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    torch.manual_seed(number(0, 99))
    layers: list[nn.Module] = []
    channels = 1
    for _ in range(number(1, 3)):
        if data.draw(st.booleans()):
            width = number(1, 3)
            kernel = (number(1, 3), number(1, 3))
            layers += [
                nn.Conv2d(channels, width, kernel, stride=(number(1, 2), number(1, 3)), dilation=number(1, 2))
            ]
            channels = width
        else:
            layers += [
                data.draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(number(1, 3), stride=number(1, 3))
            ]
    window = (number(60, 72), number(60, 72))  # three layers at their widest leave a voxel of it
    size = nn.Sequential(*layers)(torch.zeros(1, _in(layers), *window)).shape
    classifier = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size[1:].numel(), 2))
    dense = convolutionalize(classifier, window)
    image = tuple(w + s * number(0, 2) for w, s in zip(window, dense.stride, strict=True))
    images = torch.randn(1, dense.in_channels, *image)
    with torch.no_grad():
        expected = window_by_window(classifier, images, window, dense.stride)
        torch.testing.assert_close(dense(images), expected, rtol=1e-4, atol=1e-5)


def _in(layers: list[nn.Module]) -> int:
    return next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), 1)


def test_voxels_that_pooling_drops_need_not_be_there() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 2 * 1, 3))
    dense = convolutionalize(classifier, 5)
    images = torch.randn(1, 1, 6, 5)
    scores = dense(images)
    assert scores.shape == (1, 3, 2, 1)
    torch.testing.assert_close(scores[..., :1, :], window_by_window(classifier, images, (5, 5), (2, 2)))
    beyond = functional.pad(images[:, :, 2:], (0, 0, 0, 1), value=9.0)
    torch.testing.assert_close(scores[..., 1, 0], classifier(beyond))


def test_ceil_mode_is_taken_where_no_window_hangs_over() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(8, 3)
    )
    assert_same_numbers(classifier, (6, 6), (9, 8))
    with pytest.raises(ValueError, match=r"'1' \(MaxPool2d\) pads the window"):
        convolutionalize(classifier, 5)
    kept = convolutionalize(classifier, 5, padded="keep")
    image = torch.randn(1, 1, 5, 5)
    torch.testing.assert_close(kept(image)[..., 0, 0], classifier(image))


@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_padded_layers_are_refused(padding: object) -> None:
    classifier = nn.Sequential(nn.Conv2d(1, 2, 3, padding=padding), nn.Flatten(), nn.LazyLinear(3))
    classifier(torch.zeros(1, 1, 8, 8))
    with pytest.raises(
        ValueError, match=r"'0' \(Conv2d\) pads the window, .*; use padding=0 .* padded='keep'"
    ):
        convolutionalize(classifier, 8)
    assert convolutionalize(classifier, 8, padded="keep").window == (8, 8)


def test_padding_that_adds_nothing_is_taken() -> None:
    classifier = nn.Sequential(
        nn.Conv2d(1, 2, 1, padding="same"), nn.Conv2d(2, 2, 3, padding="valid"), nn.Flatten()
    )
    classifier.append(nn.Linear(8, 2))
    assert_same_numbers(classifier, (4, 4), (5, 6))


def test_a_padded_classifier_that_is_kept_agrees_on_one_window_and_inside_windows() -> None:
    torch.manual_seed(0)
    classifier = awake(vgg_like(2, map_size=4, padding=1))
    dense = convolutionalize(classifier, 32, padded="keep")
    assert dense.stride == (8, 8)
    images = torch.randn(1, 2, 64, 64)
    window = images[..., 16:48, 16:48]
    torch.testing.assert_close(dense(window)[..., 0, 0], classifier(window), rtol=1e-4, atol=1e-5)
    assert dense(images).shape == (1, 5, 5, 5)
    assert not torch.allclose(dense(images)[..., 2, 2], classifier(window), rtol=1e-2, atol=1e-3)
    # Of the first block's 16x16 map, those voxels are the same that see 2 voxels beyond themselves.
    ours, theirs = dense.layers[:5], classifier[0][:3]
    whole, alone = ours(images)[..., 8:24, 8:24], theirs(window)
    torch.testing.assert_close(whole[..., 1:-1, 1:-1], alone[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole, alone, rtol=1e-2, atol=1e-3)


def test_weights_are_copies_and_nothing_is_drawn() -> None:
    classifier = norms_and_global_pooling(2, GLOBAL_AVERAGE)
    classifier[0].requires_grad_(False)
    classifier[9].weight.requires_grad_(False)
    classifier[1].eval()
    torch.manual_seed(5)
    dense = convolutionalize(classifier, 9)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert [p.requires_grad for p in dense.parameters()] == [p.requires_grad for p in classifier.parameters()]
    assert sum(p.numel() for p in dense.parameters()) == sum(p.numel() for p in classifier.parameters())
    assert dense.training
    assert not dense.layers[1].training
    ours = {value.data_ptr() for value in dense.state_dict().values() if value.numel()}
    assert not ours & {value.data_ptr() for value in classifier.state_dict().values()}


def test_number_formats_and_devices_are_kept() -> None:
    classifier = norms_and_global_pooling(2, GLOBAL_MAX).double().eval()
    assert convolutionalize(classifier, 9)(torch.zeros(1, 1, 11, 9).double()).dtype == torch.float64
    with torch.device("meta"):
        vgg = vgg_like(2, map_size=7, widths=(64, 128, 256, 512, 512), padding=1)
    dense = convolutionalize(vgg, 224, padded="keep")
    assert dense.stride == (32, 32)
    assert {parameter.device.type for parameter in dense.parameters()} == {"meta"}
    assert dense(torch.empty(1, 2, 500, 375, device="meta")).shape == (1, 5, 9, 5)


def test_the_dense_network_learns_scripts_and_exports() -> None:
    torch.manual_seed(0)
    dense = convolutionalize(vgg_like(2, map_size=2, widths=(4,)), 8)
    images = torch.randn(2, 2, 10, 12)
    dense(images).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in dense.parameters())
    torch.testing.assert_close(torch.jit.script(dense)(images), dense(images))
    torch.testing.assert_close(torch.fx.symbolic_trace(dense)(images), dense(images))
    exported = torch.export.export(dense, (images,)).module()
    torch.testing.assert_close(exported(images), dense(images))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 2, 8, 7), r"an image of \(8, 7\) voxels is smaller than the window; give \(8, 8\) or more"),
        ((1, 3, 8, 8), "the input has 3 channels"),
        ((1, 2, 8, 8, 8), r"takes \(B, C, X, Y\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], words: str) -> None:
    dense = convolutionalize(vgg_like(2, map_size=2, widths=(4,)), 8)
    with pytest.raises(ValueError, match=words):
        dense(torch.zeros(shape))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 1


class MyConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    layer = nn.Conv2d(1, 1, 1)
    layer.register_forward_hook(lambda _layer, _args, output: 2 * output)
    return layer


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.InstanceNorm2d(1)], r"'0' \(InstanceNorm2d\) has no dense form; use one of AdaptiveAvgPool2d, "),
        ([nn.Sequential(nn.ReLU(), nn.GroupNorm(1, 1))], r"'0\.1' \(GroupNorm\) has no dense form"),
        ([nn.LayerNorm(8)], r"'0' \(LayerNorm\) has no dense form"),
        ([weight_norm(nn.Conv2d(1, 1, 1))], r"\(ParametrizedConv2d\) has no dense form"),
        ([MyConv(1, 1, 1)], "'_0_weight' is no layer of torch.nn; write it as one"),
        ([hooked()], "layer '0' has hooks"),
        ([Residual()], "only one chain of layers can be made dense"),
        ([Branching()], "cannot be traced .*; build it as nn.Sequential"),
        ([Two()], "let it give the scores alone"),
        ([nn.Conv3d(1, 1, 1), nn.Conv2d(1, 1, 1)], r"'1' \(Conv2d\) meets a map of 3 axes"),
        ([nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)], r"'1' \(Conv2d\) takes 1 channels, but 2 come"),
        ([nn.Conv2d(1, 2, 9)], r"'0' \(Conv2d\) cannot take a map of \(8, 8\) voxels; enlarge input_size"),
        ([nn.MaxPool2d(9), nn.Conv2d(1, 1, 1)], r"'0' \(MaxPool2d\) cannot take a map"),
        ([nn.MaxPool2d(2, return_indices=True), nn.Conv2d(1, 1, 1)], "return_indices=False"),
        ([nn.Conv2d(1, 1, 1), nn.AdaptiveMaxPool2d(1, return_indices=True)], "return_indices=False"),
        ([nn.MaxPool2d(3, padding=1), nn.Conv2d(1, 1, 1)], r"'0' \(MaxPool2d\) pads the window"),
        ([nn.BatchNorm2d(1, track_running_stats=False)], "track_running_stats=True"),
        ([nn.Conv2d(1, 2, 1), nn.BatchNorm2d(3)], r"'1' \(BatchNorm2d\) takes 3 channels, but 2 come"),
        ([nn.Conv2d(1, 2, 1), nn.BatchNorm1d(2)], r"\(BatchNorm1d\) stands before a Flatten; use .*2d"),
        ([nn.Conv2d(1, 1, 1), nn.Flatten(), nn.BatchNorm1d(64)], "treats each voxel of the window apart"),
        ([nn.Conv2d(1, 1, 1), nn.Flatten(), nn.PReLU(64)], "treats each voxel of the window apart"),
        ([nn.Conv2d(1, 2, 1), nn.PReLU(3)], r"'1' \(PReLU\) takes 3 channels"),
        ([nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Softmax(1)], "treats each voxel of the window apart"),
        ([nn.Conv2d(1, 1, 1), nn.Softmax(-1)], "is over axis -1 instead of the classes; give it dim=1"),
        ([nn.Conv2d(1, 1, 8), nn.Flatten(), nn.Dropout2d()], r"'2' \(Dropout2d\) stands behind a Flatten"),
        ([nn.Conv2d(1, 1, 8), nn.Flatten(), nn.Conv2d(1, 1, 1)], r"'2' \(Conv2d\) stands behind a Flatten"),
        ([nn.Conv2d(1, 1, 1), nn.Linear(8, 2)], r"'1' \(Linear\) stands before a Flatten"),
        ([nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(63, 2)], r"'2' \(Linear\) takes 63 channels, but 64"),
        ([nn.Flatten(), nn.Linear(63, 2), nn.Conv2d(1, 1, 1)], r"'1' \(Linear\) takes 63 channels, but 64"),
        ([nn.Conv2d(1, 1, 1), nn.Flatten(2)], "takes axes 2 to -1; flatten 1 to -1"),
        ([nn.Conv2d(1, 1, 1), nn.Flatten(0)], "takes axes 0 to -1; flatten 1 to -1"),
        ([nn.Conv2d(1, 1, 3)], r"ends with a map of \(6, 6\) voxels"),
        ([nn.Conv2d(1, 1, 3), nn.Flatten()], "end it with Flatten and Linear"),
        ([nn.ReLU()], "no layer says how many axes"),
        ([nn.MaxPool2d(8)], "no layer of the classifier has weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_dense_is_refused_by_name(layers: list[nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        convolutionalize(nn.Sequential(*layers), 8)
    assert "; " in str(error.value)


def test_calls_that_are_no_layers_are_refused_by_name() -> None:
    for head in (
        lambda _net, x: x.view(1, -1),
        lambda _net, x: x.mean((2, 3)),
        lambda _net, x: torch.sigmoid(x),
    ):
        with pytest.raises(
            ValueError, match=r"'(view|mean|sigmoid)' is no layer of torch\.nn; write it as one"
        ):
            convolutionalize(Written(head), 6)


@pytest.mark.parametrize(
    ("size", "words"),
    [((8, 8, 8), "input_size has 3 numbers"), (0, "input_size=0"), ((8, 2.5), "input_size=2.5")],
)
def test_bad_input_sizes_are_refused(size: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convolutionalize(nn.Sequential(nn.Conv2d(1, 1, 8), nn.Flatten()), size)
    with pytest.raises(ValueError, match="padded='crop' is unknown"):
        convolutionalize(nn.Sequential(nn.Conv2d(1, 1, 8), nn.Flatten()), 8, padded="crop")
