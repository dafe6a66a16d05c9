"""Which way an image takes through a network, and within which memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError, InputError, ResourceError
from medseg.geometry import Grid
from medseg.inference import choose_compute
from medseg.inference.slabs import MemoryShortage
from medseg.io import read_volume, write_volume
from medseg.io.sizes import resident_bytes
from medseg.labels import LabelScheme
from medseg.networks import build_network
from medseg.runs import Normalization, PreprocessingSpec
from medseg.runs.recipe import InferenceChoice
from medseg.segmenters import EnsembleSegmenter, NetworkSegmenter, passage, segment_case, segment_to_file
from medseg.volume import Volume

LABELS = LabelScheme.from_names({1: "left lung", 4: "right lung"})
OPTIONS: dict[str, Any] = {"in_channels": 1, "out_channels": 3, "features": (4, 8, 8)}


def unet(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = build_network("unet", **{**OPTIONS, **options})
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 1, 44, 44, 44))
    return network


def segmenter(
    network: nn.Module,
    *,
    mode: str = "auto",
    mirror: str = "",
    overlap: float = 0.5,
    spacing_mm: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
    **options: Any,
) -> NetworkSegmenter:
    return NetworkSegmenter(
        network,
        labels=LABELS,
        channel_names=("CT",),
        preprocessing=PreprocessingSpec(
            spacing_mm=spacing_mm, normalization=[Normalization(scheme="zscore")]
        ),
        patch_size=(16, 16, 16),
        inference=InferenceChoice(mode=mode, mirror=mirror, overlap=overlap),  # type: ignore[arg-type]
        compute=choose_compute("cpu", "float32"),
        **options,
    )


def image(shape: tuple[int, int, int] = (22, 19, 25)) -> Volume:
    values = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Volume(values, Grid(shape, np.diag([-0.8, 1.1, 1.3, 1.0])))


SMALL = (14, 18, 17)
"""In voxels of 0.8, 1.1 and 1.3 mm: about a patch, longer along one axis."""


@pytest.mark.parametrize("mirror", ["", "x"])
def test_a_small_image_is_seen_at_once_and_labelled_as_if_streamed(mirror: str) -> None:
    network = unet()
    small = segmenter(network, mirror=mirror)
    plan = small.plan(image(SMALL))
    assert (plan.inference.mode, plan.inference.details["windows"]) == ("sliding-window", 1)
    assert plan.inference.details["window"] == plan.margins.padded_size
    assert "one window holds all of it" in plan.why

    streamed = segmenter(network, mirror=mirror, mode="streaming")
    ours, theirs = small.segment(image(SMALL)).array, streamed.segment(image(SMALL)).array
    assert (ours != theirs).mean() < 1e-3  # but for ties, which sums in another order may break otherwise


def test_a_small_image_that_does_not_fit_at_once_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "SMALL", math.inf)  # so that it takes more than what tells processes apart
    network, large = unet(features=[16, 32]), image((96, 96, 96))
    at_once = segmenter(network).plan(large)
    streamed = segmenter(network, mode="streaming").plan(large)
    assert at_once.peak_bytes > streamed.peak_bytes + 50_000_000

    tight = segmenter(network, max_ram_bytes=(at_once.peak_bytes + streamed.peak_bytes) // 2).plan(large)

    assert tight.inference.mode == "streaming"


@pytest.mark.parametrize(("network", "shape"), [("local", (22, 19, 25)), ("whole", SMALL)])
def test_large_images_and_networks_that_look_at_all_of_one_are_not_seen_at_once(
    network: str, shape: tuple[int, int, int]
) -> None:
    plan = segmenter(unet() if network == "local" else unet(norm="instance")).plan(image(shape))

    assert "one window" not in plan.why


def test_local_networks_are_streamed_others_see_windows() -> None:
    plan = segmenter(unet()).plan(image())
    assert plan.inference.mode == "streaming"
    assert plan.why == "every layer of the network is local"

    windows = segmenter(unet(norm="instance")).plan(image())
    assert windows.inference.mode == "sliding-window"
    assert "looks at the whole image" in windows.why
    with pytest.raises(ConfigError, match="looks at the whole image"):
        segmenter(unet(norm="instance"), mode="streaming").plan(image())


def test_valid_networks_see_tiles() -> None:
    valid = segmenter(unet(padding="valid"))

    assert valid.plan(image()).inference.mode == "overlap-tile"
    assert valid.segment(image()).array.shape == (1, 22, 19, 25)


def test_every_way_gives_nearly_the_same_labels() -> None:
    network = unet()
    whole = segmenter(network, mode="streaming").segment(image()).array
    windows = segmenter(network, mode="sliding-window").segment(image()).array
    assert len(np.unique(whole)) == 3
    # Windows of 16 voxels see their own borders everywhere: they agree but roughly.
    assert (whole == windows).mean() > 0.7


def test_a_small_image_is_streamed_as_the_patch_that_the_network_knows() -> None:
    network = unet()
    small = image((13, 9, 10))
    stream = segmenter(network, mode="streaming")
    plan = stream.plan(small)
    assert plan.margins.padded_size == (16, 16, 16)

    # One window, padded in the same way, is the same pass.
    scores = stream.scores(small, plan)
    windows = segmenter(network, mode="sliding-window")
    other = windows.scores(small, windows.plan(small, scores.axis))
    length = scores.length
    torch.testing.assert_close(scores.read(0, length), other.read(0, length), rtol=1e-4, atol=1e-4)


def test_a_mirrored_network_is_the_mean_over_mirror_images_with_sides_exchanged() -> None:
    network = unet()
    plain = segmenter(network, spacing_mm=None)
    mirrored = segmenter(network, mirror="x", spacing_mm=None)
    assert mirrored.plan(image()).inference.axis != 0

    flipped = Volume(image().array[:, ::-1].copy(), image().grid)
    mine = mirrored.scores(image(), mirrored.plan(image(), axis=2))
    straight = plain.scores(image(), plain.plan(image(), axis=2))
    turned = plain.scores(flipped, plain.plan(flipped, axis=2))

    length = mine.length
    left_and_right_exchanged = turned.read(0, length).flip(1)[[0, 2, 1]]
    expected = (straight.read(0, length).softmax(0) + left_and_right_exchanged.softmax(0)) / 2
    torch.testing.assert_close(mine.read(0, length).softmax(0), expected, rtol=1e-4, atol=1e-5)


def test_mirroring_along_all_axes_needs_windows() -> None:
    assert segmenter(unet(), mirror="xyz").plan(image()).inference.mode == "sliding-window"
    with pytest.raises(ConfigError, match=r"--mirror: cannot stream along an axis that is mirrored"):
        segmenter(unet(), mode="streaming", mirror="xyz").plan(image())


@pytest.mark.parametrize("mirror", ["x", "xy", "xyz"])
def test_mirrored_labels_come_whatever_the_mode(mirror: str) -> None:
    for mode in ("auto", "sliding-window"):
        labels = segmenter(unet(), mode=mode, mirror=mirror).segment(image())
        assert len(np.unique(labels.array)) > 1


def test_a_tight_limit_gives_the_same_labels_from_thinner_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the process takes changes from one call to the next by more than this small network needs.
    monkeypatch.setattr(passage, "resident_bytes", lambda: 100_000_000)
    network = unet()
    large = image((60, 55, 48))
    free = segmenter(network, mode="streaming")
    plan = free.plan(large)
    limit = int((plan.peak_bytes - plan.by_part["network"] // 4) / 0.95)  # a twentieth is left to chance
    tight = segmenter(network, mode="streaming", max_ram_bytes=limit)
    tight_plan = tight.plan(large)

    assert tight_plan.by_part["network"] < plan.by_part["network"]
    assert tight_plan.inference.slab < plan.inference.slab or tight_plan.inference.tiles
    np.testing.assert_array_equal(tight.segment(large).array, free.segment(large).array)


def test_a_limit_that_nothing_keeps_to_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"--max-ram"):
        segmenter(unet(), max_ram_bytes=resident_bytes() // 2).plan(image())


@pytest.mark.parametrize("options", [{"mode": "streaming"}, {"mode": "sliding-window"}, {"mirror": "x"}, {}])
def test_the_least_that_is_named_would_do(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "resident_bytes", lambda: 100_000_000)
    network = unet()
    with pytest.raises(MemoryShortage, match=r"--max-ram: .* 100\.0 MB of it before it begins") as refused:
        segmenter(network, max_ram_bytes=90_000_000, **options).plan(image())

    least = refused.value.least_bytes
    assert segmenter(network, max_ram_bytes=int(1.02 * least), **options).plan(image()).peak_bytes <= least


def test_windows_are_taken_rather_than_many_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "resident_bytes", lambda: 100_000_000)
    network, large = unet(features=(8, 16, 24)), image((60, 90, 90))
    tight: dict[str, Any] = {"max_ram_bytes": int(118_000_000 / 0.95), "spacing_mm": None}
    tiled = segmenter(network, mode="streaming", **tight).plan(large).inference
    assert tiled.details["computed"] > 4

    windows = segmenter(network, overlap=0.0, **tight).plan(large)
    assert windows.inference.mode == "sliding-window"
    assert "each voxel computed 6 times" in windows.why
    # Windows that overlap by half compute still more.
    assert segmenter(network, **tight).plan(large).inference.mode == "streaming"


def test_a_limit_leaves_mirrored_labels_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "resident_bytes", lambda: 100_000_000)
    network, large = unet(), image((40, 70, 66))
    free = segmenter(network, mode="streaming", mirror="x", spacing_mm=None)
    plan = free.plan(large)
    limit = int((plan.peak_bytes - plan.by_part["network"] // 2) / 0.95)
    tight = segmenter(network, mode="streaming", mirror="x", spacing_mm=None, max_ram_bytes=limit)

    assert tight.plan(large).inference.tiles
    same = tight.segment(large).array == free.segment(large).array
    assert same.mean() > 0.999


def test_the_recipe_s_modes_are_those_that_there_are() -> None:
    assert get_args(InferenceChoice.model_fields["mode"].annotation) == passage.MODES


def test_the_plan_reads_well_and_goes_into_a_manifest() -> None:
    plan = segmenter(unet()).plan(image())
    text = str(plan)
    assert "voxels on the network grid" in text
    assert "streaming along axis" in text
    manifest = plan.as_dict()
    assert manifest["peak_bytes"] == sum(manifest["by_part"].values())
    assert manifest["inference"]["mode"] == "streaming"


def test_from_file_to_file_as_in_memory(tmp_path: Path) -> None:
    write_volume(image(), tmp_path / "image.nii.gz")
    stream = segmenter(unet())

    counts, plan, _ = segment_to_file(stream, tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz")

    written = read_volume(tmp_path / "labels.nii.gz")
    expected = segment_case(stream, image())
    np.testing.assert_array_equal(written.array, expected.array)
    assert written.grid.difference(image().grid) is None
    assert counts == {
        int(v): int(n) for v, n in zip(*np.unique(expected.array, return_counts=True), strict=True)
    }
    assert plan.inference.mode == "streaming"


def test_what_is_not_finite_is_refused_by_its_file(tmp_path: Path) -> None:
    holed = image()
    holed.array[0, 3, 4, 5] = np.nan
    write_volume(holed, tmp_path / "holed.nii.gz")

    with pytest.raises(InputError, match=r"holed.nii.gz: .*1 .*NaN"):
        segment_to_file(segmenter(unet()), tmp_path / "holed.nii.gz", tmp_path / "labels.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["holed.nii.gz"]


def test_members_of_an_ensemble_go_along_one_axis() -> None:
    members = [segmenter(unet(), shared_by=2), segmenter(unet(norm="instance"), shared_by=2)]
    ensemble = EnsembleSegmenter(members)
    plan = ensemble.plan(image())

    assert [plan.inference.mode, *(other.inference.mode for other in plan.others)] == [
        "streaming",
        "sliding-window",
    ]
    assert {plan.inference.axis} == {other.inference.axis for other in plan.others}
    assert len(np.unique(ensemble.segment(image()).array)) > 1
