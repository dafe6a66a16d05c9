"""The DICOM phantoms themselves: what other tests take for the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.pixels import apply_rescale

from medseg.geometry import AxisMap, Grid
from tests.data.dicom import (
    AFFINE,
    LANDMARKS_MM,
    LPS_FROM_RAS,
    SHAPE,
    affine_of,
    landmark_offsets_voxels,
    phantom,
    phantom_at,
    write_series,
)
from tests.data.dicom_cases import CASES, TILT_DEGREES

READ_BY_ITK = [
    "oblique",
    "no suffix",
    "shuffled instance numbers",
    "signed 12 bits",
    "big endian",
    "deflated",
    "RLE",
]


def read_by_itk(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(columns, rows, slices) and the affine in RAS+ of a folder's only series."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS_FROM_RAS @ affine


@pytest.mark.parametrize("name", READ_BY_ITK)
def test_itk_reads_the_truth(tmp_path: Path, name: str) -> None:
    truth = CASES[name](tmp_path).truths[0]
    array, affine = read_by_itk(tmp_path)
    np.testing.assert_allclose(array, truth.array, rtol=1e-6)
    np.testing.assert_allclose(affine, truth.affine, atol=1e-6)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    # ITK rounds such values to integers; pydicom's own rescaling does not.
    truth = CASES["unequal rescale"](tmp_path).truths[0]
    for path in truth.paths:
        dataset = dcmread(path)
        index = dataset.InstanceNumber - 1
        np.testing.assert_array_equal(apply_rescale(dataset.pixel_array, dataset).T, truth.array[..., index])


def test_values_follow_the_formula_by_hand() -> None:
    centre, beside = LANDMARKS_MM[1], LANDMARKS_MM[1] + [5.0, 0.0, 0.0]
    assert phantom_at(centre) == 740.0
    assert phantom_at(beside) == pytest.approx(40 + 700 * (1 - 0.25) ** 2)
    assert phantom_at([0.0, 0.0, 500.0]) == 40.0


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(-15, 15)] * 3), st.tuples(*[st.sampled_from([1.0, 1.5, 2.0])] * 3))
def test_landmarks_are_found_where_they_are(
    degrees: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    shape = tuple(int(64 / length) for length in spacing_mm)
    affine = affine_of(degrees, spacing_mm, shape)
    assert np.abs(landmark_offsets_voxels(phantom(shape, affine), affine)).max() < 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        AxisMap(flips=(True, False, False)),
        AxisMap(flips=(False, True, False)),
        AxisMap(flips=(False, False, True)),
        AxisMap(flips=(True, True, False)),
        AxisMap(flips=(True, True, True)),
    ],
)
def test_a_wrong_flip_moves_a_landmark(wrong: AxisMap) -> None:
    assert np.abs(landmark_offsets_voxels(wrong.apply(phantom()), AFFINE)).max() > 0.5


def test_a_wrong_step_moves_a_landmark() -> None:
    affine = AFFINE.copy()
    affine[:3, 2] *= 1.1
    assert np.abs(landmark_offsets_voxels(phantom(), affine)).max() > 0.5


def test_the_same_files_are_written_again(tmp_path: Path) -> None:
    first, second = (write_series(tmp_path / side / "series") for side in "ab")
    assert [path.name for path in first.paths] == [path.name for path in second.paths]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first.paths, second.paths, strict=True))
    assert sorted(first.paths) != list(first.paths)


def test_the_tilt_is_in_the_positions(tmp_path: Path) -> None:
    headers = [dcmread(path) for path in CASES["gantry tilt of 15 degrees"](tmp_path).truths[0].paths]
    step = np.subtract(headers[1].ImagePositionPatient, headers[0].ImagePositionPatient)
    across, down = np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float)
    cosine = np.cross(across, down) @ step / np.linalg.norm(step)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(TILT_DEGREES)


def test_enhanced_frames_lie_where_their_groups_say(tmp_path: Path) -> None:
    first, second = CASES["enhanced, two echoes"](tmp_path).truths
    dataset = dcmread(first.paths[0])
    assert dataset.NumberOfFrames == 2 * SHAPE[2]
    group = dataset.PerFrameFunctionalGroupsSequence[7]  # slice 3, second echo
    assert group.MREchoSequence[0].EffectiveEchoTime == 40.0
    np.testing.assert_array_equal(dataset.pixel_array[7].T, second.array[..., 3])
    position = group.PlanePositionSequence[0].ImagePositionPatient
    np.testing.assert_allclose(position, LPS_FROM_RAS[:3, :3] @ (second.affine @ [0, 0, 3, 1])[:3])


def test_grids_are_valid_and_fit(tmp_path: Path) -> None:
    for name, make in CASES.items():
        for truth in make(tmp_path / name).truths:
            assert Grid(truth.array.shape, truth.affine).is_orthogonal == ("tilt" not in name)
