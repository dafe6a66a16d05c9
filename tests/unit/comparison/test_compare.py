"""Comparisons of small methods: who trains on what, what is done again, what the tables say."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from medseg.cli.main import main
from medseg.comparison import CompareOptions, ComparisonFolder, compare, phases
from medseg.comparison.jobs import Job, JobFolder
from medseg.comparison.running import JobFailed, Runner
from medseg.data import Dataset
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import ConfigError, InputError, MedsegError
from medseg.files import read_json
from medseg.registry import METHODS
from medseg.runs.documents import load_json
from tests.data.nearest_mean import NearestMean

RECIPES = {
    "right": "method: nearest_mean\n",
    "shifted": "method: nearest_mean\noptions: {shift: 60.0}\n",
    "broken": "method: nearest_mean\noptions: {fails: true}\n",
}

Call = tuple[str, str]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_phantom_dataset(
        tmp_path_factory.mktemp("phantoms"), count=6, test_count=0, shape=(20, 18, 16)
    )


@pytest.fixture
def recipes(tmp_path: Path) -> dict[str, str]:
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return {name: str(tmp_path / f"{name}.yaml") for name in RECIPES}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What was done, as (phase, folder); in this process, for others do not know the method."""
    monkeypatch.setattr(METHODS, "_entries", {**METHODS._entries})
    METHODS.register("nearest_mean", "tests.data.nearest_mean:NearestMean", "for tests")
    monkeypatch.setattr(NearestMean, "fitted", [])
    done: list[Call] = []

    def call(_runner: Runner, phase: str, folder: JobFolder) -> None:
        done.append((phase, "/".join(folder.path.parts[folder.path.parts.index("results") + 1 :])))
        try:
            getattr(phases, f"{phase}_job")(load_json(Job, folder.job), folder)
        except MedsegError as error:
            raise JobFailed(f"{phase}: {error}") from error

    monkeypatch.setattr(Runner, "_call_worker", call)
    return done


def test_the_processes_that_a_method_starts_import_no_pytorch_for_the_worker() -> None:
    code = "import sys, medseg.comparison.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.usefixtures("calls")
def test_every_method_is_scored_on_every_case_once_and_never_trains_on_it(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path
) -> None:
    options = CompareOptions(folds=2, seeds=2, jobs=2)
    folder = compare(
        phantoms.source, [recipes["right"], recipes["shifted"]], tmp_path / "out", options=options
    )
    rows = rows_of(folder.path / "scores.csv")
    everything = sorted(case.id for case in phantoms.cases)
    for recipe in ("right", "shifted"):
        for seed in ("0", "1"):
            own = [row for row in rows if (row["recipe"], row["seed"]) == (recipe, seed)]
            for label in {row["label"] for row in own}:
                assert sorted(row["case"] for row in own if row["label"] == label) == everything
    assert len(NearestMean.fitted) == 2 * 2 * 2
    for _, trained in NearestMean.fitted:
        assert sorted(trained) in [sorted(folder.split.training(fold)) for fold in (0, 1)]
    for run in ("runs/right/seed_0", "runs/shifted/seed_1"):
        assert (folder.path / run / "fold_1" / "finished.json").is_file()


@pytest.mark.usefixtures("calls")
def test_subsets_are_nested_and_what_is_held_out_stays(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path
) -> None:
    options = CompareOptions(folds=2, only_folds=(1,), sizes=(1, 2, None))
    folder = compare(phantoms.source, [recipes["right"]], tmp_path / "out", options=options)
    small, middle, large = (set(trained) for _, trained in NearestMean.fitted)
    assert (len(small), len(middle), len(large)) == (1, 2, 3)
    assert small < middle < large
    held_out = set(folder.split.validation(1))
    for size in ("1", "2", "all"):
        rows = rows_of(folder.path / "scores.csv")
        assert {row["case"] for row in rows if row["size"] == size} == held_out
    assert [method.training_cases for method in folder.methods] == [1.0, 2.0, 3.0]
    assert (folder.path / "runs/right/size_2/held_out_1/split.json").is_file()


def test_a_method_that_fails_is_named_and_tried_again_while_the_others_stay(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path, calls: list[Call]
) -> None:
    chosen = [recipes["broken"], recipes["right"]]
    options = CompareOptions(folds=2)
    folder = compare(phantoms.source, chosen, tmp_path / "out", baseline="right", options=options)
    broken, right = read_json(folder.path / "summary.json")["methods"]
    assert [entry["reason"] for entry in broken["failed_jobs"]] == ["fit: <here>: cannot be learnt from"] * 2
    assert broken["dice"]["mean"] is None
    assert right["failed_jobs"] == []
    assert right["n_cases"] == 6
    calls.clear()
    again = CompareOptions(folds=2, resume=True)
    compare(phantoms.source, chosen, tmp_path / "out", baseline="right", options=again)
    assert calls == [("fit", "broken/fold_0"), ("fit", "broken/fold_1")]


