"""The sliding window against MONAI's function, over whatever may be asked of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medseg.inference.sliding_window import SlidingWindowInferer

POOLS = {2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}
CONVOLUTIONS = {2: nn.functional.conv2d, 3: nn.functional.conv3d}


@dataclass(frozen=True)
class Case:
    """What is asked."""

    image: Tensor
    roi_size: tuple[int, ...]
    network: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    at_call: dict[str, Any] = field(default_factory=dict)

    def monais(self) -> Any:
        """What MONAI answers."""
        options = {"overlap": 0.5, "mode": "gaussian", "sw_batch_size": 1, **self.options, **self.at_call}
        return sliding_window_inference(self.image, self.roi_size, predictor=self.network, **options)

    def medsegs(self, **options: Any) -> Any:
        """What medseg answers."""
        inferer = SlidingWindowInferer(self.roi_size, **self.options, **options)
        return inferer(self.image, self.network, **self.at_call)


def seeing_borders(channels: int, dims: int, classes: int, seed: int) -> Callable[..., Tensor]:
    """A network that gives other scores where the window ends, so that blending matters."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, channels, *(3,) * dims, generator=generator)
    return lambda windows: CONVOLUTIONS[dims](windows, weight, padding=1)


def knowing_places(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network that adds to its scores where the window begins."""

    def with_places(windows: Tensor, places: list[list[slice]]) -> Tensor:
        begins = [[place[0].start, *(span.start for span in place[2:])] for place in places]
        offsets = torch.tensor(begins, dtype=torch.float32) @ torch.arange(1.0, len(begins[0]) + 1)
        return network(windows) + offsets.reshape(-1, *(1,) * (windows.ndim - 1))

    return with_places


def doubling_bright_windows(
    outputs: tuple[Tensor, ...], windows: Tensor, weights: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Scores and weights that hang on what the windows show."""
    return tuple(3 * scores for scores in outputs), weights * (1 + windows.mean().abs())


@st.composite
def plain_cases(draw: st.DrawFn) -> Case:
    """One output at the image's scale."""
    dims = draw(st.sampled_from([2, 3]))
    shape = draw(st.lists(st.integers(3, 13 if dims == 3 else 20), min_size=dims, max_size=dims))
    roi = tuple(draw(st.sampled_from([0, -1, 1, 3, 4, 5, 6, size + 1, size + 3])) for size in shape)
    seed = draw(st.integers(0, 99))
    images, channels = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    image = torch.randn(images, channels, *shape, generator=torch.Generator().manual_seed(seed))
    network = seeing_borders(channels, dims, classes=3, seed=seed)
    parts = st.floats(0, 0.9).map(lambda part: round(part, 2))
    padding_mode = draw(st.sampled_from(["constant", "replicate", "reflect", "circular"]))
    options = {
        "overlap": draw(st.one_of(parts, st.tuples(*[parts] * dims))),
        "mode": draw(st.sampled_from(["gaussian", "constant"])),
        "sigma_scale": draw(st.one_of(st.floats(0.05, 0.5), st.tuples(*[st.floats(0.05, 0.5)] * dims))),
        "padding_mode": padding_mode,
        "cval": draw(st.sampled_from([0.0, -2.5])) if padding_mode == "constant" else 0.0,
        "sw_batch_size": draw(st.integers(1, 5)),
        "with_coord": draw(st.booleans()),
    }
    at_call: dict[str, Any] = {}
    window = tuple(size if size > 0 else whole for size, whole in zip(roi, shape, strict=True))
    if draw(st.booleans()):
        weights = torch.rand(window, generator=torch.Generator().manual_seed(seed)) + 0.1
        at_call["roi_weight_map"] = weights[None, None]
    if images == 1 or options["sw_batch_size"] == 1:
        at_call["process_fn"] = draw(st.sampled_from([None, doubling_bright_windows]))
    return Case(image, roi, knowing_places(network) if options["with_coord"] else network, options, at_call)


@st.composite
def cases_of_several_scales(draw: st.DrawFn) -> Case:
    """Outputs that are as fine as the image, or coarser, in a tuple or a dictionary."""
    dims = draw(st.sampled_from([2, 3]))
    shape = draw(st.lists(st.sampled_from([4, 8, 12, 20]), min_size=dims, max_size=dims))
    roi = tuple(draw(st.sampled_from([0, 8])) for _ in shape)
    seed = draw(st.integers(0, 99))
    image = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(seed))
    fine = seeing_borders(1, dims, classes=2, seed=seed)
    number = draw(st.integers(1, 3))
    packed = draw(st.sampled_from([tuple, list, dict]))

    def network(windows: Tensor) -> Any:
        outputs = [
            POOLS[dims](fine(windows), 2**level) if level else fine(windows) for level in range(number)
        ]
        return dict(zip("abc", outputs, strict=False)) if packed is dict else packed(outputs)

    options = {
        "overlap": draw(st.sampled_from([0.0, 0.5])),
        "mode": draw(st.sampled_from(["gaussian", "constant"])),
        "sw_batch_size": draw(st.integers(1, 3)),
    }
    at_call = {"process_fn": draw(st.sampled_from([None, lambda outputs, _, weights: (outputs, weights)]))}
    return Case(image, roi, network, options, at_call)


