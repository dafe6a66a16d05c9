from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medseg.errors import GeometryError, InputError, ResourceError
from medseg.geometry import Grid
from medseg.io.dicom.segmentations import read_fractions, read_segmentation
from medseg.io.dicom.segmentations.segments import LABELMAP_STORAGE, SEGMENTATION_STORAGE

MakeSource = Callable[[Grid], list[Path]]
ROWS, COLUMNS = 3, 5
HEIGHT_MM = 2.0


def item(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def segment(number: int, label: str) -> Dataset:
    code = item(CodeValue="52988006", CodingSchemeDesignator="SCT", CodeMeaning="Lesion")
    return item(SegmentNumber=number, SegmentLabel=label, SegmentedPropertyTypeCodeSequence=[code])


def frame(number: int | None, plane: float) -> Dataset:
    groups = item(PlanePositionSequence=[item(ImagePositionPatient=[1.0, 2.0, plane * HEIGHT_MM])])
    if number is not None:
        groups.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number)]
    return groups


def segmentation(
    kind: str, segments: list[Dataset], frames: list[Dataset], voxels: np.ndarray, **values: object
) -> Dataset:
    """A segmentation as small as can be, made without highdicom; voxels (frames, rows, columns)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = LABELMAP_STORAGE if kind == "LABELMAP" else SEGMENTATION_STORAGE
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.SegmentationType = "SEG", kind
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = ROWS, COLUMNS, len(frames)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    bits = 1 if kind == "BINARY" else 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.SegmentSequence = segments
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness=HEIGHT_MM)],
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    packed = np.packbits(voxels.ravel(), bitorder="little") if bits == 1 else voxels.astype(np.uint8)
    stored = packed.tobytes()
    dataset.PixelData = stored + b"\0" * (len(stored) % 2)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, folder: Path) -> Path:
    path = folder / "seg.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def masks(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, ROWS, COLUMNS)) < 0.5


def two_segments() -> Dataset:
    """Segment 4 on planes 0 and 3, segment 2 on planes 3 and 1; they overlap on plane 3."""
    voxels = masks(4)
    voxels[1:3, 0, 0] = True
    frames = [frame(4, 0), frame(4, 3), frame(2, 3), frame(2, 1)]
    return segmentation("BINARY", [segment(2, "a"), segment(4, "b")], frames, voxels)


def test_frames_are_placed_by_position_and_overlaps_kept_apart(tmp_path: Path) -> None:
    found = read_segmentation(save(two_segments(), tmp_path))
    voxels = masks(4)
    voxels[1:3, 0, 0] = True
    nothing = np.zeros((ROWS, COLUMNS), dtype=bool)
    assert len(found.label_maps) == 2
    assert found.grid.shape == (COLUMNS, ROWS, 4)
    assert found.grid.to_world((0, 0, 0)).tolist() == [-1.0, -2.0, 0.0]
    assert found.grid.spacing_mm == (0.25, 0.5, HEIGHT_MM)
    assert np.array_equal(found.mask(4).T, [voxels[0], nothing, nothing, voxels[1]])
    assert np.array_equal(found.mask(2).T, [nothing, voxels[3], nothing, voxels[2]])
    assert found.scheme.names == ("background", "a", "b")
    assert found.scheme.foreground[0].concept is not None
    assert found.scheme.foreground[0].concept.meaning == "Lesion"
    with pytest.raises(InputError, match="segment 3 does not exist"):
        found.mask(3)


def test_segments_that_do_not_overlap_share_one_label_map(tmp_path: Path) -> None:
    first = masks(1)
    frames = [frame(1, 0), frame(2, 0)]
    dataset = segmentation(
        "BINARY", [segment(1, "a"), segment(2, "b")], frames, np.concatenate([first, ~first])
    )
    found = read_segmentation(save(dataset, tmp_path))
    assert len(found.label_maps) == 1
    assert np.array_equal(found.label_maps[0].array[0, ..., 0].T, np.where(first[0], 1, 2))


def test_a_label_map_with_a_padding_value_and_a_missing_plane(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).choice([0, 3, 9], size=(2, ROWS, COLUMNS))
    background = item(
        SegmentNumber=0,
        SegmentLabel="Background",
        SegmentedPropertyTypeCodeSequence=[
            item(CodeValue="125040", CodingSchemeDesignator="DCM", CodeMeaning="Background")
        ],
    )
    dataset = segmentation(
        "LABELMAP",
        [background, segment(3, "a")],
        [frame(None, 2), frame(None, 0)],
        voxels,
        PixelPaddingValue=9,
    )
    found = read_segmentation(save(dataset, tmp_path))
    assert found.scheme.values == (0, 3)
    assert np.array_equal(found.label_maps[0].array[0, :, :, 2].T, np.where(voxels[0] == 3, 3, 0))
    assert not found.label_maps[0].array[0, :, :, 1].any()


def test_fractions_and_their_half(tmp_path: Path) -> None:
    voxels = np.arange(ROWS * COLUMNS).reshape(1, ROWS, COLUMNS)
    dataset = segmentation("FRACTIONAL", [segment(1, "a")], [frame(1, 0)], voxels, MaximumFractionalValue=14)
    path = save(dataset, tmp_path)
    fractions, _ = read_fractions(path)
    assert np.allclose(fractions.array[0, ..., 0].T, voxels[0] / 14)
    assert np.array_equal(read_segmentation(path).mask(1)[..., 0].T, voxels[0] >= 7)


def test_names_that_come_twice_are_told_apart(tmp_path: Path) -> None:
    segments = [segment(1, "Lesion"), segment(2, "Lesion"), segment(3, ""), segment(4, "background")]
    dataset = segmentation("BINARY", segments, [frame(1, 0)], masks(1))
    names = read_segmentation(save(dataset, tmp_path)).scheme.names
    assert names == ("background", "Lesion (1)", "Lesion (2)", "Lesion (3)", "background (4)")


def test_the_source_gives_the_grid(make_source: MakeSource, tmp_path: Path) -> None:
    affine = np.diag([-0.25, -0.5, HEIGHT_MM, 1.0])
    affine[:3, 3] = (-1.0, -2.0, -HEIGHT_MM)
    grid = Grid((COLUMNS, ROWS, 7), affine)
    path = save(two_segments(), tmp_path)
    found = read_segmentation(path, make_source(grid))
    assert grid.difference(found.grid) is None
    assert np.array_equal(found.mask(2)[..., 1:5], read_segmentation(path).mask(2))
    short = Grid((COLUMNS, ROWS, 3), affine)
    with pytest.raises(GeometryError, match="do not lie on the grid of the source"):
        read_segmentation(path, make_source(short))


LIES = {
    "more frames than described": ({"NumberOfFrames": 2**31 - 1}, "announces 2147483647 frames"),
    "more voxels than stored": ({"Rows": 60000, "Columns": 60000}, "the header announces"),
    "no voxels": ({"PixelData": None}, "holds no voxels"),
    "a type of its own": ({"SegmentationType": "OTHER"}, "what type of segmentation"),
    "another object": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "no segmentation but a CT Image"),
    "tiles": ({"TotalPixelMatrixColumns": 512}, "cut into tiles"),
    "a slide": ({"DimensionOrganizationType": "TILED_SPARSE"}, "cut into tiles"),
    "wide voxels": ({"BitsAllocated": 32}, "take 32 bits"),
    "no columns": ({"Columns": 0}, "no rows or columns"),
    "a segment twice": ({"SegmentSequence": [segment(2, "a")] * 2}, "segment numbers are not valid"),
    "a frame of no segment": ({"SegmentSequence": [segment(2, "a")]}, "belongs to no segment"),
    "no orientation": ({"SharedFunctionalGroupsSequence": [Dataset()]}, "how its rows and columns lie"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused(lie: str, tmp_path: Path) -> None:
    values, what = LIES[lie]
    dataset = two_segments()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if lie == "no voxels":
        del dataset.PixelData
    with pytest.raises(InputError, match=what):
        read_segmentation(save(dataset, tmp_path))


@pytest.mark.parametrize(
    ("plane", "what"), [(1.37, "not evenly spaced"), (1e7, "not evenly spaced"), (None, "where it lies")]
)
def test_frames_without_a_place_are_refused(plane: float | None, what: str, tmp_path: Path) -> None:
    dataset = two_segments()
    dataset.PerFrameFunctionalGroupsSequence[1] = frame(4, plane or 0)
    if plane is None:
        del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    with pytest.raises((GeometryError, InputError), match=what):
        read_segmentation(save(dataset, tmp_path))


def test_a_voxel_of_an_unknown_segment_is_refused(tmp_path: Path) -> None:
    voxels = np.full((1, ROWS, COLUMNS), 5)
    dataset = segmentation("LABELMAP", [segment(3, "a")], [frame(None, 0)], voxels)
    with pytest.raises(InputError, match="segment that is not described"):
        read_segmentation(save(dataset, tmp_path))


def test_only_fractions_are_read_as_such(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no fractions"):
        read_fractions(save(two_segments(), tmp_path))


def test_errors_do_not_tell_the_patient(tmp_path: Path) -> None:
    path = save(two_segments(), tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.PatientName = "Doe^Jane"
    dataset.SegmentSequence[0].SegmentNumber = None
    dataset.save_as(path)
    with pytest.raises(InputError) as caught:
        read_segmentation(path)
    assert "Doe" not in str(caught.value)


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damaged_files_end_in_one_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whole.dcm"
    if not path.exists():
        two_segments().save_as(path, enforce_file_format=True)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.sampled_from([len(content), *range(140, len(content), 97)]))
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(content[:stop])
    with contextlib.suppress(InputError, GeometryError, ResourceError):  # anything else fails the test
        assert read_segmentation(damaged).grid.voxel_count < 10**7


def test_another_frame_of_reference_is_refused(make_source: MakeSource, tmp_path: Path) -> None:
    affine = np.diag([-0.25, -0.5, HEIGHT_MM, 1.0])
    affine[:3, 3] = (-1.0, -2.0, 0.0)
    dataset = two_segments()
    dataset.FrameOfReferenceUID = "1.2.3"
    with pytest.raises(GeometryError, match="another frame of reference"):
        read_segmentation(save(dataset, tmp_path), make_source(Grid((COLUMNS, ROWS, 4), affine)))
