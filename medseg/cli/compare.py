"""``medseg compare``: recipes side by side on the same cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli.console import DebugOption, JsonOption, QuietOption, bars, print_json, print_table, status

if TYPE_CHECKING:
    from medseg.comparison import ComparisonFolder

__all__ = ["command"]

_NONE = "-"


def command(
    data: Annotated[str, typer.Option(help="Name of a data set, folder with a dataset.json, or datalist.")],
    recipes: Annotated[str, typer.Option(help="Recipes, by name or .yaml file, with commas between them.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, predictions, tables and the report.")],
    folds: Annotated[
        int | None, typer.Option(help="Folds of the cross-validation.", show_default="the data set's, or 5")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="Run this fold alone; may be repeated.", show_default="all")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fit each recipe with so many seeds, from --seed on.")] = 1,
    seed: Annotated[int, typer.Option(help="Of fits and of training subsets.")] = 0,
    split_seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    train_sizes: Annotated[
        str | None,
        typer.Option(
            help="A learning curve: fit on so many cases of each fold, such as 5,10,20,all.",
            show_default="all",
        ),
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Of each network's training.")] = None,
    max_cpu_minutes: Annotated[float | None, typer.Option(help="Of processors, likewise.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Of each network's training.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Recipe that others are tested against.", show_default="the first")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="In mm, for the normalised surface distance.")
    ] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Runs at a time, which share the cores.", min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; what is done stays.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Fit recipes on the same folds, score them on the same cases, and report which is better.

    Each fit and prediction is a process of its own, whose time and memory are measured.

    Examples:
    medseg compare --data Task04_Hippocampus --recipes unet,segnet --folds 2 --max-minutes 10 --out compared

    medseg compare --data D --recipes unet,segnet --folds 5 --fold 0 --train-sizes 5,10,20,all --out curve
    """
    from medseg.comparison import CompareOptions, compare, write_report
    from medseg.comparison.page import require_report_packages
    from medseg.errors import ConfigError

    names = [name.strip() for name in recipes.split(",") if name.strip()]
    options = CompareOptions(
        folds=folds,
        only_folds=tuple(fold or ()),
        seeds=seeds,
        first_seed=seed,
        sizes=_sizes(train_sizes),
        split_seed=split_seed,
        max_minutes=max_minutes,
        max_cpu_minutes=max_cpu_minutes,
        max_steps=max_steps,
        device=device,
        jobs=jobs,
        tolerance_mm=tolerance,
        resume=resume,
    )
    with bars() as progress:
        folder = compare(data, names, out, baseline=baseline, options=options, progress=progress)
    report: Path | None = None
    try:
        require_report_packages()
        report = write_report(out)
    except ConfigError as error:
        status(f"no report: {error}")
    return _show(folder, report, as_json)


def _sizes(text: str | None) -> tuple[int | None, ...]:
    if text is None:
        return (None,)
    sizes: list[int | None] = []
    for part in text.split(","):
        size = part.strip()
        if size != "all" and not (size.isdecimal() and int(size) > 0):
            raise typer.BadParameter(
                f"'{size}' is neither a number from 1 nor 'all'", param_hint="--train-sizes"
            )
        sizes.append(None if size == "all" else int(size))
    return tuple(sizes)


def _show(folder: ComparisonFolder, report: Path | None, as_json: bool) -> int:
    from medseg.files import read_json

    summary = read_json(folder.path / "summary.json")
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    failed = [entry for row in summary["methods"] for entry in row["failed_jobs"]]
    for entry in failed:
        print(f"medseg: {entry['job']} failed: {entry['reason']}", file=sys.stderr)
    status(f"written: {folder.path}" if report is None else f"written: {report}")
    return 1 if failed else 0


def _print(summary: dict[str, Any]) -> None:
    from medseg.comparison.page import p_value

    distance = next(key for key in summary["methods"][0] if key.startswith("hd"))
    p_values = {
        entry["recipe"]: entry["p_holm"]
        for entry in summary["tests"]["compared"]
        if entry["metric"] == "dice"
    }
    sizes = summary["sizes"]
    tested = None if None in sizes else max(sizes)  # the others are on the learning curve alone
    rows = [
        [
            row["recipe"],
            f"{row['training_cases']:g}",
            _interval(row["dice"]),
            _fixed(row["nsd"]["mean"], 3),
            _fixed(row[distance]["mean"], 2),
            _fixed(row["fit_seconds"]["mean"], 0),
            _fixed(row["case_seconds"]["mean"], 2),
            _gigabytes(max(row["peak_fit_bytes"] or 0, row["peak_predict_bytes"] or 0)),
            p_value(p_values.get(row["recipe"]) if row["size"] == tested else None),
        ]
        for row in summary["methods"]
    ]
    columns = ["recipe", "trained on", "Dice [95 %]", "NSD", f"{distance.split('_')[0].upper()} mm", "fit s"]
    columns += ["s a case", "peak GB", f"p (Dice, Holm) against {summary['baseline']}"]
    print_table(f"{summary['dataset']}: {summary['n_cases']} cases held out", columns, rows)


def _interval(described: dict[str, Any]) -> str:
    if described["interval"] is None:
        return _fixed(described["mean"], 3)
    low, high = described["interval"]
    return f"{described['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _fixed(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f}" if value else _NONE
