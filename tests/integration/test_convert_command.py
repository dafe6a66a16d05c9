"""``medseg convert`` from the command line: its table, its files and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.cli.main import main
from medseg.errors import USAGE_EXIT_CODE, GeometryError, InputError
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.volume import Volume
from tests.data.dicom_cases import CASES

MakeSeries = Callable[..., Path]
EVEN, GAPPED = [0.0, 2.5, 5.0, 7.5], [0.0, 2.5, 5.0, 12.5]


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, (4, 5, 6)).astype(np.uint16)


def test_a_folder_with_a_refused_series(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    make_ct_series(source, voxels, GAPPED, "1.2.4")
    (source / "readme").write_text("hello")

    code = main(["convert", str(source), str(tmp_path / "out")])

    shown = capsys.readouterr()
    assert code == GeometryError.exit_code
    assert shown.err == "medseg: 1 of 2 volumes was not written\n"
    for words in ("written", "refused", "missing-slices", "REFUSED", "not DICOM"):
        assert words in shown.out
    assert "Secret" not in shown.out  # this is a pipe, which may be a log
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1

    assert main(["convert", str(source), str(tmp_path / "out"), "--repair"]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_json_and_jobs(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    assert main(["convert", str(source), str(tmp_path / "out"), "--json", "--jobs", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert [volume["outcome"] for volume in told["volumes"]] == ["written"]


def test_stacked_and_named(make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN, EchoTime=1.0)
    make_ct_series(source / "second", voxels, EVEN, EchoTime=2.0)
    assert main(["convert", str(source), str(tmp_path / "out"), "--stack", "--keep-names"]) == 0
    assert read_volume(tmp_path / "out" / "004_Head_of_Secret_Person.nii.gz").channels == 2


def test_to_one_file_and_on_to_another_format(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    assert main(["convert", str(source), str(tmp_path / "ct.nii.gz")]) == 0
    assert main(["convert", str(tmp_path / "ct.nii.gz"), str(tmp_path / "ct.nrrd")]) == 0
    first, second = (read_volume(tmp_path / name) for name in ("ct.nii.gz", "ct.nrrd"))
    np.testing.assert_array_equal(first.array, second.array)


def test_one_line_for_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "missing"), str(tmp_path / "out")]) == InputError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["convert", str(tmp_path)]) == USAGE_EXIT_CODE
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--jobs", "0"]) == USAGE_EXIT_CODE
    assert not (tmp_path / "out").exists()


@pytest.fixture
def label_map(make_ct_series: MakeSeries, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A series, a label map on it with other axes, and its labels as (slices, rows, columns)."""
    pytest.importorskip("highdicom")
    series = make_ct_series(tmp_path / "in", np.zeros((4, 9, 12), np.int16), EVEN)
    main(["convert", str(series), str(tmp_path / "ct.nii.gz"), "--quiet"])
    image = read_volume(tmp_path / "ct.nii.gz")
    labels = np.zeros(image.array.shape, np.uint8)
    labels[0, 2:5, 3:6, 1:3], labels[0, 7:11, 4:8, 2:] = 3, 7
    write_volume(Volume(labels, image.grid).reoriented("PSR"), tmp_path / "labels.nii.gz", labels=True)
    return series, tmp_path / "labels.nii.gz", labels


@pytest.mark.parametrize("form", ["dicom-seg", "dicom-labelmap", "rtstruct"])
def test_a_label_map_to_dicom_and_back(
    label_map: tuple[Path, Path, np.ndarray], tmp_path: Path, form: str
) -> None:
    series, source, labels = label_map
    names = {"labels": {"0": "background", "3": "liver", "7": "left kidney"}}
    (tmp_path / "dataset.json").write_text(json.dumps(names))
    out, back = tmp_path / "labels.dcm", tmp_path / "back.nii.gz"
    told = ["--source", str(series), "--quiet"]

    assert main(["convert", str(source), str(out), "--format", form, "--labels", str(tmp_path), *told]) == 0
    assert main(["convert", str(out), str(back), *told]) == 0

    found, sidecar = read_volume(back), json.loads((tmp_path / "back.json").read_text())
    assert [entry["name"] for entry in sidecar["labels"]] == ["liver", "left kidney"]
    for entry, value in zip(sidecar["labels"], (3, 7), strict=True):
        assert entry["file"] == "back.nii.gz"
        np.testing.assert_array_equal(found.array == entry["value"], labels == value)
    if form == "dicom-seg":
        assert [entry["concept"]["value"] for entry in sidecar["labels"]] == ["10200004", "64033007"]


