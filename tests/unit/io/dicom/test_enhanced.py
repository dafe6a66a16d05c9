"""Enhanced multi-frame objects: functional groups, shared and per frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medseg.io.dicom.frames import Frame
from medseg.io.dicom.headers import read_frames
from medseg.io.dicom.scan import scan_dicom
from medseg.io.dicom.verdict import SetAside, Status

Write = Callable[..., Path]
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def dataset_of(**values: Any) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def group(undefined: bool = False, **macros: Dataset) -> Dataset:
    """An item of the functional groups; each macro is a sequence of one item."""
    item = Dataset()
    for name, macro in macros.items():
        setattr(item, name, Sequence([macro]))
        item[name].is_undefined_length = undefined
    return item


def shared(undefined: bool = False) -> Dataset:
    return group(
        undefined,
        PixelMeasuresSequence=dataset_of(PixelSpacing=[0.8, 0.5], SliceThickness=2, SpacingBetweenSlices=2.5),
        PlaneOrientationSequence=dataset_of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        MRImageFrameTypeSequence=dataset_of(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"]),
        PixelValueTransformationSequence=dataset_of(RescaleSlope=2, RescaleIntercept=-5),
    )


def own(z: float, b_value: float, undefined: bool = False) -> Dataset:
    return group(
        undefined,
        PlanePositionSequence=dataset_of(ImagePositionPatient=[1, 2, z]),
        FrameContentSequence=dataset_of(StackID="1", TemporalPositionIndex=1, FrameAcquisitionNumber=3),
        MRDiffusionSequence=dataset_of(
            DiffusionBValue=b_value,
            DiffusionGradientDirectionSequence=Sequence(
                [dataset_of(DiffusionGradientOrientation=[0.6, 0.8, 0])]
            ),
        ),
        MREchoSequence=dataset_of(EffectiveEchoTime=80.0),
    )


def write_enhanced(write_slice: Write, groups: list[Dataset], common: Dataset | None, **values: Any) -> Path:
    given = {
        "SOPClassUID": ENHANCED_MR,
        "Modality": "MR",
        "ImagePositionPatient": None,
        "ImageOrientationPatient": None,
        "PixelSpacing": None,
        "SliceThickness": None,
        "NumberOfFrames": len(groups),
        "PixelData": bytes(48 * len(groups)),
        "PerFrameFunctionalGroupsSequence": Sequence(groups),
        **values,
    }
    if common is not None:
        given["SharedFunctionalGroupsSequence"] = Sequence([common])
    return write_slice("enhanced", **given)


@pytest.mark.parametrize("undefined", [False, True])
def test_frames_of_two_volumes_in_one_object(write_slice: Write, undefined: bool) -> None:
    groups = [own(z, b, undefined) for b in (0, 1000) for z in (4.0, 1.5, -1.0)]
    path = write_enhanced(write_slice, groups, shared(undefined))
    found = read_frames(path)
    assert isinstance(found, list)
    assert [frame.number for frame in found] == list(range(6))
    first = found[0]
    assert (first.position, first.spacing, first.thickness) == ((1.0, 2.0, 4.0), (0.8, 0.5), 2.0)
    assert (first.spacing_between, first.slope, first.intercept) == (2.5, 2.0, -5.0)
    assert first.traits["ImageType"] == ("ORIGINAL", "PRIMARY", "M", "NONE")
    assert first.traits["EchoTime"] == 80.0
    assert first.traits["AcquisitionNumber"] == 3
    assert first.traits["DiffusionGradientOrientation"] == ("0.6000", "0.8000", "0.0000")
    scan = scan_dicom(path)
    assert [volume.traits for volume in scan.volumes] == [
        {"DiffusionBValue": 0.0},
        {"DiffusionBValue": 1000.0},
    ]
    assert [[frame.number for frame in volume.frames] for volume in scan.volumes] == [[2, 1, 0], [5, 4, 3]]
    assert {volume.verdict.status for volume in scan.volumes} == {Status.OK}


def test_a_frame_s_own_value_goes_before_the_shared_one(write_slice: Write) -> None:
    special = own(1.5, 0)
    special.PixelMeasuresSequence = Sequence([dataset_of(PixelSpacing=[9, 9], SliceThickness=4)])
    found = read_frames(write_enhanced(write_slice, [own(0, 0), special], shared()))
    assert isinstance(found, list)
    spacings = [(frame.spacing, frame.thickness, frame.spacing_between) for frame in found]
    assert spacings == [((0.8, 0.5), 2.0, 2.5), ((9.0, 9.0), 4.0, 2.5)]


def test_attributes_of_legacy_converted_objects(write_slice: Write) -> None:
    groups = [own(z, 0) for z in (0, 1)]
    for index, item in enumerate(groups):
        item.UnassignedPerFrameConvertedAttributesSequence = Sequence([dataset_of(TriggerTime=str(index))])
    found = read_frames(write_enhanced(write_slice, groups, shared()))
    assert isinstance(found, list)
    assert [frame.traits["TriggerTime"] for frame in found] == [0.0, 1.0]


def test_groups_without_a_position(write_slice: Write) -> None:
    groups = [own(0, 0), own(1, 0)]
    del groups[1].PlanePositionSequence
    found = read_frames(write_enhanced(write_slice, groups, shared()))
    assert isinstance(found, list)
    assert [isinstance(found, list) and frame.position for frame in found] == [(1.0, 2.0, 0.0), None]


@pytest.mark.parametrize("announced", [1, 3])
def test_another_number_of_frames_than_of_groups(write_slice: Write, announced: int) -> None:
    path = write_enhanced(write_slice, [own(0, 0), own(1, 0)], shared(), NumberOfFrames=announced)
    found = read_frames(path)
    assert isinstance(found, SetAside)
    assert (found.kind, found.what) == ("damaged", f"it announces {announced} frames, but describes 2")


def test_a_group_of_a_megabyte_is_not_read(write_slice: Write) -> None:
    groups = [own(0, 0), own(1, 0)]
    groups[1].PlanePositionSequence[0].ImageComments = "x" * (2 << 20)
    found = read_frames(write_enhanced(write_slice, groups, shared()))
    assert isinstance(found, SetAside)
    assert "longer than any that is known" in found.what


def test_the_order_of_groups_is_that_of_stored_planes(write_slice: Write) -> None:
    found = read_frames(write_enhanced(write_slice, [own(z, 0) for z in (5, 3, 4)], shared()))
    assert isinstance(found, list)
    frames: list[Frame] = found
    assert [frame.position and frame.position[2] for frame in frames] == [5.0, 3.0, 4.0]
