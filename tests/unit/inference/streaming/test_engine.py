"""The engine and its timetable: what is made when, kept how long, and in which type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.inference.streaming.chunks import Chunks, Scratch, gather
from medseg.inference.streaming.interpolation import resize_axis
from medseg.inference.streaming.schedule import make_schedule
from medseg.inference.streaming.simplify import simplify
from medseg.network_graph import capture
from medseg.networks import build_network
from medseg.ranges import Interpolation


def test_pieces_are_gathered_side_by_side_with_borders_beyond_the_ends() -> None:
    first, second = (Chunks((1, 1, 4, 2), 2, torch.empty(0), room=0) for _ in range(2))
    rows = torch.arange(8.0).reshape(1, 1, 4, 2)
    first.add(0, rows[:, :, :3])
    first.add(3, rows[:, :, 3:])
    second.add(0, -rows)
    made = gather([first, second], 2, 6, border=9.0)
    assert made[0, 0].tolist() == [[4.0, 5.0], [6.0, 7.0], [9.0, 9.0], [9.0, 9.0]]
    assert made[0, 1].tolist() == [[-4.0, -5.0], [-6.0, -7.0], [9.0, 9.0], [9.0, 9.0]]
    assert gather([first], 7, 9, border=5.0)[0, 0].tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert first.owns(gather([first], 0, 2))
    assert not first.owns(gather([first], 2, 4))
    assert gather([first], 0, 2, dtype=torch.float64).dtype == torch.float64


def test_forgotten_slices_give_their_memory_back() -> None:
    chunks = Chunks((1, 1, 8, 2), 2, torch.empty(0), room=3)
    made = torch.arange(12.0).reshape(1, 1, 6, 2)
    chunks.add(0, made)
    assert chunks.owns(made)
    chunks.forget(4)
    assert not chunks.owns(made)
    (left,) = chunks.pieces(0, 8)
    assert left.flatten().tolist() == [8.0, 9.0, 10.0, 11.0]
    assert left.untyped_storage().nbytes() == 3 * 2 * 4
    chunks.forget(8)
    assert chunks.pieces(0, 8) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=8))
def test_what_is_kept_goes_round_and_stays_the_same(steps: list[tuple[int, int]]) -> None:
    room = max(kept for _, kept in steps)
    length = sum(count for count, _ in steps)
    whole = torch.arange(2.0 * length).reshape(1, 1, length, 2)
    chunks = Chunks(whole.shape, 2, torch.empty(0), room)
    low = done = 0
    for count, kept in steps:
        chunks.add(done, whole[:, :, done : done + count])
        done += count
        assert torch.equal(gather([chunks], low, done), whole[:, :, low:done])
        low = max(low, done - kept)
        chunks.forget(low)
        if low < done:
            assert torch.equal(gather([chunks], low, done), whole[:, :, low:done])


def test_scratch_memory_grows_and_is_used_again() -> None:
    scratch, cpu = Scratch(), torch.device("cpu")
    small = scratch.take((1, 3, 2, 4, 5), torch.float32, cpu)
    assert small.is_contiguous(memory_format=torch.channels_last_3d)
    large = scratch.take((1, 3, 4, 4, 5), torch.float32, cpu)
    again = scratch.take((1, 5, 6), torch.float64, cpu)
    assert again.shape == (1, 5, 6)
    assert again.data_ptr() == large.data_ptr()


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "cubic"])
@given(before=st.integers(1, 9), after=st.integers(1, 14), data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_parts_of_a_resized_axis_are_those_of_the_whole(
    mode: str, before: int, after: int, data: st.DataObject
) -> None:
    aligned = not mode.startswith("nearest") and data.draw(st.booleans())
    needs = Interpolation(mode, before, after, aligned)
    start = data.draw(st.integers(0, after - 1))
    stop = data.draw(st.integers(start + 1, after))
    images = torch.randn(1, 2, before, 3)
    first, last = needs.reads(start, stop, before)
    part = resize_axis(images[:, :, first:last], 2, needs, start, stop, first)
    options = {} if mode.startswith("nearest") else {"align_corners": aligned}
    torch_mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    whole = functional.interpolate(images, (after, 3), mode=torch_mode, **options)
    torch.testing.assert_close(part, whole[:, :, start:stop], atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("name", ["unet", "segnet", "deeplab"])
@pytest.mark.parametrize("thickness", [1, 3, 40])
def test_every_slice_is_made_once_and_nothing_is_kept_in_the_end(name: str, thickness: int) -> None:
    network = build_network(name, 2, 1, 2)
    graph = simplify(capture(network, (1, 1, 37, 32)), dict(network.state_dict())).graph
    made = dict.fromkeys(graph.nodes, 0)
    kept: dict[str, int] = {}
    output = []
    for moves in make_schedule(graph, 0, thickness).steps:
        for move in moves:
            assert move.start == made[move.name]
            assert move.keep >= kept.get(move.name, 0)
            made[move.name], kept[move.name] = move.stop, move.keep
            if move.name == graph.outputs[0]:
                output.append((move.start, move.stop))
    assert output == [(start, min(start + thickness, 37)) for start in range(0, 37, thickness)]
    # Of a way up that is cropped, the last slices are needed by nobody.
    assert all(made[node.name] in range(node.size[0] - 3, node.size[0] + 1) for node in graph.nodes.values())
    assert kept == made


class Widest(TorchDispatchMode):
    """Notes the most numbers that any tensor of single or double precision has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            wide = isinstance(tensor, Tensor) and tensor.dtype in (torch.float32, torch.float64)
            if wide and not isinstance(tensor, FakeTensor) and not tensor.is_meta:
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("name", ["unet", "segnet", "deeplab", "refinenet"])
def test_bfloat16_makes_no_map_in_single_precision(name: str, streamed: Callable[..., Tensor]) -> None:
    network = build_network(name, 2, 1, 2, features=(4, 6, 8)).eval()
    largest_weight = max(weight.numel() for weight in network.parameters())
    images = torch.randn(1, 1, 96, 80, dtype=torch.bfloat16)
    with Widest() as widest:
        scores = streamed(network, images, 0, 96, dtype=torch.bfloat16)
    assert scores.dtype == torch.bfloat16
    # Weights alone, which are folded in double precision, and positions of interpolation.
    assert widest.numbers <= max(largest_weight, 96)
    assert largest_weight < 96 * 80


