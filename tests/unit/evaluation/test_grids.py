"""Predictions on other grids: refused, or resampled by nearest neighbour and said so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError
from medseg.evaluation import Pair, ScoringOptions, evaluate, evaluate_folders
from medseg.evaluation.grids import check_pairs, coverage, onto_grid
from medseg.geometry import AxisMap, Grid
from medseg.io import write_volume
from medseg.labels import LabelScheme
from medseg.volume import Volume

LABELS = LabelScheme.from_names({1: "liver", 2: "spleen"})


def write(path: Path, array: np.ndarray, grid: Grid) -> Path:
    write_volume(Volume(array[None].astype(np.uint8), grid), path, labels=True)
    return path


def as_itk(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin((lps @ grid.origin_mm).tolist())
    image.SetDirection((lps @ grid.directions).ravel().tolist())
    return image


@pytest.mark.parametrize("axes", [AxisMap(), AxisMap((2, 0, 1), (True, False, True))])
@pytest.mark.parametrize("tilt", [0.0, 0.31])
def test_resampling_agrees_with_simpleitk(axes: AxisMap, tilt: float) -> None:
    generator = np.random.default_rng(1)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.3, 0.9, 2.1])
    affine[:3, 3] = (-7.3, 4.1, 11.7)
    source = Grid((14, 17, 9), affine).mapped(axes)
    labels = generator.integers(0, 5, source.shape).astype(np.int16)
    target = Grid(
        (19, 16, 13), np.array([[0.8, 0, 0, -6.03], [0, 1.1, 0, 3.02], [0, 0, 1.7, 9.5], [0, 0, 0, 1]])
    )
    found = onto_grid(Volume(labels[None], source), target).array[0]
    resampled = sitk.Resample(
        as_itk(labels, source),
        as_itk(np.zeros(target.shape, np.int16), target),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    theirs = sitk.GetArrayFromImage(resampled).T
    assert found.dtype == labels.dtype
    assert (found != 0).any()
    # Points half way between two voxels may be rounded either way.
    assert (found == theirs).mean() > 0.999


@settings(max_examples=30, deadline=None)
@given(st.from_type(Grid), st.from_type(AxisMap), st.integers(0, 99))
def test_permuted_and_flipped_grids_give_the_same_voxels_back(grid: Grid, axes: AxisMap, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 300, (1, *grid.shape)).astype(np.int32)
    volume = Volume(labels, grid)
    back = onto_grid(volume.mapped(axes), grid)
    assert back.grid == grid
    np.testing.assert_array_equal(back.array, labels)


def test_large_instance_numbers_survive() -> None:
    grid = Grid((2, 2, 2), np.eye(4))
    labels = np.full((1, 2, 2, 2), 2**31 - 7, np.int32)
    assert (onto_grid(Volume(labels, grid), grid.reoriented("LPS")).array == 2**31 - 7).all()


def test_another_grid_is_refused_unless_resampling_is_asked_for(tmp_path: Path) -> None:
    grid = Grid((8, 8, 8), np.eye(4))
    labels = np.zeros(grid.shape)
    labels[2:5, 1:6, 2:7] = 1
    labels[5:7, 3:6, 2:4] = 2
    volume = Volume(labels[None].astype(np.uint8), grid)
    reference = write(tmp_path / "ref.nii", labels, grid)
    turned = volume.reoriented("PSL")
    prediction = write(tmp_path / "pred.nii", turned.array[0], turned.grid)
    pair = Pair("case", prediction, reference)
    with pytest.raises(GeometryError, match=r"orientation PSL instead of RAS.*--resample-prediction"):
        evaluate([pair], LABELS)
    assert check_pairs([pair], resample_prediction=True) == (512,)
    table = evaluate([pair], LABELS, options=ScoringOptions(resample_prediction=True))
    assert [score.dice for score in table.scores] == [1.0, 1.0]
    assert [note.resampled for note in table.notes] == ["orientation PSL instead of RAS"]


def test_the_summary_says_what_was_resampled(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 0.5  # between the first two of the fine voxels
    fine, coarse = Grid((8, 8, 8), np.eye(4)), Grid((4, 4, 4), affine)
    labels = np.zeros(fine.shape)
    labels[2:6, 2:6, 2:6] = 1
    for name in ("a", "b"):
        write(tmp_path / "ref" / f"{name}.nii", labels, fine)
    write(tmp_path / "pred" / "a.nii", labels, fine)
    write(tmp_path / "pred" / "b.nii", labels[::2, ::2, ::2], coarse)
    options = ScoringOptions(resample_prediction=True)
    found = evaluate_folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "out", options=options)
    assert found.summary["resampled"] == [{"case": "b", "prediction": "shape 4x4x4 instead of 8x8x8"}]
    assert found.summary["options"]["resample_prediction"] is True
    assert [found.table.of_case(case)[0].dice for case in ("a", "b")] == [1.0, 1.0]


def test_a_prediction_of_another_part_of_space_is_refused(tmp_path: Path) -> None:
    labels = np.ones((4, 4, 4))
    far = np.eye(4)
    far[2, 3] = 4.0
    pair = Pair(
        "a",
        write(tmp_path / "pred.nii", labels, Grid((4, 4, 4), far)),
        write(tmp_path / "ref.nii", labels, Grid((4, 4, 4), np.eye(4))),
    )
    with pytest.raises(GeometryError, match=r"pred\.nii: shows another part of space than its reference"):
        check_pairs([pair], resample_prediction=True)
    far[2, 3] = 3.0
    write(tmp_path / "pred.nii", labels, Grid((4, 4, 4), far))
    table = evaluate([pair], LABELS, options=ScoringOptions(resample_prediction=True))
    assert table.notes[0].resampled == "a corner is displaced by 3 mm; covers 25% of the reference"
    assert table.scores[0].dice == 2 * 16 / (16 + 64)


@settings(max_examples=20, deadline=None)
@given(st.from_type(Grid), st.from_type(AxisMap))
def test_coverage_is_whole_for_the_same_voxels_in_another_order(grid: Grid, axes: AxisMap) -> None:
    assert coverage(grid.mapped(axes), grid) == 1.0
