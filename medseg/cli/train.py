"""``medseg train``: from labelled cases to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.console import DebugOption, QuietOption, bars, print_table, status

__all__ = ["command"]


def command(
    data: Annotated[str, typer.Option(help="Name of a data set, folder with a dataset.json, or datalist.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    recipe: Annotated[str, typer.Option(help="Recipe: a name, or a .yaml file.")] = "unet",
    fold: Annotated[
        str, typer.Option(help="Fold of the cross-validation, or 'all': one run that holds them all.")
    ] = "0",
    max_minutes: Annotated[float | None, typer.Option(help="End each fold after so many minutes.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="End each fold after so many steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, patches and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that prepare patches.", show_default="by device")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Train a network on a data set.

    Example: medseg train --data Task04_Hippocampus --fold 0 --max-minutes 20 --out runs/hippocampus
    """
    from medseg.data import load_dataset
    from medseg.runs import load_recipe
    from medseg.training import Budget, TrainingOptions, train

    given = max_steps is not None or max_minutes is not None
    options = TrainingOptions(
        budget=Budget(max_steps, max_minutes) if given else None,
        seed=seed,
        device=device,
        workers=workers,
        resume=resume,
    )
    with bars() as progress:
        run = train(
            load_dataset(data),
            load_recipe(recipe),
            out,
            folds=_folds(fold),
            options=options,
            progress=progress,
        )
    _show(run.path, [run.fold(index).finished_mark for index in _folds(fold) or _all(run.path)])
    status(f"The run is in {out}; segment with: medseg predict --model {out} --input IMAGE --out FOLDER")


def _folds(text: str) -> list[int] | None:
    if text == "all":
        return None
    if text.isdecimal():
        return [int(text)]
    raise typer.BadParameter(f"'{text}' is neither a number from 0 nor 'all'", param_hint="--fold")


def _all(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("fold_")) for path in run.glob("fold_*"))


def _show(run: Path, marks: list[Path]) -> None:
    from medseg.files import read_json

    results = [read_json(mark) for mark in marks]
    names = list(results[0]["dice"])
    rows = [
        [
            mark.parent.name,
            str(result["steps"]),
            f"{result['minutes']:.1f}",
            *("-" if (dice := result["dice"][name]) is None else f"{dice:.4f}" for name in names),
            f"{result['mean_dice']:.4f}",
        ]
        for mark, result in zip(marks, results, strict=True)
    ]
    columns = ["fold", "steps", "minutes", *(f"Dice {name}" for name in names), "mean Dice"]
    print_table(f"Validation of {run.name}, on the network's grid", columns, rows)
