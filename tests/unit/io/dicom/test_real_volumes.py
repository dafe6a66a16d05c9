"""Real series, voxel for voxel, against what independent converters made of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import InputError
from medseg.geometry import Grid
from medseg.io import read_volume
from medseg.io.dicom import DicomVolume, Status, scan_dicom
from medseg.io.dicom.volumes import read_dicom_volume
from medseg.volume import Volume

pytestmark = pytest.mark.data

SERIES = [
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "siemens/anatomical/001",
    "siemens/anatomical/001_implicit",
]
MOSAICS = range(1, 10)
BONE = 700
"""Stored values above it, Hounsfield units here, are bone."""


def only_volume(path: Path) -> DicomVolume:
    (volume,) = scan_dicom(path, processes=1).volumes
    return volume


def require_equal(found: Volume, reference: Volume, affine_mm: float = 1e-4) -> None:
    """Equal voxels in the reference's axes; a reference in double precision is rounded to single first."""
    turned = found.reoriented(reference.grid.axcodes)
    np.testing.assert_allclose(turned.grid.affine, reference.grid.affine, rtol=0, atol=affine_mm)
    np.testing.assert_array_equal(turned.array, reference.array.astype(found.dtype))


@pytest.mark.parametrize("name", SERIES)
def test_classic_series(test_data: Path, name: str) -> None:
    folder = test_data / "dicom" / "dicom2nifti" / name
    reference = read_volume(folder.with_name(f"{folder.name}_ground_truth.nii.gz"))
    require_equal(read_dicom_volume(only_volume(folder)), reference)


def test_colours(test_data: Path) -> None:
    folder = test_data / "dicom" / "dicom2nifti" / "generic" / "rgb"
    volume = only_volume(folder / "001")
    assert volume.verdict.status is Status.OK
    image = nib.load(folder / "001_ground_truth.nii.gz")
    stored = np.asanyarray(image.dataobj)
    colours = np.stack([stored[name] for name in ("R", "G", "B")])
    require_equal(read_dicom_volume(volume), Volume(colours, Grid(stored.shape, image.affine)))


@pytest.mark.parametrize("number", MOSAICS)
def test_a_mosaic_in_each_transfer_syntax(test_data: Path, number: int) -> None:
    folder = test_data / "dicom" / "transfer_syntaxes"
    found = read_dicom_volume(only_volume(folder / "In" / f"{number}.dcm"))
    require_equal(found, read_volume(folder / "Ref" / f"{number}.nii"))


def test_all_transfer_syntaxes_give_one_and_the_same_volume(test_data: Path) -> None:
    folder = test_data / "dicom" / "transfer_syntaxes" / "In"
    volumes = [only_volume(folder / f"{number}.dcm") for number in MOSAICS]
    assert len({volume.frames[0].transfer_syntax_uid for volume in volumes}) == 7
    first, *others = (read_dicom_volume(volume) for volume in volumes)
    for other in others:
        assert other.grid == first.grid
        np.testing.assert_array_equal(other.array, first.array)


def test_a_corrupt_jpeg_stream_is_no_image(
    test_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its codec decodes it nevertheless, and says so on standard error alone."""
    content = bytearray((test_data / "dicom" / "transfer_syntaxes" / "In" / "5.dcm").read_bytes())
    content[-20_000:-19_000] = bytes(1000)
    path = tmp_path / "corrupt.dcm"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_dicom_volume(only_volume(path))
    assert capfd.readouterr().err == ""


def test_enhanced_multi_frame(test_data: Path) -> None:
    folder = test_data / "dicom" / "xa30_enhanced"
    volume = only_volume(folder / "5_anat-T1w_acq-tfl")
    found, reference = read_dicom_volume(volume), read_volume(folder / "5_anat-T1w_acq-tfl.nii")
    require_equal(found, reference, affine_mm=1.1e-4)
    # The ten-thousandth of a millimetre is the reference's: it takes steps of 2 mm, as SliceThickness says,
    # but the first and the last of 96 slices are 190.0001 mm apart.
    positions = np.array([frame.position for frame in volume.frames]) * [-1, -1, 1]
    stray = [
        np.linalg.norm(grid.to_world(np.rint(grid.to_index(positions))) - positions, axis=1)
        for grid in (found.grid, reference.grid)
    ]
    assert stray[0].mean() < 0.6e-4 < 1e-4 < stray[1].mean()
    assert stray[0].max() < 1.1e-4 < 1.5e-4 < stray[1].max()


def test_a_tilted_head_lies_where_its_positions_say(test_data: Path) -> None:
    """In three slices, the centre of all bone and the brightest voxel lie where the header puts them."""
    for volume in scan_dicom(test_data / "dicom" / "ge_ct_gantry_tilt", processes=1).volumes:
        assert volume.verdict.status is Status.REPAIRED
        assert volume.verdict.findings[0].figures["tilt_degrees"] == pytest.approx(18.5, abs=0.01)
        found, stored = read_dicom_volume(volume), stored_slices(volume)
        for k in (1, len(stored) // 2, len(stored) - 2):
            row, column = np.argwhere(stored[k] > BONE).mean(axis=0)
            index = found.grid.to_index(in_the_patient(volume, k, row, column))
            assert index[2] == pytest.approx(k, abs=0.01)
            centre = np.argwhere(found.array[0, :, :, k] > BONE).mean(axis=0)
            assert np.abs(centre - index[:2]).max() < 1.0

            row, column = np.unravel_index(stored[k].argmax(), stored[k].shape)
            index = found.grid.to_index(in_the_patient(volume, k, row, column))
            i, j = np.rint(index[:2]).astype(int)
            # The other way round: the voxel (i, j) has the value that the stored slice has at its place.
            by_formula = np.interp(j - index[1] + row, range(stored.shape[1]), stored[k, :, column])
            assert found.array[0, i, j, k] == pytest.approx(by_formula, abs=0.51)


def in_the_patient(volume: DicomVolume, slice_: int, row: float, column: float) -> np.ndarray:
    """RAS+ millimetres of a stored voxel, by PS3.3, equation C.7.6.2.1-1."""
    frame = volume.frames[slice_]
    across, down = np.array(frame.orientation).reshape(2, 3)
    between_rows, between_columns = frame.spacing
    place = np.array(frame.position) + column * between_columns * across + row * between_rows * down
    return place * [-1, -1, 1]


def stored_slices(volume: DicomVolume) -> np.ndarray:
    """By pydicom alone."""
    from pydicom import dcmread

    return np.stack([dcmread(frame.path).pixel_array for frame in volume.frames])
