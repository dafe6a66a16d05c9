"""``medseg predict``, ``inspect``, ``train`` and ``evaluate`` with bundles and models of nnU-Net's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.cli.main import main
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import read_json
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.volume import Volume
from tests.data.bundles import UNET, Betrayal, with_member, write_own_bundle, write_zoo_bundle, zipped
from tests.data.nnunet import write_nnunet_folder

pytestmark = pytest.mark.usefixtures("without_pictures")

MakeRun = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(size=(1, 14, 12, 9)).astype(np.float32)
    path = tmp_path / "images" / "case.nii.gz"
    write_volume(Volume(noise, Grid((14, 12, 9), np.diag([-1.0, 1.0, 2.0, 1.0]))), path)
    return path


def _predict(model: Path, image: Path, out: Path, *more: str) -> int:
    return main(
        ["predict", "--model", str(model), "--input", str(image), "--out", str(out), "--quiet", *more]
    )


def test_predict_takes_all_of_them(
    make_run: MakeRun, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = zipped(write_own_bundle(make_run(), tmp_path / "own"), tmp_path / "own.zip")
    zoo = write_zoo_bundle(tmp_path / "zoo", UNET, expressions=True)
    nnunet = write_nnunet_folder(tmp_path / "nnunet")
    for model, more in ((own, ()), (zoo, ("--trust",)), (nnunet, ())):
        out = tmp_path / "out" / model.stem
        assert _predict(model, image, out, *more) == 0
        assert read_volume(out / image.name).grid == read_volume(image).grid
        assert read_json(out / "summary.json")["done"] == 1
    capsys.readouterr()


def test_what_is_unsafe_is_refused_in_one_line(
    make_run: MakeRun, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own_bundle(make_run(), tmp_path / "own")
    traversal = with_member(zipped(own, tmp_path / "traversal.zip"), "../../evil.py")
    expressions = write_zoo_bundle(tmp_path / "zoo", UNET, more={"imports": ["$import os"]})
    betrayal = Betrayal(tmp_path / "fired")
    torch.save({"weights": betrayal}, own / "models" / "model.pt")
    for model, words in (
        (traversal, "'../../evil.py' is a path that leads out of the folder"),
        (
            expressions,
            "would execute code of its own: imports#0: '$import os'; read it, and if you trust it, allow",
        ),
        (own, "holds more than weights, which loading would execute"),
    ):
        for call in (
            lambda model=model: _predict(model, image, tmp_path / "out"),
            lambda model=model: main(["inspect", str(model), "--input", str(image)]),
        ):
            assert call() == 6
            errors = capsys.readouterr().err
            assert words in errors
            assert errors.count("\n") == 1
    assert not betrayal.fired
    assert not (tmp_path / "out").exists()


def test_inspect_shows_their_networks_and_plans(
    make_run: MakeRun, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own_bundle(make_run(), tmp_path / "own")
    zoo = write_zoo_bundle(tmp_path / "zoo", UNET)
    nnunet = write_nnunet_folder(tmp_path / "nnunet")
    for model, way in ((own, None), (zoo, "the bundle's configuration"), (nnunet, "nnU-Net's way")):
        assert main(["inspect", str(model), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["shape"] == [1, 1, 16, 16, 16]
        assert summary["parameters"] > 100
        assert main(["inspect", str(model), "--input", str(image)]) == 0
        shown = capsys.readouterr().out
        assert way is None or f"14 x 12 x 9 voxels by {way}" in shown
        assert main(["inspect", str(model), "--option", "features=3"]) == 5
        capsys.readouterr()


def test_validation_cases_are_the_runs_alone(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own_bundle(make_run(), tmp_path / "own")
    assert main(["predict", "--model", str(own), "--validation", "--out", str(tmp_path / "out")]) == 2
    assert "knows nothing of validation cases; give images by --input" in capsys.readouterr().err


def test_train_starts_from_a_bundle_as_from_its_run(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("first")
    bundle = zipped(write_own_bundle(run, tmp_path / "own"), tmp_path / "own.zip")
    write_phantom_dataset(tmp_path / "data", "mr", count=3, test_count=0, shape=(24, 24, 20))
    recipe = tmp_path / "tiny.yaml"
    training = "patch_size: [16, 16, 8], batch_size: 2, checkpoint_every: 1, validate_every: 1"
    recipe.write_text(f"folds: 3\ntraining: {{{training}}}\n", encoding="utf-8")
    losses = []
    for start in (run, bundle):
        out = tmp_path / f"from_{start.stem}"
        arguments = ["train", "--data", str(tmp_path / "data"), "--recipe", str(recipe), "--max-steps", "1"]
        arguments += [
            "--device",
            "cpu",
            "--workers",
            "0",
            "--quiet",
            "--init-from",
            str(start),
            "--out",
            str(out),
        ]
        assert main(arguments) == 0
        losses.append((out / "fold_0" / "steps.csv").read_text().splitlines()[1].split(",")[1])
    assert losses[0] == losses[1]
    report = read_json(tmp_path / "from_own" / "init_from.json")["fold_0"]
    assert report["weights"] == f"{bundle}/models/model.pt"
    capsys.readouterr()


def test_evaluate_takes_the_classes_of_a_bundle(
    make_run: MakeRun, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own_bundle(make_run(), tmp_path / "own")
    labels = tmp_path / "labels" / "case.nii.gz"
    values = np.where(read_volume(image).array > 0.5, 7, 0).astype(np.uint8)
    write_volume(Volume(values, read_volume(image).grid), labels)
    arguments = ["evaluate", "--pred", str(labels), "--ref", str(labels), "--out", str(tmp_path / "scores")]
    assert main([*arguments, "--labels", str(own), "--metrics", "overlap", "--no-pictures", "--quiet"]) == 0
    rows = (tmp_path / "scores" / "metrics.csv").read_text()
    assert "posterior" in rows
    assert "anterior" in rows
    capsys.readouterr()
