from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.check import CheckReport, Finding, check_dataset
from medseg.errors import InputError

SHAPE = (6, 5, 4)


def found(report: CheckReport) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.case, finding.check) for finding in report.findings]


def only(report: CheckReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def image(folder: Path, case: str) -> Path:
    return folder / "imagesTr" / f"{case}.nii.gz"


def label(folder: Path, case: str) -> Path:
    return folder / "labelsTr" / f"{case}.nii.gz"


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).copy()


def with_affine(path: Path, affine: np.ndarray, nifti) -> None:
    nifti(voxels(path), path, affine)


def test_a_sound_dataset_gives_no_finding(decathlon):
    report = check_dataset(decathlon)
    assert (report.dataset, report.cases, report.findings) == ("Tiny", 6, ())


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_number_of_jobs_changes_nothing(decathlon, nifti, jobs):
    for case in ("tiny_004", "tiny_001"):
        nifti(np.zeros(SHAPE, np.float32), image(decathlon, case))
    report = check_dataset(decathlon, jobs=jobs)
    assert found(report) == [
        ("error", "tiny_001", "constant"),
        ("error", "tiny_004", "constant"),
        ("warning", "tiny_004", "duplicate"),
    ]


@pytest.mark.data
def test_the_real_hippocampus_is_sound(test_data):
    report = check_dataset(test_data / "mr" / "hippocampus")
    assert report.cases == 200
    assert report.findings == ()


@pytest.mark.data
def test_damage_to_real_cases_is_found(test_data, tmp_path):
    source, folder = test_data / "mr" / "hippocampus", tmp_path / "damaged"
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    ids = [
        entry["image"][len("./imagesTr/") : -len(".nii.gz")]
        for entry in json.loads((folder / "dataset.json").read_text())["training"]
    ]
    truncated, swapped, copied = ids[3], ids[5], ids[7]
    image(folder, truncated).write_bytes(image(folder, truncated).read_bytes()[:3000])
    shutil.copyfile(label(folder, ids[6]), label(folder, swapped))
    shutil.copyfile(image(folder, ids[8]), image(folder, copied))
    report = check_dataset(folder)
    assert {(f.case, f.check) for f in report.errors} >= {
        (truncated, "unreadable"),
        (swapped, "grid"),
        (ids[8], "duplicate"),
    }
    assert {f.case for f in report.errors} == {truncated, swapped, copied, ids[8]}


@pytest.mark.data
def test_nan_in_a_real_map_is_found_and_sound_scans_are_left_alone(test_data, tmp_path):
    cord = test_data / "mr" / "spinal_cord"
    pairs = {"t1/t1w": "t1/t1w_seg-manual", "t2/t2": "t2/t2_seg-manual", "mt/mtr": "mt/mt1_seg"}
    training = [
        {"image": str(cord / f"{scan}.nii.gz"), "label": str(cord / f"{mask}.nii.gz")}
        for scan, mask in pairs.items()
    ]
    content = {"labels": ["background", "cord"], "modality": "MRI", "training": training}
    (tmp_path / "cord.json").write_text(json.dumps(content))
    finding = only(check_dataset(tmp_path / "cord.json"))
    assert (finding.severity, finding.case, finding.check) == ("error", "mtr", "not finite")


def test_missing_files(decathlon):
    image(decathlon, "tiny_001").unlink()
    label(decathlon, "tiny_002").unlink()
    report = check_dataset(decathlon)
    assert found(report) == [("error", "tiny_001", "missing"), ("error", "tiny_002", "missing")]
    assert report.findings[0].message == "image imagesTr/tiny_001.nii.gz does not exist"
    assert report.findings[1].message == "label labelsTr/tiny_002.nii.gz does not exist"


@pytest.mark.parametrize("part", [image, label])
def test_a_truncated_file(decathlon, part):
    path = part(decathlon, "tiny_001")
    path.write_bytes(path.read_bytes()[:-20])
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("error", "tiny_001", "unreadable")
    assert path.name in finding.message


def test_a_file_that_is_no_volume(decathlon):
    image(decathlon, "tiny_001").write_text("hello")
    assert found(check_dataset(decathlon)) == [("error", "tiny_001", "unreadable")]


def test_a_label_on_another_grid(decathlon, nifti):
    with_affine(label(decathlon, "tiny_003"), np.diag([1.0, 1.0, 2.0, 1.0]), nifti)
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("error", "tiny_003", "grid")
    assert finding.message == "the label lies on another grid: spacing 1x1x2 mm instead of 1x1x1 mm"


