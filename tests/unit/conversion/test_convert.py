"""Conversions of DICOM folders and of volumes: what is written, what is skipped, refused, and told."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg.conversion.writing as writing
from medseg import __version__
from medseg.conversion import Outcome, convert
from medseg.errors import ConfigError, GeometryError, InputError, ResourceError
from medseg.files import sha256_of
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.io.dicom import Repairs
from medseg.io.formats import write_unnamed
from medseg.volume import Volume

MakeSeries = Callable[..., Path]
SECRETS = ("Secret", "Person", "4711", "19700102", "20240304", "Hospital", "Head", '"1.2', "1.2.3")
EVEN = [0.0, 2.5, 5.0, 7.5]


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, (4, 5, 6)).astype(np.uint16)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_series_becomes_a_volume_on_its_grid(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    (source / "notes.txt").write_text("nothing")

    report = convert(source, tmp_path / "out")

    (volume,) = report.volumes
    assert (volume.outcome, volume.status, report.exit_code) == (Outcome.WRITTEN, "OK", 0)
    assert report.set_aside == {"not DICOM": 1}
    assert re.fullmatch("[0-9a-f]{12}", volume.name)
    assert names_in(tmp_path / "out") == sorted(
        [f"{volume.name}.json", f"{volume.name}.nii.gz", "conversion.json"]
    )
    written = read_volume(tmp_path / "out" / volume.file)
    np.testing.assert_array_equal(written.array[0], voxels.transpose(2, 1, 0).astype(int) - 1024)
    # LPS (-10, -20, 0) with columns of 0.6 mm to the left and rows of 0.8 mm to the back, in RAS.
    wanted = [[-0.6, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(written.grid.affine, wanted, atol=1e-6)
    header = nib.load(tmp_path / "out" / volume.file).header
    assert int(header["qform_code"]) > 0
    assert int(header["sform_code"]) > 0


def test_the_sidecar_tells_of_the_image_and_not_of_the_patient(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN, PixelPaddingValue=0)
    report = convert(source, tmp_path / "out")
    told = json.loads((tmp_path / "out" / f"{report.volumes[0].name}.json").read_text())
    assert told["modality"] == "CT"
    assert told["shape"] == [6, 5, 4]
    np.testing.assert_allclose(told["spacing_mm"], [0.6, 0.8, 2.5])
    assert told["medseg_version"] == __version__
    assert told["dtype"] == "int16"
    assert told["image_sha256"] == sha256_of(tmp_path / "out" / report.volumes[0].file)
    (channel,) = told["source"]
    assert channel["status"] == "OK"
    assert channel["padding"] == {"smallest": -1024.0, "largest": -1024.0, "kept": True}
    assert channel["sha256"] == [sha256_of(source / f"1.2.3-{index}") for index in range(4)]
    for path in (tmp_path / "out").glob("*.json"):
        text = path.read_text() + path.name
        assert [secret for secret in SECRETS if secret in text] == []
        assert str(tmp_path) not in text


def test_names_are_kept_on_request(make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    report = convert(source, tmp_path / "out", keep_names=True)
    assert report.volumes[0].file == "004_Head_of_Secret_Person.nii.gz"
    told = json.loads((tmp_path / "out" / "004_Head_of_Secret_Person.json").read_text())
    assert told["names"] == {
        "series_number": 4,
        "series_description": "Head of Secret^Person",
        "series_instance_uid": "1.2.3",
        "study_instance_uid": "1.2",
    }


def test_a_second_time_nothing_is_written(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    image = tmp_path / "out" / convert(source, tmp_path / "out").volumes[0].file
    before = image.stat().st_mtime_ns
    report = convert(source, tmp_path / "out")
    assert [volume.outcome for volume in report.volumes] == [Outcome.SKIPPED]
    assert image.stat().st_mtime_ns == before


@pytest.mark.parametrize("what", ["image", "sidecar", "no sidecar", "source"])
def test_what_is_there_and_is_something_else_stays(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, what: str
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    image = tmp_path / "out" / convert(source, tmp_path / "out").volumes[0].file
    sidecar = image.with_name(image.name.replace(".nii.gz", ".json"))
    if what == "image":
        image.write_bytes(image.read_bytes()[:-1])
    elif what == "sidecar":
        sidecar.write_text("[]")
    elif what == "no sidecar":
        sidecar.unlink()
    else:
        make_ct_series(source, voxels + 1, EVEN)
    before = image.read_bytes()
    (volume,) = convert(source, tmp_path / "out").volumes
    if what == "image":  # the sidecar knows its source, but not these bytes: the volume is made anew
        assert volume.outcome is Outcome.WRITTEN
        assert len(image.read_bytes()) > len(before)
        return
    assert volume.outcome is Outcome.FAILED
    assert "is there already" in str(volume.error)
    assert image.read_bytes() == before


def test_a_sidecar_left_by_a_killed_conversion_does_not_hinder(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    image = tmp_path / "out" / convert(source, tmp_path / "out").volumes[0].file
    image.unlink()
    assert convert(source, tmp_path / "out").volumes[0].outcome is Outcome.WRITTEN
    assert image.exists()


KILLED = """
import os, signal, sys
import medseg.conversion.{module} as module
from medseg.conversion import convert
module.{name} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
convert(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize(
    ("module", "name"), [("writing", "difference_from_file"), ("dicom_tree", "describe")]
)
def test_what_a_killed_conversion_leaves_goes_with_the_next(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, module: str, name: str
) -> None:
    source, out = make_ct_series(tmp_path / "in", voxels, EVEN), tmp_path / "out"
    script = KILLED.format(module=module, name=name)
    died = subprocess.run([sys.executable, "-c", script, str(source), str(out)], check=False)
    assert died.returncode == -signal.SIGKILL
    (left,) = names_in(out)
    assert re.fullmatch(r"[.][0-9a-f]{12}[.]part[.][0-9a-f]{12}[.]nii[.]gz", left)

    mine = out / ".0123456789ab.part.another.nii.gz"  # of another file: somebody may be writing it
    mine.touch()
    (volume,) = convert(source, out).volumes
    assert volume.outcome is Outcome.WRITTEN
    wanted = [mine.name, f"{volume.name}.json", f"{volume.name}.nii.gz", "conversion.json"]
    assert names_in(out) == sorted(wanted)


def test_one_refused_volume_leaves_the_others_alone(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    make_ct_series(source, voxels, [0.0, 2.5, 5.0, 12.5], "1.2.4")
    report = convert(source, tmp_path / "out")
    assert sorted(volume.outcome for volume in report.volumes) == [Outcome.REFUSED, Outcome.WRITTEN]
    assert report.exit_code == GeometryError.exit_code
    told = json.loads((tmp_path / "out" / "conversion.json").read_text())
    (refused,) = [volume for volume in told["volumes"] if volume["outcome"] == "refused"]
    assert refused["reasons"] == ["missing-slices"]
    assert "missing" in refused["error"]
    assert refused["file"] == ""


def test_missing_slices_are_interpolated_on_request(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, [0.0, 2.5, 5.0, 10.0])
    report = convert(source, tmp_path / "out", repairs=Repairs(missing=True))
    (volume,) = report.volumes
    assert (volume.outcome, volume.status, volume.shape) == (Outcome.WRITTEN, "REPAIRED", (6, 5, 5))
    found = read_volume(tmp_path / "out" / volume.file).array[0].transpose(2, 1, 0)
    stored = voxels.astype(int) - 1024
    np.testing.assert_array_equal(found[[0, 1, 2, 4]], stored)
    np.testing.assert_array_equal(found[3], np.rint((stored[2] + stored[3]) / 2))
    told = json.loads((tmp_path / "out" / f"{volume.name}.json").read_text())
    assert told["source"][0]["findings"][0]["status"] == "REPAIRED"


def test_one_damaged_file_is_told_by_its_kind_alone(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "Secret Person", voxels, EVEN)
    make_ct_series(source, voxels, EVEN, "1.2.4", RescaleIntercept=-1000)
    damaged = source / "1.2.4-2"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    report = convert(source, tmp_path / "out")
    assert sorted(volume.outcome for volume in report.volumes)[-1] is Outcome.WRITTEN
    assert report.exit_code != 0
    assert "Secret" not in (tmp_path / "out" / "conversion.json").read_text()


def test_volumes_of_a_series_apart_and_stacked(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "a", voxels, EVEN, TemporalPositionIndex=1)
    make_ct_series(tmp_path / "a" / "b", voxels + 7, EVEN, TemporalPositionIndex=2, RescaleSlope=2)
    apart = convert(source, tmp_path / "apart")
    assert [volume.channels for volume in apart.volumes] == [1, 1]
    (volume,) = convert(source, tmp_path / "stacked", channels="stacked").volumes
    assert (volume.outcome, volume.channels) == (Outcome.WRITTEN, 2)
    found = read_volume(tmp_path / "stacked" / volume.file).array.transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(found[0], voxels.astype(int) - 1024)
    np.testing.assert_array_equal(found[1], 2 * (voxels.astype(int) + 7) - 1024)
    told = json.loads((tmp_path / "stacked" / f"{volume.name}.json").read_text())
    assert [channel["traits"]["TemporalPositionIndex"] for channel in told["source"]] == [1, 2]


def test_what_lies_on_several_grids_is_not_stacked(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "a", voxels, EVEN, TemporalPositionIndex=1)
    make_ct_series(tmp_path / "a" / "b", voxels[:3], [0.0, 2.5, 5.0], TemporalPositionIndex=2)
    report = convert(source, tmp_path / "out", channels="stacked")
    assert [volume.channels for volume in report.volumes] == [1, 1]
    assert all("not stacked: shape" in volume.notes[0] for volume in report.volumes)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_one_volume_to_one_file(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray, suffix: str
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    convert(source, tmp_path / f"ct{suffix}")
    written = read_volume(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(written.array[0], voxels.transpose(2, 1, 0).astype(int) - 1024)
    assert json.loads((tmp_path / "ct.json").read_text())["modality"] == "CT"
    assert not (tmp_path / "conversion.json").exists()


def test_one_file_for_several_volumes_or_a_refused_one(
    make_ct_series: MakeSeries, tmp_path: Path, voxels: np.ndarray
) -> None:
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    make_ct_series(source, voxels, EVEN, "1.2.4")
    with pytest.raises(InputError, match="one file for 2 volumes"):
        convert(source, tmp_path / "ct.nii.gz")
    refused = make_ct_series(tmp_path / "refused", voxels, [0.0, 2.5, 5.0, 12.5])
    with pytest.raises(GeometryError, match="missing"):
        convert(refused, tmp_path / "ct.nii.gz")
    assert not (tmp_path / "ct.nii.gz").exists()
    (tmp_path / "ct.nii.gz").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        convert(make_ct_series(tmp_path / "one", voxels, EVEN), tmp_path / "ct.nii.gz")


def test_nothing_to_convert(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no file at all"):
        convert(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_text("text")
    with pytest.raises(InputError, match="1 not DICOM"):
        convert(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        convert(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ConfigError, match="apart"):
        convert(tmp_path / "in", tmp_path / "out", channels="both")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_between_volume_formats(tmp_path: Path, dtype: str) -> None:
    grid = Grid((3, 4, 5), np.array([[0, 0, 2.5, 4], [-1, 0, 0, 9], [0, 1.2, 0, -7], [0, 0, 0, 1.0]]))
    array = np.random.default_rng(0).integers(0, 200, (2, 3, 4, 5)).astype(dtype)
    if dtype == "float32":
        array[0, 0, 0, 0] = np.nan
    write_volume(Volume(array, grid), tmp_path / "a.nii.gz")
    report = convert(tmp_path / "a.nii.gz", tmp_path / "sub" / "b.nrrd")
    assert report.exit_code == 0
    found = read_volume(tmp_path / "sub" / "b.nrrd")
    np.testing.assert_array_equal(found.array, array)
    assert grid.difference(found.grid) is None
    with pytest.raises(InputError, match="is there already"):
        convert(tmp_path / "a.nii.gz", tmp_path / "sub" / "b.nrrd")
    with pytest.raises(InputError, match="suffix"):
        convert(tmp_path / "a.nii.gz", tmp_path / "folder")


@pytest.mark.parametrize("fault", ["voxel", "grid"])
def test_a_disk_that_does_not_give_back_what_was_written(
    make_ct_series: MakeSeries,
    tmp_path: Path,
    voxels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    def keep_badly(image: Volume, dtype: np.dtype, temporary: Path, target: Path) -> None:
        array, grid = image.array.copy(), image.grid
        if fault == "voxel":
            array[0, 1, 2, 3] += 1
        else:
            grid = Grid(grid.shape, grid.affine @ np.diag([1, 1, 1.1, 1]))
        write_unnamed(Volume(array, grid), dtype, temporary, target)

    monkeypatch.setattr(writing, "write_unnamed", keep_badly)
    source = make_ct_series(tmp_path / "in", voxels, EVEN)
    (volume,) = convert(source, tmp_path / "out").volumes
    assert volume.outcome is Outcome.FAILED
    assert isinstance(volume.error, ResourceError)
    assert names_in(tmp_path / "out") == ["conversion.json"]
