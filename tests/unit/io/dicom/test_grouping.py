"""Frames to volumes: what tells volumes apart, and what does not."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.io.dicom.frames import Frame, Series, Tile
from medseg.io.dicom.gate import judge
from medseg.io.dicom.grouping import group_frames
from medseg.io.dicom.verdict import Reason, Status

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SERIES = Series("1.2.3.4", "1.2.3", None, "1.2.840.10008.5.1.4.1.1.4", "MR", 1)


def frame(position: Any, name: str = "", **values: Any) -> Frame:
    traits = {key: value for key, value in values.items() if key[0].isupper()}
    others = {key: value for key, value in values.items() if key[0].islower()}
    given_values: dict[str, Any] = {
        "path": Path(f"folder/{name or position}"),
        "sop_instance_uid": f"1.2.{name or position}",
        "number": 0,
        "tile": None,
        "series": SERIES,
        "rows": 4,
        "columns": 6,
        "samples": 1,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "orientation": AXIAL,
        "spacing": (0.8, 0.5),
        **others,
    }
    return Frame(position=position, traits=traits, **given_values)


def stack(slices: int = 5, start: float = 0.0, step: float = 2.0, **values: Any) -> list[Frame]:
    return [frame((0.0, 0.0, start + step * k), **values) for k in range(slices)]


def sizes_and_traits(frames: list[Frame]) -> list[tuple[int, dict[str, object]]]:
    shuffled = list(frames)
    random.Random(1).shuffle(shuffled)
    return [(len(group.frames), dict(group.traits)) for group in group_frames(shuffled)]


def test_series_come_apart_and_in_order() -> None:
    second = replace(SERIES, number=2, uid="1.2.3.1")
    tenth = replace(SERIES, number=10, uid="1.2.3.2")
    groups = group_frames([*stack(3, series=tenth), *stack(4, series=second), *stack(2)])
    assert [(group.frames[0].series.number, len(group.frames)) for group in groups] == [
        (1, 2),
        (2, 4),
        (10, 3),
    ]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("DiffusionBValue", (0.0, 1000.0)),
        ("EchoTime", (4.6, 9.2, 13.8)),
        ("ImageType", (("ORIGINAL", "M"), ("ORIGINAL", "P"))),
        ("ConvolutionKernel", ("B30f", "B70f")),
        ("TemporalPositionIdentifier", (1, 2, 3, 4)),
        ("AcquisitionNumber", (1, 2)),
        ("StackID", ("1", "2")),
        ("FlipAngle", (2.0, 20.0)),
    ],
)
def test_volumes_at_the_same_places_are_told_apart(name: str, values: tuple[Any, ...]) -> None:
    frames = [one for value in values for one in stack(**{name: value})]
    found = sizes_and_traits(frames)
    assert [size for size, _ in found] == [5] * len(values)
    assert {traits[name] for _, traits in found} == set(values)
    assert all(list(traits) == [name] for _, traits in found)


def test_a_trait_of_each_slice_splits_nothing() -> None:
    frames = [replace(one, traits={"AcquisitionNumber": k}) for k, one in enumerate(stack(9))]
    assert sizes_and_traits(frames) == [(9, {})]
    twice = [
        replace(one, traits={"AcquisitionNumber": k, "EchoTime": echo})
        for echo in (1.0, 2.0)
        for k, one in enumerate(stack(9))
    ]
    assert sizes_and_traits(twice) == [(9, {"EchoTime": 1.0}), (9, {"EchoTime": 2.0})]


def test_traits_that_only_together_tell_apart() -> None:
    frames = [
        one
        for kind in (("M",), ("P",))
        for echo in (1.0, 2.0)
        for one in stack(4, ImageType=kind, EchoTime=echo)
    ]
    found = sizes_and_traits(frames)
    assert [size for size, _ in found] == [4] * 4
    assert {(traits["ImageType"], traits["EchoTime"]) for _, traits in found} == {
        ((kind,), echo) for kind in "MP" for echo in (1.0, 2.0)
    }


def test_gradients_of_one_b_value() -> None:
    directions = [("1.0000", "0.0000", "0.0000"), ("0.0000", "1.0000", "0.0000")]
    frames = stack(4, DiffusionBValue=0.0) + [
        one
        for direction in directions
        for one in stack(4, DiffusionBValue=1000.0, DiffusionGradientOrientation=direction)
    ]
    assert [size for size, _ in sizes_and_traits(frames)] == [4, 4, 4]


def test_three_planes_of_one_series() -> None:
    frames = stack(3) + [
        frame(place, orientation=orientation)
        for orientation, places in (
            (SAGITTAL, [(float(x), 0.0, 0.0) for x in (30, 20, 10)]),
            (CORONAL, [(0.0, float(y), 0.0) for y in (30, 20, 10)]),
        )
        for place in places
    ]
    groups = group_frames(frames)
    assert [len(group.frames) for group in groups] == [3, 3, 3]
    assert {judge(group.frames).verdict.status for group in groups} == {Status.OK}


@pytest.mark.parametrize("name", ["rows", "spacing"])
def test_stacks_of_two_sizes(name: str) -> None:
    other = {"rows": 9} if name == "rows" else {"spacing": (1.0, 1.0)}
    assert [len(group.frames) for group in group_frames([*stack(5), *stack(4, **other)])] == [5, 4]


def test_rounding_splits_nothing() -> None:
    rounded = [
        replace(one, spacing=(0.80001, 0.5), orientation=(1.0, 1e-5, 0.0, 0.0, 1.0, 0.0))
        for one in stack(5, start=10.0)
    ]
    assert [len(group.frames) for group in group_frames([*stack(5), *rounded])] == [10]


@pytest.mark.parametrize("place", [0, 3, 8])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"rows": 5}, Reason.MIXED_SIZES),
        ({"spacing": (0.9, 0.5)}, Reason.MIXED_SIZES),
        ({"orientation": CORONAL}, Reason.MIXED_ORIENTATIONS),
    ],
)
def test_a_slice_that_differs_stays_where_it_belongs(
    place: int, values: dict[str, Any], reason: Reason
) -> None:
    frames = stack(9)
    frames[place] = replace(frames[place], **values)
    (group,) = group_frames(frames)
    verdict = judge(group.frames).verdict
    assert [finding.reason for finding in verdict.findings] == [reason]
    assert verdict.findings[0].figures["slices"] == 1


@pytest.mark.parametrize("values", [{"position": None}, {"orientation": None}, {"spacing": None}])
def test_an_incomplete_slice_spoils_its_volume(values: dict[str, Any]) -> None:
    frames = stack(6)
    frames[-1] = replace(frames[-1], **values)
    (group,) = group_frames(frames)
    assert judge(group.frames).verdict.status is Status.REFUSED


def test_no_position_at_all() -> None:
    (group,) = group_frames([replace(one, position=None) for one in stack(6)])
    assert [finding.reason for finding in judge(group.frames).verdict.findings] == [Reason.NO_POSITION]


def test_two_even_stacks_with_a_step_of_their_own() -> None:
    frames = stack(6, ImageType=("ADD",)) + stack(5, start=11.0, step=7.0, ImageType=("AXIAL",))
    assert [size for size, _ in sizes_and_traits(frames)] == [6, 5]


def test_a_gap_is_not_split_away() -> None:
    frames = stack(6, AcquisitionNumber=1) + stack(6, start=18.0, AcquisitionNumber=2)
    assert [size for size, _ in sizes_and_traits(frames)] == [12]


def test_doubled_slices_that_nothing_tells_apart() -> None:
    assert [size for size, _ in sizes_and_traits([*stack(5), frame((0.0, 0.0, 4.0), name="again")])] == [6]


def test_a_series_exported_twice() -> None:
    again = [replace(one, path=Path("other") / one.path.name) for one in stack(5)]
    assert [size for size, _ in sizes_and_traits([*stack(5), *again])] == [5, 5]


def test_files_that_hold_a_volume_each() -> None:
    frames = [
        frame((0.0, 0.0, 2.0 * k), name=name, tile=Tile(0, 4 * k))
        for name in ("a", "b", "c")
        for k in range(4)
    ]
    assert [size for size, _ in sizes_and_traits(frames)] == [4, 4, 4]


def test_two_sides_shown_one_by_one() -> None:
    left = [replace(one, position=(90.0, 0.0, one.position[2])) for one in stack(5) if one.position]
    assert [size for size, _ in sizes_and_traits([*stack(5), *left])] == [5, 5]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 7), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_every_frame_is_in_one_volume_whatever_their_order(
    echoes: int, times: int, slices: int, shuffler: random.Random
) -> None:
    frames = [
        one
        for echo in range(echoes)
        for time in range(times)
        for one in stack(slices, EchoTime=float(echo), TemporalPositionIndex=time, name=f"{echo}.{time}")
    ]
    in_order = group_frames(frames)
    shuffled = list(frames)
    shuffler.shuffle(shuffled)
    groups = group_frames(shuffled)
    assert [dict(group.traits) for group in groups] == [dict(group.traits) for group in in_order]
    assert sorted(len(group.frames) for group in groups) == [slices] * (echoes * times)
    assert {id(one) for group in groups for one in group.frames} == {id(one) for one in frames}
