"""``medseg train`` of all folds and of several seeds, and ``medseg predict`` with what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.data import Split
from medseg.data.phantoms import write_phantom_dataset
from medseg.files import read_json
from medseg.io import read_volume
from medseg.runs import RunFolder
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import EnsembleSegmenter, load_segmenter

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = """
folds: 3
network: {name: unet, base_features: 2}
training: {patch_size: [16, 16, 8], batch_size: 2, checkpoint_every: 2, validate_every: 2}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, "mr", count=6, test_count=0, shape=(24, 24, 20))
    return folder


def _train(data: Path, recipe: str, out: Path, *more: str) -> int:
    path = out.with_suffix(".yaml")
    path.write_text(recipe, encoding="utf-8")
    arguments = ["train", "--data", str(data), "--recipe", str(path), "--out", str(out), "--max-steps", "1"]
    return main([*arguments, "--device", "cpu", "--workers", "0", *more])


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """All folds, with postprocessing chosen on them; nobody changes it."""
    out = tmp_path_factory.mktemp("runs") / "all"
    assert _train(data, f"{TINY}postprocess: auto\n", out, "--fold", "all", "--quiet") == 0
    return RunFolder(out)


def _predict(run: RunFolder, out: Path, *more: object) -> int:
    return main(["predict", "--model", str(run.path), "--out", str(out), "--device", "cpu", *map(str, more)])


def test_all_folds_are_summed_up(run: RunFolder, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = read_json(run.cross_validation)["dice"]
    assert len(dice["mean_dice"]["values"]) == 3
    assert _train(data, f"{TINY}postprocess: auto\n", run.path, "--fold", "all", "--resume") == 0
    shown = capsys.readouterr().out
    spread = dice["mean_dice"]
    assert "mean ± sd" in shown
    assert f"{spread['mean']:.4f} ± {spread['sd']:.4f}" in shown


def test_each_case_is_validated_by_the_fold_that_never_saw_it(run: RunFolder, tmp_path: Path) -> None:
    assert _predict(run, tmp_path / "out", "--validation", "--postprocess", "none") == 0
    split = Split.load(run.split_path)
    written = sorted(path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").glob("*.nii.gz"))
    assert written == list(split.case_ids)
    images = Path(run.manifest()["data"]).parent / "imagesTr"
    for fold in range(3):
        alone = load_segmenter(run.path, "cpu", fold, postprocess=PostprocessChoice())
        for case in split.validation(fold):
            expected = alone.segment(images / f"{case}.nii.gz").array
            np.testing.assert_array_equal(
                read_volume(tmp_path / "out" / f"{case}.nii.gz").array, expected, strict=False
            )


def test_all_folds_predict_together_with_what_was_chosen(
    run: RunFolder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = run.chosen_postprocess()
    assert chosen is not None
    assert (chosen.folds, chosen.cases) == ((0, 1, 2), 6)
    assert chosen.dice.keys() == set(run.plan().labels.names[1:])
    segmenter = load_segmenter(run.path, "cpu")
    assert isinstance(segmenter, EnsembleSegmenter)
    assert len(segmenter.members) == 3
    assert segmenter.postprocess == chosen.choice
    image = data / "imagesTr" / "mr_000.nii.gz"
    assert _predict(run, tmp_path / "out", "--input", image) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert PostprocessChoice.model_validate(summary["postprocess"]) == chosen.choice
    told = capsys.readouterr().err
    assert (
        f"Postprocessing: {chosen.choice.told()}" in told.replace("\n", " ")
    ) is not chosen.choice.does_nothing
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out" / "mr_000.nii.gz").array, segmenter.segment(image).array
    )


def test_seeds_tell_how_results_spread(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seeds"
    assert _train(data, TINY, out, "--seeds", "2", "--seed", "7") == 0
    shown = capsys.readouterr()
    assert "Validation with seeds 7, 8" in shown.out
    assert "mean Dice" in shown.out
    assert sorted(path.name for path in out.iterdir()) == ["seed_7", "seed_8", "seeds.json"]
    assert _train(data, TINY, out, "--seeds", "2", "--seed", "7") == 2
    assert "seed_7: is there already; add --resume" in capsys.readouterr().err
    assert _train(data, TINY, out, "--seeds", "2", "--seed", "7", "--resume", "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out) == read_json(out / "seeds.json")
