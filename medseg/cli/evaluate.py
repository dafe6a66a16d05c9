"""``medseg evaluate``: score predictions against references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli import console
from medseg.cli.console import DebugOption, JsonOption, QuietOption

if TYPE_CHECKING:
    from medseg.evaluation import ScoreTable

__all__ = ["command"]

_WORST_SHOWN = 5
_NAMES_SHOWN = 5


def command(
    pred: Annotated[Path, typer.Option("--pred", help="Folder of predicted label maps, or one file.")],
    ref: Annotated[
        Path, typer.Option("--ref", help="Folder of references with the same names, or one file.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.csv and summary.json.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="dataset.json that names the classes. By default the one in or beside the reference folder; "
            "without one, the values found.",
        ),
    ] = None,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="A reference without a prediction scores 0.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Score predictions against references: Dice, IoU and volumes, per case and class.

    Example: medseg evaluate --pred predictions --ref dataset/labelsTs --out scores
    """
    from medseg.evaluation import evaluate_folders

    with console.bars() as progress:
        evaluation = evaluate_folders(
            pred, ref, out, labels=labels, require_all=require_all, progress=progress
        )
    summary = evaluation.summary
    console.status(f"classes: {evaluation.labels_source}")
    _say_alone("reference", "has no prediction and is not scored", summary["without_prediction"])
    _say_alone("prediction", "has no reference and is not scored", summary["without_reference"])
    if as_json:
        console.print_json(summary)
        return
    _print_classes(summary)
    _print_worst(evaluation.table)
    console.status(f"written: {out / 'metrics.csv'}, {out / 'summary.json'}")


def _say_alone(kind: str, what: str, names: Sequence[str]) -> None:
    if not names:
        return
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    if len(names) > 1:
        kind, what = f"{kind}s", what.replace("has", "have", 1).replace(" is ", " are ")
    console.status(f"warning: {len(names)} {kind} {what}: {shown}")


def _print_classes(summary: dict[str, Any]) -> None:
    columns = ["class", "Dice", "± std", "median", "min", "IoU", "ref. ml", "pred. ml", "n"]
    failures = [
        (f"n_{status}", status.replace("_", " "))
        for status in ("missed", "spurious", "absent", "no_prediction")
        if any(entry[f"n_{status}"] for entry in summary["classes"])
    ]
    rows = [
        [
            f"{entry['label']} {entry['name']}",
            *(_ratio(entry["dice"][key]) for key in ("mean", "std", "median", "min")),
            _ratio(entry["iou"]["mean"]),
            _volume(entry["volume_ref_ml"]["mean"]),
            _volume(entry["volume_pred_ml"]["mean"]),
            str(entry["n_valid"]),
            *(str(entry[key]) for key, _ in failures),
        ]
        for entry in summary["classes"]
    ]
    mean = summary["mean"]
    blank = [""] * (len(failures) + 3)
    rows.append(["mean over classes", _ratio(mean["dice"]), "", "", "", _ratio(mean["iou"]), *blank])
    cases = "1 case" if summary["n_cases"] == 1 else f"{summary['n_cases']} cases"
    console.print_table(f"Scores of {cases}", [*columns, *(title for _, title in failures)], rows)


def _print_worst(table: ScoreTable) -> None:
    if len(table.scores) <= _WORST_SHOWN:
        return
    rows = [
        [score.case, f"{score.label} {score.name}", _ratio(score.dice), score.status.replace("_", " ")]
        for score in table.worst(_WORST_SHOWN)
    ]
    console.print_table("Lowest scores", ["case", "class", "Dice", "status"], rows, text_columns=(0, 1, 3))


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _volume(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"
