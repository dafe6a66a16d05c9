"""``medseg train`` and ``medseg predict`` with a recipe that postprocesses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import USAGE_EXIT_CODE, ConfigError, InputError
from medseg.files import read_json
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.postprocessing import find_instances, postprocess
from medseg.runs import RunFolder
from medseg.runs.postprocess import PostprocessChoice, load_postprocess
from medseg.volume import Volume

pytestmark = pytest.mark.usefixtures("without_pictures")

MakeRun = Callable[..., Path]
LABELS = LabelScheme.from_names({1: "anterior", 7: "posterior"})
GRID = Grid((20, 18, 16), np.diag([1.0, 1.0, 2.0, 1.0]))
CLEAN = PostprocessChoice.model_validate(
    {"smallest_volume_ml": {"posterior": 0.004}, "largest_component": ["anterior"], "fill_holes": "all"}
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "p1.nii.gz"
    write_volume(
        Volume(np.random.default_rng(0).normal(size=(1, *GRID.shape)).astype(np.float32), GRID), path
    )
    return path


def predict(run: Path, image: Path, out: Path, *options: object) -> int:
    arguments = ["--model", run, "--input", image, "--out", out, "--device", "cpu", *options]
    return main(["predict", *map(str, arguments)])


def with_postprocess(run: Path, choice: object) -> Path:
    """The run, as if its recipe had asked for it."""
    folder = RunFolder.open(run)
    chosen = PostprocessChoice.model_validate(choice)
    folder.save_recipe(folder.recipe().model_copy(update={"postprocess": chosen}))
    return run


def test_what_the_recipe_asks_for_is_done(make_run: MakeRun, image: Path, tmp_path: Path) -> None:
    run = make_run()
    assert predict(run, image, tmp_path / "plain") == 0
    with_postprocess(run, CLEAN)

    assert predict(run, image, tmp_path / "clean") == 0
    assert predict(run, image, tmp_path / "none", "--postprocess", "none") == 0

    plain, clean, none = (read_volume(tmp_path / name / "p1.nii.gz") for name in ("plain", "clean", "none"))
    expected = postprocess(plain.array[0], LABELS, GRID.spacing_mm, CLEAN)
    assert (expected != plain.array[0]).any()
    np.testing.assert_array_equal(clean.array[0], expected)
    np.testing.assert_array_equal(none.array, plain.array)
    assert clean.grid == GRID
    (case,) = read_json(tmp_path / "clean" / "summary.json")["cases"]
    assert case["voxels"].get("posterior", 0) == int((expected == 7).sum())
    assert case["plan"]["by_part"]["label map"] == GRID.voxel_count
    assert case["objects"] is None


def test_objects_lie_beside_the_label_map(
    make_run: MakeRun, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, choice = make_run(), tmp_path / "out", tmp_path / "choice.yaml"
    choice.write_text("instances: {of: anterior, smallest_volume_ml: 0.01}\n")

    assert predict(run, image, out, "--postprocess", choice) == 0

    assert sorted(path.name for path in out.iterdir()) == ["instances", "p1.nii.gz", "summary.json"]
    labels, objects = read_volume(out / "p1.nii.gz"), read_volume(out / "instances" / "p1.nii.gz")
    instances = load_postprocess(choice).instances
    assert instances is not None
    expected = find_instances(labels.array[0], LABELS, GRID.spacing_mm, instances)
    assert objects.array.dtype == np.int32
    assert objects.grid == GRID
    np.testing.assert_array_equal(objects.array[0], expected)
    assert read_json(out / "summary.json")["cases"][0]["objects"] == int(expected.max()) > 0
    assert f"objects: {expected.max()}" in capsys.readouterr().out.replace("\n", " ")


def test_a_folder_with_objects_is_scored_as_any_other(make_run: MakeRun, image: Path, tmp_path: Path) -> None:
    run, choice = make_run(labels={1: "cell"}), "instances"
    assert predict(run, image, tmp_path / "a", "--postprocess", choice) == 0
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "cell"}}))

    arguments = ["--pred", tmp_path / "a", "--ref", tmp_path / "a", "--out", tmp_path / "scores"]
    code = main(["evaluate", *map(str, arguments), "--labels", str(tmp_path / "dataset.json")])

    assert code == 0
    rows = (tmp_path / "scores" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 2


def test_models_that_postprocess_otherwise_are_not_averaged(
    make_run: MakeRun, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run("first"), with_postprocess(make_run("second"), CLEAN)

    refused = predict(first, image, tmp_path / "out", "--model", second)
    assert refused == ConfigError.exit_code
    assert "differ in postprocessing; choose one for all by --postprocess" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert predict(first, image, tmp_path / "out", "--model", second, "--postprocess", "none") == 0


@pytest.mark.parametrize(
    ("choice", "code", "message"),
    [
        (
            "instance",
            ConfigError.exit_code,
            "--postprocess: unknown way 'instance'; did you mean 'instances'?",
        ),
        (
            "instances",
            ConfigError.exit_code,
            "several classes could be meant; name one of anterior, posterior",
        ),
        ("gone.yaml", InputError.exit_code, "gone.yaml: does not exist"),
        ("choice.yaml", ConfigError.exit_code, "unknown class 'anteroir'; did you mean 'anterior'?"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    choice: str,
    code: int,
    message: str,
    make_run: MakeRun,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("choice.yaml").write_text("fill_holes: [anteroir]\n")

    assert predict(make_run(), image, tmp_path / "out", "--postprocess", choice) == code

    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert code != USAGE_EXIT_CODE


def test_a_training_refuses_classes_that_the_data_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantom_dataset(tmp_path / "data", "mr", count=4, test_count=0, shape=(24, 24, 16))
    (tmp_path / "recipe.yaml").write_text("folds: 2\npostprocess: {fill_holes: [spleeen]}\n")

    arguments = ["--data", tmp_path / "data", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "run"]
    code = main(["train", *map(str, arguments), "--max-steps", "1", "--device", "cpu"])

    assert code == ConfigError.exit_code
    assert "postprocess.fill_holes: unknown class 'spleeen'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
