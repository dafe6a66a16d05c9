"""``medseg train``: from cases to a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli.console import (
    DebugOption,
    JsonOption,
    QuietOption,
    bars,
    print_json,
    print_table,
    settings,
    status,
)

if TYPE_CHECKING:
    from medseg.fitting import FitOptions
    from medseg.runs import MethodRecipe
    from medseg.training import SeedRuns

__all__ = ["command"]


def command(
    data: Annotated[str, typer.Option(help="Name of a data set, folder with a dataset.json, or datalist.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    recipe: Annotated[str, typer.Option(help="Recipe: a name, or a .yaml file.")] = "unet",
    init_encoder: Annotated[
        Path | None,
        typer.Option(help="Start from the encoder of this run, a pretraining's or another's.", metavar="RUN"),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this run, MONAI bundle or file, where they fit.",
            metavar="RUN|BUNDLE|FILE",
        ),
    ] = None,
    fold: Annotated[
        str, typer.Option(help="Fold of the cross-validation, or 'all': one run that holds them all.")
    ] = "0",
    max_minutes: Annotated[float | None, typer.Option(help="End each fold after so many minutes.")] = None,
    max_cpu_minutes: Annotated[
        float | None, typer.Option(help="End each fold after so many minutes of processors.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="End each fold after so many steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, patches and augmentation.")] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train with so many seeds, from --seed on, each a run OUT/seed_S; tells how results spread."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that prepare patches.", show_default="by device")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    jobs: Annotated[
        int, typer.Option(help="Processes that a method other than a network may use, such as an atlas.")
    ] = 1,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bits each time, on a GPU too; slower. Needs steps."),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Train a network on a data set, or fit another method.

    Examples:
    medseg train --data Task04_Hippocampus --fold 0 --max-minutes 20 --out runs/hippocampus

    medseg train --data images.json --recipe pretrain_denoising --max-steps 2000 --out runs/pretrained

    medseg train --data few_labels.json --recipe unet_small --init-encoder runs/pretrained --out runs/few

    medseg train --data Task04_Hippocampus --fold all --max-steps 2000 --out runs/crossvalidated

    medseg train --data Task04_Hippocampus --seeds 3 --max-steps 2000 --out runs/seeds
    """
    from medseg.data import load_dataset
    from medseg.files import read_json
    from medseg.fitting import FitOptions
    from medseg.runs import MethodRecipe, load_any_recipe
    from medseg.training import Budget, is_first_process, train, train_seeds

    settings.quiet |= not is_first_process()
    given = (max_steps, max_minutes, max_cpu_minutes) != (None, None, None)
    options = FitOptions(
        budget=Budget(max_steps, max_minutes, max_cpu_minutes) if given else None,
        seed=seed,
        device=device,
        workers=workers,
        resume=resume,
        deterministic=deterministic,
        jobs=jobs,
    )
    chosen_recipe = load_any_recipe(recipe)
    if isinstance(chosen_recipe, MethodRecipe):
        _refuse_training_options(
            {
                "--init-encoder": init_encoder,
                "--init-from": init_from,
                "--max-minutes": max_minutes,
                "--max-cpu-minutes": max_cpu_minutes,
                "--max-steps": max_steps,
                "--seeds": seeds,
            }
        )
        _fit_method(data, chosen_recipe, out, _folds(fold), options, as_json)
        return
    if init_encoder is not None:
        chosen_recipe = chosen_recipe.model_copy(update={"init_encoder": str(init_encoder)})
    if init_from is not None:
        chosen_recipe = chosen_recipe.model_copy(update={"init_from": str(init_from)})
    pretrains = chosen_recipe.pretrain is not None
    if seeds is not None:
        with bars() as progress:
            dataset = load_dataset(data, labelled=not pretrains)
            chosen_folds = _folds(fold)
            found = train_seeds(
                dataset, chosen_recipe, out, seeds, folds=chosen_folds, options=options, progress=progress
            )
        _show_seeds(out, found, as_json)
        return
    with bars() as progress:
        run = train(
            load_dataset(data, labelled=not pretrains),
            chosen_recipe,
            out,
            folds=_folds(fold),
            options=options,
            progress=progress,
        )
    if not is_first_process():  # of several that torchrun or srun started: one result is enough
        return
    chosen = _folds(fold)
    results = {
        folder.path.name: read_json(folder.finished_mark)
        for folder in run.folds()
        if chosen is None or folder.index in chosen
    }
    if as_json:
        print_json(results)
    else:
        _show_starts(run.start_report, results)
        (_show_errors if pretrains else _show)(out.name, results)
    use = f"start from its encoder with: medseg train --init-encoder {out} --data D --out RUN"
    if not pretrains:
        use = f"segment with: medseg predict --model {out} --input IMAGE --out FOLDER"
    status(f"The run is in {out}; {use}")


