"""Preprocessing against hand-computed arrays, SciPy, SimpleITK and MONAI."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from scipy.ndimage import map_coordinates

from medseg.errors import GeometryError, InputError
from medseg.geometry import GRID_TOLERANCE_VOXELS, Grid, slab_maps
from medseg.runs import Normalization, PreprocessingSpec
from medseg.transforms import ResampleToSpacingd, preprocess, preprocessing_transforms, resample
from medseg.volume import Volume

NONE = Normalization(scheme="none")
ZSCORE = Normalization(scheme="zscore")
CT = Normalization(scheme="clip_zscore", lower=-100.0, upper=300.0, mean=50.0, std=25.0)
ORIENTATIONS = ("LAS", "PSR", "PIR", "LPS", "RAS", "SAL")


def make_grid(
    shape: tuple[int, int, int], axcodes: str, spacing_mm: tuple[float, ...], tilt: float = 0.0
) -> Grid:
    directions = np.zeros((3, 3))
    for column, code in enumerate(axcodes):
        row = next(row for row, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        directions[row, column] = 1.0 if code in "RAS" else -1.0
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions * spacing_mm
    affine[:3, 3] = (-31.5, 12.25, 90.0)
    return Grid(shape, affine)


def smooth(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_world_position(
    array: npt.NDArray[np.float32], source: Grid, target: Grid, order: int
) -> npt.NDArray[np.float64]:
    """What lies at the world positions of ``target``, sampled by SciPy."""
    indices = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), axis=-1)
    where = np.moveaxis(source.to_index(target.to_world(indices)), -1, 0)
    return np.stack(
        [map_coordinates(c.astype(np.float64), where, order=order, mode="nearest") for c in array]
    )


GRIDS = [
    make_grid((9, 11, 7), axcodes, spacing, tilt)
    for (axcodes, tilt), spacing in zip(
        itertools.product(ORIENTATIONS, (0.0, 0.3)),
        itertools.cycle([(1.0, 1.3, 4.0), (0.7, 2.5, 1.1)]),
        strict=False,
    )
]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.axcodes)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.2, 0.9, 3.1)])
def test_resampled_image_is_what_lies_at_each_world_position(
    grid: Grid, spacing: tuple[float, float, float]
) -> None:
    spec = PreprocessingSpec(spacing_mm=spacing, normalization=[NONE, NONE])
    image = Volume(smooth((2, *grid.shape)), grid)

    seen = preprocess(image, spec)

    assert spec.network_grid(grid).difference(seen.grid) is None
    np.testing.assert_allclose(seen.grid.affine, spec.network_grid(grid).affine, atol=1e-9)
    assert seen.array.dtype == np.float32
    np.testing.assert_allclose(
        seen.array, by_world_position(image.array, grid, seen.grid, order=1), atol=1e-5
    )


@pytest.mark.parametrize("grid", GRIDS[1::2], ids=lambda grid: grid.axcodes)
def test_resampled_image_agrees_with_simpleitk_and_monai(grid: Grid) -> None:
    spec = PreprocessingSpec(spacing_mm=(1.4, 1.4, 1.4), normalization=[NONE])
    image = Volume(smooth((1, *grid.shape)), grid)

    seen = preprocess(image, spec)

    def as_sitk(array: npt.NDArray[np.float32], on: Grid) -> sitk.Image:
        to_lps = np.diag([-1.0, -1.0, 1.0])
        made = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        made.SetSpacing(on.spacing_mm)
        made.SetOrigin(tuple(to_lps @ on.origin_mm))
        made.SetDirection((to_lps @ on.directions).ravel().tolist())
        return made

    reference = sitk.Resample(
        as_sitk(image.array[0], grid),
        as_sitk(seen.array[0], seen.grid),
        sitk.Transform(),
        sitk.sitkLinear,
        np.nan,
    )
    expected = sitk.GetArrayFromImage(reference).transpose(2, 1, 0)
    inside = np.isfinite(expected)  # ITK gives nothing beyond the outermost voxels
    assert inside.mean() > 0.5
    np.testing.assert_allclose(seen.array[0][inside], expected[inside], atol=1e-4)

    monai = SpatialResample(padding_mode="border")(
        image.to_metatensor(),
        dst_affine=torch.from_numpy(seen.grid.affine.copy()),
        spatial_size=seen.grid.shape,
    )
    np.testing.assert_allclose(seen.array, monai.numpy(), atol=1e-4)


def test_a_grid_that_stays_costs_nothing_and_changes_nothing() -> None:
    grid = make_grid((4, 5, 6), "RAS", (1.0, 1.0, 2.0))
    image = Volume(smooth((1, *grid.shape)), grid)
    before = image.array.copy()

    seen = preprocess(image, PreprocessingSpec(spacing_mm=(1.0, 1.0, 2.0), normalization=[NONE]))

    assert seen.grid == grid
    np.testing.assert_array_equal(seen.array, before)


def test_a_nearly_equal_spacing_is_resampled_all_the_same() -> None:
    # 0.04 voxels at the far end: more than grids tolerate, though no element of the affine moves much.
    grid = make_grid((100, 4, 4), "RAS", (1.0, 1.0, 1.0))
    spec = PreprocessingSpec(spacing_mm=(1.0004, 1.0, 1.0), normalization=[NONE])

    assert (
        spec.network_grid(grid).difference(preprocess(Volume(smooth((1, *grid.shape)), grid), spec).grid)
        is None
    )


def test_zscore_uses_the_stored_voxels_of_each_channel() -> None:
    grid = make_grid((6, 7, 8), "LPS", (1.0, 1.0, 3.0))
    array = np.stack([1000.0 + 5.0 * smooth(grid.shape), -3.0 * smooth(grid.shape, 1)])
    kept = array.copy()

    seen = preprocess(Volume(array, grid), PreprocessingSpec(normalization=[ZSCORE, ZSCORE]))

    expected = (array - array.mean((1, 2, 3), keepdims=True)) / array.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(seen.array, expected[:, ::-1, ::-1], atol=1e-4)
    np.testing.assert_array_equal(array, kept)


def test_channels_follow_their_own_schemes() -> None:
    grid = Grid((3, 1, 1), np.eye(4))
    array = np.array([[-500.0, 50.0, 1000.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reshape(3, 3, 1, 1)

    seen = preprocess(Volume(array, grid), PreprocessingSpec(normalization=[CT, ZSCORE, NONE]))

    deviation = np.sqrt(1.5)
    np.testing.assert_allclose(
        seen.array.reshape(3, 3),
        [[-6.0, 0.0, 10.0], [-deviation, 0.0, deviation], [4.0, 5.0, 6.0]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e-30])
def test_a_constant_image_becomes_zero(value: float) -> None:
    grid = make_grid((5, 6, 7), "RAS", (1.0, 1.0, 1.0))

    seen = preprocess(
        Volume(np.full((1, *grid.shape), value), grid), PreprocessingSpec(normalization=[ZSCORE])
    )

    np.testing.assert_array_equal(seen.array, 0.0)


SIGNED = {np.uint16: np.int32, np.uint32: np.int64}  # torch cannot flip these unsigned types in any layout


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float64]
)
def test_every_voxel_type_comes_out_in_single_precision(dtype: type, order: str) -> None:
    grid = make_grid((5, 4, 3), "PIR", (1.0, 1.0, 1.0))
    array = np.asarray(np.arange(60).reshape(1, 5, 4, 3).astype(dtype), order=order)  # type: ignore[call-overload]

    seen, label = preprocess(
        Volume(array, grid),
        PreprocessingSpec(spacing_mm=(2.0, 1.0, 1.0), normalization=[NONE]),
        Volume(array, grid),
    )

    assert seen.array.dtype == np.float32
    assert label.array.dtype == SIGNED.get(dtype, dtype)
    np.testing.assert_allclose(seen.array, by_world_position(array, grid, seen.grid, order=1), atol=1e-4)
    assert set(np.unique(label.array)) <= set(range(60))


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.axcodes)
def test_labels_are_resampled_by_nearest_neighbours(grid: Grid) -> None:
    labels = np.random.default_rng(1).integers(0, 300, (1, *grid.shape)).astype(np.int16)
    spec = PreprocessingSpec(spacing_mm=(0.83, 0.83, 0.83), normalization=[NONE])

    seen, label = preprocess(Volume(smooth((1, *grid.shape)), grid), spec, Volume(labels, grid))

    assert label.grid == seen.grid
    expected = by_world_position(labels, grid, seen.grid, order=0)
    positions = [m.source_positions(0, m.target_length) % 1 for m in slab_maps(grid, seen.grid)]
    clear = np.ix_([True], *(np.abs(p - 0.5) > 1e-3 for p in positions))  # ties are no error of either
    np.testing.assert_array_equal(label.array[clear], expected[clear])
    assert label.array[clear].size > 0.5 * label.array.size


def test_ties_between_two_neighbours_do_not_depend_on_the_direction_of_an_axis() -> None:
    grid = Grid((6, 1, 1), np.eye(4))
    labels = np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1)
    image = Volume(labels.astype(np.float32), grid)
    spec = PreprocessingSpec(spacing_mm=(2.0, 1.0, 1.0), normalization=[NONE])
    flipped = Volume(labels[:, ::-1], Grid((6, 1, 1), grid.reoriented("LAS").affine))

    _, label = preprocess(image, spec, Volume(labels, grid))
    _, same = preprocess(flipped, spec, flipped)

    assert label.array.ravel().tolist() == [0, 2, 3, 5]  # the centres lie at -0.5, 1.5, 3.5, 5.5
    np.testing.assert_array_equal(same.array, label.array)


@settings(max_examples=30, deadline=None)
@given(
    source=st.tuples(*[st.integers(1, 7)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 3.0)] * 3),
    axcodes=st.sampled_from(ORIENTATIONS),
    tilt=st.floats(-0.5, 0.5),
)
@example(source=(1, 1, 2), spacing=(1.0, 1.0, 1.99609375), axcodes="RAS", tilt=0.0)
@example(source=(1, 1, 4), spacing=(1.0, 1.0, 2.0078125), axcodes="LAS", tilt=0.0)
def test_linear_functions_survive_resampling(
    source: tuple[int, int, int], spacing: tuple[float, float, float], axcodes: str, tilt: float
) -> None:
    fine = make_grid(source, axcodes, (1.0, 1.2, 2.0), tilt).resampled(spacing)  # encloses the target
    target = make_grid(source, axcodes, (1.0, 1.2, 2.0), tilt).reoriented("RAS")
    indices = np.stack(np.meshgrid(*map(np.arange, fine.shape), indexing="ij"), axis=-1)
    world = torch.from_numpy(np.moveaxis(fine.to_world(indices), -1, 0).copy())

    back = resample(world, slab_maps(fine, target))

    indices = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), axis=-1)
    error = fine.to_index(np.moveaxis(back.numpy(), 0, -1)) - fine.to_index(target.to_world(indices))
    assert np.abs(error).max() < GRID_TOLERANCE_VOXELS + 1e-4  # nearer than that, two grids are the same


def test_slabs_are_slices_of_the_whole() -> None:
    source, target = GRIDS[3], GRIDS[3].reoriented("PIR").resampled((0.9, 1.7, 1.2))
    voxels = torch.from_numpy(smooth((2, *source.shape)))
    maps = slab_maps(source, target)
    whole = resample(voxels, maps)

    assert tuple(whole.shape[1:]) == target.shape
    for start, stop in [(0, 1), (2, 5), (target.shape[2] - 1, target.shape[2])]:
        torch.testing.assert_close(resample(voxels, maps, start=start, stop=stop), whole[..., start:stop])


def test_resampling_is_undone_onto_the_grid_it_started_from() -> None:
    grid = make_grid((9, 8, 7), "LAS", (1.0, 1.0, 4.0), 0.2)
    transform = ResampleToSpacingd(("image", "label"), (1.5, 1.5, 1.5), ("linear", "nearest"))
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    world = np.moveaxis(grid.to_world(indices), -1, 0)
    pair = {
        "image": Volume(world[:1], grid).to_metatensor(),
        "label": Volume(np.ones_like(world[:1]), grid).to_metatensor(),
    }

    there = transform(pair)
    back = transform.inverse(there)

    assert there["image"].shape != pair["image"].shape
    assert Volume.from_metatensor(back["image"]).grid == grid
    inner = (0, slice(2, -2), slice(2, -2), slice(1, -1))  # the border was held constant on the way out
    np.testing.assert_allclose(back["image"].numpy()[inner], world[0][inner[1:]], atol=1e-3)
    assert not back["image"].applied_operations


def test_the_chain_is_undone_by_monai() -> None:
    grid = make_grid((6, 7, 8), "PSR", (1.0, 1.0, 2.0))
    chain = preprocessing_transforms(PreprocessingSpec(spacing_mm=(1.0, 1.0, 1.0), normalization=[NONE]))

    back = chain.inverse(chain({"image": Volume(smooth((1, *grid.shape)), grid).to_metatensor()}))

    assert grid.difference(Volume.from_metatensor(back["image"]).grid) is None


def test_wrong_input_is_refused() -> None:
    grid = Grid((2, 2, 2), np.eye(4))
    image = Volume(np.zeros((3, 2, 2, 2)), grid)
    spec = PreprocessingSpec(normalization=[ZSCORE])

    with pytest.raises(InputError, match="has 3 channels, 1 needed"):
        preprocess(image, spec)
    moved = Volume(np.zeros((1, 2, 2, 2)), Grid((2, 2, 2), np.diag([2.0, 1.0, 1.0, 1.0])))
    with pytest.raises(GeometryError, match="image and label lie on different grids: spacing"):
        preprocess(Volume(np.zeros((1, 2, 2, 2)), grid), spec, moved)
    with pytest.raises(InputError, match="without an affine"):
        ResampleToSpacingd("image", (1, 1, 1))({"image": torch.zeros(1, 2, 2, 2)})
    with pytest.raises(GeometryError, match="does not fit its grid"):
        resample(torch.zeros(1, 3, 2, 2), slab_maps(grid, grid))


def test_a_2d_slice_keeps_its_thickness() -> None:
    grid = make_grid((5, 6, 1), "LPS", (1.0, 1.0, 5.0))

    seen = preprocess(
        Volume(smooth((1, *grid.shape)), grid), PreprocessingSpec(spacing_mm=(1, 1, 1), normalization=[NONE])
    )

    assert seen.grid.shape == (5, 6, 1)
    assert seen.grid.spacing_mm == pytest.approx((1.0, 1.0, 5.0))
    assert isinstance(seen.to_metatensor(), MetaTensor)
