from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import InputError
from medseg.runs import Augmentation
from medseg.transforms import Augmenter, PatchDraw, augment_batch, augment_patch, augmentation_margin

EVERYTHING: dict[str, Any] = {
    name: 0.7 for name in Augmentation.model_fields if name.endswith("_probability")
}
NAMES = ("left lung", "right lung", "heart")


@pytest.fixture
def augmenter(make_augmenter: Callable[..., Augmenter]) -> Augmenter:
    return make_augmenter(
        (10, 9, 8),
        names=NAMES,
        ct_channels=(True, False),
        mirror="all",
        spacing_mm=(1.0, 1.2, 1.5),
        **EVERYTHING,
    )


def _patch(augmenter: Augmenter, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    margin = augmentation_margin(augmenter.choice, augmenter.patch_size, augmenter.spacing_mm)
    shape = [size + 2 * edge for size, edge in zip(augmenter.patch_size, margin, strict=True)]
    return {
        "image": torch.randn(2, *shape, generator=generator),
        "label": torch.randint(0, 4, (1, *shape), generator=generator, dtype=torch.uint8),
        "weight": torch.rand(1, *shape, generator=generator),
    }


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_draw_is_replayed_to_the_bit(augmenter: Augmenter) -> None:
    patch = _patch(augmenter)
    before = {key: value.clone() for key, value in patch.items()}
    for seed in range(8):
        draw = augmenter.draw(np.random.default_rng(seed))
        changed = augment_patch(patch, draw)
        assert {key: tuple(value.shape) for key, value in changed.items()} == {
            "image": (2, 10, 9, 8),
            "label": (1, 10, 9, 8),
            "weight": (1, 10, 9, 8),
        }
        assert changed["label"].dtype == torch.uint8
        written = PatchDraw.from_json(draw.to_json())
        assert (
            written == draw == pickle.loads(pickle.dumps(draw)) == augmenter.draw(np.random.default_rng(seed))
        )
        assert hash(written) == hash(draw)
        assert _same(augment_patch(patch, written), changed)
    assert _same(patch, before)
    assert draw != augmenter.draw(np.random.default_rng(99))


def test_a_batch_is_its_patches(augmenter: Augmenter) -> None:
    rng = np.random.default_rng(0)
    patches = [_patch(augmenter, seed) for seed in range(4)]
    draws = [augmenter.draw(rng) for _ in patches]
    batch: dict[str, Any] = {key: torch.stack([patch[key] for patch in patches]) for key in patches[0]}
    changed = augment_batch(batch | {"case": torch.arange(4)}, draws)
    assert torch.equal(changed.pop("case"), torch.arange(4))
    for place, (patch, draw) in enumerate(zip(patches, draws, strict=True)):
        assert _same({key: value[place] for key, value in changed.items()}, augment_patch(patch, draw))


def test_what_is_read_around_does_not_matter_beyond_the_margin(augmenter: Augmenter) -> None:
    patch = _patch(augmenter)
    for seed in range(12):
        draw = augmenter.draw(np.random.default_rng(seed))
        cut = [slice(None)] + [
            slice((have - size) // 2 - edge, (have - size) // 2 + size + edge)
            for have, size, edge in zip(
                patch["image"].shape[1:], draw.spatial.patch_size, draw.spatial.margin, strict=True
            )
        ]
        closer = augment_patch({key: value[tuple(cut)] for key, value in patch.items()}, draw)
        whole = augment_patch(patch, draw)
        torch.testing.assert_close(closer["image"], whole["image"], atol=1e-3, rtol=0)
        torch.testing.assert_close(closer["weight"], whole["weight"], atol=1e-4, rtol=0)
        assert (closer["label"] == whole["label"]).float().mean() > 0.99


def test_nothing_drawn_gives_everything_back(augmenter: Augmenter) -> None:
    patch = {key: value[:, :10, :9, :8] for key, value in _patch(augmenter).items()}
    assert _same(augment_patch(patch, augmenter.nothing), patch)
    assert set(json.loads(augmenter.nothing.to_json())) == {"spatial", "channels"}


def test_channels_move_together_and_change_by_themselves(make_augmenter: Callable[..., Augmenter]) -> None:
    mover = make_augmenter(ct_channels=(False, False), spatial_probability=1.0, elastic_probability=1.0)
    channel = torch.randn(1, 20, 20, 20)
    both = torch.cat([channel, channel])
    moved = augment_patch({"image": both}, mover.draw(np.random.default_rng(0)))["image"]
    assert torch.equal(moved[0], moved[1])
    spoiler = make_augmenter(ct_channels=(False, False), brightness_probability=1.0, noise_probability=1.0)
    first, second = spoiler.draw(np.random.default_rng(0)).channels
    assert first.brightness != second.brightness
    assert first.noise != second.noise


def test_threads_do_not_change_a_patch(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter((40, 40, 40), mirror="all", **EVERYTHING)
    patch = {"image": _patch(augmenter)["image"][:1]}
    threads = torch.get_num_threads()
    try:
        for seed in range(6):
            draw = augmenter.draw(np.random.default_rng(seed))
            torch.set_num_threads(1)
            one = augment_patch(patch, draw)
            torch.set_num_threads(2)
            assert _same(augment_patch(patch, draw), one)
    finally:
        torch.set_num_threads(threads)


def test_what_does_not_fit_a_draw_is_refused(augmenter: Augmenter) -> None:
    patch, draw = _patch(augmenter), augmenter.nothing
    with pytest.raises(InputError, match=r"the draw is for \(2, X, Y, Z\)"):
        augment_patch({"image": patch["image"][:1]}, draw)
    batch = {key: value[None] for key, value in patch.items()}
    for draws in ([], [draw, draw]):
        with pytest.raises(InputError, match="one for each patch"):
            augment_batch(batch, draws)
    with pytest.raises(InputError, match="is no draw: spatial"):
        PatchDraw.from_json('{"channels": []}')
    with pytest.raises(InputError, match="is no draw"):
        PatchDraw.from_json("{")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_a_cpu_does(make_augmenter: Callable[..., Augmenter]) -> None:
    augmenter = make_augmenter(
        (10, 9, 8), names=NAMES, mirror="all", **{**EVERYTHING, "noise_probability": 0.0}
    )
    patch = _patch(augmenter)
    patch["image"] = patch["image"][:1]
    for seed in range(10):
        draw = augmenter.draw(np.random.default_rng(seed))
        on_gpu = augment_patch({key: value.cuda() for key, value in patch.items()}, draw)
        on_cpu = augment_patch(patch, draw)
        torch.testing.assert_close(on_gpu["image"].cpu(), on_cpu["image"], atol=1e-2, rtol=0)
        assert (on_gpu["label"].cpu() == on_cpu["label"]).float().mean() > 0.99
