"""``medseg evaluate`` from the command line: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.data.phantoms import make_phantom, write_phantom_dataset
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.volume import Volume

CASES = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, "mr", count=1, test_count=CASES, shape=(32, 32, 20))
    return folder


@pytest.fixture
def predictions(dataset: Path, tmp_path: Path) -> Path:
    """The references, shifted by one voxel, in another format; one case without its nodules."""
    folder = tmp_path / "predictions"
    for index, path in enumerate(sorted((dataset / "labelsTs").iterdir())):
        volume = read_volume(path)
        shifted = np.roll(volume.array, 1, axis=1)
        shifted[shifted == (4 if index == 0 else -1)] = 0
        write_volume(Volume(shifted, volume.grid), folder / path.name.replace(".nii.gz", ".nii"), labels=True)
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def call(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_scores_are_printed_and_written(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out")
    shown = capsys.readouterr()
    assert code == 0
    assert f"classes: {dataset / 'dataset.json'}" in shown.err
    assert "Scores of 4 cases" in shown.out
    assert "2 left nucleus" in shown.out
    assert "missed" in shown.out
    assert "Worst cases first" in shown.out
    rows = rows_of(tmp_path / "out")
    assert len(rows) == CASES * 4
    assert [row["status"] for row in rows[:4]] == ["ok", "ok", "ok", "missed"]
    assert all(0.3 < float(row["dice"]) < 1.0 for row in rows if row["status"] == "ok")
    assert all(float(row["volume_ref_ml"]) > 1.0 for row in rows)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    mean = np.mean([float(row["dice"]) for row in rows if row["name"] == "nodules"])
    assert summary["classes"][3]["dice"]["mean"] == pytest.approx(mean)
    assert summary["classes"][3]["n_missed"] == 1


def test_perfect_predictions_score_one(dataset: Path, tmp_path: Path) -> None:
    assert call("--pred", dataset / "labelsTs", "--ref", dataset / "labelsTs", "--out", tmp_path, "-q") == 0
    assert {(row["dice"], row["iou"], row["status"]) for row in rows_of(tmp_path)} == {("1.0", "1.0", "ok")}


def test_json_is_the_summary(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call("--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out", "--json") == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_what_stands_alone_is_named(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (predictions / "mr_002.nii").rename(predictions / "stranger.nii")
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs"]
    assert call(*arguments, "--out", tmp_path / "lenient") == 0
    shown = capsys.readouterr().err
    assert "warning: 1 reference has no prediction and is not scored: mr_002" in shown
    assert "warning: 1 prediction has no reference and is not scored: stranger.nii" in shown
    assert call(*arguments, "--out", tmp_path / "strict", "--require-all") == 0
    shown = capsys.readouterr()
    assert "no prediction" in shown.out
    assert "mr_002" not in shown.err
    assert len(rows_of(tmp_path / "strict")) == len(rows_of(tmp_path / "lenient")) + 4


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        pytest.param("grid", 3, "lies on another grid than its reference", id="another grid"),
        pytest.param("value", 2, "label value 9 is not declared", id="undeclared value"),
        pytest.param("truncated", 2, "mr_001.nii", id="truncated file"),
        pytest.param("names", 2, "no prediction is named as a reference", id="nothing pairs"),
        pytest.param("empty", 2, "holds no label map", id="no prediction"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    dataset: Path,
    predictions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: str,
    code: int,
    message: str,
) -> None:
    victim = predictions / "mr_001.nii"
    volume = read_volume(victim)
    if spoil == "grid":
        write_volume(Volume(volume.array, Grid(volume.grid.shape, np.eye(4))), victim, labels=True)
    elif spoil == "value":
        write_volume(Volume(np.where(volume.array == 1, 9, volume.array), volume.grid), victim, labels=True)
    elif spoil == "truncated":
        victim.write_bytes(victim.read_bytes()[:2000])
    else:
        for index, path in enumerate(sorted(predictions.iterdir())):
            path.rename(path.with_name(f"other{index}.nii" if spoil == "names" else f"{index}.txt"))
    assert call("--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out") == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "out").exists()


def test_a_wrong_call_exits_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--pred", tmp_path) == 64
    assert "--ref" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    assert call("--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out") == 4
    assert "is a file" in capsys.readouterr().err


def test_oblique_grids_in_two_formats_agree(tmp_path: Path) -> None:
    phantom = make_phantom("ct", 0, shape=(32, 32, 20), axcodes="PIR", tilt_degrees=(12.0, -7.0, 20.0))
    write_volume(phantom.label, tmp_path / "pred" / "a.mha", labels=True)
    write_volume(phantom.label, tmp_path / "ref" / "a.nii.gz", labels=True)
    assert call("--pred", tmp_path / "pred", "--ref", tmp_path / "ref", "--out", tmp_path / "out", "-q") == 0
    assert {row["dice"] for row in rows_of(tmp_path / "out")} == {"1.0"}


@pytest.mark.data
def test_real_label_maps_score_one_against_themselves(test_data: Path, tmp_path: Path) -> None:
    labels = test_data / "mr" / "hippocampus" / "labelsTr"
    chosen = sorted(labels.glob("[!.]*.nii.gz"))[:3]
    pred = tmp_path / "pred"
    pred.mkdir()
    for path in chosen:
        (pred / path.name).symlink_to(path)
    assert call("--pred", pred, "--ref", labels, "--out", tmp_path / "out", "-q") == 0
    rows = rows_of(tmp_path / "out")
    assert [row["name"] for row in rows[:2]] == ["Anterior", "Posterior"]
    assert len(rows) == 6
    assert {row["dice"] for row in rows} == {"1.0"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["without_prediction"]) == 197


@pytest.mark.data
def test_many_real_classes_agree_with_monai(test_data: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    folder = test_data / "ct" / "totalsegmentator"
    reference = read_volume(folder / "example_seg.nii.gz")
    moved = Volume(np.roll(reference.array, 2, axis=2), reference.grid)
    write_volume(moved, tmp_path / "pred.nii.gz", labels=True)
    assert (
        call(
            "--pred",
            tmp_path / "pred.nii.gz",
            "--ref",
            folder / "example_seg.nii.gz",
            "--out",
            tmp_path,
            "-q",
        )
        == 0
    )
    rows = rows_of(tmp_path)
    values = [int(row["label"]) for row in rows]
    assert len(values) > 30
    assert values == sorted(set(np.unique(reference.array)) - {0})
    one_hot = [
        torch.from_numpy(np.stack([array[0] == value for value in (0, *values)]))[None]
        for array in (moved.array, reference.array)
    ]
    theirs = metrics.compute_dice(*one_hot, include_background=False).numpy()[0]
    np.testing.assert_allclose([float(row["dice"]) for row in rows], theirs, rtol=1e-6)
