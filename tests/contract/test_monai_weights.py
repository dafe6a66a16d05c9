"""Networks that MONAI has as well: with the same weights they give the same.

| MONAI | medseg |
|---|---|
| `BasicUNet` | `unet`; MONAI's last step up keeps the channels, so the two finest widths are equal here |
| `DynUNet`, plain and with `res_block`, with its deep-supervision heads | `unet` with `downsample="conv"`, and `units="residual_encoder"`, and `deep_supervision`; MONAI gives a level on the way up the kernel of the level below it, so kernels are equal here |
| `HighResNet`, of a quarter of its widths | `highresnet`; MONAI's norm and activation behind the class scores, which make them all positive, are left out |
| `VNet`, of a quarter of its widths | `vnet`, its configuration `vnet_monai` |

The exceptions, and why:

| MONAI | differs from `unet` in |
|---|---|
| `UNet` (Kerfoot 2018) | its first convolution strides already, so that no skip has full resolution and the last step up makes the scores; one convolution or unit a level; its units add after the last activation and project by strided 3x3x3 convolutions |
| `AttentionUnet` | steps up are transposed convolutions of kernel 3 with norm and activation, followed by one convolution with instance norm and PReLU (batch norm and ReLU elsewhere); its attention gate is the same, and compared in the unit tests |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks import nets
from monai.networks.nets import vnet as monai_vnet
from torch import Tensor, nn

from medseg.networks import build_network
from medseg.networks.vnet import CONFIGURATIONS as VNETS

Pair = tuple[nn.Module, nn.Module]
"""medseg's network and MONAI's."""

IN_CHANNELS, CLASSES = 2, 3

LEARNT = (
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def images(dims: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, IN_CHANNELS, *(32, 16, 48)[:dims], generator=generator, dtype=torch.float64)


def randomised(network: nn.Module) -> nn.Module:
    """The network in double precision, with biases, scales, shifts and statistics that count."""
    generator = torch.Generator().manual_seed(2)
    for name, value in network.double().state_dict().items():
        if value.ndim == 1:
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(noise if name.endswith(("bias", "mean")) else 0.5 + noise)
    return network.eval()


def layers_as_they_run(network: nn.Module, batch: Tensor) -> list[nn.Module]:
    layers: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, _args: layers.append(layer))
        for module in network.modules()
        if isinstance(module, LEARNT)
    ]
    with torch.no_grad():
        network(batch)
    for hook in hooks:
        hook.remove()
    return layers


def share_weights(ours: nn.Module, theirs: nn.Module, dims: int, without: nn.Module | None = None) -> Pair:
    """Give ``theirs`` the weights of ``ours``, layer by layer as they run, but for those in ``without``.

    MONAI's convolutions have biases before norms, which add nothing and are made zero.
    """
    theirs.double().eval()
    left_out = [] if without is None else list(without.modules())
    here_and_there = zip(
        layers_as_they_run(randomised(ours), images(dims)),
        [layer for layer in layers_as_they_run(theirs, images(dims)) if layer not in left_out],
        strict=True,
    )
    for here, there in here_and_there:
        assert isinstance(here, type(there))
        if here.bias is None and there.bias is not None:
            nn.init.zeros_(there.bias)
        missing, unexpected = there.load_state_dict(here.state_dict(), strict=False)
        assert not unexpected
        assert missing in ([], ["bias"])
    return ours, theirs


def basic_unet(dims: int, norm: str = "batch") -> Pair:
    features = (4, 4, 8, 16)
    ours = build_network("unet", dims, IN_CHANNELS, CLASSES, features=(*features, 32), norm=norm)
    theirs = nets.BasicUNet(
        dims,
        IN_CHANNELS,
        CLASSES,
        features=(*features, 32, 4),
        act="relu",
        norm=(norm, {"affine": True}),
        upsample="deconv",
    )
    return share_weights(ours, theirs, dims)


def dyn_unet(dims: int, res_block: bool = False) -> Pair:
    features = (4, 6, 8, 10)
    kernels = [(3, 3, 1)] * 4 if dims == 3 else [(5, 3)] * 4
    strides = [(2, 2, 1), (2, 2, 1), (2, 1, 1)] if dims == 3 else [(2, 1), 2, 2]
    ours = build_network(
        "unet",
        dims,
        IN_CHANNELS,
        CLASSES,
        features=features,
        norm="instance",
        activation="leaky_relu",
        kernel_sizes=kernels,
        strides=strides,
        downsample="conv",
        units="residual_encoder" if res_block else "plain",
        deep_supervision=True,
    )
    theirs = nets.DynUNet(
        dims,
        IN_CHANNELS,
        CLASSES,
        kernel_size=kernels,
        strides=[1, *strides],
        upsample_kernel_size=strides,
        filters=features,
        res_block=res_block,
        deep_supervision=True,
        deep_supr_num=2,
        trans_bias=True,
    )
    share_weights(ours, theirs, dims, without=theirs.deep_supervision_heads)
    for here, there in zip(ours.deep_heads, theirs.deep_supervision_heads, strict=True):
        there.conv.conv.load_state_dict(here.state_dict())
    # MONAI joins the skip behind what was upsampled, medseg before it.
    for level in theirs.upsamples:
        weight = level.conv_block.conv1.conv.weight.data
        weight.copy_(torch.cat(weight.chunk(2, dim=1)[::-1], dim=1))
    return ours, theirs


def dyn_unet_of_residual_units(dims: int) -> Pair:
    return dyn_unet(dims, res_block=True)


def vnet(dims: int) -> Pair:
    options = VNETS["vnet_monai"] | {
        "spatial_dims": dims,
        "in_channels": IN_CHANNELS,
        "out_channels": CLASSES,
        "features": (4, 8, 16, 32, 64),
    }
    ours, theirs = share_weights(build_network("vnet", **options), _narrow_monai_vnet(dims), dims)
    # MONAI joins the skip behind what was upsampled, and so on through the sums up to the next step up.
    ups = [theirs.up_tr256, theirs.up_tr128, theirs.up_tr64, theirs.up_tr32]
    after = [*(level.up_conv for level in ups[1:]), theirs.out_tr.conv_block.conv]
    for level, next_layer in zip(ups, after, strict=True):
        for layer in level.ops.modules():
            if isinstance(layer, LEARNT):
                for value in layer.state_dict().values():
                    _swap_halves(value, 0)
                if layer.weight.ndim > 1:
                    _swap_halves(layer.weight, 1)
        _swap_halves(next_layer.weight, 0 if next_layer.transposed else 1)
    return ours, theirs


def _narrow_monai_vnet(dims: int) -> nn.Module:
    """MONAI's VNet, whose widths are fixed, of its own parts at a quarter of them, for the time it takes."""
    with torch.device("meta"):
        network = nets.VNet(dims, IN_CHANNELS, CLASSES)
    elu = ("elu", {"inplace": True})
    network.in_tr = monai_vnet.InputTransition(dims, IN_CHANNELS, 4, elu)
    network.down_tr32 = monai_vnet.DownTransition(dims, 4, 1, elu)
    network.down_tr64 = monai_vnet.DownTransition(dims, 8, 2, elu)
    network.down_tr128 = monai_vnet.DownTransition(dims, 16, 3, elu, dropout_prob=0.5)
    network.down_tr256 = monai_vnet.DownTransition(dims, 32, 2, elu, dropout_prob=0.5)
    network.up_tr256 = monai_vnet.UpTransition(dims, 64, 64, 2, elu, dropout_prob=(0.5, 0.5))
    network.up_tr128 = monai_vnet.UpTransition(dims, 64, 32, 2, elu, dropout_prob=(0.5, 0.5))
    network.up_tr64 = monai_vnet.UpTransition(dims, 32, 16, 1, elu)
    network.up_tr32 = monai_vnet.UpTransition(dims, 16, 8, 1, elu)
    network.out_tr = monai_vnet.OutputTransition(dims, 8, CLASSES, elu)
    return network


