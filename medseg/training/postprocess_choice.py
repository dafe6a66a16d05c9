"""Postprocessing of a run, chosen on what its folds make of the cases that they did not train on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data import Dataset, Split
from medseg.errors import InputError
from medseg.io import Case, read_volume
from medseg.labels import LabelScheme
from medseg.postprocessing import postprocess
from medseg.postprocessing.choosing import (
    FloatArray,
    candidate_dice,
    candidates,
    class_dice,
    combined,
    judge,
    smallest_components_ml,
    thresholds_ml,
)
from medseg.progress import Progress, SilentProgress, track
from medseg.runs import RunFolder
from medseg.runs.chosen_postprocess import ChosenPostprocess, ClassDice
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import load_segmenter, predict_jobs

__all__ = ["choose_postprocessing"]

_HARM = 1e-9


def choose_postprocessing(
    run: RunFolder,
    dataset: Dataset,
    *,
    device: str = "auto",
    precision: str = "float32",
    progress: Progress | None = None,
) -> ChosenPostprocess:
    """Try ways to clean label maps on the validation cases, and keep for each class what helps it.

    Every finished fold segments its validation cases as ``medseg predict --validation`` does, on the images'
    own grids: what is chosen is tried on what it will be applied to, mirror images and mode of inference
    included. That takes as long as one validation. Smallest volumes to try come from the references of the
    training cases. A way is kept for a class if the class's mean Dice gains more than the gain's standard
    error over the cases, and more cases become better than worse; and all ways together must lower no
    class's mean Dice. The result is written to ``postprocess.json``.

    Args:
        run: A run with a finished fold.
        dataset: What it was trained on.
        device: As of ``load_segmenter``.
        precision: As of ``load_segmenter``.
        progress: Shows how far it has come, and is told what was chosen.

    Returns:
        The choice and the figures that it rests on.

    Raises:
        InputError: The run is a pretraining's, no fold is finished, or the data set has lost a case.
        MedsegError: A case cannot be read or segmented.
    """
    run.require_segmentation()
    progress = progress or SilentProgress()
    started = time.process_time()
    split = Split.load(run.split_path)
    folds = [fold.index for fold in run.folds() if fold.finished]
    if not folds:
        raise InputError("has no finished fold", where=run.path, fix="train one first")
    labels, cases = run.plan().labels, {case.id: case for case in dataset.cases}
    training = sorted({name for fold in folds for name in split.training(fold)})
    held_out = [(fold, name) for fold in folds for name in split.validation(fold)]
    lost = [name for name in (*training, *(name for _, name in held_out)) if name not in cases]
    if lost:
        raise InputError(f"holds no case '{lost[0]}', which the run has", where=dataset.source)

    folder = run.path / ".validation"
    shutil.rmtree(folder, ignore_errors=True)  # of a choice that was interrupted
    try:
        loaded = {
            fold: load_segmenter(run.path, device, fold, precision=precision, postprocess=PostprocessChoice())
            for fold in folds
        }
        outcomes = predict_jobs([(loaded[fold], cases[name]) for fold, name in held_out], folder, progress)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        pairs = [
            _Pair(Path(str(outcome.output)), cases[name], labels)
            for outcome, (_, name) in zip(outcomes, held_out, strict=True)
        ]
        chosen = _choose(pairs, [cases[name] for name in training], labels, folds, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.save_chosen_postprocess(chosen)
    minutes = (time.process_time() - started) / 60.0
    progress.note(
        f"Postprocessing, chosen on {chosen.cases} validation cases in {minutes:.1f} CPU minutes: "
        f"{chosen.choice.told()}"
    )
    return chosen


@dataclass(frozen=True)
class _Pair:
    """A validation case: what was predicted, and its reference."""

    prediction: Path
    case: Case
    labels: LabelScheme

    def read(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[float, float, float]]:
        """Class indices of both, shape (X, Y, Z), and the spacing in millimetres."""
        predicted, spacing_mm = _read_indices(self.prediction, self.labels)
        return predicted, _read_indices(_label_of(self.case), self.labels)[0], spacing_mm


def _read_indices(path: Path, labels: LabelScheme) -> tuple[npt.NDArray[Any], tuple[float, float, float]]:
    volume = read_volume(path)
    return labels.to_indices(volume.array[0], where=str(path)), volume.grid.spacing_mm


def _label_of(case: Case) -> Path:
    if case.label is None:
        raise InputError(f"case '{case.id}' has no label", fix="give the data that the run was trained on")
    return case.label


def _choose(
    pairs: Sequence[_Pair],
    training: Sequence[Case],
    labels: LabelScheme,
    folds: Sequence[int],
    progress: Progress,
) -> ChosenPostprocess:
    smallest = []
    for case in track(training, "Measuring references", progress):
        reference, spacing_mm = _read_indices(_label_of(case), labels)
        smallest.append(smallest_components_ml(reference, labels, spacing_mm))
    tried = candidates(labels, thresholds_ml(smallest))
    before, after = [], []
    for pair in track(pairs, "Trying postprocessing", progress):
        predicted, reference, spacing_mm = pair.read()
        before.append(list(class_dice(predicted, reference, labels).values()))
        after.append(candidate_dice(predicted, reference, labels, spacing_mm, tried))
    dice, trial_dice = np.array(before), np.array(after)
    columns = {name: dice[:, place] for place, name in enumerate(labels.names[1:])}
    trials = [
        judge(candidate, columns[candidate.of], trial_dice[:, place]) for place, candidate in enumerate(tried)
    ]
    choice, cleaned = _harmless([combined(trials), combined(trials, with_holes=False)], pairs, labels, dice)
    return ChosenPostprocess(
        choice=choice,
        folds=tuple(folds),
        cases=len(pairs),
        dice={
            name: ClassDice(before=float(dice[:, place].mean()), after=float(cleaned[:, place].mean()))
            for place, name in enumerate(labels.names[1:])
        },
        tried=tuple(trials),
    )


def _harmless(
    choices: Sequence[PostprocessChoice], pairs: Sequence[_Pair], labels: LabelScheme, before: FloatArray
) -> tuple[PostprocessChoice, FloatArray]:
    """The first choice that lowers no class's mean Dice, and the Dice of each case and class with it."""
    own = LabelScheme.from_names(dict(enumerate(labels.names)))  # indices are its values
    for choice in dict.fromkeys(choice.model_dump_json() for choice in choices):
        tried = PostprocessChoice.model_validate_json(choice)
        if tried.does_nothing:
            break
        after = []
        for pair in pairs:
            predicted, reference, spacing_mm = pair.read()
            cleaned = postprocess(predicted, own, spacing_mm, tried)
            after.append(list(class_dice(cleaned, reference, labels).values()))
        if (np.array(after).mean(axis=0) >= before.mean(axis=0) - _HARM).all():
            return tried, np.array(after)
    return PostprocessChoice(), before
