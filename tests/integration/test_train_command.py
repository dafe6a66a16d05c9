"""``medseg plan`` and ``medseg train``: what they leave, what they refuse, and that layouts do not matter."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.cli.main import main
from medseg.data import Split
from medseg.data.phantoms import write_phantom_dataset
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.runs import Plan, RunFolder
from medseg.runs.documents import load_json
from medseg.volume import Volume
from tests.data.processes import Started, medseg, medseg_where_files_stay_small

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = """
folds: 3
network: {name: unet, base_features: 2}
training:
  patch_size: [16, 16, 8]
  batch_size: 2
  checkpoint_every: 2
  validate_every: 2
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six MR phantoms in the Decathlon's layout; nobody changes them."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, "mr", count=6, test_count=0, shape=(24, 24, 20))
    return folder


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may spoil."""
    return shutil.copytree(data, tmp_path / "data")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def _train(data: Path, recipe: Path | str, out: Path, *more: str) -> int:
    arguments = ["train", "--data", str(data), "--recipe", str(recipe), "--out", str(out)]
    return main([*arguments, "--device", "cpu", "--workers", "0", *more])


def _first_loss(run: Path) -> str:
    with (run / "fold_0" / "steps.csv").open(encoding="utf-8", newline="") as handle:
        return next(csv.DictReader(handle))["loss"]


# What is left


def test_plan_writes_what_training_will_use(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "--data", str(data), "--recipe", str(recipe), "--out", str(tmp_path / "plan.json")]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    for words in ("median of the training cases", "16 x 16 x 8", "given by the recipe", "left nucleus"):
        assert words in shown.out
    assert f"{tmp_path / 'plan.json'} and {tmp_path / 'plan.png'}" in shown.err
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert _train(data, recipe, tmp_path / "run", "--max-steps", "1", "--quiet") == 0
    assert RunFolder(tmp_path / "run").plan() == load_json(Plan, tmp_path / "plan.json")
    capsys.readouterr()
    assert main([*arguments, "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert Plan.model_validate_json(shown.out) == load_json(Plan, tmp_path / "plan.json")
    assert shown.err == ""


def test_train_leaves_a_run_and_a_table(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(data, recipe, tmp_path / "run", "--max-steps", "3", "--seed", "7") == 0
    shown = capsys.readouterr()
    assert "mean Dice" in shown.out
    assert "fold_0" in shown.out
    assert f"medseg predict --model {tmp_path / 'run'}" in shown.err
    run = RunFolder.open(tmp_path / "run")
    assert run.recipe().network.base_features == 2
    assert run.manifest()["seed"] == 7
    assert run.manifest()["inputs_sha256"].keys() == set(Split.load(run.split_path).case_ids)
    fold = run.fold(0)
    for which in ("last", "best"):
        weights = torch.load(fold.weights(which), weights_only=True)
        assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    assert len(fold.steps.read_text(encoding="utf-8").splitlines()) == 4
    finished = json.loads(fold.finished_mark.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert finished["steps"] == 3
    assert not list((tmp_path / "run").rglob("*.part*"))


def test_all_folds_are_one_run(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(data, recipe, tmp_path / "run", "--max-steps", "1", "--fold", "all") == 0
    run = RunFolder.open(tmp_path / "run")
    assert [fold.index for fold in run.trained_folds()] == [0, 1, 2]
    shown = capsys.readouterr().out
    assert all(f"fold_{index}" in shown for index in range(3))
    assert not run.cache.exists()


def test_what_is_no_terminal_stays_silent(data: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(data), "--recipe", str(recipe), "--out", str(tmp_path / "run")]
    process = Started(medseg, [*arguments, "--max-steps", "2", "--quiet"])
    shown, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "mean Dice" in shown


def test_a_finished_run_is_shown_again(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(data, recipe, tmp_path / "run", "--max-steps", "1") == 0
    before = capsys.readouterr().out
    weights = (tmp_path / "run" / "fold_0" / "checkpoints" / "last.pt").read_bytes()
    assert _train(data, recipe, tmp_path / "run", "--max-steps", "1", "--resume") == 0
    assert capsys.readouterr().out == before
    assert (tmp_path / "run" / "fold_0" / "checkpoints" / "last.pt").read_bytes() == weights
    assert _train(data, recipe, tmp_path / "run", "--max-steps", "1", "--resume", "--json") == 0
    finished = json.loads((tmp_path / "run" / "fold_0" / "finished.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == {"fold_0": finished}


# What is refused


def _spoil_grid(data: Path) -> str:
    path = data / "labelsTr" / "mr_002.nii.gz"
    label = read_volume(path)
    affine = label.grid.affine.copy()
    affine[:3, 3] += 5.0
    write_volume(Volume(label.array, Grid(label.grid.shape, affine)), path, labels=True)
    return "mr_002.nii.gz: is not on the grid of mr_002.nii.gz"


def _spoil_label(data: Path) -> str:
    path = data / "labelsTr" / "mr_001.nii.gz"
    label = read_volume(path)
    changed = label.array.copy()
    changed[0, 0, 0, 0] = 77
    write_volume(Volume(changed, label.grid), path, labels=True)
    return "mr_001.nii.gz: label value 77 is not declared"


def _spoil_image(data: Path) -> str:
    path = data / "imagesTr" / "mr_003.nii.gz"
    image = read_volume(path)
    write_volume(Volume(np.full_like(image.array, np.nan), image.grid), path)
    return "mr_003.nii.gz: all 11520 voxels are NaN"


def _cut_image(data: Path) -> str:
    path = data / "imagesTr" / "mr_000.nii.gz"
    path.write_bytes(path.read_bytes()[:3000])
    return "mr_000.nii.gz: "


def _lose_json(data: Path) -> str:
    (data / "dataset.json").unlink()
    return "data: holds no dataset.json"


def _lose_file(data: Path) -> str:
    (data / "labelsTr" / "mr_004.nii.gz").unlink()
    return "mr_004.nii.gz: does not exist"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_spoil_grid, 3),
        (_spoil_label, 2),
        (_spoil_image, 2),
        (_cut_image, 2),
        (_lose_json, 2),
        (_lose_file, 2),
    ],
)
def test_data_that_would_ruin_a_training_are_refused_before_it(
    spoil: Callable[[Path], str],
    code: int,
    copy: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = spoil(copy)
    assert _train(copy, recipe, tmp_path / "new" / "run", "--max-steps", "1") == code
    _is_one_line(capsys.readouterr(), words)
    assert not (tmp_path / "new").exists()
    plan = tmp_path / "plan.json"
    assert main(["plan", "--data", str(copy), "--recipe", str(recipe), "--out", str(plan)]) == code
    _is_one_line(capsys.readouterr(), words)
    assert not plan.exists()


def _is_one_line(shown: Any, words: str) -> None:
    assert shown.out == ""
    assert shown.err.startswith("medseg: ")
    assert shown.err.count("\n") == 1
    assert words in shown.err
    assert "; " in shown.err  # the cure


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("netwrk: {}", "recipe.yaml: unknown key 'netwrk'; did you mean 'network'?"),
        ("training: {patchsize: [8, 8, 8]}", "unknown key 'training.patchsize'; did you mean 'patch_size'?"),
        ("network: {options: {nrom: batch}}", "network 'unet': has no option 'nrom'; did you mean 'norm'?"),
        ("network: {options: {padding: valid}}", "network 'unet': "),
        ("loss: {options: {bach: true}}", "loss 'dice_ce': has no option 'bach'; did you mean 'batch'?"),
        ("training: {patch_size: [30, 32, 8]}", "training.patch_size (30, 32, 8) is not divisible by"),
        ("folds: 9", "9 folds for 6 cases"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    text: str, words: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert _train(data, tmp_path / "recipe.yaml", tmp_path / "run", "--max-steps", "1") == 5
    _is_one_line(capsys.readouterr(), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--fold", "3"], 5, "--fold: there is no fold 3; choose one of 0 to 2"),
        (["--max-steps", "0"], 5, "--max-steps: 0 steps are no training"),
        (["--max-minutes", "nan"], 5, "--max-minutes: nan minutes are no training"),
        (["--max-minutes", "inf"], 5, "--max-minutes: inf minutes are no training"),
        (["--seed", "-1"], 5, "--seed: -1 is no seed"),
        (["--workers", "-1"], 5, "--workers: "),
        (["--device", "tpu"], 5, "--device: unknown device 'tpu'"),
        (["--device", "cuda:99"], 4, "--device: there is no device 'cuda:99'"),
        (["--recipe", "unett"], 5, "unknown recipe 'unett'; did you mean 'unet'?"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: list[str],
    code: int,
    words: str,
    data: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _train(data, recipe, tmp_path / "run", *options) == code
    _is_one_line(capsys.readouterr(), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fold", ["two", "-1", "1.5", "²", ""])
def test_a_fold_is_a_number_or_all(
    fold: str, data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(data, recipe, tmp_path / "run", "--fold", fold) == 64
    assert "--fold" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_refused(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert _train(data, recipe, tmp_path / "file", "--max-steps", "1") == 4
    _is_one_line(capsys.readouterr(), "file: is a file, a folder is needed")
    assert _train(data, recipe, tmp_path / "file" / "run", "--max-steps", "1") == 2
    _is_one_line(capsys.readouterr(), "a part of this path is a file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert _train(data, recipe, tmp_path / "locked" / "run", "--max-steps", "1") == 4
    _is_one_line(capsys.readouterr(), "permission denied")


@pytest.mark.skipif(sys.platform == "win32", reason="files cannot be limited in size there")
@pytest.mark.parametrize(
    ("limit_bytes", "file", "left"), [(20_000, "cache/mr_00", False), (60_000, "checkpoints/", True)]
)
def test_a_disk_that_fills_up_is_told_in_one_line(
    limit_bytes: int, file: str, left: bool, data: Path, tmp_path: Path
) -> None:
    # No file may grow beyond the limit: writing fails midway, as on a full disk.
    wide = tmp_path / "wide.yaml"
    wide.write_text(TINY.replace("base_features: 2", "base_features: 8"), encoding="utf-8")
    arguments = ["train", "--data", str(data), "--recipe", str(wide), "--out", str(tmp_path / "run")]
    arguments += ["--max-steps", "2", "--workers", "0", "--device", "cpu"]
    process = Started(medseg_where_files_stay_small, limit_bytes, arguments)
    _, errors = process.communicate()
    assert process.returncode == 4
    assert errors.count("\n") == 1
    assert f"{tmp_path / 'run'}" in errors
    assert file in errors
    assert (tmp_path / "run").exists() is left  # what was trained is kept, a mere beginning is not
    assert not list(tmp_path.rglob("*.part.*"))


def test_an_occupied_or_another_run_is_refused(
    data: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert _train(data, recipe, out, "--max-steps", "1") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert _train(data, recipe, out, "--max-steps", "1") == 2
    _is_one_line(capsys.readouterr(), "run: holds fold 0 of a run already; add --resume")
    for options, what in (
        (["--max-steps", "2"], "budget"),
        (["--max-steps", "1", "--seed", "3"], "seed"),
        (["--max-steps", "1", "--recipe", "unet"], "recipe"),
    ):
        assert _train(data, recipe, out, "--resume", *options) == 5
        _is_one_line(capsys.readouterr(), f"run: holds a run with another {what}")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


# The same cases in two layouts


def _as_nnunet(decathlon: Path, folder: Path) -> Path:
    """Copy a Decathlon folder of one-channel images into nnU-Net's raw layout."""
    description = json.loads((decathlon / "dataset.json").read_text(encoding="utf-8"))
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for entry in description["training"]:
        name = Path(entry["image"]).name
        shutil.copy(decathlon / entry["image"], folder / "imagesTr" / name.replace(".nii.gz", "_0000.nii.gz"))
        shutil.copy(decathlon / entry["label"], folder / "labelsTr" / name)
    raw = {
        "name": description["name"],
        "channel_names": description["modality"],
        "labels": {name: int(value) for value, name in description["labels"].items()},
        "numTraining": len(description["training"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def _agree(decathlon: Path, nnunet: Path, recipe: Path, tmp_path: Path) -> None:
    runs = []
    for number, data in enumerate((decathlon, nnunet)):
        out = tmp_path / f"run_{number}"
        assert _train(data, recipe, out, "--max-steps", "2", "--seed", "11", "--quiet") == 0
        runs.append(out)
    first, second = (RunFolder.open(run) for run in runs)
    assert first.plan() == second.plan()
    assert Split.load(first.split_path) == Split.load(second.split_path)
    assert first.manifest()["inputs_sha256"] == second.manifest()["inputs_sha256"]
    assert _first_loss(first.path) == _first_loss(second.path)
    assert first.fold(0).steps.read_bytes() == second.fold(0).steps.read_bytes()
    assert first.fold(0).weights().read_bytes() == second.fold(0).weights().read_bytes()


def test_two_layouts_of_the_same_cases_are_the_same_training(
    data: Path, recipe: Path, tmp_path: Path
) -> None:
    _agree(data, _as_nnunet(data, tmp_path / "nnunet"), recipe, tmp_path)


@pytest.mark.data
def test_two_layouts_of_real_cases_are_the_same_training(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "mr" / "hippocampus"
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    description["training"] = description["training"][:12]
    description["numTraining"] = 12
    decathlon = tmp_path / "decathlon"
    for entry in description["training"]:
        for part in ("image", "label"):
            (decathlon / entry[part]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / entry[part], decathlon / entry[part])
    (decathlon / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{folds: 4, network: {base_features: 4}}", encoding="utf-8")
    _agree(decathlon, _as_nnunet(decathlon, tmp_path / "nnunet"), recipe, tmp_path)
