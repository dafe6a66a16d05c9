"""An encoder learnt from images without labels, then a segmentation that starts from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.cli.main import main
from medseg.data.phantoms import write_phantom_dataset
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.runs import RunFolder
from medseg.volume import Volume

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
PRETRAIN = TINY + "pretrain: {method: denoising, noise_std: 0.5, masked_fraction: 0.25}\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with labels, the same without, two recipes, and a pretraining; nobody changes them."""
    folder = tmp_path_factory.mktemp("pretrain")
    dataset = write_phantom_dataset(folder / "data", "mr", count=6, test_count=0, shape=(24, 24, 20))
    images = [str(case.images[0]) for case in dataset.cases]
    (folder / "images.json").write_text(json.dumps({"modality": "MRI", "training": images}), encoding="utf-8")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (folder / "pretrain.yaml").write_text(PRETRAIN, encoding="utf-8")
    arguments = ["--data", str(folder / "images.json"), "--recipe", str(folder / "pretrain.yaml")]
    assert _train(*arguments, "--out", str(folder / "pretrained"), "--max-steps", "4", "--quiet") == 0
    return folder


def _train(*arguments: str) -> int:
    return main(["train", *arguments, "--device", "cpu", "--workers", "0"])


def _encoder(path: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(path, weights_only=True)
    return {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}


def test_pretrain_then_train_then_predict(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)  # a relative path is relative to where the command is given
    run = tmp_path / "run"
    data = ["--data", str(work / "data"), "--recipe", str(work / "tiny.yaml")]
    assert _train(*data, "--init-encoder", "pretrained", "--out", str(run), "--max-steps", "2") == 0
    assert "mean Dice" in capsys.readouterr().out
    recorded = RunFolder(run).manifest()["init_encoder"]["fold_0"]
    assert recorded["weights"] == str(work / "pretrained" / "fold_0" / "checkpoints" / "last.pt")
    assert RunFolder(run).recipe().init_encoder == "pretrained"
    learnt = _encoder(work / "pretrained" / "fold_0" / "checkpoints" / "last.pt")
    assert learnt.keys() == _encoder(run / "fold_0" / "checkpoints" / "last.pt").keys()
    moved = shutil.move(run, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    image = work / "data" / "imagesTr" / "mr_000.nii.gz"
    predict = ["predict", "--model", str(moved), "--input", str(image), "--out", str(tmp_path / "labels")]
    assert main([*predict, "--device", "cpu"]) == 0
    assert read_volume(tmp_path / "labels" / "mr_000.nii.gz").grid == read_volume(image).grid


def test_a_pretraining_shows_its_error(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(work / "images.json"), "--recipe", str(work / "pretrain.yaml")]
    assert _train(*data, "--out", str(tmp_path / "run"), "--max-steps", "1") == 0
    shown = capsys.readouterr()
    assert "reconstruction error" in shown.out
    assert "Dice" not in shown.out
    assert f"medseg train --init-encoder {tmp_path / 'run'}" in shown.err
    assert _train(*data, "--out", str(tmp_path / "json"), "--max-steps", "1", "--json", "--quiet") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fold_0"]["steps"] == 1
    assert result["fold_0"]["reconstruction_error"] > 0.0


def test_plan_says_what_is_taken_over_and_that_labels_are_not_needed(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["plan", "--out", str(tmp_path / "plan.json")]
    data = ["--data", str(work / "images.json"), "--recipe", str(work / "pretrain.yaml")]
    assert main([*plan, *data]) == 0
    assert "pretraining needs none" in capsys.readouterr().out
    recipe = tmp_path / "started.yaml"
    recipe.write_text(TINY + f"init_encoder: {work / 'pretrained'}\n", encoding="utf-8")
    assert main([*plan, "--data", str(work / "data"), "--recipe", str(recipe), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["reasons"]["network"] == f"as in {work / 'pretrained'}, whose encoder it starts from"


def _refused(arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


def test_what_cannot_be_is_refused_in_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = str(work / "data" / "imagesTr" / "mr_000.nii.gz"), str(tmp_path / "out")
    model = ["predict", "--model", str(work / "pretrained"), "--out", out, "--device", "cpu", "--quiet"]
    _refused([*model, "--input", image], 2, "is a pretraining, which segments nothing", capsys)
    _refused([*model, "--validation"], 2, "is a pretraining, which segments nothing", capsys)
    common = ["--out", out, "--device", "cpu", "--workers", "0", "--quiet", "--max-steps", "1"]
    segment = ["train", "--recipe", str(work / "tiny.yaml"), *common]
    _refused([*segment, "--data", str(work / "images.json")], 5, "declares no labels", capsys)
    start = [*segment, "--data", str(work / "data"), "--init-encoder"]
    _refused([*start, str(work / "nothing")], 2, "nothing: is no folder", capsys)
    wide = tmp_path / "wide.yaml"
    wide.write_text(TINY.replace("base_features: 2", "base_features: 4"), encoding="utf-8")
    wider = ["train", "--recipe", str(wide), *common, "--data", str(work / "data"), "--init-encoder"]
    _refused([*wider, str(work / "pretrained")], 5, "set network.base_features to 2", capsys)
    assert not Path(out).exists()


def test_ct_without_labels_is_normalised_by_the_body(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        voxels = np.full((1, 16, 16, 8), -1000, np.int16)
        voxels[:, 4:12, 4:12] = rng.integers(0, 100, (1, 8, 8, 8))
        write_volume(Volume(voxels, Grid((16, 16, 8), np.eye(4))), tmp_path / f"ct_{number}.nii.gz")
    entries = [f"ct_{number}.nii.gz" for number in range(3)]
    (tmp_path / "images.json").write_text(
        json.dumps({"modality": "CT", "training": entries}), encoding="utf-8"
    )
    (tmp_path / "pretrain.yaml").write_text(PRETRAIN, encoding="utf-8")
    data = ["--data", str(tmp_path / "images.json"), "--recipe", str(tmp_path / "pretrain.yaml")]
    assert main(["plan", *data, "--out", str(tmp_path / "plan.json"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    (scheme,) = made["preprocessing"]["normalization"]
    assert scheme["scheme"] == "clip_zscore"
    assert 0.0 <= scheme["lower"] < scheme["upper"] <= 100.0
    assert "no labels: all voxels above -500 HU" in made["reasons"]["normalization of CT"]
