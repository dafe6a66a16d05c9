"""Objects that refer to a volume of a scan: a part of a multi-frame object, the slices of a tilted gantry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates

from medseg.errors import GeometryError
from medseg.geometry import Grid
from medseg.io.dicom import DicomVolume, Repairs, scan_dicom
from medseg.io.dicom.frames import Tile
from medseg.io.dicom.segmentations import FORMS, read_contours, read_segmentation, write_object
from medseg.io.dicom.segmentations.nearest import nearest_on
from medseg.io.dicom.segmentations.source import read_source
from medseg.labels import LabelScheme
from medseg.volume import Volume
from tests.data.dicom_cases import CASES

SCHEME = LabelScheme.from_names({1: "liver", 2: "spleen"})


def volumes_of(case: str, folder: Path, repairs: Repairs | None = None) -> tuple[DicomVolume, ...]:
    CASES[case](folder)
    return scan_dicom(folder, repairs=repairs).volumes


def blocks_on(grid: Grid) -> Volume:
    labels = np.zeros((1, *grid.shape), np.uint8)
    labels[0, 5:15, 6:20, 2:9], labels[0, 18:30, 10:25, 8:20] = 1, 2
    return Volume(labels, grid)


@pytest.mark.parametrize("form", FORMS)
def test_one_echo_of_a_multi_frame_object(tmp_path: Path, form: str) -> None:
    if form != "rtstruct":
        pytest.importorskip("highdicom")
    first, second = volumes_of("enhanced, two echoes", tmp_path / "in")
    labels, out = blocks_on(second.grid), tmp_path / "out.dcm"
    images = write_object(form, labels, SCHEME, second, out)
    # Echoes alternate from frame to frame: the second one's frames are the even ones.
    assert images.frame_numbers == tuple(range(2, 2 * second.grid.shape[2] + 1, 2))
    by_frame = referred_frames(pydicom.dcmread(out))
    planes = {2 * plane + 2 for plane in range(second.grid.shape[2]) if labels.array[..., plane].any()}
    assert planes <= by_frame <= set(images.frame_numbers)

    found = read_contours(out, second.grid) if form == "rtstruct" else read_segmentation(out, second)
    assert second.grid.difference(found.grid) is None
    np.testing.assert_array_equal(found.label_maps[0].array, labels.array)
    assert read_source(first).frame_numbers == tuple(range(1, 2 * first.grid.shape[2], 2))


def referred_frames(dataset: pydicom.Dataset) -> set[int]:
    if "PerFrameFunctionalGroupsSequence" in dataset:
        images = [
            frame.DerivationImageSequence[0].SourceImageSequence[0]
            for frame in dataset.PerFrameFunctionalGroupsSequence
        ]
    else:
        contours = [item for region in dataset.ROIContourSequence for item in region.ContourSequence]
        images = [contour.ContourImageSequence[0] for contour in contours]
    return {int(image.ReferencedFrameNumber) for image in images}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_a_tilted_gantry_lie_on_the_stored_slices(tmp_path: Path, form: str) -> None:
    """Each voxel of a stored slice has the label of the voxel that lies nearest in the patient."""
    if form != "rtstruct":
        pytest.importorskip("highdicom")
    (volume,) = volumes_of("gantry tilt of 15 degrees", tmp_path / "in")
    labels, out = blocks_on(volume.grid), tmp_path / "out.dcm"
    images = write_object(form, labels.reoriented("PSR"), SCHEME, volume, out)
    assert images.resampled is volume.grid

    stored = Grid((volume.frames[0].columns, volume.frames[0].rows, len(volume.frames)), volume.stored_affine)
    found = read_contours(out, stored) if form == "rtstruct" else read_segmentation(out, volume)
    assert stored.difference(found.grid) is None
    indices = np.moveaxis(np.indices(stored.shape), 0, -1)
    places = volume.grid.to_index(stored.to_world(indices))
    wanted = map_coordinates(labels.array[0], np.moveaxis(places, -1, 0), order=0, mode="constant")
    differing = found.label_maps[0].array[0] != wanted
    halfway = np.abs(places[..., 1] % 1 - 0.5) < 1e-6  # either neighbour is the nearest
    assert not (differing & ~halfway).any()
    assert wanted.any()


def test_there_and_back_between_tilted_and_upright(tmp_path: Path) -> None:
    (volume,) = volumes_of("gantry tilt of 15 degrees", tmp_path)
    stored = Grid((volume.frames[0].columns, volume.frames[0].rows, len(volume.frames)), volume.stored_affine)
    values = np.random.default_rng(0).integers(1, 9, (2, *stored.shape)).astype(np.uint8)
    upright = nearest_on(Volume(values, stored), volume.grid)
    assert int((upright.array > 0).sum()) == values.size  # whole shifts lose nothing
    np.testing.assert_array_equal(nearest_on(upright, stored).array, values)


@pytest.mark.parametrize(
    "change", [np.diag([1, 1.1, 1, 1]), np.diag([1, 1, 1.2, 1]), np.eye(4)[[1, 0, 2, 3]]]
)
def test_turned_and_scaled_grids_are_refused(change: np.ndarray) -> None:
    grid = Grid((5, 5, 5), np.eye(4))
    with pytest.raises(GeometryError, match="turned or scaled"):
        nearest_on(Volume(np.zeros((1, 5, 5, 5), np.uint8), grid), Grid(grid.shape, change))


def test_no_object_refers_to_slices_that_are_no_images(tmp_path: Path) -> None:
    repairs = Repairs(uneven=True, missing=True)
    for number, case in enumerate(("spacing varies by 20 %", "three slices missing")):
        (volume,) = volumes_of(case, tmp_path / str(number), repairs)
        with pytest.raises(GeometryError, match="slices were interpolated"):
            read_source(volume)
    (volume,) = volumes_of("oblique", tmp_path / "oblique")
    tiles = tuple(replace(frame, tile=Tile(0, 0)) for frame in volume.frames)
    with pytest.raises(GeometryError, match="share one image"):
        read_source(replace(volume, frames=tiles))
    (volume,) = volumes_of("no position", tmp_path / "refused")
    with pytest.raises(GeometryError, match="ImagePositionPatient"):
        read_source(volume)
