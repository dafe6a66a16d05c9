from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medseg.geometry import Grid
from medseg.io import read_volume
from medseg.io.dicom.segmentations import (
    read_contours,
    read_fractions,
    read_segmentation,
    write_contours,
    write_segmentation,
)
from medseg.io.dicom.segmentations.source import read_source
from medseg.labels import LabelScheme
from medseg.volume import Volume

pytestmark = pytest.mark.data


@pytest.fixture
def dcmqi(test_data: Path) -> Path:
    return test_data / "seg" / "dcmqi"


def same_place(one: Grid, other: Grid) -> bool:
    """Whether corners agree to 1e-4 mm."""
    return one.shape == other.shape and bool(np.abs(one.corners_mm() - other.corners_mm()).max() < 1e-4)


@pytest.mark.parametrize(
    ("segmentation", "truth", "voxels"),
    [
        ("liver.dcm", "liver_seg.nrrd", 107098),
        ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd", 322),
        ("24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd", 315),
        ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd", 630),
        ("sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd", 630),
    ],
)
def test_segmentations_give_their_truth(dcmqi: Path, segmentation: str, truth: str, voxels: int) -> None:
    found, expected = read_segmentation(dcmqi / segmentation), read_volume(dcmqi / truth)
    assert same_place(found.grid, expected.grid)
    assert found.scheme.names == ("background", "Liver")
    assert int(found.mask(1).sum()) == voxels
    # The truth of a sparse label map holds the padding value where planes are missing.
    assert np.array_equal(found.mask(1), expected.array[0] == 1)


def test_a_segmentation_on_its_source_series(dcmqi: Path) -> None:
    source = sorted((dcmqi / "ct-3slice").glob("*.dcm"))
    found, expected = read_segmentation(dcmqi / "liver.dcm", source), read_volume(dcmqi / "liver_seg.nrrd")
    assert same_place(found.grid, expected.grid)
    assert np.array_equal(found.mask(1), expected.array[0] == 1)


@pytest.mark.parametrize(
    ("name", "voxels"),
    [
        ("seg_image_ct_binary.dcm", {1: 638}),
        ("seg_image_ct_binary_fractional.dcm", {1: 638}),
        ("seg_image_ct_binary_overlap.dcm", {1: 64, 2: 16}),
        ("seg_image_ct_binary_single_frame.dcm", {1: 1832}),
        ("seg_image_ct_true_fractional.dcm", {1: 638}),
    ],
)
def test_highdicom_reads_its_own_files_alike(test_data: Path, name: str, voxels: dict[int, int]) -> None:
    highdicom = pytest.importorskip("highdicom")
    path = test_data / "seg" / "highdicom" / name
    found = read_segmentation(path)
    assert {value: int(found.mask(value).sum()) for value in voxels} == voxels
    volume = highdicom.seg.segread(path).get_volume(allow_missing_positions=True)
    positions = found.grid.to_world(np.indices(found.grid.shape).reshape(3, -1).T) * (-1, -1, 1)
    places = np.rint(volume.map_reference_to_indices(positions)).astype(int)
    inside = ((places >= 0) & (places < volume.spatial_shape)).all(axis=1)
    for channel, value in enumerate(found.scheme.values[1:]):
        expected = np.zeros(len(places), dtype=bool)
        expected[inside] = volume.array[(*places[inside].T, channel)] >= 0.5
        assert np.array_equal(found.mask(value).ravel(), expected)


def test_segments_that_overlap_are_kept_apart(test_data: Path) -> None:
    found = read_segmentation(test_data / "seg" / "highdicom" / "seg_image_ct_binary_overlap.dcm")
    assert (found.mask(1) & found.mask(2)).any()
    assert len(found.label_maps) == 2


def test_fractions_are_those_that_are_stored(test_data: Path) -> None:
    path = test_data / "seg" / "highdicom" / "seg_image_ct_true_fractional.dcm"
    fractions, _ = read_fractions(path)
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array / dataset.MaximumFractionalValue
    assert np.allclose(np.sort(fractions.array[fractions.array > 0]), np.sort(stored[stored > 0]))


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_liver_and_spine_of_a_ct(dcmqi: Path, tmp_path: Path, orientation: str) -> None:
    pytest.importorskip("highdicom")
    labels = read_volume(dcmqi / "liver_spine_seg.nrrd").reoriented(orientation)
    scheme = LabelScheme.from_names({1: "liver", 2: "spine"})
    source = sorted((dcmqi / "ct-3slice").glob("*.dcm"))
    for kind in ("binary", "labelmap"):
        write_segmentation(labels, scheme, source, tmp_path / "seg.dcm", kind=kind)
        found = read_segmentation(tmp_path / "seg.dcm")
        assert np.array_equal(found.label_maps[0].reoriented(orientation).array, labels.array)
    write_contours(labels, scheme, source, tmp_path / "structures.dcm")
    regions = read_contours(tmp_path / "structures.dcm", labels.grid)
    assert np.array_equal(regions.label_maps[0].array, labels.array)
    assert [int(regions.mask(value).sum()) for value in (1, 2)] == [107098, 12439]


def test_a_multi_frame_source(dcmqi: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    source = [dcmqi / "23x38x3" / "multiframe" / "mf.dcm"]
    labels = read_volume(dcmqi / "23x38x3" / "nrrd" / "label.nrrd")
    scheme = LabelScheme.from_names({1: "liver"})
    write_segmentation(labels, scheme, source, tmp_path / "seg.dcm")
    assert np.array_equal(read_segmentation(tmp_path / "seg.dcm", source).label_maps[0].array, labels.array)
    write_contours(labels, scheme, source, tmp_path / "structures.dcm")
    found = read_contours(tmp_path / "structures.dcm", labels.grid)
    assert np.array_equal(found.label_maps[0].array, labels.array)


def test_an_enhanced_mr_as_source(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    folder = test_data / "dicom" / "xa30_enhanced"
    (source,) = (path for path in (folder / "5_anat-T1w_acq-tfl").rglob("*") if path.is_file())
    image = nib.load(folder / "5_anat-T1w_acq-tfl.nii")
    grid = Grid(image.shape, image.affine)
    labels = np.zeros((1, *grid.shape), dtype=np.uint8)
    labels[0, 20:40, 30:70, 10:30] = 1
    scheme = LabelScheme.from_names({1: "brain"})
    write_segmentation(Volume(labels, grid), scheme, [source], tmp_path / "seg.dcm")
    found = read_segmentation(tmp_path / "seg.dcm", [source])
    aligned = read_source([source]).aligned(Volume(labels, grid), "labels")
    assert np.array_equal(found.label_maps[0].array, aligned.array)
