"""Attention gates: by hand, by the paper's formula, and against MONAI's."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.attentionunet import AttentionBlock
from torch import nn

from medseg.networks.blocks import AttentionGate, CropConcat, GatedConcat, he_initialise, open_gates


def test_a_gate_worked_out_by_hand() -> None:
    gate = AttentionGate(2, 1, 1, 1, norm=None)
    with torch.no_grad():
        gate.skip.conv.weight.fill_(2.0)
        gate.gate.conv.weight.fill_(-1.0)
        gate.gate.conv.bias.fill_(1.0)
        gate.psi.conv.weight.fill_(1.0)
        gate.psi.conv.bias.fill_(-3.0)
    skip, signal = torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[[4.0, 9.0]]]])
    # relu(2 * 3 - 4 + 1) - 3 = 0, whose sigmoid is 1/2; relu(2 * 1 - 9 + 1) - 3 = -3.
    passed = torch.tensor([[[[0.5, 1 / (1 + torch.e**3)]]]])
    torch.testing.assert_close(gate.coefficients(skip, signal), passed)
    torch.testing.assert_close(gate(skip, signal), skip * passed)


def test_biases_are_the_paper_s_without_norm_and_none_with_it() -> None:
    plain, normed = AttentionGate(3, 4, 6, 2, norm=None), AttentionGate(3, 4, 6, 2)
    convs = ("skip.conv", "gate.conv", "psi.conv")
    assert [plain.get_submodule(name).bias is not None for name in convs] == [False, True, True]
    assert [normed.get_submodule(name).bias is not None for name in convs] == [False, False, False]
    assert plain(torch.zeros(1, 4, 3, 3, 2), torch.zeros(1, 6, 3, 3, 2)).shape == (1, 4, 3, 3, 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_monai_s_gate_with_the_same_weights_gives_the_same(dims: int, training: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = AttentionGate(dims, 6, 8, 4), AttentionBlock(dims, f_int=4, f_g=8, f_l=6)
    for here, there in ((ours.skip, theirs.W_x), (ours.gate, theirs.W_g), (ours.psi, theirs.psi)):
        nn.init.uniform_(here.norm.weight, 0.5, 1.5)
        nn.init.normal_(here.norm.bias)
        nn.init.normal_(here.norm.running_mean)
        there[0].conv.weight.data.copy_(here.conv.weight)
        nn.init.zeros_(there[0].conv.bias)  # a bias before a norm adds nothing
        there[1].load_state_dict(here.norm.state_dict())
    ours.train(training)
    theirs.train(training)
    size = (5, 4, 3)[:dims]
    skip, signal = torch.randn(2, 6, *size), torch.randn(2, 8, *size)
    torch.testing.assert_close(ours(skip, signal), theirs(g=signal, x=skip))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_gated_join_is_the_plain_one_of_what_passes(padding: str) -> None:
    torch.manual_seed(0)
    join, plain = GatedConcat(2, (3, 4), padding).eval(), CropConcat(2, padding)
    sizes = {"same": ((5, 6), (6, 6)), "valid": ((9, 8), (5, 4))}[padding]
    skip, upsampled = torch.randn(1, 3, *sizes[0]), torch.randn(1, 4, *sizes[1])
    joined, ungated = join(skip, upsampled), plain(skip, upsampled)
    assert joined.shape == ungated.shape
    assert torch.equal(joined[:, 3:], ungated[:, 3:])
    share = joined[:, :3] / ungated[:, :3]
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    assert share.min() > 0.0
    assert share.max() < 1.0


def test_open_gates_pass_most_of_the_skip_where_no_norm_follows() -> None:
    gate, normed = AttentionGate(2, 4, 4, 2, norm=None), AttentionGate(2, 4, 4, 2)
    before = {name: value.clone() for name, value in normed.state_dict().items()}
    he_initialise(gate)
    open_gates(nn.ModuleList([gate, normed]))
    passed = gate.coefficients(torch.zeros(1, 4, 3, 3), torch.zeros(1, 4, 3, 3))
    torch.testing.assert_close(passed, torch.full((1, 1, 3, 3), 1 / (1 + torch.e**-2)))
    assert all(torch.equal(value, before[name]) for name, value in normed.state_dict().items())
