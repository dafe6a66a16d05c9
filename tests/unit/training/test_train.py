from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from medseg.data import Dataset, Split
from medseg.errors import BundleError, ConfigError, InputError
from medseg.files import read_json, write_json
from medseg.progress import SilentProgress
from medseg.runs import Recipe, RunFolder
from medseg.training import Budget, TrainingOptions, train
from medseg.training.surroundings import told_of_signals

STEPS = 5


def _options(steps: int = STEPS, **changes: Any) -> TrainingOptions:
    return TrainingOptions(Budget(max_steps=steps), seed=4, device="cpu", workers=0, **changes)


def _weights(run: RunFolder, fold: int = 0, which: str = "last") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run.fold(fold).weights(which), weights_only=True)
    return weights


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def run(phantoms: Dataset, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An undisturbed training; nobody changes it."""
    return train(phantoms, recipe, tmp_path_factory.mktemp("runs") / "run", folds=[0], options=_options())


class _Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_of_few_cases_each_is_left_out_once_and_that_is_said(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    few = replace(phantoms, cases=phantoms.cases[:3])
    told = _Notes()
    chosen = recipe.model_copy(update={"folds": None})
    run = train(few, chosen, tmp_path / "run", folds=[2], options=_options(2), progress=told)
    split = Split.load(run.split_path)
    assert [len(split.training(fold)) for fold in range(3)] == [2, 2, 2]
    assert "3 cases: leave-one-out, 3 folds that each validate on one case" in told.notes
    alone = replace(phantoms, cases=phantoms.cases[:1])
    with pytest.raises(ConfigError, match="'mr_000' is the only one"):
        train(alone, chosen, tmp_path / "other", options=_options(2))
    assert not (tmp_path / "other").exists()


def test_a_split_that_the_data_brings_along_is_kept(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    names = [case.id for case in phantoms.cases]
    declared = Split(seed=None, folds=((names[0],),), training_only=tuple(names[1:]))
    dataset = replace(phantoms, declared_split=declared)

    run = train(dataset, recipe.model_copy(update={"folds": None}), tmp_path / "run", options=_options())

    assert Split.load(run.split_path) == declared
    assert [fold.index for fold in run.folds()] == [0]
    with pytest.raises(ConfigError, match="3 folds are asked for, the dataset declares 1"):
        train(dataset, recipe.model_copy(update={"folds": 3}), tmp_path / "other", options=_options())


def test_a_run_holds_all_that_repeats_it(
    run: RunFolder, phantoms: Dataset, recipe: Recipe, plan: Any
) -> None:
    assert run.recipe() == recipe
    assert run.plan() == plan
    split = Split.load(run.split_path)
    assert split.case_ids == tuple(case.id for case in phantoms.cases)
    manifest = run.manifest()
    assert manifest["seed"] == 4
    assert manifest["budget"] == {"max_steps": STEPS, "max_minutes": None, "max_cpu_minutes": None}
    assert manifest["data"] == str(phantoms.source.resolve())
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["inputs_sha256"].keys() == set(split.case_ids)
    assert all(hashes.keys() == {"image_0", "label"} for hashes in manifest["inputs_sha256"].values())
    assert sorted(path.name for path in run.path.iterdir()) == [
        "fold_0",
        "manifest.json",
        "plan.json",
        "recipe.yaml",
        "split.json",
    ]
    files = {path.name for path in run.fold(0).path.rglob("*") if path.is_file()}
    assert {"metrics.csv", "steps.csv", "finished.json", "last.pt", "best.pt"} <= files
    assert "resume.ckpt" not in files


def test_each_step_and_each_validation_has_its_row(run: RunFolder) -> None:
    fold = run.fold(0)
    assert [row["step"] for row in _rows(fold.steps)] == ["1", "2", "3", "4", "5"]
    assert all(0.0 < float(row["learning_rate"]) < 1e-3 for row in _rows(fold.steps))
    assert [row["step"] for row in _rows(fold.metrics)] == ["2", "4", "5"]


def test_a_finished_fold_says_how_it_went(run: RunFolder, phantoms: Dataset) -> None:
    finished = read_json(run.fold(0).finished_mark)
    assert finished["steps"] == STEPS
    assert (finished["device"], finished["precision"]) == ("cpu", "float32")
    assert list(finished["dice"]) == list(phantoms.labels.names[1:])
    assert finished["mean_dice"] == float(_rows(run.fold(0).metrics)[-1]["mean_dice"])


def test_weights_fit_the_plan(run: RunFolder) -> None:
    from medseg.networks import build_network

    network = run.plan().network
    build_network(network.name, **network.options).load_state_dict(_weights(run))


def test_tensorboard_gets_every_number(run: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run.fold(0).tensorboard))
    events.Reload()
    assert {"loss", "learning_rate", "mean_dice", "dice_nodules"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in events.Scalars("mean_dice")] == [2, 4, 5]


def test_the_same_seed_gives_the_same_run(
    run: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    again = train(phantoms, recipe, tmp_path / "again", folds=[0], options=_options())
    assert _same(_weights(again), _weights(run))
    assert again.fold(0).steps.read_bytes() == run.fold(0).steps.read_bytes()


def test_another_seed_gives_another_run(
    run: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    other = train(phantoms, recipe, tmp_path / "other", folds=[0], options=replace(_options(), seed=5))
    assert not _same(_weights(other), _weights(run))


class _Killed(BaseException):
    pass


def _stop_at(step: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """Have the training fail in the middle of a step."""
    from medseg.training.module import SegmentationModule

    original = SegmentationModule.training_step

    def training_step(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.step == step:
            raise error
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", training_step)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4])
def test_a_resumed_run_is_the_same_run(
    step: int,
    run: RunFolder,
    phantoms: Dataset,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        _stop_at(step, patch, _Killed())
        with pytest.raises(_Killed):
            train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options())
    fold = RunFolder(tmp_path / "run").fold(0)
    assert fold.resume_state.is_file() == (step >= 2)
    (fold.path / ".0123456789ab.part.resume.ckpt").write_bytes(b"half")
    resumed = train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options(resume=True))
    assert _same(_weights(resumed), _weights(run))
    assert _same(_weights(resumed, which="best"), _weights(run, which="best"))
    assert fold.steps.read_bytes() == run.fold(0).steps.read_bytes()
    clockless = [
        [{key: value for key, value in row.items() if key != "minutes"} for row in _rows(path)]
        for path in (fold.metrics, run.fold(0).metrics)
    ]
    assert clockless[0] == clockless[1]
    assert not list(fold.path.rglob("*.part.*"))


def test_a_run_killed_while_it_ends_validates_once(
    run: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["medseg.training.fold"], "save_weights", fail)
        with pytest.raises(_Killed):
            train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options())
    resumed = train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options(resume=True))
    assert [row["step"] for row in _rows(resumed.fold(0).metrics)] == ["2", "4", "5"]
    assert _same(_weights(resumed), _weights(run))
    assert read_json(resumed.fold(0).finished_mark)["steps"] == STEPS


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.training.module import SegmentationModule

    original = SegmentationModule.training_step

    def training_step(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        return loss * float("nan") if self.step == 3 else loss

    monkeypatch.setattr(SegmentationModule, "training_step", training_step)
    with pytest.raises(ConfigError, match="the loss became nan at step 4"):
        train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options())
    state = torch.load(RunFolder(tmp_path / "run").fold(0).resume_state, weights_only=True)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["network"].values())
    assert not RunFolder(tmp_path / "run").fold(0).finished


def test_a_finished_run_is_left_as_it_is(
    run: RunFolder, phantoms: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    monkeypatch.setattr(
        sys.modules["medseg.training.preparation"], "prepare_cases", None
    )  # not even looked at
    train(phantoms, recipe, run.path, folds=[0], options=_options(resume=True))
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    before.pop(run.path, None)
    assert after == before


def test_a_second_training_does_not_overwrite_the_first(
    run: RunFolder, phantoms: Dataset, recipe: Recipe
) -> None:
    before = run.fold(0).weights().read_bytes()
    with pytest.raises(InputError, match="holds fold 0 of a run already; add --resume"):
        train(phantoms, recipe, run.path, folds=[0], options=_options())
    assert run.fold(0).weights().read_bytes() == before


@pytest.fixture
def interrupted(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunFolder:
    with monkeypatch.context() as patch:
        _stop_at(2, patch, _Killed())
        with pytest.raises(_Killed):
            train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options())
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize(
    "what", ["seed", "budget", "recipe", "plan", "split", "data", "version of case mr_000"]
)
def test_a_resume_with_other_choices_is_refused(
    what: str, interrupted: RunFolder, phantoms: Dataset, recipe: Recipe
) -> None:
    options = _options(resume=True)
    if what == "seed":
        options = replace(options, seed=5)
    elif what == "budget":
        options = replace(options, budget=Budget(max_steps=STEPS + 1))
    elif what == "recipe":
        recipe = recipe.model_copy(update={"description": "another"})
    elif what == "plan":
        interrupted.save_plan(interrupted.plan().model_copy(update={"batch_size": 9}))
    elif what == "split":
        Split(seed=1, folds=(("mr_000",), ("mr_001",))).save(interrupted.split_path)
    elif what == "data":
        phantoms = replace(phantoms, source=phantoms.folder / "other.json")
    else:
        manifest = interrupted.manifest()
        manifest["inputs_sha256"]["mr_000"]["image_0"] = "0" * 64
        write_json(manifest, interrupted.manifest_path)
    before = interrupted.fold(0).resume_state.read_bytes()
    with pytest.raises(ConfigError, match=f"holds a run with another {what}; repeat the options"):
        train(phantoms, recipe, interrupted.path, folds=[0], options=options)
    assert interrupted.fold(0).resume_state.read_bytes() == before


def test_a_damaged_run_is_told(interrupted: RunFolder, phantoms: Dataset, recipe: Recipe) -> None:
    interrupted.manifest_path.write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json: the run is damaged"):
        train(phantoms, recipe, interrupted.path, folds=[0], options=_options(resume=True))


def test_folds_are_added_to_a_run_and_are_an_ensemble(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    run = train(phantoms, recipe, tmp_path / "run", folds=[1], options=_options(2))
    first = run.fold(1).weights().read_bytes()
    with pytest.raises(InputError, match="holds fold 1"):
        train(phantoms, recipe, tmp_path / "run", options=_options(2))
    train(phantoms, recipe, tmp_path / "run", options=_options(2, resume=True))
    assert [fold.index for fold in run.folds()] == [0, 1, 2]
    assert run.fold(1).weights().read_bytes() == first
    assert not _same(_weights(run, 0), _weights(run, 2))
    assert not run.cache.exists()


def test_the_cache_stays_while_another_fold_is_being_trained(
    interrupted: RunFolder, phantoms: Dataset, recipe: Recipe
) -> None:
    train(phantoms, recipe, interrupted.path, folds=[1], options=_options())
    assert [fold.finished for fold in interrupted.folds()] == [False, True]
    assert interrupted.cache.exists()
    train(phantoms, recipe, interrupted.path, folds=[0], options=_options(resume=True))
    assert not interrupted.cache.exists()


def test_minutes_end_a_training_too(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    options = replace(_options(), budget=Budget(max_minutes=0.02))
    run = train(phantoms, recipe, tmp_path / "run", folds=[0], options=options)
    finished = read_json(run.fold(0).finished_mark)
    assert finished["steps"] >= 1
    assert finished["minutes"] >= 0.02
    rates = [float(row["learning_rate"]) for row in _rows(run.fold(0).steps)]
    assert len(rates) == finished["steps"]
    assert rates[-1] < max(rates)


def test_the_recipe_says_how_long_if_nobody_else_does(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    short = recipe.model_copy(update={"training": recipe.training.model_copy(update={"max_steps": 1})})
    options = TrainingOptions(device="cpu", workers=0)
    run = train(phantoms, short, str(tmp_path / "run"), folds=[0], options=options)
    assert [row["step"] for row in _rows(run.fold(0).steps)] == ["1"]
    assert read_json(run.fold(0).finished_mark)["steps"] == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_bfloat16_trains_wherever_it_is_emulated(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, optimizer: Literal["adamw", "sgd"]
) -> None:
    changed = recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update={"precision": "bfloat16"}),
            "optimizer": recipe.optimizer.model_copy(update={"name": optimizer, "gradient_clip": 0.1}),
        }
    )
    run = train(phantoms, changed, tmp_path / "run", folds=[0], options=_options(2))
    finished = read_json(run.fold(0).finished_mark)
    assert finished["precision"] == "bfloat16"
    assert finished["steps"] == 2
    assert all(weight.isfinite().all() for weight in _weights(run).values())


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_structure_that_no_validation_case_has_is_null(
    make_dataset: Callable[..., Dataset], recipe: Recipe, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = [np.zeros((16, 16, 8), np.uint8) for _ in range(3)]
    images = [rng.normal(size=(1, 16, 16, 8)).astype(np.float32) for _ in range(3)]
    for label in labels:
        label[4:9, 4:9, 2:6] = 1
    dataset = make_dataset(images, labels)  # "five" is declared and nowhere
    run = train(dataset, recipe, tmp_path / "run", folds=[0], options=replace(_options(8)))

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    text = run.fold(0).finished_mark.read_text(encoding="utf-8")
    finished = json.loads(text, parse_constant=refuse)
    (last,) = _rows(run.fold(0).metrics)[-1:]
    assert finished["dice"]["five"] == (float(last["dice_five"]) if last["dice_five"] else None)
    assert finished["dice"]["one"] is not None


def test_options_that_cannot_be_are_refused() -> None:
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError, match="--seed"):
            TrainingOptions(seed=seed)
    with pytest.raises(ConfigError, match="--workers"):
        TrainingOptions(workers=-1)


def test_deep_supervision_trains_its_heads(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    deep = recipe.model_copy(
        update={"network": recipe.network.model_copy(update={"options": {"deep_supervision": True}})}
    )
    runs = [
        train(phantoms, deep, tmp_path / str(steps), folds=[0], options=_options(steps)) for steps in (1, 2)
    ]
    first, second = map(_weights, runs)
    heads = [name for name in first if "deep_heads" in name and name.endswith("weight")]
    assert heads
    assert all(not torch.equal(first[name], second[name]) for name in heads)


def test_nothing_of_the_process_is_changed(run: RunFolder, phantoms: Dataset, recipe: Recipe) -> None:
    import logging
    import warnings

    filters, handler = list(warnings.filters), signal.getsignal(signal.SIGINT)
    level = logging.getLogger("lightning.pytorch").level
    train(phantoms, recipe, run.path, folds=[0], options=_options(resume=True))
    assert warnings.filters == filters
    assert signal.getsignal(signal.SIGINT) is handler
    assert logging.getLogger("lightning.pytorch").level == level


def test_ctrl_c_stays_ctrl_c(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    _stop_at(2, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options())
    assert signal.getsignal(signal.SIGINT) is handler
    assert RunFolder(tmp_path / "run").fold(0).resume_state.is_file()


def test_other_exits_stay_what_they_are() -> None:
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    for raised, code in ((SystemExit(3), 3), (SIGTERMException(), 143)):
        with pytest.raises(SystemExit) as caught, told_of_signals():
            raise raised
        assert caught.value.code == code


def test_ctrl_c_while_preprocessing_keeps_what_is_done(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    for error, kept in ((KeyboardInterrupt(), True), (OSError("broken"), False)):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["medseg.training.preparation"], "prepare_cases", fail)
            with pytest.raises(type(error)):
                train(phantoms, recipe, tmp_path / "run", folds=[0], options=_options(resume=True))
        assert (tmp_path / "run" / "manifest.json").exists() is kept
        if kept:
            RunFolder(tmp_path / "run").plan()
            (tmp_path / "run").rename(tmp_path / "kept")


SCRIPT = """
import sys
from medseg.data import load_dataset
from medseg.runs import Recipe
from medseg.training import Budget, TrainingOptions, train

recipe = Recipe.model_validate_json(sys.argv[2])
options = TrainingOptions(Budget(max_steps=5), seed=4, device="cpu", workers=2)
run = train(load_dataset(sys.argv[1]), recipe, sys.argv[3], folds=[0], options=options)
print(run.fold(0).finished)
"""


@pytest.mark.slow
def test_a_plain_script_trains_with_several_processes(
    run: RunFolder, phantoms: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(phantoms.folder),
        recipe.model_dump_json(),
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert _same(_weights(RunFolder(tmp_path / "run")), _weights(run))
