"""``medseg evaluate`` from the command line: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
    """Without pictures, which take a second each, unless images are given."""
    pictures = [] if {"--images", "--no-pictures"} & set(arguments) else ["--no-pictures"]
    return main(["evaluate", *map(str, arguments), *pictures])


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


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_surfaces_and_worst_cases_are_shown(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "HD95" in shown
    assert "NSD at 1 mm" in shown
    rows = rows_of(tmp_path / "out")
    found = [row for row in rows if row["status"] == "ok"]
    assert all(0.0 < float(row["assd_mm"]) <= float(row["hd95_mm"]) <= float(row["hd_mm"]) for row in found)
    (missed,) = [row for row in rows if row["status"] == "missed"]
    assert (missed["hd95_mm"], missed["hd_mm"], missed["nsd"]) == ("", "", "0.0")
    assert float(missed["hd95_bound_mm"]) > 2 * max(float(row["hd_mm"]) for row in found)
    summary = summary_of(tmp_path / "out")
    assert summary["cases"][0]["case"] == missed["case"]
    assert shown.index(missed["case"]) == shown.index("mr_")


def test_options_reach_the_measures(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs"]
    assert call(*arguments, "--out", tmp_path / "strict") == 0
    options = ["--percentile", 50, "--tolerance", 4, "--surface", "voxels"]
    assert call(*arguments, "--out", tmp_path / "loose", *options) == 0
    assert call(*arguments, "--out", tmp_path / "quick", "--metrics", "overlap") == 0
    assert "HD50" in capsys.readouterr().out
    strict, loose, quick = (rows_of(tmp_path / name)[0] for name in ("strict", "loose", "quick"))
    assert float(loose["hd50_mm"]) <= float(strict["hd95_mm"]) == float(strict["hd95_bound_mm"])
    assert float(loose["nsd"]) > float(strict["nsd"])
    assert (quick["hd95_mm"], quick["nsd"], quick["dice"]) == ("", "", strict["dice"])
    assert summary_of(tmp_path / "loose")["options"]["surface"] == "voxels"
    assert "nsd" not in summary_of(tmp_path / "quick")["classes"][0]


def test_processes_give_what_one_gives(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs", "-q"]
    for jobs in (1, 2):
        assert call(*arguments, "--out", tmp_path / str(jobs), "--jobs", jobs) == 0
    for name in ("metrics.csv", "summary.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_damaged_file_in_a_process_is_told_in_one_line(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = predictions / "mr_002.nii"
    packed = victim.with_suffix(".nii.gz")
    write_volume(read_volume(victim), packed, labels=True)
    victim.unlink()
    packed.write_bytes(packed.read_bytes()[:-40])  # its header is whole
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs", "--jobs", 2]
    assert call(*arguments, "--out", tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert "mr_002.nii.gz" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_prediction_on_another_grid_is_resampled_on_request(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = predictions / "mr_002.nii"
    turned = read_volume(victim).reoriented("PSL")
    write_volume(turned, victim, labels=True)
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs"]
    assert call(*arguments, "--out", tmp_path / "refused") == 3
    assert "give --resample-prediction" in capsys.readouterr().err
    assert call(*arguments, "--out", tmp_path / "out", "--resample-prediction") == 0
    shown = capsys.readouterr().err
    assert "warning: 1 prediction resampled onto the reference's grid by nearest neighbour: mr_002" in shown
    assert [entry["case"] for entry in summary_of(tmp_path / "out")["resampled"]] == ["mr_002"]
    assert {row["status"] for row in rows_of(tmp_path / "out") if row["case"] == "mr_002"} == {"ok"}


def test_a_flipped_prediction_is_named(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = predictions / "mr_002.nii"
    volume = read_volume(victim)
    axis = volume.grid.axcodes.replace("I", "S").index("S")
    write_volume(Volume(np.flip(volume.array, 1 + axis), volume.grid), victim, labels=True)
    assert call("--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out") == 0
    words = f"flipped along axis {axis} (foot-head)"
    assert f"warning: mr_002: the prediction looks {words}" in capsys.readouterr().err
    (entry,) = summary_of(tmp_path / "out")["flipped"]
    assert (entry["case"], entry["description"]) == ("mr_002", words)


def test_classes_in_one_of_the_two_or_in_neither(dataset: Path, predictions: Path, tmp_path: Path) -> None:
    declared = tmp_path / "dataset.json"
    names = {"background": 0, "ventricles": 1, "left": 2, "right": 3, "nodules": 4, "new": 5, "never": 6}
    declared.write_text(json.dumps({"labels": names}))
    victim = predictions / "mr_001.nii"
    volume = read_volume(victim)
    array = volume.array.copy()
    array[0, 0, 0, 0] = 5
    write_volume(Volume(array, volume.grid), victim, labels=True)
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs", "--labels", declared, "-q"]
    assert call(*arguments, "--out", tmp_path / "out") == 0
    rows = {(row["case"], row["name"]): row for row in rows_of(tmp_path / "out")}
    assert (rows["mr_001", "new"]["status"], rows["mr_001", "new"]["dice"]) == ("spurious", "0.0")
    assert (rows["mr_002", "new"]["status"], rows["mr_002", "new"]["dice"]) == ("absent", "")
    *_, new, never = summary_of(tmp_path / "out")["classes"]
    assert (new["status"], new["n_spurious"], new["dice"]["mean"]) == ("scored", 1, 0.0)
    assert (never["status"], never["dice"]["mean"], never["n_absent"]) == ("not applicable", None, CASES)


def test_lesions_are_counted(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out"]
    assert call(*arguments, "--lesions", "nodules", "--lesions", "ventricles") == 0
    assert "lesions of" in capsys.readouterr().out
    with (tmp_path / "out" / "lesions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["name"] for row in rows] == ["ventricles", "nodules"] * CASES
    first = rows[1]
    assert (first["status"], first["n_found"], first["sensitivity"]) == ("missed", "0", "0.0")
    assert int(first["n_ref"]) == int(first["n_missed"]) > 0
    strict = [*arguments, "--lesions", "nodules", "--lesion-iou", "1", "--smallest-lesion", "0.001", "--json"]
    assert call(*strict) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert options["lesion_criterion"] == {"measure": "iou", "at_least": 1.0}
    assert options["smallest_lesion_ml"] == 0.001
    assert call(*strict, "--lesion-distance", "3") == 64
    assert call(*arguments, "--lesion-distance", "3") == 64
    assert call(*arguments, "--lesions", "nodule") == 2
    assert "did you mean 'nodules'" in capsys.readouterr().err


def test_instances_are_matched(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out"]
    assert call(*arguments, "--instances") == 0
    assert "Instances of 4 cases" in capsys.readouterr().out
    with (tmp_path / "out" / "instances.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == CASES
    assert (rows[0]["n_ref"], rows[0]["n_pred"]) == ("4", "3")
    assert summary_of(tmp_path / "out")["instances"]["pq"]["n_valid"] == CASES
    assert call(*arguments, "--instances", "--lesions", "1") == 64
    assert "objects have no classes" in capsys.readouterr().err
    assert call(*arguments, "--instances", "--tolerance", 2) == 64
    assert "surfaces of objects are not measured" in capsys.readouterr().err


def test_two_predictions_are_compared(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--pred", predictions, "--pred", dataset / "labelsTs", "--ref", dataset / "labelsTs"]
    assert call(*arguments, "--out", tmp_path / "out", "--name", "shifted", "--name", "truth") == 0
    shown = capsys.readouterr()
    assert "A: shifted, B: truth, on the 4 cases that both have" in shown.out
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    row = next(row for row in comparison["compared"] if (row["of"], row["metric"]) == ("nodules", "dice"))
    assert row["mean"]["truth"] == 1.0 > row["mean"]["shifted"]
    assert (row["n"], row["effect_size"]) == (4, -1.0)
    assert comparison["failures"]["shifted"]["nodules"]["n_missed"] == 1
    assert len(rows_of(tmp_path / "out" / "shifted")) == len(rows_of(tmp_path / "out" / "truth")) == 16
    assert call(*arguments, "--out", tmp_path / "json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["predictions", "labelsTs"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metrics", "dice"], 64, "'dice' is not 'overlap' or 'overlap,surface'"),
        (["--surface", "mesh"], 64, "mesh"),
        (["--jobs", "0"], 64, "--jobs"),
        (["--percentile", "0"], 5, "percentile 0 is not above 0"),
        (["--tolerance", "-1"], 5, "tolerance -1 mm is no length"),
        (["--name", "a"], 64, "names are for two predictions"),
        (["--pred", "a", "--pred", "b"], 64, "give one prediction, or two to compare"),
        (["--pred", "/nowhere"], 2, "/nowhere: does not exist"),
        (["--images", "/nowhere"], 2, "/nowhere: does not exist"),
        (["--labels", "/nowhere"], 2, "/nowhere: does not exist"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    basic = ["--pred", dataset / "labelsTs", "--ref", dataset / "labelsTs", "--out", tmp_path / "out"]
    assert call(*basic, *arguments) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pictures_are_drawn_on_the_images(
    dataset: Path, predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--pred", predictions, "--ref", dataset / "labelsTs", "--images", dataset / "imagesTs"]
    assert call(*arguments, "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out" / "overlays").iterdir()} == {
        "best.png",
        "median.png",
        "worst.png",
    }
    assert "shows label maps alone" not in capsys.readouterr().err
    assert all(entry["image"] for entry in summary_of(tmp_path / "out")["overlays"])


def test_missing_matplotlib_is_said_and_the_scores_are_written(
    dataset: Path,
    predictions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medseg.evaluation.overlays.can_draw", lambda: False)
    arguments = ["evaluate", "--pred", predictions, "--ref", dataset / "labelsTs", "--out", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "no pictures: matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out" / "overlays").exists()
    assert (tmp_path / "out" / "metrics.csv").is_file()


@pytest.mark.skipif(os.name != "posix", reason="signals to groups of processes")
def test_ctrl_c_leaves_neither_results_nor_processes(tmp_path: Path) -> None:
    labels = np.zeros((1, 96, 96, 96), np.uint8)
    labels[0, 10:80, 10:80, 10:80] = np.random.default_rng(0).integers(0, 2, (70, 70, 70))
    write_volume(Volume(labels, Grid((96, 96, 96), np.eye(4))), tmp_path / "a.nii", labels=True)
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
        for number in range(300):
            (tmp_path / folder / f"{number}.nii").symlink_to(tmp_path / "a.nii")
    out = tmp_path / "out"
    command = ["-m", "medseg", "evaluate", "--pred", tmp_path / "pred", "--ref", tmp_path / "ref"]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--out", str(out), "--jobs", "2", "--no-pictures"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not out.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (130, "medseg: interrupted\n")
    assert not out.exists()
    while _is_alive(process.pid):  # the test's own time limit would end this
        time.sleep(0.05)


def _is_alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.data
def test_real_predictions_are_scored_in_processes(test_data: Path, tmp_path: Path) -> None:
    labels = test_data / "mr" / "hippocampus" / "labelsTr"
    chosen = sorted(labels.glob("[!.]*.nii.gz"))[:6]
    for number, path in enumerate(chosen):
        volume = read_volume(path)
        moved = np.roll(volume.array, number, axis=2).astype(np.uint8)
        write_volume(Volume(moved, volume.grid), tmp_path / "pred" / path.name, labels=True)
    assert (
        call("--pred", tmp_path / "pred", "--ref", labels, "--out", tmp_path / "out", "--jobs", 2, "-q") == 0
    )
    rows = rows_of(tmp_path / "out")
    assert [row["hd95_mm"] for row in rows[:2]] == ["0.0", "0.0"]
    anterior = [float(row["assd_mm"]) for row in rows[::2]]
    assert anterior == sorted(anterior)
    assert all(float(row["hd_mm"]) <= number // 2 + 1e-9 for number, row in enumerate(rows))
    order = [case["case"] for case in summary_of(tmp_path / "out")["cases"]]
    assert order[-1] == rows[0]["case"]


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
