"""Networks put together at random give streamed what they give whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 20
"""Slices of any layer along any axis, at most."""

Draw = Callable[..., Any]


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *images: Tensor) -> Tensor:
        return self.function(*images)


class PoolThenUnpool(nn.Module):
    """Max pooling, a convolution, and back to where the largest values were; many of them are equal."""

    def __init__(self, channels: int, dims: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.before = _layer("Conv", dims)(channels, channels, 3, padding=1)
        self.pool = _layer("MaxPool", dims)(**options, return_indices=True)
        self.inner = _layer("Conv", dims)(channels, channels, 3, padding=1)
        unpooled = {name: options[name] for name in ("kernel_size", "stride", "padding")}
        self.unpool = _layer("MaxUnpool", dims)(**unpooled)

    def forward(self, images: Tensor) -> Tensor:
        pooled, places = self.pool(torch.round(2.0 * self.before(images)))
        result: Tensor = self.unpool(self.inner(pooled), places, output_size=images.shape)
        return result


class RandomNetwork(nn.Module):
    """Layers, each with the numbers of those that it reads."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.layers = nn.ModuleList()
        self.inputs: list[tuple[int, ...]] = []
        self.largest = 1.0

    def forward(self, images: Tensor) -> Tensor:
        values = [images]
        for layer, inputs in zip(self.layers, self.inputs, strict=True):
            values.append(layer(*(values[index] for index in inputs)))
        return values[-1]


