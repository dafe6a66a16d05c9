"""Restoring class scores against SciPy, MONAI, and the whole volume at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from scipy.ndimage import map_coordinates

from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.inference import RestoredScores, Stage, best_class, label_map, slab_ranges
from medseg.labels import LabelScheme

LABELS = LabelScheme.from_names({3: "liver", 7: "spleen", 260: "kidney"})
AXCODES = ("RAS", "LAS", "PSR", "PIR", "LPS", "SAL", "ILA")


def make_grid(shape: tuple[int, ...], axcodes: str, spacing_mm: tuple[float, ...], tilt: float) -> Grid:
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for column, code in enumerate(axcodes):
        row = next(row for row, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[row, column] = (1.0 if code in "RAS" else -1.0) * spacing_mm[column]
    affine[:3, :3] = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ affine[:3, :3]
    affine[:3, 3] = (12.5, -80.0, 7.75)
    return Grid(shape, affine)  # type: ignore[arg-type]


def scores_on(grid: Grid, classes: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(classes, *grid.shape)).astype(np.float32)
    )


grids = st.builds(
    make_grid,
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    axcodes=st.sampled_from(AXCODES),
    spacing_mm=st.tuples(*[st.sampled_from([0.7, 1.0, 1.5, 4.0])] * 3),
    tilt=st.sampled_from([0.0, 0.25, -0.6]),
)
spacings = st.tuples(*[st.sampled_from([0.8, 1.0, 1.5, 3.3])] * 3)


@settings(max_examples=60, deadline=None)
@given(native=grids, spacing=spacings, seen_as=st.sampled_from(AXCODES), data=st.data())
def test_slabs_are_what_scipy_interpolates_at_their_world_positions(
    native: Grid, spacing: tuple[float, float, float], seen_as: str, data: st.DataObject
) -> None:
    network = native.reoriented(seen_as).resampled(spacing)
    scores = scores_on(network)
    start = data.draw(st.integers(0, native.shape[2] - 1))
    stop = data.draw(st.integers(start + 1, native.shape[2]))

    slab = RestoredScores(scores, network, native).read(start, stop)

    indices = np.stack(np.meshgrid(*map(np.arange, native.shape), indexing="ij"), axis=-1)[:, :, start:stop]
    where = np.moveaxis(network.to_index(native.to_world(indices)), -1, 0)
    expected = np.stack(
        [map_coordinates(channel, where, order=1, mode="nearest") for channel in scores.numpy()]
    )
    np.testing.assert_allclose(slab.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("axcodes", AXCODES)
def test_the_whole_agrees_with_monai(axcodes: str) -> None:
    native = make_grid((8, 9, 7), axcodes, (1.0, 1.5, 3.0), 0.2)
    network = native.reoriented("RAS").resampled((1.3, 1.3, 1.3))
    scores = scores_on(network)

    restored = RestoredScores(scores, network, native).read(0, 7)

    monai = SpatialResample(padding_mode="border")(
        MetaTensor(scores, affine=torch.from_numpy(network.affine.copy())),
        dst_affine=torch.from_numpy(native.affine.copy()),
        spatial_size=native.shape,
    )
    np.testing.assert_allclose(restored.numpy(), monai.numpy(), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(native=grids, spacing=spacings, seen_as=st.sampled_from(AXCODES))
def test_linear_functions_of_position_are_exact_at_every_native_voxel(
    native: Grid, spacing: tuple[float, float, float], seen_as: str
) -> None:
    network = native.reoriented(seen_as).resampled(spacing)

    def linear(grid: Grid) -> np.ndarray:
        indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
        return np.asarray(grid.to_world(indices) @ np.array([[0.3, -1.0], [0.7, 0.1], [-0.2, 2.0]]))

    scores = torch.from_numpy(np.moveaxis(linear(network), -1, 0).copy())

    restored = RestoredScores(scores, network, native).read(0, native.shape[2])

    np.testing.assert_allclose(restored.numpy(), np.moveaxis(linear(native), -1, 0), atol=1e-9)


@pytest.mark.parametrize("thickness", [None, 1, 3, 100])
def test_a_label_map_is_the_argmax_of_the_whole(thickness: int | None) -> None:
    native = make_grid((6, 7, 8), "LPS", (1.0, 1.0, 2.0), 0.0)
    network = native.reoriented("RAS").resampled((1.5, 1.5, 1.5))
    stage = RestoredScores(scores_on(network), network, native)

    labels = label_map(stage, LABELS, native, thickness)

    expected = np.array(LABELS.values)[stage.read(0, 8).argmax(dim=0).numpy()]
    assert labels.grid == native
    assert labels.array.dtype == np.int16
    np.testing.assert_array_equal(labels.array[0], expected)
    assert set(np.unique(expected)) == {0, 3, 7, 260}


def test_no_more_than_a_slab_is_ever_read() -> None:
    class Counting:
        length = 12

        def __init__(self) -> None:
            self.asked: list[tuple[int, int]] = []

        def read(self, start: int, stop: int) -> torch.Tensor:
            self.asked.append((start, stop))
            return torch.zeros(1, 1, 1, 1).expand(4, 1024, 1024, stop - start)

    stage: Stage = (counting := Counting())
    label_map(stage, LABELS, Grid((1024, 1024, 12), np.eye(4)))

    assert counting.asked == [(0, 8), (8, 12)]  # 16 MiB a slice, 128 MiB a slab


@pytest.mark.parametrize("classes", [1, 2, 5, 256, 300])
def test_best_class_is_the_first_of_the_highest(classes: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (classes, 5, 6, 7)).astype(np.float32))

    best = best_class(scores)

    assert best.dtype == (torch.uint8 if classes <= 256 else torch.int32)
    np.testing.assert_array_equal(best.numpy(), scores.numpy().argmax(axis=0))


def test_scores_are_left_as_they_are() -> None:
    native = make_grid((4, 4, 4), "LPS", (1.0, 1.0, 1.0), 0.0)
    scores = scores_on(native)
    before = scores.clone()

    label_map(RestoredScores(scores, native, native), LABELS, native)

    torch.testing.assert_close(scores, before, rtol=0, atol=0)


def test_grids_that_do_not_fit_are_refused() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    tilted = make_grid((4, 4, 4), "RAS", (1.0, 1.0, 1.0), 0.3)

    with pytest.raises(GeometryError, match="rotated"):
        RestoredScores(torch.zeros(2, 4, 4, 4), tilted, grid).read(0, 1)
    with pytest.raises(GeometryError, match="does not fit its grid"):
        RestoredScores(torch.zeros(2, 4, 4, 5), grid, grid).read(0, 1)


def test_slab_ranges_cover_all_slices_once() -> None:
    assert [list(range(*stretch)) for stretch in slab_ranges(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(slab_ranges(0, 3)) == []