def test_channels_on_different_grids(decathlon, nifti, edit_json):
    second = nifti(
        np.arange(120.0, dtype=np.float32).reshape(SHAPE), decathlon / "t2.nii.gz", np.diag([2, 1, 1, 1])
    )
    entry = {"image": ["imagesTr/tiny_000.nii.gz", "t2.nii.gz"], "label": "labelsTr/tiny_000.nii.gz"}
    edit_json(decathlon / "dataset.json", modality={"0": "T1", "1": "T2"}, training=[entry], numTraining=1)
    report = check_dataset(decathlon)
    (finding,) = report.errors
    assert finding.check == "grid"
    assert second.name in finding.message


def test_a_wrong_number_of_channels(decathlon, nifti):
    nifti(np.random.default_rng(5).normal(size=(*SHAPE, 2)), image(decathlon, "tiny_000"))
    finding = only(check_dataset(decathlon))
    assert (finding.case, finding.check, finding.message) == ("tiny_000", "channels", "2 instead of 1 (MRI)")


def test_a_label_with_two_channels(decathlon, nifti):
    nifti(np.ones((*SHAPE, 2), np.uint8), label(decathlon, "tiny_000"))
    finding = only(check_dataset(decathlon))
    assert (finding.case, finding.check) == ("tiny_000", "channels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(decathlon, nifti, value):
    array = voxels(image(decathlon, "tiny_002"))
    array[0, 0, :2] = value
    nifti(array, image(decathlon, "tiny_002"))
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("error", "tiny_002", "not finite")
    assert "in 2 of 120 voxels" in finding.message


def test_an_image_of_nan_only(decathlon, nifti):
    nifti(np.full(SHAPE, np.nan, np.float32), image(decathlon, "tiny_002"))
    assert found(check_dataset(decathlon)) == [("error", "tiny_002", "not finite")]


def test_a_constant_image(decathlon, nifti):
    nifti(np.full(SHAPE, 7, np.int16), image(decathlon, "tiny_002"))
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.check) == ("error", "constant")
    assert finding.message == "every voxel of imagesTr/tiny_002.nii.gz is 7"


def test_a_constant_channel_among_others_is_a_warning(decathlon, nifti, edit_json):
    rng = np.random.default_rng(3)
    for index in range(6):
        array = rng.normal(size=(*SHAPE, 2))
        array[..., 1] *= index != 4
        nifti(array, image(decathlon, f"tiny_{index:03d}"))
    edit_json(decathlon / "dataset.json", modality={"0": "T1", "1": "T2"})
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("warning", "tiny_004", "constant")
    assert finding.message.endswith("with one value only: 1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (9, "not declared: 9"),
        (1.5, "not whole numbers: 1.5"),
        (np.nan, "not whole numbers: nan"),
        (-1, "not declared: -1"),
    ],
)
def test_label_values_that_mean_nothing(decathlon, nifti, value, message):
    array = voxels(label(decathlon, "tiny_005")).astype(np.float32)
    array[0, 0, 0] = value
    nifti(array, label(decathlon, "tiny_005"))
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("error", "tiny_005", "label values")
    assert finding.message == message


def test_whole_numbers_may_be_stored_as_floating_point(decathlon, nifti):
    path = label(decathlon, "tiny_005")
    nifti(voxels(path).astype(np.float32), path)
    assert check_dataset(decathlon).findings == ()


def test_an_empty_label_is_a_warning(decathlon, nifti):
    nifti(np.zeros(SHAPE, np.uint8), label(decathlon, "tiny_005"))
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("warning", "tiny_005", "empty label")


def test_unlabelled_voxels_are_declared_as_ignored(decathlon, nifti, edit_json):
    labels = {"0": "background", "1": "front", "2": "back", "7": "ignore"}
    edit_json(decathlon / "dataset.json", labels=labels)
    path = label(decathlon, "tiny_005")
    scribbles = voxels(path)
    scribbles[0] = 7
    nifti(scribbles, path)
    assert check_dataset(decathlon).findings == ()
    nifti(np.where(scribbles == 7, 7, 0).astype(np.uint8), path)
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.message) == ("warning", "holds background only")
    nifti(np.full(SHAPE, 7, np.uint8), path)
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("error", "tiny_005", "empty label")
    assert finding.message == "no voxel is labelled: all are 7, which is ignored"


def test_a_declared_class_that_no_label_holds_is_a_warning(decathlon, edit_json):
    labels = {"0": "background", "1": "front", "2": "back", "3": "middle"}
    edit_json(decathlon / "dataset.json", labels=labels)
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.message) == (
        "warning",
        "",
        "no label map holds 3 (middle)",
    )


def test_the_same_image_twice(decathlon, nifti):
    # stored as another type and compressed anew: other bytes, same values
    nifti(np.arange(120, dtype=np.int16).reshape(SHAPE), image(decathlon, "tiny_001"))
    nifti(np.arange(120, dtype=np.float32).reshape(SHAPE), image(decathlon, "tiny_004"))
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case) == ("warning", "tiny_004")
    assert finding.message == "same image as tiny_001"


