"""The steps of nnU-Net's way, each against an independent implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch.nn import functional

from medseg.errors import ConfigError
from medseg.runs.nnunet import Architecture, ResamplingOptions
from medseg.segmenters.nnunet.architecture import build_nnunet
from medseg.segmenters.nnunet.resampling import resampled, resampled_shape, thick_axis
from medseg.segmenters.nnunet.windows import gaussian_weights, window_starts, windowed_logits
from tests.data.nnunet import architecture


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Numbers that stay the same whichever tests ran before."""
    return np.random.default_rng(request.config.getoption("--seed"))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", [(7, 12, 5), (20, 9, 11), (7, 9, 11)])
def test_resampling_is_scikit_images(
    order: int, shape: tuple[int, int, int], rng: np.random.Generator
) -> None:
    array = rng.normal(size=(2, 7, 9, 11)).astype(np.float32)
    how = ResamplingOptions(order=order)  # type: ignore[arg-type]
    found = resampled(array, shape, (1.0, 1.0, 1.0), (1.0, 1.5, 2.0), how)
    expected = [
        resize(one.astype(float), shape, order, mode="edge", anti_aliasing=False, clip=True) for one in array
    ]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_resampled_apart(axis: int, rng: np.random.Generator) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    array = rng.normal(size=(1, 6, 7, 8))
    shape = tuple(13 if index == axis else size + 3 for index, size in enumerate(array.shape[1:]))
    how = ResamplingOptions(order=3)
    assert thick_axis(how, spacing, (1.0, 1.0, 1.0)) == thick_axis(how, (1.0, 1.0, 1.0), spacing) == axis
    found = np.moveaxis(resampled(array, shape, spacing, (1.0, 1.0, 1.0), how)[0], axis, 0)
    slices = np.moveaxis(array[0], axis, 0)
    plane = tuple(size for index, size in enumerate(shape) if index != axis)
    for index, plane_found in enumerate(found):
        nearest = min(int(np.floor((index + 0.5) * len(slices) / 13)), len(slices) - 1)
        expected = resize(slices[nearest], plane, 3, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(plane_found, expected, atol=1e-9)


def test_which_slices_are_thick() -> None:
    how = ResamplingOptions()
    assert thick_axis(how, (3.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is None  # not more than three times
    assert thick_axis(how, (0.2, 1.2, 1.2), (1.0, 1.0, 1.0)) is None  # two axes are longest
    assert thick_axis(ResamplingOptions(force_separate_z=False), (9.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is None
    assert thick_axis(ResamplingOptions(force_separate_z=True), (1.1, 1.0, 1.0), (1.0, 1.0, 1.0)) == 0
    assert resampled_shape((10, 20, 30), (2.0, 1.0, 1.0), (1.0, 1.0, 3.0)) == (20, 20, 10)


def test_what_need_not_be_resampled_stays(rng: np.random.Generator) -> None:
    array = rng.normal(size=(1, 3, 3, 3))
    assert resampled(array, (3, 3, 3), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), ResamplingOptions()) is array


@pytest.mark.parametrize(("size", "window"), itertools.product((16, 17, 24, 61), (16,)))
def test_windows_cover_all_and_are_at_most_half_a_window_apart(size: int, window: int) -> None:
    starts = window_starts(size, window)
    assert starts[0] == 0
    assert starts[-1] == size - window
    assert all(0 < after - before <= window // 2 + 1 for before, after in itertools.pairwise(starts))


def test_weights_of_a_window() -> None:
    weights = gaussian_weights((8, 12))
    assert weights.dtype == torch.half
    assert weights[4, 6] == weights.max() == 10
    assert (weights > 0).all()
    one = torch.exp(-0.5 * ((torch.arange(8) - 4) / 1.0) ** 2)
    two = torch.exp(-0.5 * ((torch.arange(12) - 6) / 1.5) ** 2)
    torch.testing.assert_close(weights.float(), 10 * one[:, None] * two, atol=0.02, rtol=0.02)


class _Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, 2 * x), dim=1)


class _Ramp(torch.nn.Module):
    """Looks at where a voxel lies in its window, which mirror images average away."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
        return torch.cat((x, ramp), dim=1)


def _seen(shape: tuple[int, ...], window: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How many windows see each voxel, and their weights' sum in double precision, over the last axes."""
    shape = shape[-len(window) :]
    before = [max(0, wide - size) // 2 for size, wide in zip(shape, window, strict=True)]
    padded = [max(size, wide) for size, wide in zip(shape, window, strict=True)]
    weights = gaussian_weights(window).double().numpy()
    count, total = np.zeros(padded), np.zeros(padded)
    starts = [window_starts(size, wide) for size, wide in zip(padded, window, strict=True)]
    for corner in itertools.product(*starts):
        place = tuple(slice(low, low + wide) for low, wide in zip(corner, window, strict=True))
        count[place] += 1
        total[place] += weights
    inner = tuple(slice(low, low + size) for low, size in zip(before, shape, strict=True))
    return count[inner], total[inner]


@pytest.mark.parametrize("window", [(8, 8, 8), (8, 8), (5, 30, 6)])
def test_windows_of_a_network_that_looks_at_single_voxels(
    window: tuple[int, ...], rng: np.random.Generator
) -> None:
    image = torch.from_numpy(rng.normal(size=(1, 9, 17, 6))).float()
    axes = range(len(window))
    logits = windowed_logits(_Twice().eval(), image, window, tuple(axes), torch.device("cpu"), 2)
    assert logits.dtype == torch.half
    # Each sum is rounded to 11 binary digits, and where weights are small, in the corners of the image that
    # one window alone sees, to the smallest number of half precision; so is the sum of the weights.
    expected = torch.cat((image, 2 * image)).double().numpy()
    count, total = _seen(image.shape, window)
    digits = (2 * count + 1) * 2.0**-11 * np.abs(expected)
    smallest = count * 2.0**-25 / total * (1 + np.abs(expected))
    wrong = np.abs(logits.double().numpy() - expected)
    assert (wrong <= 1.1 * (digits + smallest)).all()
    assert np.median(wrong) < 1e-3


def test_mirror_images_are_averaged(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(size=(1, 8, 8, 8))).float()
    plain, mirrored = (
        windowed_logits(_Ramp().eval(), image, (8, 8, 8), axes, torch.device("cpu"), 2)
        for axes in ((0, 1), (2,))
    )
    assert plain[1].std() > 0.1
    assert mirrored[1].abs().max() < 1e-3


def _reference(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The plain network of ``architecture()``, written out."""

    def block(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        x = functional.conv3d(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], stride, 1)
        x = functional.instance_norm(
            x, weight=weights[f"{name}.norm.weight"], bias=weights[f"{name}.norm.bias"]
        )
        return functional.leaky_relu(x, 0.01)

    fine = block(x, "encoder.stages.0.0.convs.0")
    coarse = block(block(fine, "encoder.stages.1.0.convs.0", 2), "encoder.stages.1.0.convs.1")
    up = functional.conv_transpose3d(
        coarse, weights["decoder.transpconvs.0.weight"], weights["decoder.transpconvs.0.bias"], 2
    )
    x = block(torch.cat((up, fine), dim=1), "decoder.stages.0.convs.0")
    return functional.conv3d(x, weights["decoder.seg_layers.0.weight"], weights["decoder.seg_layers.0.bias"])


def test_the_network_is_what_its_names_say() -> None:
    network = build_nnunet(Architecture.model_validate(architecture()), 1, 3).eval()
    x = torch.randn(2, 1, 8, 10, 12)
    with torch.no_grad():
        torch.testing.assert_close(network(x), _reference(network.state_dict(), x))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_residual_network_has_nnunets_names(dims: int) -> None:
    network = build_nnunet(Architecture.model_validate(architecture(dims, residual=True)), 2, 3).eval()
    names = {name for name in network.state_dict() if name.endswith("conv.weight")}
    assert names == {
        "encoder.stem.convs.0.conv.weight",
        "encoder.stages.0.blocks.0.conv1.conv.weight",
        "encoder.stages.0.blocks.0.conv2.conv.weight",
        "encoder.stages.1.blocks.0.conv1.conv.weight",
        "encoder.stages.1.blocks.0.conv2.conv.weight",
        "encoder.stages.1.blocks.0.skip.1.conv.weight",
        "encoder.stages.1.blocks.1.conv1.conv.weight",
        "encoder.stages.1.blocks.1.conv2.conv.weight",
        "decoder.stages.0.convs.0.conv.weight",
    }
    assert network(torch.zeros(1, 2, *[8] * dims)).shape == (1, 3, *[8] * dims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_class_name": "my.Net"}, "has the network 'Net', which medseg has not"),
        ({"block": "Bottleneck"}, "has a network with 'block'"),
        ({"conv_op": "os.system"}, "has convolutions 'os.system'"),
        ({"norm_op": "os.InstanceNorm3d"}, "has 'os.InstanceNorm3d' in its network"),
        ({"nonlin": "torch.nn.Softshrink"}, "has 'torch.nn.Softshrink' in its network"),
        ({"strides": [[1, 1, 1]]}, "describes no network .1 numbers for 2 stages"),
        ({"n_stages": None}, "describes no network .'n_stages' is missing"),
    ],
)
def test_other_networks_are_refused(change: dict[str, object], message: str) -> None:
    described = architecture(**{key: value for key, value in change.items() if key != "network_class_name"})
    described |= {key: value for key, value in change.items() if key == "network_class_name"}
    with pytest.raises(ConfigError, match=message):
        build_nnunet(Architecture.model_validate(described), 1, 3)
