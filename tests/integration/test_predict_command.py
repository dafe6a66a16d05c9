"""``medseg predict`` from the command line: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli.main import main
from medseg.data import Split
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import (
    USAGE_EXIT_CODE,
    BundleError,
    ConfigError,
    GeometryError,
    InputError,
    ResourceError,
)
from medseg.geometry import Grid
from medseg.io import read_header, read_volume, write_volume
from medseg.volume import Volume
from tests.data.dicom_cases import CASES
from tests.data.processes import Started, medseg

MakeRun = Callable[..., Path]


def write_image(path: Path, seed: int = 0, channels: int = 1) -> Path:
    grid = Grid((18, 17, 9), np.array([[0, 0, 2.5, 4], [-1, 0, 0, 9], [0, 1.2, 0, -7], [0, 0, 0, 1.0]]))
    voxels = np.random.default_rng(seed).normal(size=(channels, *grid.shape)).astype(np.float32)
    write_volume(Volume(voxels, grid), path)
    return path


def call(*arguments: object) -> int:
    return main(["predict", "--device", "cpu", *map(str, arguments)])


def test_a_folder_is_segmented_and_summed_up(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    for index, name in enumerate(["p1.nii.gz", "p2.nii", "p3.nrrd"]):
        write_image(tmp_path / "images" / name, index)

    code = call("--model", run, "--input", tmp_path / "images", "--out", tmp_path / "out")

    shown = capsys.readouterr()
    assert code == 0
    assert shown.err == ""
    assert [name in shown.out for name in ("p1", "p2", "p3", "done")] == [True] * 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "p1.nii.gz",
        "p2.nii",
        "p3.nrrd",
        "summary.json",
    }
    for name in ("p1.nii.gz", "p2.nii", "p3.nrrd"):
        written, image = read_volume(tmp_path / "out" / name), read_header(tmp_path / "images" / name)
        assert written.grid == image.grid
        assert written.array.dtype == np.uint8
        assert set(np.unique(written.array)) <= {0, 1, 7}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (3, 0)
    labels = read_volume(tmp_path / "out" / "p1.nii.gz").array
    assert summary["cases"][0]["voxels"].get("posterior", 0) == int((labels == 7).sum())


def test_json_is_all_that_is_printed(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "a.nii.gz")

    assert call("--model", make_run(), "--input", image, "--out", tmp_path / "out", "--json") == 0

    (case,) = json.loads(capsys.readouterr().out)
    assert (case["case"], case["status"], case["reason"]) == ("a", "done", None)


def test_channels_in_files_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(channel_names=("T1", "T2"))
    for channel in range(2):
        write_image(tmp_path / "images" / f"p_{channel:04d}.nii.gz", channel)
    write_image(tmp_path / "images" / "both.nii.gz", 0, channels=2)

    assert call("--model", run, "--input", tmp_path / "images", "--out", tmp_path / "out") == 0

    assert (tmp_path / "out" / "p.nii.gz").is_file()
    assert read_header(tmp_path / "out" / "both.nii.gz").channels == 1


def test_an_ensemble_of_folds_is_not_one_of_them(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(trained=(0, 1))
    image = write_image(tmp_path / "a.nii.gz")
    arrays = {}
    for fold in ("0", "1", "all"):
        out = tmp_path / fold
        assert (
            call("--model", run, "--input", image, "--out", out, "--fold", fold, "--precision", "float32")
            == 0
        )
        arrays[fold] = read_volume(out / "a.nii.gz").array

    assert (arrays["0"] != arrays["1"]).any()
    assert (arrays["all"] != arrays["0"]).any()
    assert (arrays["all"] != arrays["1"]).any()
    # Where both members agree on a class for sure, so does their mean, with two of three classes at least.
    agree = arrays["0"] == arrays["1"]
    assert (arrays["all"][agree] == arrays["0"][agree]).mean() > 0.9


def test_validation_cases_are_segmented_by_the_fold_that_never_saw_them(
    make_run: MakeRun, tmp_path: Path
) -> None:
    data = tmp_path / "phantoms"
    dataset = write_phantom_dataset(data, "mr", count=4, test_count=1, shape=(24, 24, 16))
    ids = [case.id for case in dataset.cases]
    run = make_run(data=data, folds=(ids[:2], ids[2:]), trained=(0, 1), patch_size=(32, 32, 32))

    assert call("--model", run, "--validation", "--out", tmp_path / "out", "--precision", "float32") == 0
    assert call("--model", run, "--validation", "--fold", "1", "--out", tmp_path / "one") == 0

    suffix = "".join(dataset.cases[0].images[0].suffixes[-2:])
    written = {path.name for path in (tmp_path / "out").iterdir()} - {"summary.json"}
    assert written == {f"{name}{suffix}" for name in ids}
    alone = {path.name for path in (tmp_path / "one").iterdir()} - {"summary.json"}
    assert alone == {f"{name}{suffix}" for name in Split.load(run / "split.json").validation(1)}
    for fold, case in ((0, dataset.cases[0]), (1, dataset.cases[3])):
        out = tmp_path / f"fold{fold}"
        arguments = ("--input", case.images[0], "--fold", fold, "--precision", "float32")
        assert call("--model", run, *arguments, "--out", out) == 0
        name = f"{case.id}{suffix}"
        np.testing.assert_array_equal(
            read_volume(out / name).array, read_volume(tmp_path / "out" / name).array
        )


def test_one_bad_case_among_three_leaves_the_others_alone(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, name in enumerate("abc"):
        write_image(tmp_path / "images" / f"{name}.nii.gz", index)
    truncate(tmp_path / "images" / "b.nii.gz")

    code = call("--model", make_run(), "--input", tmp_path / "images", "--out", tmp_path / "out")

    shown = capsys.readouterr()
    assert code == InputError.exit_code
    assert shown.err == "medseg: 1 of 3 cases failed\n"
    assert "failed" in shown.out
    assert "b.nii.gz" in shown.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.nii.gz", "c.nii.gz", "summary.json"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [case["status"] for case in summary["cases"]] == ["done", "failed", "done"]
    assert "b.nii.gz" in summary["cases"][1]["reason"]


def test_failures_of_several_kinds_give_1(make_run: MakeRun, tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.nii.gz")
    truncate(tmp_path / "images" / "a.nii.gz")
    no_geometry(tmp_path / "images" / "b.nii.gz")

    assert call("--model", make_run(), "--input", tmp_path / "images", "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "c.nii.gz").is_file()


def truncate(path: Path) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def of_shape(path: Path, *shape: int) -> Path:
    nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)).to_filename(path)
    return path


def all_nan(path: Path) -> Path:
    nib.Nifti1Image(np.full((6, 6, 6), np.nan, np.float32), np.eye(4)).to_filename(path)
    return path


def no_geometry(path: Path) -> Path:
    """Write an image with a NaN in its affine, which nibabel would not: it is patched into the header."""
    image = nib.Nifti1Image(np.ones((6, 6, 6), np.float32), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    image.set_qform(None, code=0)
    content = bytearray(image.to_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    path.write_bytes(gzip.compress(bytes(content)))
    return path


BAD_IMAGES: dict[str, tuple[Callable[[Path], Path], set[int]]] = {
    "truncated": (lambda path: truncate(write_image(path)), {InputError.exit_code}),
    "text": (lambda path: path.write_text("hello") and path, {InputError.exit_code}),
    "2D": (lambda path: of_shape(path, 6, 7), {InputError.exit_code}),
    "4D": (lambda path: of_shape(path, 6, 7, 8, 3), {InputError.exit_code}),
    "5D": (lambda path: of_shape(path, 6, 7, 8, 2, 2), {InputError.exit_code}),
    "NaN": (all_nan, {InputError.exit_code}),
    "no geometry": (no_geometry, {GeometryError.exit_code}),
    "missing": (lambda path: path, {InputError.exit_code}),
}


@pytest.mark.parametrize(("make", "codes"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_one_line_and_leaves_nothing(
    make: Callable[[Path], Path],
    codes: set[int],
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run()
    image = make(tmp_path / "bad.nii.gz")

    code = call("--model", run, "--input", image, "--out", tmp_path / "out")

    shown = capsys.readouterr()
    assert code in codes
    assert shown.out == ""
    assert shown.err.startswith(f"medseg: {image}: ")
    assert shown.err.count("\n") == 1
    assert "; " in shown.err
    assert not (tmp_path / "out").exists()


def test_a_number_of_channels_that_the_model_does_not_know(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "three.nii.gz", channels=3)

    code = call("--model", make_run(), "--input", image, "--out", tmp_path / "out")

    assert code == InputError.exit_code
    line = f"medseg: {image}: has 3 channels, the model needs 1 (MRI); give these channels, in this order\n"
    assert capsys.readouterr().err == line
    assert not (tmp_path / "out").exists()


def damaged_plan(run: Path) -> Path:
    (run / "plan.json").write_text('{"dataset": "toy", ')
    return run


def corrupted_weights(run: Path) -> Path:
    weights = run / "fold_0" / "checkpoints" / "last.pt"
    content = bytearray(weights.read_bytes())
    content[100:400] = bytes(300)
    weights.write_bytes(content)
    truncate(weights)
    return run


BAD_RUNS: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "missing": (lambda run: run.with_name("nowhere"), InputError.exit_code, "nowhere"),
    "no plan": (lambda run: (run / "plan.json").unlink() or run, InputError.exit_code, "plan.json"),
    "damaged plan": (damaged_plan, BundleError.exit_code, "plan.json"),
    "corrupted weights": (corrupted_weights, BundleError.exit_code, "last.pt"),
}


@pytest.mark.parametrize(("damage", "code", "named"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_bad_run_is_one_line_and_leaves_nothing(
    damage: Callable[[Path], Path],
    code: int,
    named: str,
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = damage(make_run())
    image = write_image(tmp_path / "a.nii.gz")

    assert call("--model", run, "--input", image, "--out", tmp_path / "out") == code

    shown = capsys.readouterr()
    assert shown.out == ""
    assert named in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_places_that_must_not_be_written_to(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    image = write_image(tmp_path / "images" / "a.nii.gz")
    before = image.read_bytes()
    (tmp_path / "file").write_text("")

    assert call("--model", run, "--input", image, "--out", tmp_path / "file") == ResourceError.exit_code
    assert call("--model", run, "--input", image, "--out", image.parent) == InputError.exit_code

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "is a file, a folder is needed" in lines[0]
    assert "is an input and would be overwritten" in lines[1]
    assert [path.name for path in image.parent.iterdir()] == ["a.nii.gz"]
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), USAGE_EXIT_CODE, "either --input or --validation"),
        (("--input", "a.nii", "--validation"), USAGE_EXIT_CODE, "either --input or --validation"),
        (("--input", "a.nii", "--fold", "one"), USAGE_EXIT_CODE, "neither a number from 0 nor 'all'"),
        (("--input", "a.nii", "--fold", "3"), ConfigError.exit_code, "fold 3 is not trained"),
        (("--input", "a.nii", "--checkpoint", "bset"), ConfigError.exit_code, "did you mean 'best'"),
        (("--input", "a.nii", "--checkpoint", "best"), BundleError.exit_code, "best.pt: has no such weights"),
        (("--input", "a.nii", "--precision", "half"), ConfigError.exit_code, "unknown precision 'half'"),
        (("--input", "a.nii", "--overlap", "1.5"), ConfigError.exit_code, "--overlap"),
        (("--input", "a.jpeg"), InputError.exit_code, "a.jpeg"),
        (("--validation", "--fold", "3"), ConfigError.exit_code, "fold 3"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "phantoms"
    write_phantom_dataset(data, "mr", count=2, test_count=1, shape=(16, 16, 16))

    assert call("--model", make_run(data=data), *arguments, "--out", tmp_path / "out") == code

    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--help"]) == 0

    shown = capsys.readouterr().out
    assert "medseg predict --model" in shown
    assert "--validation" in shown


@pytest.mark.data
def test_real_images_come_back_on_their_grids(make_run: MakeRun, test_data: Path, tmp_path: Path) -> None:
    images = [
        test_data / path
        for path in (
            "mr/spinal_cord/t1/t1w.nii.gz",
            "mr/spinal_cord/t2/t2.nii.gz",
            "mr/spinal_cord/mt/mt0.nii.gz",
            "mr/vertebra/sub-mri_label-6_T2w.nii.gz",
            "ct/totalsegmentator/example_mr_sm.nii.gz",
        )
    ]
    inputs = [argument for image in images for argument in ("--input", image)]

    run = make_run(patch_size=(48, 48, 48))
    assert call("--model", run, *inputs, "--out", tmp_path / "out", "--overlap", 0.25) == 0

    for image in images:
        stored, written = nib.load(image), nib.load(tmp_path / "out" / image.name)
        assert written.shape == stored.shape
        np.testing.assert_array_equal(written.affine, stored.affine)
        assert written.get_data_dtype() == np.uint8


@pytest.mark.data
def test_a_real_image_with_infinite_values_is_refused(
    make_run: MakeRun, test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = test_data / "mr/spinal_cord/mt/mtr.nii.gz"

    assert call("--model", make_run(), "--input", image, "--out", tmp_path / "out") == InputError.exit_code

    assert "infinite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["streaming", "sliding-window"])
def test_the_mode_and_the_memory_planned_are_kept(mode: str, make_run: MakeRun, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.nii.gz")

    code = call(
        *("--model", make_run(), "--input", image, "--out", tmp_path / "out"),
        *("--mode", mode, "--max-ram", "20GB"),
    )

    assert code == 0
    (case,) = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]
    assert case["plan"]["inference"]["mode"] == mode
    assert case["plan"]["why"] == "as asked for"
    assert case["plan"]["peak_bytes"] == sum(case["plan"]["by_part"].values()) < 20e9


def test_several_models_are_averaged(make_run: MakeRun, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.nii.gz")
    run = make_run(trained=(0, 1))

    once = call("--model", run, "--input", image, "--out", tmp_path / "once")
    twice = call("--model", run, "--model", run, "--input", image, "--out", tmp_path / "twice")

    assert (once, twice) == (0, 0)
    first, second = (read_volume(tmp_path / name / "a.nii.gz").array for name in ("once", "twice"))
    assert (first == second).mean() > 0.99  # means of the same probabilities, rounded otherwise


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--max-ram", "much"), ConfigError.exit_code, "--max-ram: 'much' is no size of memory"),
        (("--max-ram", "1MB"), ResourceError.exit_code, "1.0 MB may be taken; allow "),
        (("--mode", "windows"), ConfigError.exit_code, "--mode: 'windows' cannot be chosen"),
        (("--mirror", "lr"), ConfigError.exit_code, "--mirror: 'lr' cannot be chosen"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    options: tuple[str, ...],
    code: int,
    message: str,
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = write_image(tmp_path / "a.nii.gz")

    assert call("--model", make_run(), "--input", image, "--out", tmp_path / "out", *options) == code

    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_killed_half_way_no_label_map_bears_its_name(make_run: MakeRun, tmp_path: Path) -> None:
    run, image, out = make_run(), tmp_path / "large.nii.gz", tmp_path / "out"
    voxels = np.random.default_rng(0).normal(size=(1, 160, 160, 160)).astype(np.float32)
    write_volume(Volume(voxels, Grid((160, 160, 160), np.eye(4))), image)
    arguments = ["predict", "--model", run, "--input", image, "--out", out, "--device", "cpu"]
    process = Started(medseg, [*map(str, arguments)])
    while not out.exists():  # it is made when the work begins
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    assert process.poll() is None
    process.kill()
    process.wait()

    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == []


def test_volumes_of_a_dicom_folder_are_segmented(
    make_run: MakeRun, make_ct_series: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voxels = np.random.default_rng(0).integers(0, 2000, (9, 17, 18), np.int16)
    study = make_ct_series(tmp_path / "study" / "ct", voxels, np.arange(9) * 2.5).parent
    make_ct_series(study / "gap", voxels[:5], (0, 2.5, 5, 7.5, 15), "1.2.4")

    code = call("--model", make_run(), "--input", study, "--out", tmp_path / "out")

    assert code == GeometryError.exit_code
    assert "missing-slices" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    done, refused = sorted(summary["cases"], key=lambda case: case["status"])
    assert done["geometry"] == {"status": "OK", "findings": []}
    assert refused["geometry"]["findings"][0]["reason"] == "missing-slices"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{done['case']}.nii.gz", "summary.json"}
    written = read_volume(tmp_path / "out" / f"{done['case']}.nii.gz")
    assert written.grid.shape == (18, 17, 9)
    # The same slices as a NIfTI file give the same labels.
    assert main(["convert", str(study / "ct"), str(tmp_path / "ct.nii.gz"), "--quiet"]) == 0
    call("--model", make_run("again"), "--input", tmp_path / "ct.nii.gz", "--out", tmp_path / "nifti")
    from_nifti = read_volume(tmp_path / "nifti" / "ct.nii.gz")
    assert from_nifti.grid == written.grid
    np.testing.assert_array_equal(from_nifti.array, written.array)
    assert "Secret" not in json.dumps(summary)


def test_labels_of_a_tilted_gantry_go_out_on_its_slices(make_run: MakeRun, tmp_path: Path) -> None:
    from medseg.io.dicom.segmentations import read_contours

    CASES["gantry tilt of 15 degrees"](tmp_path / "ct")
    run = make_run()
    told = ["--model", run, "--input", tmp_path / "ct", "--out"]
    assert call(*told, tmp_path / "out", "--format", "rtstruct") == 0
    assert call(*told, tmp_path / "nifti") == 0
    (case,) = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]
    assert "nearest neighbour" in case["notes"][0]
    assert case["geometry"]["findings"][0]["reason"] == "gantry-tilt"
    (written,), (image,) = (tmp_path / "out").glob("*.dcm"), (tmp_path / "nifti").glob("*.nii.gz")
    labels = read_volume(image)
    found = read_contours(written, labels.grid)
    # The upright grid is larger than the slices: what lies beside them has no image to go to.
    for entry in found.scheme.foreground:
        value = {"anterior": 1, "posterior": 7}[entry.name]
        mask, wanted = found.mask(entry.value), labels.array[0] == value
        assert not (mask & ~wanted).any()
        assert mask.sum() > 0.7 * wanted.sum()


@pytest.mark.parametrize("form", ["dicom-seg", "dicom-labelmap", "rtstruct"])
def test_label_maps_go_out_as_dicom_objects(
    make_run: MakeRun, make_ct_series: MakeRun, tmp_path: Path, form: str
) -> None:
    pytest.importorskip("highdicom")
    from medseg.io.dicom.segmentations import read_contours, read_segmentation

    voxels = np.random.default_rng(0).integers(0, 2000, (9, 17, 18), np.int16)
    series = make_ct_series(tmp_path / "ct", voxels, np.arange(9) * 2.5)
    run = make_run()
    assert call("--model", run, "--input", series, "--out", tmp_path / "out", "--format", form) == 0
    assert call("--model", run, "--input", series, "--out", tmp_path / "nifti") == 0

    (written,) = (tmp_path / "out").glob("*.dcm")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {written.name, "summary.json"}
    (labels,) = map(read_volume, (tmp_path / "nifti").glob("*.nii.gz"))
    found = (
        read_contours(written, labels.grid)
        if form == "rtstruct"
        else read_segmentation(written, list(series.iterdir()))
    )
    assert found.grid.difference(labels.grid) is None
    for entry in found.scheme.foreground:
        value = {"anterior": 1, "posterior": 7}[entry.name]
        np.testing.assert_array_equal(found.mask(entry.value), labels.array[0] == value)


def test_dicom_objects_are_refused_before_work_starts(
    make_run: MakeRun, make_ct_series: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "image.nii.gz")
    series = make_ct_series(tmp_path / "ct", np.zeros((3, 9, 9), np.int16), (0, 2, 4))
    out = ("--model", make_run(), "--out", tmp_path / "out")

    assert call(*out, "--input", image, "--format", "dicom-seg") == ConfigError.exit_code
    assert "refers to DICOM images, this is none" in capsys.readouterr().err
    assert call(*out, "--input", series, "--format", "dicom-sge") == ConfigError.exit_code
    assert "did you mean 'dicom-seg'?" in capsys.readouterr().err
    assert call(*out, "--input", series, "--format", "rtstruct", "--postprocess", "instances") != 0
    assert not (tmp_path / "out").exists()
