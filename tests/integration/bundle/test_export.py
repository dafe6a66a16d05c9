"""What an export writes, what it proves, and what it refuses."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medseg.bundle import FORMATS, Exported, ExportOptions, Statement, export_bundle, of_runs, statement_of
from medseg.bundle.archive import write_archive
from medseg.bundle.clean_process import CleanPython
from medseg.bundle.content import read_content
from medseg.bundle.evaluation import known_scores
from medseg.bundle.formats import FormatReport, write_formats
from medseg.bundle.of_runs import BundleOfRun
from medseg.bundle.verification import MARGIN, compare_case
from medseg.cli.main import main
from medseg.data import Dataset
from medseg.errors import BundleError, ConfigError, GeometryError, InputError
from medseg.io import Case, read_volume, write_volume
from medseg.runs import Plan, Recipe
from medseg.runs.documents import parse
from medseg.segmenters import load_segmenter
from medseg.training.parts import build_loss
from medseg.volume import Volume

pytestmark = pytest.mark.usefixtures("without_pictures")

NEEDED = {
    "LICENSE",
    *("configs/metadata.json", "configs/medseg.json", "configs/logging.conf"),
    *("configs/inference.yaml", "configs/evaluate.yaml", "configs/train.yaml"),
    *("docs/README.md", "docs/verification.json", "docs/checksums.sha256"),
    *("models/model.pt", "scripts/networks/unet.py", "scripts/networks/blocks/__init__.py"),
}


def files(bundle: Path) -> set[str]:
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}


def load(bundle: Path, name: str) -> Any:
    return json.loads((bundle / name).read_text(encoding="utf-8"))


def test_everything_is_there(exported: Exported) -> None:
    found = files(exported.bundle)
    assert found >= NEEDED | {f"models/model.{suffix}" for suffix in ("pt2", "ts", "onnx", "xml", "bin")}
    assert not [name for name in found if "__pycache__" in name or name.endswith(".part")]


def test_checksums_fit(exported: Exported) -> None:
    lines = (exported.bundle / "docs" / "checksums.sha256").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert {*listed, "docs/checksums.sha256"} == files(exported.bundle)
    for name, digest in listed.items():
        assert hashlib.sha256((exported.bundle / name).read_bytes()).hexdigest() == digest


def test_the_archive_is_the_folder_and_the_same_each_time(exported: Exported, tmp_path: Path) -> None:
    assert exported.archive is not None
    with zipfile.ZipFile(exported.archive) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {f"phantoms/{name}" for name in files(exported.bundle)}
    write_archive(exported.bundle, tmp_path / "again.zip", "phantoms")
    assert (tmp_path / "again.zip").read_bytes() == exported.archive.read_bytes()
    digest, name = exported.archive.with_name("phantoms.zip.sha256").read_text().split()
    assert (name, digest) == (
        "phantoms.zip",
        hashlib.sha256(exported.archive.read_bytes()).hexdigest(),
    )


def test_nothing_tells_of_this_machine(exported: Exported) -> None:
    mine = [
        str(exported.bundle.parent).encode(),
        str(Path(__file__).parents[3]).encode(),
        b"/somebody/secret",
    ]
    for name in files(exported.bundle):
        content = (exported.bundle / name).read_bytes()
        assert not [place for place in mine if place in content], name


@pytest.mark.parametrize("kind", ["exported", "ensemble"])
def test_scripts_need_nothing_of_medseg(kind: str, request: pytest.FixtureRequest) -> None:
    made: Exported = request.getfixturevalue(kind)
    for path in (made.bundle / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.partition(".")[0] == "medseg"], path


def test_medseg_reads_it_back(exported: Exported, run: Path) -> None:
    document = load(exported.bundle, "configs/medseg.json")
    assert document["schema_version"] == 1
    assert document["weights"] == ["models/model.pt"]
    plan = parse(Plan, document["plan"], "medseg.json")
    recipe = parse(Recipe, document["recipe"], "medseg.json")
    assert plan == read_content(run, "x").plan
    assert recipe.init_from is None
    assert recipe.network.base_features == 2
    stored = torch.load(exported.bundle / "models" / "model.pt", weights_only=True)
    trained = torch.load(run / "fold_0" / "checkpoints" / "last.pt", weights_only=True)
    assert stored.keys() == trained.keys()
    assert all(torch.equal(stored[name], trained[name]) for name in stored)


def test_what_was_proven_stands_in_it(exported: Exported, ensemble: Exported) -> None:
    for bundle in (exported, ensemble):
        proof = load(bundle.bundle, "docs/verification.json")
        assert proof["environment"]["medseg_importable"] is False
        case = proof["cases"][0]
        assert case["shape"] == [24, 22, 20]
        assert case["differing"] == 0
        assert 0.0 <= case["probability_difference"] < 1e-5
        assert case["near_ties"] < 0.05 * case["voxels"]
    formats = load(exported.bundle, "docs/verification.json")["formats"]
    assert [entry["format"] for entry in formats] == ["torch-export", "torchscript", "onnx", "openvino"]
    assert all(entry["other_size"] == [27, 21, 19] for entry in formats)
    assert max(max(entry["difference"], entry["other_size_difference"]) for entry in formats) < 1e-4


@pytest.mark.data
def test_ten_real_images_of_all_kinds_get_medsegs_labels(ensemble: Exported, test_data: Path) -> None:
    """An export that disagrees on any of them fails; here is what they are."""
    del test_data
    _, *real = ensemble.cases
    assert len(real) == 10
    assert {"RAS", "PSR", "LAS", "LPS", "PIL", "PIR"} <= {case.axcodes for case in real}
    assert len({case.shape for case in real}) == 10
    assert any(case.oblique for case in real)
    assert all(case.agrees for case in real)
    assert max(case.probability_difference for case in real) < 1e-5


def test_the_ensemble_carries_every_fold(ensemble: Exported) -> None:
    assert load(ensemble.bundle, "configs/medseg.json")["weights"] == ["models/model.pt", "models/fold_2.pt"]
    config = yaml.safe_load((ensemble.bundle / "configs" / "inference.yaml").read_text())
    assert config["evaluator"]["_target_"] == "EnsembleEvaluator"
    assert config["evaluator"]["networks"][1]["axes"] == [0, 2]
    assert "scipy" in load(ensemble.bundle, "configs/metadata.json")["required_packages_version"]


def test_the_card_says_what_it_is(exported: Exported) -> None:
    card = (exported.bundle / "docs" / "README.md").read_text(encoding="utf-8")
    told = (
        "left nucleus",
        "the testers",
        "| models/model.onnx |",
        "monai.bundle run",
        "Apache-2.0",
        "## Limits",
    )
    assert [text for text in told if text not in card] == []


def test_the_loss_of_a_batch_is_that_of_medsegs_training(
    exported: Exported, run: Path, scripts_of: Callable[[Path], None]
) -> None:
    from monai.bundle import ConfigParser

    content = read_content(run, "x")
    scripts_of(exported.bundle)
    parser = ConfigParser(yaml.safe_load((exported.bundle / "configs" / "train.yaml").read_text()))
    network, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss")
    network.load_state_dict(torch.load(exported.bundle / "models" / "model.pt", weights_only=True))
    own = content.network()
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, content.classes, (2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        monai = loss(network.train()(image), label)
        lightning = build_loss(content.recipe, content.plan)(own.train()(image), label)
    torch.testing.assert_close(monai, lightning, atol=1e-6, rtol=1e-6)


def test_a_bundle_of_a_bundle_is_the_same_with_what_is_said_now(
    exported: Exported, phantoms: Dataset, tmp_path: Path
) -> None:
    options = ExportOptions(
        cases=phantoms.cases[:1],
        formats=("torchscript",),
        statement=statement_of(exported.archive, {"version": "1.3.0", "changes": "TorchScript alone"}),
    )
    again = export_bundle(exported.archive, tmp_path / "phantoms", options).bundle
    before, now = (load(path, "configs/metadata.json") for path in (exported.bundle, again))
    assert now.pop("version") == "1.3.0"
    assert now.pop("changelog") == {"1.3.0": "TorchScript alone", **before.pop("changelog")}
    assert now == {key: value for key, value in before.items() if key != "version"}
    names = [f"configs/{name}" for name in ("medseg.json", "inference.yaml", "evaluate.yaml", "train.yaml")]
    for name in (*names, "models/model.pt", "LICENSE"):
        assert (again / name).read_bytes() == (exported.bundle / name).read_bytes(), name
    assert [file.name for file in sorted((again / "models").iterdir())] == ["model.pt", "model.ts"]


def test_one_fold_of_a_bundle_can_be_taken(ensemble: Exported) -> None:
    content = read_content(ensemble.bundle, "x", folds=[2])
    assert content.folds == (2,)
    assert content.weight_files == ("models/model.pt",)
    stored = torch.load(ensemble.bundle / "models" / "fold_2.pt", weights_only=True)
    network = content.network().state_dict()
    assert all(torch.equal(network[name], stored[name]) for name in stored)
    with pytest.raises(ConfigError, match="fold 1 is not trained; choose of 0, 2"):
        read_content(ensemble.bundle, "x", folds=[1])


def test_what_no_bundle_can_be_made_of_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows nothing of validation cases"):
        export_bundle(exported.bundle, tmp_path / "again")
    with pytest.raises(ConfigError, match="one checkpoint of each fold"):
        export_bundle(exported.bundle, tmp_path / "again", ExportOptions(checkpoint="best"))
    assert not (tmp_path / "again").exists()


def test_trainings_start_from_a_bundle_as_from_its_run(
    exported: Exported, run: Path, phantoms: Dataset, tmp_path: Path
) -> None:
    from medseg.training import Budget, TrainingOptions, train

    options = TrainingOptions(Budget(max_steps=1), seed=4, device="cpu", workers=0)
    losses = []
    for number, origin in enumerate((run, exported.bundle)):
        recipe = read_content(run, "x").recipe.model_copy(update={"init_from": str(origin)})
        further = train(phantoms, recipe, tmp_path / str(number), folds=[0], options=options)
        header, first = (further.fold(0).path / "steps.csv").read_text().splitlines()
        losses.append(float(first.split(",")[header.split(",").index("loss")]))
    assert losses[0] == losses[1] > 0.0


class FakeRun:
    """Stands for a bundle's run: writes what it is told, at once."""

    def __init__(self, labels: int) -> None:
        self.labels = labels

    def __call__(self, python: CleanPython, folder: Path, *arguments: str) -> str:
        del python, folder
        from medseg.io import write_volume

        images = Path(arguments[arguments.index("--dataset_dir") + 1])
        results = Path(arguments[arguments.index("--output_dir") + 1])
        (image,) = images.iterdir()
        grid = read_volume(image).grid
        labels = np.full((1, *grid.shape), self.labels, np.uint8)
        write_volume(Volume(labels, grid), results / "case_1.nii.gz")
        probabilities = np.full((5, *grid.shape), 0.2, np.float32)
        write_volume(Volume(probabilities, grid), results / "case_1_probabilities.nii")
        return ""