def test_concepts_go_out_and_come_back(
    label_map: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a dataset.json into a segmentation, beside its label map, and from there into a structure set."""
    series, source, _ = label_map
    stomach = {"value": "69695003", "scheme": "SCT", "meaning": "Stomach"}
    described = {"labels": {"magen": 3, "niere": 7}, "concepts": {"magen": stomach}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    told = ["--source", str(series), "--quiet"]
    first, back, second = (str(tmp_path / name) for name in ("labels.dcm", "back.nii.gz", "structures.dcm"))
    assert main(["convert", str(source), first, "--labels", str(tmp_path), *told]) == 0
    assert main(["convert", first, back, *told]) == 0
    assert main(
        ["convert", back, second, "--format", "rtstruct", "--labels", str(tmp_path / "back.json"), *told]
    ) == 0  # fmt: skip
    for path in (first, second):
        dataset = pydicom.dcmread(path)
        if path == first:
            code = dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
        else:
            code = dataset.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
        assert (code.CodeValue, code.CodeMeaning) == ("69695003", "Stomach")

    capsys.readouterr()
    (tmp_path / "dataset.json").write_text(json.dumps({**described, "concepts": {"leber": stomach}}))
    other = str(tmp_path / "other.dcm")
    assert main(["convert", str(source), other, "--labels", str(tmp_path), *told]) == InputError.exit_code
    assert "names 'leber', which is no label; name it as 'labels' does" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["dicom-seg", "rtstruct"])
def test_labels_of_a_tilted_gantry_there_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    CASES["gantry tilt of 15 degrees"](tmp_path / "in")
    out, back = tmp_path / "labels.dcm", tmp_path / "back.nii.gz"
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "ct.nii.gz"), "--quiet"]) == 0
    grid = read_volume(tmp_path / "ct.nii.gz").grid
    labels = np.zeros((1, *grid.shape), np.uint8)
    labels[:, 10:20, 12:30, 5:15] = 1
    write_volume(Volume(labels, grid), tmp_path / "labels.nii.gz", labels=True)
    told = ["--source", str(tmp_path / "in")]
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "labels.nii.gz"), str(out), "--format", form, *told]) == 0
    assert "nearest neighbour" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", str(out), str(back), *told]) == 0
    found = read_volume(back)
    assert grid.difference(found.grid) is None
    np.testing.assert_array_equal(found.array, labels)  # both ways, slices move by whole voxels


def test_where_an_object_s_images_are_not(
    label_map: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series, source, _ = label_map
    empty, listed = tmp_path / "empty", tmp_path / "list.json"
    empty.mkdir()
    CASES["no position"](tmp_path / "lost")
    CASES["oblique"](tmp_path / "elsewhere")
    listed.write_text('{"names": []}')
    out, contours = str(tmp_path / "a.dcm"), str(tmp_path / "contours.dcm")
    told = ["--source", str(series), "--quiet"]
    assert main(["convert", str(source), contours, "--format", "rtstruct", *told]) == 0
    capsys.readouterr()
    for arguments, words in [
        ([str(source), out, "--source", str(empty)], "holds no DICOM volume"),
        ([str(source), out, "--source", str(tmp_path / "lost")], "ImagePositionPatient"),
        ([str(source), out, "--labels", str(listed), *told], "declares no labels"),
        ([contours, str(tmp_path / "b"), "--source", str(tmp_path / "elsewhere")], "a contour lies"),
    ]:
        assert main(["convert", *arguments]) != 0
        assert words in capsys.readouterr().err


def test_an_object_of_one_of_two_volumes_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CASES["enhanced, two echoes"](tmp_path / "in")
    source = str(tmp_path / "in")
    assert main(["convert", source, str(tmp_path / "mr"), "--quiet"]) == 0
    image = read_volume(next((tmp_path / "mr").glob("*.nii.gz")))
    write_volume(Volume((image.array > 300).astype(np.uint8), image.grid), tmp_path / "a.nii.gz", labels=True)
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "a.nii.gz"), str(tmp_path / "a.dcm"), "--source", source]) == 0
    assert "2 volumes have this grid" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", str(tmp_path / "a.dcm"), str(tmp_path / "b.nii.gz"), "--source", source]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").array, image.array > 300)

    moved = Grid(image.grid.shape, image.grid.affine @ np.diag([1, 1, 1.5, 1]))
    write_volume(Volume(image.array, moved), tmp_path / "c.nii.gz")
    arguments = [str(tmp_path / "c.nii.gz"), str(tmp_path / "c.dcm"), "--source", source]
    assert main(["convert", *arguments]) == GeometryError.exit_code
    assert "lies on the grid of none of the 2 volumes" in capsys.readouterr().err


def test_what_dicom_objects_need(
    label_map: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series, source, _ = label_map
    out, contours = tmp_path / "labels.dcm", tmp_path / "contours.dcm"
    capsys.readouterr()
    for arguments, words in [
        ([source, out], "needs the images that it was made on; name them by --source"),
        ([source, out, "--source", tmp_path], "did you mean"),
        ([source, out, "--source", series, "--labels", tmp_path / "no.json"], "no.json"),
        ([tmp_path / "ct.nii.gz", out, "--source", series], "is no label map"),
    ]:
        extra = ["--format", "dicom-sge"] if words == "did you mean" else []
        assert main(["convert", *map(str, arguments), *extra]) != 0
        shown = capsys.readouterr().err
        assert words in shown
        assert shown.count("\n") == 1
        assert not out.exists()

    assert main(["convert", str(source), str(contours), "--source", str(series), "--format", "rtstruct"]) == 0
    assert main(["convert", str(contours), str(tmp_path / "folder")]) == InputError.exit_code
    assert "contours need the images" in capsys.readouterr().err
    assert main(["convert", str(contours), str(tmp_path / "folder"), "--source", str(series)]) == 0
    assert main(["convert", str(source), str(contours), "--source", str(series)]) == InputError.exit_code
    assert "is there already" in capsys.readouterr().err


@pytest.mark.data
def test_overlapping_structures_are_kept_apart(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    source = test_data / "seg" / "highdicom" / "seg_image_ct_binary_overlap.dcm"
    assert main(["convert", str(source), str(tmp_path / "one.nii.gz")]) == InputError.exit_code
    assert "structures overlap" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    (sidecar,) = (tmp_path / "out").glob("*.json")
    entries = json.loads(sidecar.read_text())["labels"]
    masks = [read_volume(sidecar.parent / entry["file"]).array == entry["value"] for entry in entries]
    assert len({entry["file"] for entry in entries}) == 2
    assert (masks[0] & masks[1]).any()