@pytest.mark.parametrize("done_before", [1, 2])
def test_what_is_done_is_not_done_again(
    phantoms: Dataset,
    recipes: dict[str, str],
    tmp_path: Path,
    calls: list[Call],
    monkeypatch: pytest.MonkeyPatch,
    done_before: int,
) -> None:
    def run(out: str, **options: Any) -> ComparisonFolder:
        chosen = CompareOptions(folds=2, **options)
        return compare(phantoms.source, [recipes["right"]], tmp_path / out, options=chosen)

    whole = run("whole")
    everything = list(calls)
    assert len(everything) == 4
    calls.clear()
    proper: Callable[..., None] = Runner._call_worker

    def interrupted(runner: Runner, phase: str, folder: JobFolder) -> None:
        if len(calls) == done_before:
            raise KeyboardInterrupt
        proper(runner, phase, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_call_worker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    assert calls == everything[:done_before]
    resumed = run("parts", resume=True)
    assert calls == everything
    for name in ("scores.csv", "split.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.usefixtures("calls")
def test_cases_that_were_predicted_are_not_predicted_again(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[str] = []
    proper = phases.predict_jobs

    def predict(jobs: Any, out: Path) -> Any:
        if len(predicted) == 2:
            raise KeyboardInterrupt
        predicted.append(jobs[0][1].id)
        assert jobs[0][1].label is None
        return proper(jobs, out)

    options = {"folds": 2, "only_folds": (0,)}
    with monkeypatch.context() as patch:
        patch.setattr(phases, "predict_jobs", predict)
        with pytest.raises(KeyboardInterrupt):
            compare(phantoms.source, [recipes["right"]], tmp_path / "out", options=CompareOptions(**options))
        patch.setattr(phases, "predict_jobs", lambda *a: (predicted.append(a[0][0][1].id), proper(*a))[1])
        folder = tmp_path / "out/results/right/fold_0"
        with (folder / "cases.jsonl").open("a") as handle:
            handle.write('{"case": "torn')
        resume = CompareOptions(**options, resume=True)
        found = compare(phantoms.source, [recipes["right"]], tmp_path / "out", options=resume)
    assert sorted(predicted) == sorted(found.split.validation(0))
    assert len(found.methods[0].case_seconds()) == 3


@pytest.mark.usefixtures("calls")
def test_tables_say_what_scores_and_independent_tests_say(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path
) -> None:
    chosen = [recipes["right"], recipes["shifted"]]
    folder = compare(phantoms.source, chosen, tmp_path / "out", options=CompareOptions(folds=2))
    scores = rows_of(folder.path / "scores.csv")
    by_case: dict[str, dict[str, float]] = {}
    for recipe in ("right", "shifted"):
        for case in sorted({row["case"] for row in scores}):
            own = [row for row in scores if (row["recipe"], row["case"]) == (recipe, case)]
            dice = [float(row["dice"]) for row in own if row["dice"]]
            by_case.setdefault(recipe, {})[case] = float(np.mean(dice))
    table = {row["recipe"]: row for row in rows_of(folder.path / "comparison.csv")}
    for recipe, found in by_case.items():
        assert float(table[recipe]["dice"]) == pytest.approx(np.mean(list(found.values())))
        assert (
            float(table[recipe]["dice_low"])
            <= float(table[recipe]["dice"])
            <= float(table[recipe]["dice_high"])
        )
        assert float(table[recipe]["peak_fit_bytes"]) > 50e6
        assert float(table[recipe]["case_seconds"]) > 0.0
    tests = read_json(folder.path / "summary.json")["tests"]["compared"]
    assert [test["metric"] for test in tests] == ["dice", "nsd", "hd95_bound_mm"]
    ours, theirs = (np.array(list(by_case[name].values())) for name in ("shifted", "right"))
    expected = wilcoxon(ours, theirs, zero_method="pratt", method="exact").pvalue
    assert tests[0]["p_value"] == pytest.approx(expected)
    raw = sorted(test["p_value"] for test in tests)
    highest = 0.0
    for place, p_value in enumerate(raw):
        highest = max(highest, min(1.0, p_value * (3 - place)))
        corrected = [test["p_holm"] for test in tests if math.isclose(test["p_value"], p_value)]
        assert any(found == pytest.approx(highest) for found in corrected)


@pytest.mark.usefixtures("calls")
def test_a_comparison_goes_on_with_more_recipes_but_not_otherwise(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path
) -> None:
    def run(*names: str, **options: Any) -> ComparisonFolder:
        chosen = CompareOptions(**{"folds": 2, **options})
        return compare(phantoms.source, [recipes[name] for name in names], tmp_path / "out", options=chosen)

    run("right")
    with pytest.raises(InputError, match="holds a comparison already; add --resume"):
        run("right")
    for options, told in (
        ({"folds": 3}, "folds, split"),
        ({"seeds": 2}, "seeds"),
        ({"max_steps": 3}, "max_steps"),
    ):
        with pytest.raises(ConfigError, match=f"another {told}"):
            run("right", resume=True, **options)
    fitted = len(NearestMean.fitted)
    folder = run("right", "shifted", resume=True)
    assert len(NearestMean.fitted) == fitted + 2
    assert [method.recipe for method in folder.methods] == ["right", "shifted"]
    Path(recipes["right"]).write_text(RECIPES["shifted"], encoding="utf-8")
    with pytest.raises(ConfigError, match="another recipe 'right'"):
        run("right", resume=True)


@pytest.mark.usefixtures("calls")
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path
) -> None:
    def run(names: list[str], baseline: str | None = None, **options: Any) -> None:
        compare(
            phantoms.source, names, tmp_path / "out", baseline=baseline, options=CompareOptions(**options)
        )

    automatic = tmp_path / "automatic.yaml"
    automatic.write_text("network: {name: unet}\npostprocess: auto\n", encoding="utf-8")
    for names, options, told in (
        (["unte"], {}, "^unknown recipe 'unte'; did you mean 'unet'"),
        ([], {}, "no recipe is given"),
        ([recipes["right"], recipes["right"]], {}, "recipe 'right' is given twice"),
        (["pretrain_denoising"], {}, "it is a pretraining"),
        ([str(automatic)], {}, "chooses its postprocessing on the held-out cases"),
        ([recipes["right"]], {"baseline": "left"}, "'left' is not among the recipes"),
        ([recipes["right"]], {"folds": 2, "only_folds": (2,)}, "there is no fold 2"),
        ([recipes["right"]], {"folds": 2, "sizes": (4,)}, "4 training cases cannot be taken of 3"),
        ([recipes["right"]], {"sizes": (2, 2)}, "a training size is given twice"),
        ([recipes["right"]], {"seeds": 0}, "0 are too few"),
    ):
        with pytest.raises(ConfigError, match=told):
            run(names, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("calls")
def test_a_case_that_cannot_be_predicted_counts_as_missed(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = phantoms.cases[0].id
    proper = NearestMean.class_scores

    def scores(self: NearestMean, image: Any) -> Any:
        if self.broken_once:
            type(self).broken_once = False
            raise RuntimeError("no such luck")
        return proper(self, image)

    monkeypatch.setattr(NearestMean, "broken_once", True, raising=False)
    monkeypatch.setattr(NearestMean, "class_scores", scores)
    folder = compare(phantoms.source, [recipes["right"]], tmp_path / "out", options=CompareOptions(folds=2))
    (row,) = read_json(folder.path / "summary.json")["methods"]
    (failed,) = row["failed_cases"]
    assert "no such luck" in failed["reason"]
    assert row["n_no_prediction"] == 4
    assert row["failed_jobs"] == []
    assert row["n_cases"] == 6
    assert lost in {case.id for case in phantoms.cases}


@pytest.mark.usefixtures("calls")
def test_the_report_holds_every_method_and_size_and_what_failed(
    phantoms: Dataset, recipes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--recipes",
        ",".join(recipes.values()),
        "--train-sizes",
        "1,all",
        "--folds",
        "2",
        "--fold",
        "0",
    ]
    out = tmp_path / "out"
    assert main(["compare", "--data", str(phantoms.source), "--out", str(out), *arguments]) == 1
    shown = capsys.readouterr()
    assert "broken, 1 cases, seed 0, fold 0 failed: fit: <here>: cannot be learnt from" in shown.err
    assert "shifted" in shown.out
    folder = ComparisonFolder.open(out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "2 fits failed" in page
    assert "fit: &lt;here&gt;: cannot be learnt from" in page
    for title in ("Learning curve", "Against right", "Ranks", "Volumes", "Worst, median and best case"):
        assert f"<h2>{title}</h2>" in page
    for row in read_json(folder.path / "summary.json")["methods"]:
        if row["size"] is None and row["dice"]["mean"] is not None:
            assert f"{row['dice']['mean']:.3f} [" in page
    assert page.count("data:image/png") == 3
    assert "<script" not in page
    assert (folder.path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