def test_a_bundle_that_disagrees_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CleanPython, "bundle", FakeRun(labels=3))
    with pytest.raises(BundleError, match=r"gives another label to \d+ voxels"):
        export_bundle(run, tmp_path / "out" / "bundle", ExportOptions(archive=True))
    assert list(tmp_path.rglob("*.part*")) == []
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_bundle_that_does_not_run_is_told_in_a_line(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    python = CleanPython.of(None, scratch)
    fake = tmp_path / "bundle" / "monai" / "bundle"
    fake.mkdir(parents=True)
    for folder in (fake.parent, fake):
        (folder / "__init__.py").touch()
    (fake / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nimport medseg\n")
    with pytest.raises(BundleError) as raised:
        python.bundle(tmp_path / "bundle", "run", "--config_file", "x")
    assert str(raised.value).startswith(
        "monai.bundle run: does not run outside of medseg: ModuleNotFoundError: No module named 'medseg'"
    )
    (fake / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\n")
    assert python.bundle(tmp_path / "bundle", "run", "-x") == "['run', '-x']\n"


def test_places_of_maxima_excuse_some_logits_and_few_labels() -> None:
    report = FormatReport(
        format="onnx", fold=0, file="models/model.onnx", detail="", largest_logit=10.0, difference=0.1,
        other_labels=0, voxels=1000, other_size=(10, 10, 10), other_size_difference=0.0, other_size_labels=0,
        others=0.05, relabelled=0.005, unpools=True,
    )  # fmt: skip
    assert report.agrees
    for changes in ({"unpools": False}, {"others": 0.2}, {"relabelled": 0.02}):
        assert not replace(report, **changes).agrees
    assert replace(report, others=0.0, relabelled=0.0, unpools=False).agrees


def test_differences_are_counted(exported: Exported, run: Path, phantoms: Dataset) -> None:
    del exported
    case = phantoms.cases[0]
    segmenter = load_segmenter(run, "cpu", mode="sliding-window")
    image = read_volume(case.images[0])
    scores = torch.softmax(segmenter.scores(image).read(0, image.grid.shape[2]), dim=0).numpy()
    labels = segmenter.labels.to_values(scores.argmax(axis=0))
    same = Volume(labels[None].copy(), image.grid)
    exact = Volume(scores, image.grid)
    assert compare_case(segmenter, case.images, same, exact).agrees

    ordered = np.sort(scores, axis=0)
    clear = tuple(np.unravel_index((ordered[-1] - ordered[-2]).argmax(), labels.shape))
    changed = labels.copy()
    changed[clear] = 77
    found = compare_case(segmenter, case.images, Volume(changed[None], image.grid), exact)
    assert (found.differing, found.differing_near_ties, found.agrees) == (1, 0, False)
    assert found.near_ties == ((ordered[-1] - ordered[-2]) < MARGIN).sum()

    off = Volume(scores + np.float32(3e-4), image.grid)
    found = compare_case(segmenter, case.images, same, off)
    assert found.probability_difference == pytest.approx(3e-4, rel=1e-2)
    assert not found.agrees

    moved = Volume(same.array, image.grid.cropped((0, 0, 0), image.grid.shape).reoriented("LPS"))
    with pytest.raises(GeometryError, match="another grid"):
        compare_case(segmenter, case.images, moved, exact)


def test_weights_and_configs_are_written_alike_each_time(run: Path, tmp_path: Path) -> None:
    content = read_content(run, "same")
    source = BundleOfRun(content, Statement(), known_scores(content), "licence", ())
    for name in ("one", "two"):
        source.write(tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for name in files(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"folds": (1,)}, ConfigError, "fold 1 is not trained"),
        ({"checkpoint": "first"}, ConfigError, "unknown checkpoint"),
        ({"formats": ("onyx",)}, ConfigError, "did you mean 'onnx'"),
        ({"python": "/no/such/python"}, ConfigError, "cannot be started"),
        ({"scores": Path("/no/such/scores")}, InputError, "does not exist"),
        ({"license_file": Path("/no/such/licence")}, InputError, "does not exist"),
    ],
)
def test_what_cannot_be_is_refused_before_work_starts(
    run: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error) as raised:
        export_bundle(run, tmp_path / "bundle", ExportOptions(**options))
    assert told in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_other_formats_are_written_alike_each_time(exported: Exported, run: Path, tmp_path: Path) -> None:
    content = read_content(run, "same")
    (tmp_path / "models").mkdir()
    networks = BundleOfRun(content, Statement(), known_scores(content), "licence", ()).networks()
    write_formats(networks, FORMATS, tmp_path, lambda _: None)
    written = sorted((tmp_path / "models").iterdir())
    assert {file.suffix for file in written} == {".pt2", ".ts", ".onnx", ".xml", ".bin"}
    for file in written:
        assert file.read_bytes() == (exported.bundle / "models" / file.name).read_bytes(), file.name


def test_images_that_cannot_be_segmented_are_refused_before_work_starts(
    run: Path, phantoms: Dataset, tmp_path: Path
) -> None:
    image = phantoms.cases[0].images[0]
    cut, two = tmp_path / "cut.nii.gz", tmp_path / "two.nii.gz"
    cut.write_bytes(image.read_bytes()[:2000])
    whole = read_volume(image)
    write_volume(Volume(np.repeat(whole.array, 2, axis=0), whole.grid), two)
    for path, why in ((cut, "truncated"), (two, "has 2 channels")):
        with pytest.raises(InputError, match=why):
            export_bundle(run, tmp_path / "out", ExportOptions(cases=(Case(path.name, (path,)),)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.nii.gz", "two.nii.gz"]


def test_what_a_killed_export_left_goes_with_the_next(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, other = (tmp_path / f".0123456789ab.part.{name}" for name in ("out", "else"))
    for folder in (left, other):
        (folder / "configs").mkdir(parents=True)
    monkeypatch.setattr(of_runs, "verify_bundle", lambda *_: [])
    export_bundle(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]


def test_places_that_are_taken_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").touch()
    with pytest.raises(InputError, match="there already"):
        export_bundle(run, tmp_path / "bundle", ExportOptions(archive=True))
    with pytest.raises(InputError, match="there already"):
        export_bundle(run, tmp_path)
    with pytest.raises(ConfigError, match="no name for a bundle"):
        export_bundle(run, tmp_path / "a bundle!")


def test_a_version_is_three_numbers() -> None:
    with pytest.raises(ConfigError, match="three numbers"):
        Statement(version="1.0")


def test_valid_convolutions_are_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    valid = make_run()
    plan = json.loads((valid / "plan.json").read_text())
    plan["network"]["options"] = {"out_channels": 5, "features": [2, 4], "padding": "valid"}
    plan["patch_size"] = [20, 20, 20]
    (valid / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match="sliding window cannot put these together"):
        export_bundle(valid, tmp_path / "bundle")


def test_a_package_that_lacks_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as raised:
        export_bundle(run, tmp_path / "bundle", ExportOptions(formats=("onnx",)))
    assert "pip install 'medseg[onnx]'" in str(raised.value)


def test_scores_of_an_evaluation_go_into_card_and_metadata(run: Path, tmp_path: Path) -> None:
    from medseg.bundle.card import model_card
    from medseg.bundle.evaluation import read_scores

    content = read_content(run, "scored")
    dice = {"mean": 0.9, "interval": [0.8, 0.95], "min": 0.4}
    classes = [{"name": name, "dice": dice} for name in content.plan.labels.names[1:]]
    summary = {"classes": classes, "mean": {"dice": 0.9}, "n_cases": 12}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    scores = read_scores(tmp_path, content)
    assert scores.as_metrics()["dice_nodules_interval"] == [0.8, 0.95]
    assert "0.800 to 0.950 | 0.400 |" in model_card(content, Statement(), scores, [], [])
    classes[0]["name"] = "something else"
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="does not hold the scores of this run"):
        read_scores(tmp_path, content)


def test_the_command_says_what_was_proven(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CleanPython, "bundle", FakeRun(labels=3))
    code = main(["export", "--model", str(run), "--out", str(tmp_path / "bundle"), "--quiet"])
    shown = capsys.readouterr()
    assert code == BundleError.exit_code
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("medseg: verification on case 1: the bundle gives another label")
    assert main(["export", "--model", str(tmp_path), "--out", str(tmp_path / "bundle")]) == 2


def test_the_proof_needs_an_image(make_run: Callable[..., Path], tmp_path: Path) -> None:
    lost = make_run()
    (lost / "manifest.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="no case to prove the bundle on") as raised:
        export_bundle(lost, tmp_path / "bundle")
    assert "--input" in str(raised.value)


def test_a_python_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(sys.executable)
    monkeypatch.chdir(here.parents[1])
    named = f"{here.parent.name}/{here.name}"
    assert CleanPython.of(named, tmp_path / "scratch").executable == str(here)


def test_another_python_without_monai_is_refused(run: Path, tmp_path: Path) -> None:
    import venv

    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-c", ""], check=True)
    with pytest.raises(ConfigError, match="lacks monai, torch"):
        export_bundle(run, tmp_path / "bundle", ExportOptions(python=str(python)))