def test_the_same_image_with_another_label_is_an_error(decathlon, nifti):
    shutil.copyfile(image(decathlon, "tiny_001"), image(decathlon, "tiny_004"))
    array = voxels(label(decathlon, "tiny_004"))
    array[0] = 1
    nifti(array, label(decathlon, "tiny_004"))
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case) == ("error", "tiny_004")
    assert finding.message == "same image as tiny_001, another label"


def test_an_orientation_that_stands_out_is_a_warning(decathlon, nifti):
    for part in (image, label):
        with_affine(part(decathlon, "tiny_002"), np.diag([-1.0, -1.0, 1.0, 1.0]), nifti)
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("warning", "tiny_002", "orientation")
    assert finding.message == "LPS, 5 of 6 cases are RAS"


def test_orientations_that_are_mixed_anyway_are_none(decathlon, nifti):
    for case in ("tiny_001", "tiny_002", "tiny_003"):
        for part in (image, label):
            with_affine(part(decathlon, case), np.diag([-1.0, -1.0, 1.0, 1.0]), nifti)
    assert check_dataset(decathlon).findings == ()


@pytest.mark.parametrize("spacing_mm", [5.0, 0.2])
def test_a_spacing_that_stands_out_is_a_warning(decathlon, nifti, spacing_mm):
    for part in (image, label):
        with_affine(part(decathlon, "tiny_002"), np.diag([1.0, 1.0, spacing_mm, 1.0]), nifti)
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("warning", "tiny_002", "spacing")
    assert finding.message == f"1x1x{spacing_mm:g} mm (R, A, S), the median is 1x1x1 mm"


def test_spacings_that_vary_anyway_are_none(decathlon, nifti):
    for index, spacing_mm in enumerate([0.7, 1.0, 1.5, 2.5, 4.0, 5.0]):
        for part in (image, label):
            with_affine(part(decathlon, f"tiny_{index:03d}"), np.diag([1.0, 1.0, spacing_mm, 1.0]), nifti)
    assert check_dataset(decathlon).findings == ()


def test_a_spacing_is_compared_along_anatomical_axes(decathlon, nifti):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    sideways = affine[:, [2, 0, 1, 3]]  # stored as SRA: 3 mm along the first axis
    for index in range(6):
        for part in (image, label):
            with_affine(part(decathlon, f"tiny_{index:03d}"), sideways if index == 3 else affine, nifti)
    assert found(check_dataset(decathlon)) == [("warning", "tiny_003", "orientation")]


def test_a_count_that_is_not_the_declared_one_is_a_warning(decathlon, edit_json):
    edit_json(decathlon / "dataset.json", numTraining=7)
    finding = only(check_dataset(decathlon))
    assert finding.message == "numTraining is 7, there are 6 labelled cases"


def test_files_that_no_case_uses_are_a_warning(decathlon, nifti):
    nifti([[[0]]], decathlon / "imagesTr" / "extra.nii.gz")
    nifti([[[0]]], decathlon / "imagesTr" / "._extra.nii.gz")
    (decathlon / "imagesTr" / "notes.txt").write_text("")
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.message) == ("warning", "1 files in imagesTr: extra.nii.gz")


def test_missing_test_images_are_a_warning(decathlon, edit_json):
    edit_json(decathlon / "dataset.json", test=["./imagesTs/later.nii.gz"])
    finding = only(check_dataset(decathlon))
    assert (finding.severity, finding.case, finding.check) == ("warning", "later", "missing")


def test_nnunet_files_without_a_partner(decathlon):
    for path in list((decathlon / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (decathlon / "dataset.json").write_text(json.dumps(content))
    assert check_dataset(decathlon).findings == ()
    image(decathlon, "tiny_001_0000").unlink()
    label(decathlon, "tiny_002").unlink()
    assert found(check_dataset(decathlon)) == [
        ("error", "tiny_001", "missing"),
        ("error", "tiny_002", "missing"),
    ]


def test_errors_come_first_and_are_told_apart(decathlon, nifti, edit_json):
    edit_json(decathlon / "dataset.json", numTraining=1)
    nifti(np.full(SHAPE, 7, np.int16), image(decathlon, "tiny_005"))
    report = check_dataset(decathlon)
    assert found(report) == [("error", "tiny_005", "constant"), ("warning", "", "count")]
    assert [f.check for f in report.errors] == ["constant"]
    assert [f.check for f in report.warnings] == ["count"]


def test_no_dataset_at_all(tmp_path):
    with pytest.raises(InputError, match="holds no dataset"):
        check_dataset(tmp_path)