@dataclass
class Growing:
    """A network as it grows, with what its layers give for one image."""

    draw: Draw
    network: RandomNetwork
    values: list[Tensor] = field(default_factory=list)

    @property
    def dims(self) -> int:
        return self.network.dims

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, max(low, high))))

    def choice(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def per_axis(self, low: int, high: int) -> tuple[int, ...]:
        return tuple(self.number(low, high) for _ in range(self.dims))

    def source(self) -> int:
        """The last layer in half of all cases, else any."""
        last = len(self.values) - 1
        return last if self.draw(st.booleans()) else self.number(0, last)

    def add(self, layer: nn.Module, *inputs: int) -> int:
        """Take a layer in if what it gives is no larger than need be; the number of the last layer."""
        layer.eval()
        with torch.no_grad():
            made = layer(*(self.values[index] for index in inputs))
        if all(1 <= length <= LARGEST for length in made.shape[2:]) and made.shape[1] <= 16:
            self.network.layers.append(layer)
            self.network.inputs.append(inputs)
            self.network.largest = max(self.network.largest, made.abs().max().item())
            self.values.append(made)
        return len(self.values) - 1

    def size(self, index: int) -> tuple[int, ...]:
        return tuple(self.values[index].shape[2:])

    def channels(self, index: int) -> int:
        return self.values[index].shape[1]


def _layer(name: str, dims: int) -> Any:
    return getattr(nn, f"{name}{dims}d")


def convolution(net: Growing) -> None:
    source = net.source()
    channels, kernel, gaps = net.channels(source), net.per_axis(1, 4), net.per_axis(1, 2)
    extents = [gap * (taps - 1) + 1 for gap, taps in zip(gaps, kernel, strict=True)]
    padding: Any = net.per_axis(0, 3)
    mode = net.choice(["zeros", "zeros", "replicate", "reflect", "circular"])
    if mode != "zeros":
        padding = tuple(min(p, n - 1) for p, n in zip(padding, net.size(source), strict=True))
    stride: Any = net.per_axis(1, 3)
    if net.number(0, 3) == 0:
        padding, stride, mode = "same", 1, "zeros"
    elif any(n + 2 * p < e for n, p, e in zip(net.size(source), padding, extents, strict=True)):
        return
    groups = net.choice([1, channels])
    net.add(
        _layer("Conv", net.dims)(
            channels,
            groups * net.number(1, 2),
            kernel,
            stride=stride,
            padding=padding,
            dilation=gaps,
            groups=groups,
            bias=net.choice([True, False]),
            padding_mode=mode,
        ),
        source,
    )


def transposed_convolution(net: Growing) -> None:
    source = net.source()
    channels, kernel, stride, gaps = (
        net.channels(source),
        net.per_axis(1, 4),
        net.per_axis(1, 3),
        net.per_axis(1, 2),
    )
    padding = net.per_axis(0, 2)
    added = tuple(net.number(0, max(s, g) - 1) for s, g in zip(stride, gaps, strict=True))
    spreads = zip(net.size(source), stride, padding, gaps, kernel, added, strict=True)
    if any((n - 1) * s - 2 * p + g * (k - 1) + a + 1 < 1 for n, s, p, g, k, a in spreads):
        return
    groups = net.choice([1, channels])
    options = {
        "stride": stride,
        "padding": padding,
        "output_padding": added,
        "dilation": gaps,
        "groups": groups,
    }
    net.add(_layer("ConvTranspose", net.dims)(channels, groups * net.number(1, 2), kernel, **options), source)


def _pooling(net: Growing, source: int) -> dict[str, Any] | None:
    kernel, stride = net.per_axis(1, 3), net.per_axis(1, 3)
    padding = tuple(net.number(0, taps // 2) for taps in kernel)
    if any(n + 2 * p < k for n, p, k in zip(net.size(source), padding, kernel, strict=True)):
        return None
    return {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": net.choice([False, True]),
    }


def max_pool(net: Growing) -> None:
    source = net.source()
    options = _pooling(net, source)
    if options is not None:
        net.add(_layer("MaxPool", net.dims)(**options), source)


def average_pool(net: Growing) -> None:
    source = net.source()
    options = _pooling(net, source)
    # PyTorch wants the image to be as large as the kernel without its padding.
    if options is not None and min(net.size(source)) >= max(options["kernel_size"]):
        counted, divisor = net.choice([False, True]), net.choice([None, None, 5])
        net.add(
            _layer("AvgPool", net.dims)(**options, count_include_pad=counted, divisor_override=divisor),
            source,
        )


def pool_then_unpool(net: Growing) -> None:
    source = net.source()
    kernel = net.choice([2, 3])
    options = {
        "kernel_size": kernel,
        "stride": kernel,
        "padding": net.number(0, kernel // 2),
        "ceil_mode": net.choice([False, True]),
    }
    if min(net.size(source)) >= kernel:
        net.add(PoolThenUnpool(net.channels(source), net.dims, options), source)


def interpolation(net: Growing) -> None:
    source = net.source()
    smooth = "bilinear" if net.dims == 2 else "trilinear"
    mode = net.choice(["nearest", "nearest-exact", smooth, *(["bicubic"] if net.dims == 2 else [])])
    options: dict[str, Any] = {"mode": mode}
    if not mode.startswith("nearest"):
        options["align_corners"] = net.choice([False, True])
    if net.choice([False, True]):
        options["size"] = net.per_axis(1, LARGEST)
    else:
        options["scale_factor"] = net.choice([0.5, 1.5, 2.0])
        if min(net.size(source)) < 2:
            return
    net.add(Apply(lambda images: functional.interpolate(images, **options)), source)


def batch_norm(net: Growing) -> None:
    source = net.source()
    layer = _layer("BatchNorm", net.dims)(net.channels(source), affine=net.choice([False, True]))
    for tensor in (layer.running_mean, layer.running_var, *layer.parameters()):
        nn.init.uniform_(tensor, 0.5, 2.0)
    net.add(layer, source)


def pad(net: Growing) -> None:
    source = net.source()
    mode = net.choice(["constant", "replicate", "reflect", "circular"])
    size = net.size(source)
    low, high = (-2, 5) if mode == "constant" else (0, 5)
    amounts: list[int] = []
    for length in reversed(size):
        most = high if mode in ("constant", "replicate") else min(high, length - 1)
        pair = (net.number(low, most), net.number(low, most))
        amounts += pair if length + sum(pair) > 0 and length + min(pair) > 0 else (0, 0)
    options: dict[str, Any] = {"value": 0.75} if mode == "constant" else {}
    if mode == "constant" and net.choice([False, True]):
        amounts += [net.number(0, 2), net.number(0, 2)]
    net.add(Apply(lambda images: functional.pad(images, amounts, mode=mode, **options)), source)


_ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    lambda: nn.LeakyReLU(0.2, inplace=True),
    nn.PReLU,
    nn.ReLU6,
    lambda: nn.ELU(0.5),
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardswish,
    nn.Hardsigmoid,
    lambda: nn.Hardtanh(-0.3, 0.4),
    lambda: nn.Threshold(0.1, 0.2),
    nn.RReLU,
    nn.Tanhshrink,
    nn.Softshrink,
    nn.LogSigmoid,
    nn.Dropout,
    nn.AlphaDropout,
    lambda: nn.Dropout(inplace=True),
    lambda: Apply(lambda images: images.clamp(-0.5, 0.5)),
    lambda: Apply(lambda images: (2.0 - images).abs()),
    lambda: Apply(lambda images: torch.where(images > 0, images, torch.zeros_like(images))),
    lambda: Apply(lambda images: images * torch.ones_like(images[:, :1])),
    lambda: Apply(lambda images: torch.softmax(images, dim=1)),
    lambda: Apply(lambda images: torch.log_softmax(images, dim=1)),
    lambda: Apply(lambda images: images.mean(dim=1, keepdim=True)),
    lambda: Apply(lambda images: images.amax(dim=1, keepdim=True)),
    lambda: Apply(lambda images: images.clone()),
    lambda: Apply(lambda images: (images > 0.1).to(images.dtype)),
    lambda: Apply(lambda images: images.double().exp().float().clamp(max=3.0)),
)


def activation(net: Growing) -> None:
    layer = net.choice(_ACTIVATIONS)()
    source = net.source()
    # What is overwritten must not be read otherwise.
    if getattr(layer, "inplace", False):
        source = net.add(Apply(lambda images: images + 1.0), source)
        if net.network.inputs and source != len(net.values) - 1:
            return
        before = net.values[source].clone()
        net.add(layer, source)
        net.values[source] = before
        return
    net.add(layer, source)


def channels(net: Growing) -> None:
    source = net.source()
    count = net.channels(source)
    half = max(1, count // 2)
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda images: images.repeat(1, 2, *[1] * (images.ndim - 2)),
        lambda images: images[:, :half],
        lambda images: images[:, 0].unsqueeze(1),
        lambda images: images[:, :1].expand(-1, 3, *[-1] * (images.ndim - 2)),
        lambda images: images.unflatten(1, (1, count)).flatten(1, 2),
        lambda images: images.transpose(0, 1).transpose(0, 1),
        lambda images: torch.cat([images, torch.zeros_like(images)], dim=1),
        lambda images: torch.stack([images, -images], dim=2).flatten(1, 2),
    ]
    if count % 2 == 0:
        ways += [
            lambda images: torch.mul(*images.chunk(2, dim=1)),
            lambda images: images.unflatten(1, (2, half)).transpose(1, 2).flatten(1, 2),
            lambda images: images.unflatten(1, (half, 2)).sum(dim=2),
            lambda images: torch.cat(images.split([half, half], dim=1)[::-1], dim=1),
        ]
    net.add(Apply(net.choice(ways)), source)


def crop(net: Growing) -> None:
    source = net.source()
    axis = net.number(0, net.dims - 1)
    length = net.size(source)[axis]
    start = net.number(0, length - 1)
    stop = net.number(start + 1, length)
    net.add(Apply(lambda images: images.narrow(2 + axis, start, stop - start)), source)


def _fitted(net: Growing, source: int, size: tuple[int, ...], channels: int | None) -> int:
    """A layer cropped, padded or resized to a size, with as many channels as wanted."""
    if net.size(source) != size:
        if net.choice([False, True]):
            # Where it lies in the other one is as good as any.
            amounts = []
            for have, want in zip(reversed(net.size(source)), reversed(size), strict=True):
                before = net.number(min(0, want - have), max(0, want - have))
                amounts += [before, want - have - before]
            layer = Apply(lambda images: functional.pad(images, amounts))
        else:
            layer = Apply(lambda images: functional.interpolate(images, size=size))
        source = net.add(layer, source)
    if channels is not None and net.channels(source) != channels:
        source = net.add(_layer("Conv", net.dims)(net.channels(source), channels, 1), source)
    return source


def join(net: Growing) -> None:
    first, second = net.source(), net.source()
    way = net.choice(["add", "sub", "mul", "maximum", "cat", "cat", "cat_conv"])
    second = _fitted(net, second, net.size(first), None if way.startswith("cat") else net.channels(first))
    if net.size(first) != net.size(second):
        return
    if way.startswith("cat"):
        joined = net.add(Apply(lambda *images: torch.cat(images, dim=1)), first, second)
        if way == "cat_conv":
            count = net.channels(joined)
            net.add(_layer("Conv", net.dims)(count, 2, 3, padding=1), joined)
        return
    function = getattr(torch, way)
    if net.channels(first) == net.channels(second):
        net.add(Apply(lambda *images: function(*images)), first, second)


_GROWTH = (
    convolution, convolution, transposed_convolution, max_pool, average_pool, pool_then_unpool, interpolation,
    batch_norm, pad, activation, activation, channels, crop, join, join, join,
)  # fmt: skip


@st.composite
def networks(draw: Draw) -> tuple[RandomNetwork, Tensor]:
    """A network of up to eight steps of growth, and an image for it."""
    dims = draw(st.integers(2, 3))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    size = [draw(st.integers(4, 13)) for _ in range(dims)]
    images = torch.randn(draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size)
    net = Growing(draw, RandomNetwork(dims).eval(), [images])
    for _ in range(draw(st.integers(1, 8))):
        draw(st.sampled_from(_GROWTH))(net)
    return net.network, images


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_random_networks_give_streamed_what_they_give_whole(
    data: st.DataObject, streamed: Callable[..., Tensor]
) -> None:
    network, images = data.draw(networks())
    axis = data.draw(st.integers(0, network.dims - 1))
    with torch.no_grad():
        whole = network(images)
    thickness = data.draw(st.integers(1, whole.shape[2 + axis] + 1))
    first = data.draw(st.one_of(st.none(), st.integers(1, thickness)))
    if data.draw(st.booleans()):
        layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
        images = images.contiguous(memory_format=layout)
    slabs = streamed(network, images, axis, thickness, first=first)
    assert slabs.shape == whole.shape
    assert not math.isnan(network.largest)
    assert (slabs - whole).abs().max() <= 1e-5 * network.largest
