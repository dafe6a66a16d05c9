"""Preprocessing in slabs gives what preprocessing of the whole gives, as training sees it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.geometry import Grid
from medseg.inference import NetworkImage, slab_ranges
from medseg.io import open_volume, read_volume
from medseg.runs import Normalization, PreprocessingSpec
from medseg.transforms import preprocess
from medseg.volume import Volume

SCHEMES = (
    Normalization(scheme="zscore"),
    Normalization(scheme="clip_zscore", lower=-100.0, upper=300.0, mean=50.0, std=25.0),
    Normalization(scheme="none"),
    Normalization(scheme="zscore", background=90.0),
)
AXCODES = [
    "".join(codes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]


def make_grid(shape: tuple[int, ...], axcodes: str, spacing_mm: tuple[float, ...], tilt: float) -> Grid:
    directions = np.zeros((3, 3))
    for column, code in enumerate(axcodes):
        row = next(row for row, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        directions[row, column] = 1.0 if code in "RAS" else -1.0
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ directions * spacing_mm
    affine[:3, 3] = (-31.5, 12.25, 90.0)
    return Grid(shape, affine)  # type: ignore[arg-type]


def in_slabs(seen: NetworkImage, thickness: int) -> npt.NDArray[np.float32]:
    slabs = [seen.read(*stretch) for stretch in slab_ranges(seen.grid.shape[seen.axis], thickness)]
    assert all(slab.dtype == torch.float32 for slab in slabs)
    return torch.cat(slabs, dim=2 + seen.axis)[0].numpy()


def voxels(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> npt.NDArray[Any]:
    return (np.random.default_rng(seed).normal(size=shape) * 60 + 90).astype(dtype)


def test_all_orientations_are_tried() -> None:
    assert len(set(AXCODES)) == 48


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("axcodes", AXCODES)
def test_every_orientation_along_every_axis(axcodes: str, axis: int) -> None:
    grid = make_grid((7, 8, 9), axcodes, (1.0, 1.3, 4.0), 0.2)
    image = Volume(voxels((1, *grid.shape), np.float32), grid)
    spec = PreprocessingSpec(axcodes="LPI", spacing_mm=(1.6, 0.9, 1.1), normalization=SCHEMES[:1])

    seen = NetworkImage(image, spec, axis)

    expected = preprocess(image, spec)
    assert seen.grid.difference(expected.grid) is None
    np.testing.assert_allclose(in_slabs(seen, 3), expected.array, rtol=0, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    stored_as=st.sampled_from(AXCODES),
    seen_as=st.sampled_from(AXCODES),
    stored_mm=st.tuples(*[st.sampled_from([0.7, 1.0, 1.5, 5.0])] * 3),
    seen_mm=st.one_of(st.none(), st.tuples(*[st.sampled_from([0.7, 1.0, 2.1, 6.0])] * 3)),
    dtype=st.sampled_from([np.int16, np.uint16, np.uint8, np.float32, np.float64, ">i2", ">f8", np.int32]),
    channels=st.integers(1, 4),
    axis=st.integers(0, 2),
    thickness=st.integers(1, 12),
    tilt=st.sampled_from([0.0, 0.3]),
)
def test_slabs_make_up_what_training_sees(
    shape: tuple[int, int, int],
    stored_as: str,
    seen_as: str,
    stored_mm: tuple[float, float, float],
    seen_mm: tuple[float, float, float] | None,
    dtype: Any,
    channels: int,
    axis: int,
    thickness: int,
    tilt: float,
) -> None:
    image = Volume(voxels((channels, *shape), dtype), make_grid(shape, stored_as, stored_mm, tilt))
    spec = PreprocessingSpec(axcodes=seen_as, spacing_mm=seen_mm, normalization=SCHEMES[:channels])

    seen = NetworkImage(image, spec, axis)

    expected = preprocess(image, spec).array
    assert seen.shape == (1, *expected.shape)
    largest = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(in_slabs(seen, thickness), expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [0.0, 0.6, 0.999, 1.0], ids=["none", "much", "nearly all", "all"])
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_bodies_before_a_constant_background(axis: int, share: float, dtype: Any) -> None:
    grid = make_grid((12, 11, 10), "PIR", (1.0, 1.3, 4.0), 0.0)
    array = voxels((1, *grid.shape), dtype)
    array[np.random.default_rng(1).random(array.shape) < share] = -7
    image = Volume(array, grid)
    spec = PreprocessingSpec(
        spacing_mm=(1.6, 0.9, 1.1), normalization=[Normalization(scheme="zscore", background=-7.0)]
    )

    seen = in_slabs(NetworkImage(image, spec, axis), 3)

    np.testing.assert_allclose(seen, preprocess(image, spec).array, rtol=0, atol=1e-5)


@pytest.mark.data
@pytest.mark.parametrize(
    "path",
    [
        "mr/hippocampus/imagesTr/hippocampus_001.nii.gz",
        "mr/spinal_cord/t2/t2.nii.gz",
        "mr/spinal_cord/mt/mt0.nii.gz",
        "dicom/transfer_syntaxes/Ref/1.nii",
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_real_files_in_slabs(path: str, axis: int, test_data: Any) -> None:
    image = read_volume(test_data / path)
    schemes = [SCHEMES[0]] * image.channels
    spec = PreprocessingSpec(spacing_mm=(1.2, 1.2, 1.2), normalization=schemes)
    expected = preprocess(image, spec).array

    with open_volume(test_data / path) as stored:
        found = in_slabs(NetworkImage(stored, spec, axis), 16)

    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