def test_what_is_read_elsewhere_is_not_overwritten(streamed: Callable[..., Tensor]) -> None:
    class ReadsItsInputAgain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            halves = images.expand(-1, 4, -1, -1)
            kept = nn.functional.dropout(halves, training=False)
            return torch.relu(kept) + torch.tanh(kept[:, 1:2]) + images

    images = torch.randn(1, 1, 9, 8)
    for thickness in (1, 4, 9):
        torch.testing.assert_close(
            streamed(ReadsItsInputAgain(), images, 0, thickness), ReadsItsInputAgain()(images)
        )


def test_an_output_that_is_the_input_may_be_changed(streamed: Callable[..., Tensor]) -> None:
    images = torch.randn(1, 1, 9, 8)
    assert torch.equal(streamed(nn.Identity(), images, 1, 4), images)
    crop = nn.Sequential(nn.ZeroPad2d((-1, -2, -2, 0)))
    assert torch.equal(streamed(crop, images, 1, 4), images[:, :, 2:, 1:-2])


def test_labels_over_channels(streamed: Callable[..., Tensor]) -> None:
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 4, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            return torch.softmax(self.conv(images), dim=1).argmax(dim=1)

    network, images = Labels(), torch.randn(2, 1, 7, 6, 5)
    whole = network(images)
    for axis in range(3):
        labels = streamed(network, images, axis, 2)
        assert labels.dtype == torch.int64
        assert (labels == whole).float().mean() > 0.999
