"""Bundles that others made: exported with their own files, proven, in other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.bundle import Exported, ExportOptions, channels_of, export_bundle, statement_of
from medseg.cli.main import main
from medseg.errors import BundleError, ConfigError, InputError
from medseg.files import read_json
from medseg.geometry import Grid
from medseg.io import Case, write_volume
from medseg.volume import Volume
from tests.data.bundles import UNET, edit_json, write_zoo_bundle

RUN: dict[str, Any] = {
    "output_dir": "$@bundle_root + '/eval'",
    "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
    },
    "loader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
    "initialize": ["$@loader(@evaluator)"],
    "run": ["$@evaluator.run()"],
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that MONAI runs; nobody changes it."""
    folder = write_zoo_bundle(tmp_path_factory.mktemp("zoo") / "spleen", UNET, expressions=True, more=RUN)

    def save_to_output_dir(config: dict[str, Any]) -> None:
        config["postprocessing"]["transforms"][-1]["output_dir"] = "@output_dir"

    edit_json(folder / "configs" / "inference.json", save_to_output_dir)
    edit_json(
        folder / "configs" / "metadata.json",
        lambda content: content.update(authors="the zoo", changelog={"0.1.0": "the first"}),
    )
    (folder / "LICENSE").write_text("theirs")
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """An image in LPS, with thick slices."""
    noise = np.random.default_rng(0).normal(size=(1, 14, 12, 9)).astype(np.float32)
    path = tmp_path_factory.mktemp("images") / "case.nii.gz"
    write_volume(Volume(noise, Grid((14, 12, 9), np.diag([-1.0, -1.0, 4.0, 1.0]))), path)
    return Case("case", (path,))


@pytest.fixture(scope="module")
def exported(zoo: Path, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    said = statement_of(zoo, {"version": "0.2.0", "changes": "with a traced network"})
    options = ExportOptions(cases=(case,), formats=("torchscript",), archive=True, statement=said, trust=True)
    return export_bundle(zoo, tmp_path_factory.mktemp("out") / "spleen", options)


def test_its_files_stay_as_they_are(zoo: Path, exported: Exported) -> None:
    for name in ("configs/inference.json", "models/model.pt", "LICENSE"):
        assert (exported.bundle / name).read_bytes() == (zoo / name).read_bytes()
    assert (exported.bundle / "models" / "model.ts").is_file()
    assert exported.archive is not None
    assert exported.archive.is_file()


def test_what_is_said_now_stands_beside_what_was_said(zoo: Path, exported: Exported) -> None:
    before, now = (read_json(path / "configs" / "metadata.json") for path in (zoo, exported.bundle))
    assert now.pop("version") == "0.2.0"
    assert now.pop("changelog") == {"0.2.0": "with a traced network", "0.1.0": "the first"}
    assert now == {key: value for key, value in before.items() if key not in ("version", "changelog")}


def test_its_own_run_gives_what_medseg_gives(exported: Exported) -> None:
    (found,) = exported.cases
    assert (found.shape, found.axcodes) == ((14, 12, 9), "LPS")
    assert (found.differing, found.probability_difference) == (0, None)
    proof = json.loads((exported.bundle / "docs" / "verification.json").read_text())
    assert proof["environment"]["medseg_importable"] is False
    assert "sliding-window" not in proof["what"]


def test_the_command_asks_for_trust_and_an_image(
    zoo: Path, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["export", "--model", str(zoo), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*call, "--trust"]) == 2
    assert "knows no case to prove it on; give an image by --input" in capsys.readouterr().err
    assert main([*call, "--input", str(case.images[0])]) == 6
    assert "would execute code of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert channels_of(zoo) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": (0,)}, "--fold: says nothing of"),
        ({"checkpoint": "best"}, "--checkpoint: says nothing of"),
        ({"scores": Path("scores")}, "--scores: says nothing of"),
    ],
)
def test_choices_of_a_training_are_refused(
    options: dict[str, Any], words: str, zoo: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        export_bundle(zoo, tmp_path / "out", ExportOptions(trust=True, **options))


def test_a_bundle_that_no_image_can_be_given_to_is_refused(case: Case, tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bare", UNET)
    with pytest.raises(BundleError, match="lacks dataset#data, output_dir or run"):
        export_bundle(bundle, tmp_path / "out", ExportOptions(cases=(case,)))
    assert not (tmp_path / "out").exists()


def test_links_are_not_followed(zoo: Path, case: Case, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for entry in zoo.iterdir():
        (linked / entry.name).symlink_to(entry)
    with pytest.raises(BundleError, match="holds links"):
        export_bundle(linked, tmp_path / "out", ExportOptions(cases=(case,), trust=True))
    assert not list(tmp_path.glob("*out*"))


def test_an_image_of_other_channels_is_refused(zoo: Path, case: Case, tmp_path: Path) -> None:
    twice = Case("twice", (*case.images, *case.images))
    with pytest.raises(InputError, match="channel"):
        export_bundle(zoo, tmp_path / "out", ExportOptions(cases=(twice,), trust=True))
