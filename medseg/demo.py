"""The whole way in minutes, on phantoms: make data, train, predict, evaluate, look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.classical import otsu_baseline
from medseg.data import Dataset
from medseg.data.phantoms import write_phantom_dataset
from medseg.errors import InputError
from medseg.evaluation import Evaluation, evaluate_folders
from medseg.files import require_writable_folder
from medseg.io import Case, read_volume, write_volume
from medseg.pictures import overlay
from medseg.progress import Progress, SilentProgress, track
from medseg.runs import RunFolder, load_recipe
from medseg.segmenters import load_segmenter, predict_cases
from medseg.training import Budget, TrainingOptions, train
from medseg.volume import Volume

__all__ = ["Demo", "run_demo"]

RECIPE = "unet_small"
TRAINING_CASES, TEST_CASES = 24, 6


@dataclass(frozen=True)
class Demo:
    """What a demo leaves in its folder.

    Attributes:
        dataset: The phantoms, in ``phantoms/``.
        run: The training, in ``run/``.
        network: Scores of the network's predictions, in ``evaluation/``.
        otsu: Scores of multi-Otsu thresholding, in ``evaluation_otsu/``.
        picture: ``overlay.png``: image, reference and prediction.
    """

    dataset: Dataset
    run: RunFolder
    network: Evaluation
    otsu: Evaluation
    picture: Path


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> Demo:
    """Train a small U-Net on phantoms and score it on phantoms that it has not seen.

    Args:
        out: A folder that is new or empty.
        seed: Of phantoms and training.
        budget: When training ends; the recipe's ``max_steps`` if left out.
        progress: Shows how far it has come.

    Returns:
        Where everything is, and the scores.

    Raises:
        InputError: ``out`` holds something.
        ResourceError: ``out`` cannot be written.
    """
    progress = progress or SilentProgress()
    if out.exists() and any(out.iterdir()):
        raise InputError("is not empty", where=out, fix="choose another --out, or remove it")
    require_writable_folder(out)
    progress.note(f"Making {TRAINING_CASES + TEST_CASES} phantoms")
    dataset = write_phantom_dataset(out / "phantoms", count=TRAINING_CASES, test_count=TEST_CASES, seed=seed)
    options = TrainingOptions(budget=budget, seed=seed)
    run = train(dataset, load_recipe(RECIPE), out / "run", folds=[0], options=options, progress=progress)
    segmenter = load_segmenter(run.path)
    outcomes = predict_cases(segmenter, dataset.test_cases, out / "predictions", progress=progress)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    references = out / "phantoms" / "labelsTs"
    network = evaluate_folders(out / "predictions", references, out / "evaluation", progress=progress)
    _threshold(dataset, references, out / "predictions_otsu", progress)
    otsu = evaluate_folders(out / "predictions_otsu", references, out / "evaluation_otsu", progress=progress)
    picture = out / "overlay.png"
    _draw(dataset, network, out / "predictions", references, picture)
    return Demo(dataset, run, network, otsu, picture)


def _threshold(dataset: Dataset, references: Path, out: Path, progress: Progress) -> None:
    """Segment the test cases by thresholds that know the truth: what intensities alone can give."""
    for case in track(dataset.test_cases, "Thresholding", progress):
        image, reference = _read(case, references)
        thresholded = otsu_baseline(image.array[0], reference.array[0], dataset.labels)
        write_volume(Volume(thresholded[None], image.grid), out / case.images[0].name, labels=True)


def _draw(dataset: Dataset, network: Evaluation, predictions: Path, references: Path, picture: Path) -> None:
    """Draw the case whose mean Dice is the median: neither the best nor the worst."""
    means = {case: _mean_dice(network, case) for case in network.table.cases()}
    middle = sorted(means, key=means.__getitem__)[len(means) // 2]
    case = next(case for case in dataset.test_cases if case.id == middle)
    image, reference = _read(case, references)
    prediction = read_volume(predictions / case.images[0].name)
    title = f"{case.id}, never seen in training: mean Dice {means[middle]:.2f}"
    overlay(picture, image, dataset.labels, reference=reference, prediction=prediction, title=title)


def _mean_dice(evaluation: Evaluation, case: str) -> float:
    scores = [score.dice for score in evaluation.table.scores if score.case == case]
    return float(np.nanmean(scores))


def _read(case: Case, references: Path) -> tuple[Volume, Volume]:
    return read_volume(case.images[0]), read_volume(references / case.images[0].name)