def _swap_halves(value: Tensor, axis: int) -> None:
    if value.ndim > 0:
        value.data.copy_(torch.cat(value.chunk(2, dim=axis)[::-1], dim=axis))


def highresnet(dims: int) -> Pair:
    ours = build_network("highresnet", dims, IN_CHANNELS, CLASSES, base_features=4)
    theirs = nets.HighResNet(dims, IN_CHANNELS, CLASSES, bias=True, layer_params=HIGHRES_LAYERS)
    theirs.blocks[-1] = theirs.blocks[-1].conv
    return share_weights(ours, theirs, dims)


HIGHRES_LAYERS = (
    {"n_features": 4, "kernel_size": 3},
    *({"n_features": width, "kernels": (3, 3), "repeat": 3} for width in (4, 8, 16)),
    {"n_features": 20, "kernel_size": 1},
    {"kernel_size": 1},
)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("pair", [basic_unet, dyn_unet, dyn_unet_of_residual_units, highresnet, vnet])
def test_the_same_weights_give_the_same(pair: Callable[[int], Pair], dims: int) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(dims)
    expected = theirs(images(dims))
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(images(dims)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("res_block", [False, True])
def test_deep_supervision_heads_give_dyn_unet_s(dims: int, res_block: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = dyn_unet(dims, res_block)
    full = theirs(images(dims))
    maps = ours.forward_deep(images(dims))
    assert len(maps) == 3
    for here, there in zip(maps, [full, *theirs.heads], strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_basic_unet_trains_the_same(dims: int, norm: str) -> None:
    torch.manual_seed(0)
    ours, theirs = (network.train() for network in basic_unet(dims, norm))
    scores, gradients = [], []
    for network in (ours, theirs):
        batch = images(dims).requires_grad_()
        scores.append(network(batch))
        gradients.append(torch.autograd.grad(scores[-1].square().mean(), batch)[0])
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-12)
