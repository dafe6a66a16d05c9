from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import GeometryError
from medseg.io import read_header, read_volume, write_volume
from medseg.volume import Volume

MakeNifti = Callable[..., Path]
VOXELS = np.zeros((4, 5, 6), np.uint8)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]) * [1.0, 2.0, 4.0]
OBLIQUE[:3, 3] = [-30.0, 12.5, 7.0]


def quaternion_fields(affine: np.ndarray[Any, Any], code: int = 1) -> dict[str, Any]:
    header = nib.Nifti1Header()
    header.set_data_shape(VOXELS.shape)
    header.set_qform(affine, code=code)
    names = (
        "qform_code",
        "pixdim",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
    )
    return {name: header[name] for name in names}


def test_the_sform_alone_counts(make_nifti: MakeNifti) -> None:
    grid = read_header(make_nifti(VOXELS, OBLIQUE)).grid
    np.testing.assert_array_equal(grid.affine, OBLIQUE.astype(np.float32))


def test_the_qform_alone_counts(make_nifti: MakeNifti) -> None:
    path = make_nifti(VOXELS, OBLIQUE, sform_code=0, **quaternion_fields(OBLIQUE))
    np.testing.assert_allclose(read_header(path).grid.affine, OBLIQUE, atol=1e-5)


def test_a_left_handed_qform(make_nifti: MakeNifti) -> None:
    mirrored = OBLIQUE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    path = make_nifti(VOXELS, mirrored, sform_code=0, **quaternion_fields(mirrored))
    np.testing.assert_allclose(read_header(path).grid.affine, mirrored, atol=1e-5)


def test_a_label_map_for_an_image_with_a_qform_only_has_the_very_same_grid(
    make_nifti: MakeNifti, tmp_path: Path
) -> None:
    angle = 0.3
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned[:3, :3] *= [0.7, 0.9, 3.3]
    path = make_nifti(VOXELS, turned, sform_code=0, **quaternion_fields(turned))
    image = read_volume(path)
    write_volume(Volume(image.array, image.grid), tmp_path / "label.nii.gz", labels=True)
    assert read_header(tmp_path / "label.nii.gz").grid == image.grid


def test_no_orientation_is_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(GeometryError, match=r"gives no orientation .* not guessed; .*sform"):
        read_header(make_nifti(VOXELS, sform_code=0, qform_code=0))


def test_forms_that_agree_within_rounding_are_fine(make_nifti: MakeNifti) -> None:
    moved = OBLIQUE.copy()
    moved[2, 3] += 2e-4
    path = make_nifti(VOXELS, OBLIQUE, **quaternion_fields(moved))
    np.testing.assert_array_equal(read_header(path).grid.affine, OBLIQUE.astype(np.float32))


def test_forms_that_disagree_in_place_are_refused_by_how_much(make_nifti: MakeNifti) -> None:
    moved = OBLIQUE.copy()
    moved[2, 3] += 3.0
    with pytest.raises(GeometryError, match=r"disagree by up to 3 mm: .*; .*qform_code"):
        read_header(make_nifti(VOXELS, OBLIQUE, **quaternion_fields(moved)))


def test_forms_that_disagree_in_orientation_are_refused_by_name(make_nifti: MakeNifti) -> None:
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    with pytest.raises(GeometryError, match="qform has orientation LAS instead of RAS"):
        read_header(make_nifti(VOXELS, np.eye(4), **quaternion_fields(flipped)))


@pytest.mark.parametrize("row", [np.zeros(4), np.full(4, np.nan)])
def test_an_invalid_sform_gives_way_to_a_valid_qform(
    make_nifti: MakeNifti, row: np.ndarray[Any, Any]
) -> None:
    path = make_nifti(VOXELS, OBLIQUE, **{**quaternion_fields(OBLIQUE), "srow_x": row})
    np.testing.assert_allclose(read_header(path).grid.affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("quaternion", [np.nan, 5.0])
def test_an_invalid_qform_gives_way_to_a_valid_sform(make_nifti: MakeNifti, quaternion: float) -> None:
    path = make_nifti(VOXELS, OBLIQUE, **{**quaternion_fields(OBLIQUE), "quatern_b": quaternion})
    np.testing.assert_array_equal(read_header(path).grid.affine, OBLIQUE.astype(np.float32))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (np.zeros(4), "sform: .*one plane"),
        (np.full(4, np.nan), "sform: .*NaN"),
        (np.full(4, np.inf), "infinite"),
    ],
)
def test_an_invalid_sform_alone_is_refused(
    make_nifti: MakeNifti, row: np.ndarray[Any, Any], said: str
) -> None:
    with pytest.raises(GeometryError, match=said):
        read_header(make_nifti(VOXELS, OBLIQUE, srow_x=row))


@pytest.mark.parametrize("size", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_zero_or_nan_spacing_is_refused(make_nifti: MakeNifti, size: float, axis: int) -> None:
    pixdim = np.ones(8)
    pixdim[axis] = size
    with pytest.raises(GeometryError, match=r"made\.nii: spacing \(pixdim\) .*zero, NaN or infinite"):
        read_header(make_nifti(VOXELS, np.eye(4), pixdim=pixdim))


def test_a_pixdim_that_contradicts_the_affine_is_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(GeometryError, match="pixdim says the spacing is 1x1x2 mm, the affine 1x1x1 mm"):
        read_header(make_nifti(VOXELS, np.eye(4), pixdim=[1, 1, 1, 2, 0, 0, 0, 0]))


def test_a_pixdim_as_a_tilted_gantry_leaves_it_is_fine(make_nifti: MakeNifti) -> None:
    tilted = np.eye(4)
    tilted[1, 2] = np.tan(np.radians(25.0))
    grid = read_header(make_nifti(VOXELS, tilted, pixdim=[1, 1, 1, 1, 0, 0, 0, 0])).grid
    assert not grid.is_orthogonal


@pytest.mark.parametrize(("code", "scale"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001), (10, 1.0)])
def test_units_of_length(make_nifti: MakeNifti, code: int, scale: float) -> None:
    affine = np.diag([2.0, 2.0, 4.0, 1.0]) / [[scale], [scale], [scale], [1.0]]
    grid = read_header(make_nifti(VOXELS, affine, xyzt_units=code)).grid
    np.testing.assert_allclose(grid.spacing_mm, (2.0, 2.0, 4.0), rtol=1e-6)


def test_an_unknown_unit_of_length_is_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(GeometryError, match="xyzt_units"):
        read_header(make_nifti(VOXELS, xyzt_units=5))


def test_nifti_2_keeps_double_precision(make_nifti: MakeNifti) -> None:
    affine = np.diag([1 / 3, 1 / 3, 1 / 3, 1.0])
    np.testing.assert_array_equal(read_header(make_nifti(VOXELS, affine, version=2)).grid.affine, affine)
