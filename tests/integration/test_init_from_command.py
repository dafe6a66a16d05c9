"""``medseg train --init-from``: what it starts from, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medseg.cli.main import main
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = """
folds: 3
network: {name: unet, base_features: 2}
training:
  patch_size: [16, 16, 8]
  batch_size: 2
  checkpoint_every: 1
  validate_every: 1
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, the same with a class renamed, a recipe and a run; nobody changes them."""
    folder = tmp_path_factory.mktemp("init_from")
    write_phantom_dataset(folder / "data", "mr", count=3, test_count=0, shape=(24, 24, 20))
    described = read_json(folder / "data" / "dataset.json")
    described["labels"] = {
        value: "lesions" if name == "nodules" else name for value, name in described["labels"].items()
    }
    write_json(described, folder / "data" / "renamed.json")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    assert _train(folder, "data", "--out", str(folder / "first"), "--quiet") == 0
    return folder


def _train(work: Path, data: str, *arguments: str) -> int:
    common = ["--recipe", str(work / "tiny.yaml"), "--max-steps", "1", "--device", "cpu", "--workers", "0"]
    return main(["train", "--data", str(work / data), *common, *arguments])


def test_the_report_is_shown_and_kept(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert _train(work, "data/renamed.json", "--init-from", str(work / "first"), "--out", str(out)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    report = read_json(out / "init_from.json")["fold_0"]
    weights = work / "first" / "fold_0" / "checkpoints" / "last.pt"
    assert report["weights"] == str(weights)
    assert 0 < report["loaded_weights"] < report["all_weights"]
    assert set(report["not_loaded"].values()) == {"new classes at random: lesions"}
    assert (
        f"fold_0 started from {weights}: {report['loaded_weights']:,} of {report['all_weights']:,}" in shown
    )
    assert "not used" in shown
    assert "other classes: nodules" in shown
    assert "mean Dice" in shown


def test_a_file_of_weights_needs_no_run(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(work / "first" / "fold_0" / "checkpoints" / "last.pt", weights_only=True)
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, file)
    out = tmp_path / "run"
    assert _train(work, "data", "--init-from", str(file), "--out", str(out), "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["fold_0"]["steps"] == 1
    report = read_json(out / "init_from.json")["fold_0"]
    assert report["loaded_weights"] == report["all_weights"]
    assert not report["not_loaded"]


def test_what_cannot_be_is_refused_in_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    start = ["--out", str(out), "--quiet", "--init-from"]
    for more, code, words in (
        ([str(tmp_path / "none")], 2, "none: is not there; give --init-from a run's folder"),
        ([str(work / "first"), "--init-encoder", str(work / "first")], 5, "exclude each other"),
    ):
        assert _train(work, "data", *start, *more) == code
        errors = capsys.readouterr().err
        assert words in errors
        assert errors.count("\n") == 1
        assert not out.exists()