def agree(ours: Any, theirs: Any) -> None:
    """Equal to 1e-5 of their range, and packed alike."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, Tensor):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        size = float(theirs.max() - theirs.min()) + 1e-6
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * size)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        agree(tuple(ours.values()), tuple(theirs.values()))
    else:
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            agree(one, other)


def best_classes_agree(labels: Tensor, scores: Tensor) -> None:
    """The best class wherever it is better than the next by more than rounding."""
    best = scores.topk(2, dim=1)
    clear = (best.values[:, :1] - best.values[:, 1:]) > 1e-5 * (scores.max() - scores.min() + 1e-6)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels[clear].long(), best.indices[:, :1][clear])


@settings(deadline=None, max_examples=60)
@given(plain_cases(), st.sampled_from(["auto", 0, 1]))
def test_one_output(case: Case, axis: int | str) -> None:
    theirs = case.monais()
    agree(case.medsegs(axis=axis), theirs)
    best_classes_agree(case.medsegs(axis=axis, reduce="argmax"), theirs)


@settings(deadline=None, max_examples=30)
@given(cases_of_several_scales())
def test_outputs_of_several_scales(case: Case) -> None:
    theirs = case.monais()
    agree(case.medsegs(), theirs)
    labels = case.medsegs(reduce="argmax")
    packs = [list(made.values()) if isinstance(made, dict) else made for made in (labels, theirs)]
    pairs = [packs] if isinstance(theirs, Tensor) else zip(*packs, strict=True)
    for mine, scores in pairs:
        best_classes_agree(mine, scores)


@settings(deadline=None, max_examples=30)
@given(plain_cases(), st.sampled_from([0, 1]))
def test_slabs(case: Case, axis: int) -> None:
    options = {name: value for name, value in case.options.items() if name != "with_coord"}
    network = Pointless(seeing_borders(case.image.shape[1], case.image.ndim - 2, 3, seed=1))
    case = Case(case.image, case.roi_size, network, options)
    inferer = SlidingWindowInferer(case.roi_size, axis=axis, **options)
    plan = inferer.plan(network, tuple(case.image.shape))
    asked = [0]

    def read(start: int, stop: int) -> Tensor:
        assert start == asked[-1]
        asked.append(stop)
        return case.image.narrow(2 + axis, start, stop - start)

    slabs = list(inferer.slabs(read, network, tuple(case.image.shape), plan))

    starts = [start for start, _ in slabs]
    lengths = [slab.shape[2 + axis] for _, slab in slabs]
    assert starts == [sum(lengths[:index]) for index in range(len(lengths))]
    assert max(lengths) <= plan.slab
    agree(torch.cat([slab for _, slab in slabs], 2 + axis), case.monais())


class Pointless(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, windows: Tensor) -> Tensor:
        return self.function(windows)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_condition_is_cut_like_the_image(batch: int) -> None:
    image, condition = torch.randn(2, 1, 9, 3, 7), torch.randn(2, 1, 9, 3, 7)

    def network(windows: Tensor, scale: float, condition: Tensor) -> Tensor:
        return scale * windows + torch.nn.functional.avg_pool3d(condition, 3, 1, 1)

    theirs = sliding_window_inference(
        image, (4, 4, 4), batch, lambda windows, condition: network(windows, 2.0, condition),
        0.5, "gaussian", condition=condition,
    )  # fmt: skip
    ours = SlidingWindowInferer((4, 4, 4), sw_batch_size=batch)(image, network, 2.0, condition=condition)
    agree(ours, theirs)


def test_gradients_are_those_of_monai() -> None:
    image = torch.randn(1, 1, 9, 8)
    networks = [nn.Conv2d(1, 2, 3, padding=1) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())

    SlidingWindowInferer((4, 4))(image, networks[0]).square().sum().backward()
    sliding_window_inference(image, (4, 4), 1, networks[1], 0.5, "gaussian").square().sum().backward()

    torch.testing.assert_close(networks[0].weight.grad, networks[1].weight.grad, rtol=1e-4, atol=1e-4)