def _folds(text: str) -> list[int] | None:
    if text == "all":
        return None
    if text.isdecimal():
        return [int(text)]
    raise typer.BadParameter(f"'{text}' is neither a number from 0 nor 'all'", param_hint="--fold")


def _refuse_training_options(given: dict[str, Any]) -> None:
    """A method that is not a network has no steps, and ends when it is done."""
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter("is for networks alone; this recipe has none", param_hint=name)


def _fit_method(
    data: str, recipe: MethodRecipe, out: Path, folds: list[int] | None, options: FitOptions, as_json: bool
) -> None:
    """Fit a method that is not a network, and show what that took."""
    from medseg.data import load_dataset
    from medseg.files import read_json
    from medseg.fitting import fit_method
    from medseg.runs import RunFolder

    with bars() as progress:
        fit_method(load_dataset(data), recipe, out, folds=folds, options=options, progress=progress)
    results = {
        fold.path.name: read_json(fold.finished_mark) for fold in RunFolder(out).folds() if fold.finished
    }
    if as_json:
        print_json(results)
    else:
        rows = [[fold, str(result["cases"]), f"{result['minutes']:.2f}"] for fold, result in results.items()]
        print_table(f"Fitted {out.name}", ["fold", "cases", "minutes"], rows)
    status(f"The run is in {out}; score it with: medseg predict --model {out} --validation --out FOLDER")


def _show_starts(report: Path, folds: Iterable[str]) -> None:
    """What was taken over of the network that the folds started from, if they did."""
    from medseg.files import read_json

    reports = read_json(report) if report.is_file() else {}
    for fold in folds:
        if fold not in reports:
            continue
        told = reports[fold]
        rows = [
            [name, side, why]
            for side, key in (("not loaded", "not_loaded"), ("not used", "not_used"))
            for name, why in told[key].items()
        ]
        title = (
            f"{fold} started from {told['weights']}: {told['loaded_weights']:,} of {told['all_weights']:,} "
            f"weights in {len(told['loaded'])} tensors"
        )
        if rows:
            print_table(title, ["tensor", "what", "why"], rows, text_columns=(0, 1, 2))
        else:
            status(title)


def _show(name: str, results: dict[str, Any]) -> None:
    structures = list(next(iter(results.values()))["dice"])
    rows = [
        [
            fold,
            str(result["steps"]),
            f"{result['minutes']:.1f}",
            *(_dice(result["dice"][structure]) for structure in structures),
            _dice(result["mean_dice"]),
        ]
        for fold, result in results.items()
    ]
    if len(results) > 1:
        rows.append(["mean ± sd", "", "", *_over_folds(structures, list(results.values()))])
    columns = ["fold", "steps", "minutes", *(f"Dice {structure}" for structure in structures), "mean Dice"]
    print_table(f"Validation of {name}, on the network's grid", columns, rows)


def _over_folds(structures: list[str], results: list[dict[str, Any]]) -> list[str]:
    from medseg.training.spread import spread_of

    spreads = [spread_of([result["dice"][name] for result in results]) for name in structures]
    spreads.append(spread_of([result["mean_dice"] for result in results]))
    return [_with_sd(spread.mean, spread.sd) for spread in spreads]


def _show_seeds(out: Path, found: SeedRuns, as_json: bool) -> None:
    from medseg.files import read_json

    if as_json:
        print_json(read_json(out / "seeds.json"))
    else:
        rows = [
            [
                "mean Dice" if name == "mean_dice" else f"Dice {name}",
                _with_sd(spread.mean, spread.sd),
                _dice(spread.lowest),
                _dice(spread.highest),
            ]
            for name, spread in found.dice.items()
        ]
        seeds = ", ".join(map(str, found.runs))
        print_table(f"Validation with seeds {seeds}", ["", "mean ± sd", "lowest", "highest"], rows)
    status(f"The runs are in {out}; segment with one of them, or with several: medseg predict --model …")


def _with_sd(mean: float | None, sd: float | None) -> str:
    return _dice(mean) if sd is None else f"{_dice(mean)} ± {sd:.4f}"


def _show_errors(name: str, results: dict[str, Any]) -> None:
    rows = [
        [fold, str(result["steps"]), f"{result['minutes']:.1f}", f"{result['reconstruction_error']:.4f}"]
        for fold, result in results.items()
    ]
    columns = ["fold", "steps", "minutes", "reconstruction error"]
    print_table(f"Validation of {name}: mean squared error of normalised voxels", columns, rows)


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
