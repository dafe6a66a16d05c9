"""``medseg evaluate``: score predictions against references."""

from __future__ import annotations

import enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli import console
from medseg.cli import evaluation_tables as tables
from medseg.cli.console import DebugOption, JsonOption, QuietOption

if TYPE_CHECKING:
    from medseg.evaluation import Comparison, Evaluation, InstanceEvaluation, Pictures
    from medseg.evaluation.comparison import EvaluateOne
    from medseg.metrics import DistanceCriterion, OverlapCriterion

__all__ = ["SurfaceKind", "command"]

_METRICS = {"overlap", "surface"}


class SurfaceKind(enum.StrEnum):
    """How surfaces are measured."""

    AREA = "area"
    """Surface elements weighted by their area."""
    VOXELS = "voxels"
    """Centres of boundary voxels, as MONAI has it."""


def command(
    pred: Annotated[
        list[Path],
        typer.Option("--pred", help="Folder of predicted label maps, or one file; give two to compare them."),
    ],
    ref: Annotated[
        Path, typer.Option("--ref", help="Folder of references with the same names, or one file.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables and pictures.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="dataset.json that names the classes, or a MONAI bundle's folder. By default the "
            "dataset.json in or beside the reference folder; without one, the values found.",
        ),
    ] = None,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="A reference without a prediction scores 0.")
    ] = False,
    resample_prediction: Annotated[
        bool,
        typer.Option(
            "--resample-prediction",
            help="Accept predictions on other grids: bring them onto the reference's by nearest neighbour.",
        ),
    ] = False,
    metrics: Annotated[
        str,
        typer.Option("--metrics", help="'overlap,surface', or 'overlap' alone where only speed matters."),
    ] = "overlap,surface",
    percentile: Annotated[
        float, typer.Option("--percentile", help="Of surface distances, for the robust Hausdorff distance.")
    ] = 95.0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="In mm, for the normalised surface distance.")
    ] = 1.0,
    surface: Annotated[
        SurfaceKind,
        typer.Option(
            "--surface", help="Surface elements by their area, or boundary voxels as MONAI has them."
        ),
    ] = SurfaceKind.AREA,
    lesions: Annotated[
        list[str] | None,
        typer.Option("--lesions", help="Class whose lesions are counted one by one; may be repeated."),
    ] = None,
    lesion_iou: Annotated[
        float | None,
        typer.Option(
            "--lesion-iou",
            min=0.0,
            max=1.0,
            help="A lesion is found if its intersection over union with the prediction is at least this.",
            show_default="any common voxel",
        ),
    ] = None,
    lesion_distance: Annotated[
        float | None,
        typer.Option(
            "--lesion-distance", min=0.0, help="In mm: a lesion is found if the prediction is as near."
        ),
    ] = None,
    smallest_lesion: Annotated[
        float, typer.Option("--smallest-lesion", min=0.0, help="In ml: smaller ones are left out.")
    ] = 0.0,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="The files hold objects' numbers, not classes: score the objects."),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Of a prediction, when two are compared; give two, in their order."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of images, or one, to draw overlays on.")
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Draw no overlays of the worst, median and best case.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Cases at a time.", show_default="what the work is worth"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Score predictions against references: overlap, surface distances, lesions, instances.

    Writes metrics.csv (a row for each case and class), summary.json, and pictures of the worst, the median
    and the best case.

    Examples:
    medseg evaluate --pred predictions --ref dataset/labelsTs --out scores --images dataset/imagesTs

    medseg evaluate --pred unet --pred segnet --ref dataset/labelsTs --out comparison
    """
    if len(pred) > 2:
        raise typer.BadParameter("give one prediction, or two to compare", param_hint="--pred")
    if name and len(pred) == 1:
        raise typer.BadParameter("names are for two predictions", param_hint="--name")
    if lesion_iou is not None and lesion_distance is not None:
        raise typer.BadParameter("give one of --lesion-iou and --lesion-distance", param_hint="--lesion-iou")
    if not lesions and (lesion_iou, lesion_distance, smallest_lesion) != (None, None, 0.0):
        raise typer.BadParameter("name the classes whose lesions are counted", param_hint="--lesions")
    wanted = _metrics(metrics)
    if instances and (lesions or labels is not None):
        raise typer.BadParameter("objects have no classes", param_hint="--instances")
    if instances and (wanted, percentile, tolerance, surface) != (_METRICS, 95.0, 1.0, SurfaceKind.AREA):
        raise typer.BadParameter("surfaces of objects are not measured", param_hint="--instances")

    from medseg.evaluation import ScoringOptions, compare_folders, evaluate_folders, evaluate_instance_folders

    options = ScoringOptions(
        surface=surface.value if "surface" in wanted else None,
        percentile=percentile,
        tolerance_mm=tolerance,
        lesion_criterion=_lesion_criterion(lesion_iou, lesion_distance),
        smallest_lesion_ml=smallest_lesion,
        resample_prediction=resample_prediction,
    )
    evaluate_one: EvaluateOne
    if instances:
        evaluate_one = partial(evaluate_instance_folders, resample_prediction=resample_prediction)
    else:
        evaluate_one = partial(evaluate_folders, labels=labels, options=options, lesions=lesions or ())
    pictures = _pictures(images, wanted=not no_pictures)
    with console.bars() as progress:
        evaluate_one = partial(
            evaluate_one, require_all=require_all, pictures=pictures, jobs=jobs, progress=progress
        )
        if len(pred) == 1:
            found = evaluate_one(pred[0], ref, out)
        else:
            comparison = compare_folders(
                pred,
                ref,
                out,
                evaluate_one=evaluate_one,
                names=name or (),
                resample_prediction=resample_prediction,
            )
    if len(pred) == 1:
        _show(found, as_json)
    else:
        _show_comparison(comparison, as_json)
    console.status(f"written: {out}")


def _metrics(text: str) -> set[str]:
    names = {part.strip() for part in text.split(",")}
    if not names <= _METRICS:
        raise typer.BadParameter(f"'{text}' is not 'overlap' or 'overlap,surface'", param_hint="--metrics")
    return names


def _lesion_criterion(iou: float | None, distance_mm: float | None) -> OverlapCriterion | DistanceCriterion:
    from medseg.metrics import DistanceCriterion, OverlapCriterion

    if distance_mm is not None:
        return DistanceCriterion(distance_mm)
    return OverlapCriterion() if iou is None else OverlapCriterion("iou", iou)


def _pictures(images: Path | None, *, wanted: bool) -> Pictures | None:
    from medseg.evaluation import Pictures
    from medseg.evaluation.overlays import can_draw

    if images is None and wanted and not can_draw():
        console.status(
            "no pictures: matplotlib is not installed; pip install 'medseg[report]', or give --no-pictures"
        )
        return None
    return Pictures(images) if wanted else None


def _show(found: Evaluation | InstanceEvaluation, as_json: bool) -> None:
    from medseg.evaluation import Evaluation

    summary = found.summary
    if isinstance(found, Evaluation):
        console.status(f"classes: {found.labels_source}")
    tables.say_alone(summary)
    tables.say_notes(summary)
    if as_json:
        console.print_json(summary)
    elif isinstance(found, Evaluation):
        tables.print_scores(summary, found.table.options)
        if "lesions" in summary:
            tables.print_lesions(summary)
    else:
        tables.print_instances(summary)


def _show_comparison(comparison: Comparison, as_json: bool) -> None:
    summary = comparison.summary()
    for name, found in zip(comparison.names, comparison.evaluations, strict=True):
        console.status(f"{name}:")
        tables.say_alone(found.summary)
        tables.say_notes(found.summary)
    if as_json:
        console.print_json(summary)
    else:
        tables.print_comparison(summary)
