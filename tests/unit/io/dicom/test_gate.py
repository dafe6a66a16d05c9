"""The geometry gate: verdicts on what scanners and archives leave, and the grids that follow."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from medseg.geometry import Grid
from medseg.io.dicom.frames import Frame, Series
from medseg.io.dicom.gate import judge
from medseg.io.dicom.grouping import group_frames
from medseg.io.dicom.scan import scan_dicom
from medseg.io.dicom.verdict import DicomVolume, Finding, Reason, Repairs, Status

WriteSeries = Callable[..., Path]
SERIES = Series("1.2.3.4", "1.2.3", None, "1.2.840.10008.5.1.4.1.1.2", "CT", 1)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def frame(position: Any, **values: Any) -> Frame:
    given_values: dict[str, Any] = {
        "sop_instance_uid": "1.2.3.4.5",
        "number": 0,
        "tile": None,
        "series": SERIES,
        "rows": 4,
        "columns": 6,
        "samples": 1,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "orientation": AXIAL,
        "spacing": (0.8, 0.5),
        **values,
    }
    place = None if position is None else tuple(float(x) for x in position)
    return Frame(path=Path("slice"), position=place, **given_values)  # type: ignore[arg-type]


def stack(heights: Any, drift: tuple[float, float] = (0.0, 0.0), **values: Any) -> list[Frame]:
    return [frame((drift[0] * z, drift[1] * z, z), **values) for z in heights]


def only(volume: DicomVolume) -> Finding:
    (finding,) = volume.verdict.findings
    return finding


def test_an_axial_series_by_hand() -> None:
    volume = judge([frame((1, 2, z)) for z in (7, 3, 5)])
    assert (volume.verdict.status, volume.verdict.findings) == (Status.OK, ())
    assert volume.positions_mm == (0.0, 2.0, 4.0)
    assert volume.grid is not None
    assert volume.grid.shape == (6, 4, 3)
    # Right and back are positive in DICOM's patient's left and posterior: x and y change their signs.
    np.testing.assert_allclose(
        volume.grid.affine, [[-0.5, 0, 0, -1], [0, -0.8, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]
    )
    assert volume.stored_affine is not None
    np.testing.assert_array_equal(volume.stored_affine, volume.grid.affine)
    assert volume.grid.axcodes == "LPS"


def test_a_sagittal_series_runs_against_its_positions() -> None:
    # Rows run to the back, columns to the feet: their cross product points to the right, against DICOM's x.
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    volume = judge([frame((x, 0, 0), orientation=sagittal) for x in (0, 1, 2)])
    assert [one.position for one in volume.frames] == [(2, 0, 0), (1, 0, 0), (0, 0, 0)]
    assert volume.grid is not None
    assert volume.grid.axcodes == "PIR"
    assert np.linalg.det(volume.grid.affine) > 0


@st.composite
def placed(
    draw: st.DrawFn,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], tuple[float, float], float, int]:
    turn = Rotation.from_euler(
        "xyz", draw(st.tuples(*[st.integers(-180, 180)] * 3)), degrees=True
    ).as_matrix()
    origin = np.array(draw(st.tuples(*[st.floats(-300, 300)] * 3)))
    lengths = st.floats(0.2, 9.0)
    return turn, origin, (draw(lengths), draw(lengths)), draw(lengths), draw(st.integers(2, 7))


@given(placed=placed(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_each_voxel_lies_where_dicom_s_formula_puts_it(placed: Any, data: st.DataObject) -> None:
    turn, origin, spacing, distance, slices = placed
    orientation = (*turn[:, 0], *turn[:, 1])
    frames = [
        frame(origin + turn[:, 2] * distance * k, orientation=orientation, spacing=spacing)
        for k in range(slices)
    ]
    volume = judge(data.draw(st.permutations(frames)))
    assert volume.verdict.status is Status.OK
    assert volume.grid is not None
    assert np.linalg.det(volume.grid.affine) > 0
    row, column, k = 3, 5, slices - 1
    # PS3.3, equation C.7.6.2.1-1
    lps = (
        np.array(volume.frames[k].position) + turn[:, 0] * spacing[1] * column + turn[:, 1] * spacing[0] * row
    )
    np.testing.assert_allclose(volume.grid.to_world([column, row, k]), LPS_TO_RAS @ lps, atol=1e-6)
    assert list(volume.positions_mm) == sorted(volume.positions_mm)


def test_as_itk_places_the_same_files(write_series: WriteSeries) -> None:
    turn = Rotation.from_euler("xyz", (20, -35, 70), degrees=True).as_matrix()
    origin = np.array([12.5, -30.25, 100.0])
    cosines = [float(f"{x:.12g}") for x in (*turn[:, 0], *turn[:, 1])]
    folder = write_series([origin + turn[:, 2] * 2.5 * k for k in range(5)], ImageOrientationPatient=cosines)
    (volume,) = scan_dicom(folder).volumes
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    directions = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    theirs = np.eye(4)
    theirs[:3, :3], theirs[:3, 3] = LPS_TO_RAS @ directions, LPS_TO_RAS @ image.GetOrigin()
    assert volume.grid is not None
    assert Grid(image.GetSize(), theirs).difference(volume.grid) is None
    np.testing.assert_allclose(volume.grid.affine, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("lost", "count", "before", "after"),
    [((5, 6, 7), 3, [8.0], [16.0]), ((1,), 1, [0.0], [4.0]), ((3, 8), 2, [4.0, 14.0], [8.0, 18.0])],
)
def test_missing_slices_are_counted_and_placed(
    lost: tuple[int, ...], count: int, before: list[float], after: list[float]
) -> None:
    heights = [2.0 * k for k in range(12) if k not in lost]
    refused = judge(stack(heights))
    finding = only(refused)
    assert (finding.reason, finding.status) == (Reason.MISSING_SLICES, Status.REFUSED)
    assert finding.figures == {"missing": count, "before_mm": before, "after_mm": after}
    assert (refused.grid, refused.stored_affine) == (None, None)
    mended = judge(stack(heights), Repairs(missing=True))
    assert mended.verdict.status is Status.REPAIRED
    assert mended.grid is not None
    assert mended.grid.shape == (6, 4, 12)
    assert mended.grid.spacing_mm[2] == pytest.approx(2.0)
    assert len(mended.positions_mm) == 12 - len(lost)


def test_spacing_that_varies_a_little_is_remarked() -> None:
    heights = np.cumsum([0, *[2.0 * (1.005 if k % 2 else 0.995) for k in range(10)]])
    volume = judge(stack(heights))
    finding = only(volume)
    assert (finding.reason, finding.status) == (Reason.UNEVEN_SPACING, Status.OK)
    assert finding.figures["deviation_percent"] == pytest.approx(0.5)
    assert volume.grid is not None
    assert volume.grid.spacing_mm[2] == pytest.approx(2.0)


@pytest.mark.parametrize("decimals", [2, 3, 6])
def test_rounded_positions_are_even(decimals: int) -> None:
    volume = judge(stack([round(0.6666667 * k, decimals) for k in range(50)]))
    assert volume.verdict.status is Status.OK


def test_spacing_that_varies_is_refused_or_resampled() -> None:
    heights = np.cumsum([0, *[2.0 * (1.2 if k % 2 else 0.8) for k in range(10)]])
    finding = only(judge(stack(heights)))
    assert (finding.reason, finding.status) == (Reason.UNEVEN_SPACING, Status.REFUSED)
    assert finding.figures["smallest_mm"] == pytest.approx(1.6)
    assert finding.figures["largest_mm"] == pytest.approx(2.4)
    mended = judge(stack(heights), Repairs(uneven=True))
    assert mended.verdict.status is Status.REPAIRED
    assert mended.stored_affine is None
    assert mended.grid is not None
    ends = [mended.grid.to_world([0, 0, k])[2] for k in (0, mended.grid.shape[2] - 1)]
    np.testing.assert_allclose(ends, [heights[0], heights[-1]])


def test_spacing_that_grows_is_not_even_however_small_each_step() -> None:
    heights = np.cumsum([2.0 * (1 + 0.0001 * k) for k in range(400)])
    assert only(judge(stack(heights))).status is Status.REFUSED


def test_a_slice_between_two_others_is_no_sign_of_missing_ones() -> None:
    assert only(judge(stack([0, 5, 10, 12.5, 15, 20]))).reason is Reason.UNEVEN_SPACING


@pytest.mark.parametrize("degrees", [15.0, -15.0, 18.5, 0.5])
def test_a_tilted_gantry(degrees: float) -> None:
    angle = math.radians(degrees)
    down = (0.0, math.cos(angle), -math.sin(angle))
    frames = [frame((0, 0, 2.0 * k), orientation=(1.0, 0.0, 0.0, *down)) for k in range(8)]
    volume = judge(frames)
    finding = only(volume)
    assert (finding.reason, finding.status) == (Reason.GANTRY_TILT, Status.REPAIRED)
    assert finding.figures["tilt_degrees"] == pytest.approx(abs(degrees))
    assert volume.grid is not None
    assert volume.stored_affine is not None
    assert volume.grid.is_orthogonal
    assert np.linalg.det(volume.grid.affine) > 0
    assert volume.grid.spacing_mm == pytest.approx((0.5, 0.8, 2.0 * math.cos(angle)))
    np.testing.assert_allclose(volume.stored_affine[:3, 2], [0, 0, 2])
    # All stored voxels lie within, each on a slice of the grid, and no row of voxels is empty.
    corners = [(i, j, k) for i in (0, 5) for j in (0, 3) for k in range(8)]
    world = np.array([volume.stored_affine @ (*corner, 1) for corner in corners])[:, :3]
    indices = volume.grid.to_index(world)
    np.testing.assert_allclose(indices[:, 2], [corner[2] for corner in corners], atol=1e-9)
    assert indices.min() > -1e-3
    assert (indices.max(axis=0) < np.array(volume.grid.shape) - 1 + 1e-3).all()
    assert (indices.max(axis=0) > np.array(volume.grid.shape) - 2).all()
    assert (indices.min(axis=0) < 1).all()
    refused = judge(frames, Repairs(tilt=False))
    assert only(refused).status is Status.REFUSED
    assert refused.grid is None


def test_a_tilted_gantry_with_missing_slices() -> None:
    frames = stack([0, 2, 4, 10, 12], drift=(0.0, 0.3))
    refused = judge(frames)
    assert {finding.reason for finding in refused.verdict.findings} == {
        Reason.MISSING_SLICES,
        Reason.GANTRY_TILT,
    }
    assert refused.verdict.status is Status.REFUSED
    mended = judge(frames, Repairs(missing=True))
    assert mended.grid is not None
    assert mended.grid.shape[2] == 7
    assert mended.grid.is_orthogonal


def test_slices_shifted_this_way_and_that() -> None:
    frames = [frame((0.3 * (k % 2), 0, 2.0 * k)) for k in range(6)]
    finding = only(judge(frames))
    assert (finding.reason, finding.status) == (Reason.SHEARED, Status.REFUSED)


def test_slices_side_by_side_are_no_tilted_stack() -> None:
    finding = only(judge(stack([0, 1, 2, 3], drift=(1.5, 0.0))))
    assert (finding.reason, finding.status) == (Reason.SHEARED, Status.REFUSED)


REFUSED: dict[Reason, Callable[[list[Frame]], list[Frame]]] = {
    Reason.COLOURS: lambda _: stack(range(4), samples=3),
    Reason.NO_CODEC: lambda _: stack(range(4), transfer_syntax_uid="1.2.840.10008.1.2.4.100"),  # MPEG-2
    Reason.TRUNCATED: lambda frames: [*frames, frame((0, 0, 4), missing_bytes=10)],
    Reason.NO_POSITION: lambda frames: [*frames, frame(None)],
    Reason.NO_ORIENTATION: lambda frames: [*frames, frame((0, 0, 4), orientation=None)],
    Reason.NO_SPACING: lambda frames: [*frames, frame((0, 0, 4), spacing=None)],
    Reason.BAD_SPACING: lambda _: stack(range(4), spacing=(0.8, 0.0)),
    Reason.BAD_ORIENTATION: lambda _: stack(range(4), orientation=(1.0, 0.0, 0.0, 0.0, 0.98, 0.0)),
    Reason.SHEARED: lambda _: stack(range(4), orientation=(1.0, 0.0, 0.0, 0.1, math.sqrt(0.99), 0.0)),
    Reason.MIXED_ORIENTATIONS: lambda frames: [*frames, frame((0, 0, 4), orientation=(0, 1, 0, 0, 0, -1))],
    Reason.MIXED_SIZES: lambda frames: [*frames, frame((0, 0, 4), rows=5)],
    Reason.NO_SLICE_SPACING: lambda frames: frames[:1],
    Reason.DUPLICATE_POSITIONS: lambda frames: [*frames, frames[2]],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(reason: Reason) -> None:
    volume = judge(REFUSED[reason](stack(range(4))))
    finding = only(volume)
    assert (finding.reason, finding.status) == (reason, Status.REFUSED)
    assert finding.what
    assert finding.fix
    assert volume.grid is None


def test_every_reason_to_refuse_is_tried() -> None:
    tried_elsewhere = {Reason.GANTRY_TILT, Reason.UNEVEN_SPACING, Reason.MISSING_SLICES, Reason.LONG_TEXT}
    assert {*REFUSED} | tried_elsewhere == {*Reason}


@pytest.mark.parametrize("name", ["photometric", "transfer_syntax_uid"])
def test_what_a_header_calls_itself_is_not_repeated_unless_it_is_a_code(name: str) -> None:
    volume = judge(stack(range(4), **{name: "Jane Doe, 12 Main Street"}))
    assert volume.verdict.status is Status.REFUSED
    assert "Jane" not in only(volume).what


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("position", Reason.NO_POSITION),
        ("orientation", Reason.NO_ORIENTATION),
        ("spacing", Reason.BAD_SPACING),
    ],
)
def test_values_that_are_not_finite(name: str, reason: Reason, bad: float) -> None:
    values = {
        "position": (0.0, bad, 4.0),
        "orientation": (1.0, bad, 0.0, 0.0, 1.0, 0.0),
        "spacing": (bad, 0.5),
    }
    odd = {name: values[name]}
    odd_frame = frame(odd.pop("position", (0, 0, 4)), **odd)
    volume = judge([*stack(range(4)), odd_frame])
    assert [finding.reason for finding in volume.verdict.findings] == [reason]


numbers = st.floats(allow_nan=True) | st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e5, 1e-5])


@given(
    st.lists(
        st.tuples(
            st.none() | st.tuples(*[numbers] * 3),
            st.none() | st.tuples(*[numbers] * 6) | st.just(AXIAL),
            st.none() | st.tuples(*[numbers] * 2) | st.just((0.8, 0.5)),
            st.none() | numbers,
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_a_header_says_there_is_a_verdict(headers: list[Any]) -> None:
    frames = [
        frame(position, orientation=orientation, spacing=spacing, thickness=thickness)
        for position, orientation, spacing, thickness in headers
    ]
    for group in group_frames(frames):
        volume = judge(group.frames, Repairs(tilt=True, uneven=True, missing=True))
        assert (volume.grid is None) == (volume.verdict.status is Status.REFUSED)


def test_the_few_are_counted_not_the_many() -> None:
    odd = frame((0, 0, -1), rows=5)
    assert only(judge([odd, *stack(range(4))])).figures["slices"] == 1


@pytest.mark.parametrize(
    ("lengths", "thickness"),
    [
        ({"spacing_between": 3.0, "thickness": 2.0}, 3.0),
        ({"thickness": 2.0}, 2.0),
        ({"spacing_between": 0.0, "thickness": 2.0}, 2.0),
    ],
)
def test_one_slice_alone(lengths: dict[str, float], thickness: float) -> None:
    volume = judge([frame((0, 0, 5), **lengths)])
    assert volume.verdict.findings == ()
    assert volume.grid is not None
    assert volume.grid.spacing_mm == pytest.approx((0.5, 0.8, thickness))


def test_long_text_is_a_remark() -> None:
    volume = judge(stack(range(4), long_values=("ImageOrientationPatient",)))
    assert (only(volume).reason, volume.verdict.status) == (Reason.LONG_TEXT, Status.OK)
    assert volume.grid is not None


def test_copies_of_files_are_taken_once(write_series: WriteSeries) -> None:
    folder = write_series([(0, 0, z) for z in range(5)])
    shutil.copy(folder / "999", folder / "copy")
    (volume,) = scan_dicom(folder).volumes
    assert (only(volume).reason, only(volume).status) == (Reason.DUPLICATE_POSITIONS, Status.REPAIRED)
    assert len(volume.frames) == 5
    assert volume.grid is not None


def test_a_file_that_claims_to_be_another_is_no_copy(write_series: WriteSeries) -> None:
    def same_uid(_: int, dataset: Dataset) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.0"

    folder = write_series([(0, 0, z) for z in (0, 1, 2, 2)], same_uid)
    (volume,) = scan_dicom(folder).volumes
    assert (only(volume).reason, only(volume).status) == (Reason.DUPLICATE_POSITIONS, Status.REFUSED)


def test_findings_name_no_person(write_series: WriteSeries) -> None:
    folder = write_series([(0, 0, z) for z in (0, 1, 3, 3)], SeriesDescription="Nobody")
    (volume,) = scan_dicom(folder).volumes
    told = repr(volume.verdict) + repr(volume.series)
    assert "Nobody" not in told
