"""``medseg predict``: from images to label maps on their grids."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medseg.cli.console import (
    DebugOption,
    JsonOption,
    QuietOption,
    TrustOption,
    bars,
    print_json,
    print_table,
    status,
)

if TYPE_CHECKING:
    from medseg.io import Case
    from medseg.segmenters import CaseOutcome, Segmenter

__all__ = ["command"]

_LISTED_STRUCTURES = 5
"""Of a case, in the table; summary.json has all."""


def command(
    model: Annotated[
        list[Path],
        typer.Option(
            help="The folder of a run, a MONAI bundle (folder or .zip), or nnU-Net's folder with plans.json; "
            "several, for the same task, are averaged."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the label maps; they are named as their images.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", help="An image, or a folder of images or of DICOM files; may be given several times."
        ),
    ] = None,
    validation: Annotated[
        bool,
        typer.Option(
            "--validation", help="Segment the run's validation cases, each by the fold that never saw it."
        ),
    ] = False,
    fold: Annotated[
        str, typer.Option(help="One fold, or 'all': the mean of those that are trained.")
    ] = "all",
    checkpoint: Annotated[
        str, typer.Option(help="last: weights of the last step; best: of the best validation.")
    ] = "last",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16, or auto: bfloat16, about twice as fast, where the device computes in it."
        ),
    ] = "float32",
    mode: Annotated[
        str | None,
        typer.Option(
            help="streaming: as one pass over the whole image; sliding-window; overlap-tile; or auto: "
            "streaming where the network's layers are local.",
            show_default="the recipe's",
        ),
    ] = None,
    max_ram: Annotated[
        str | None, typer.Option(help="Memory that may be taken, as 4GB.", show_default="what is free")
    ] = None,
    max_vram: Annotated[
        str | None, typer.Option(help="Memory of a GPU that may be taken.", show_default="what is free")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="Overlap of windows, 0 to below 1.", show_default="the recipe's"),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="Average over mirror images along these axes of the network grid, as x or xyz; left and "
            "right labels change places.",
            show_default="the recipe's",
        ),
    ] = None,
    postprocess: Annotated[
        str | None,
        typer.Option(
            help="What is done to label maps: none; auto: what helped the run's validation cases; instances: "
            "objects that touch are told apart, and written to OUT/instances; or a YAML file with the keys "
            "of a recipe's postprocess.",
            show_default="the recipe's",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="For DICOM images: dicom-seg (a bit a voxel and structure, for every viewer), "
            "dicom-labelmap (one number a voxel, new in the standard), or rtstruct (contours).",
            show_default="as the image; .nii.gz for DICOM",
        ),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Segment images; each label map lies on its image's own grid.

    A case that fails leaves the others alone: the table and summary.json say why, and the exit code is not 0.

    Examples:
    medseg predict --model runs/hippocampus --input image.nii.gz --out labels

    medseg predict --model runs/hippocampus --input images/ --out labels --fold 0 --checkpoint best

    medseg predict --model runs/hippocampus --validation --out validation

    medseg predict --model runs/chest --input ct.nii.gz --out labels --max-ram 4GB --precision auto

    medseg predict --model runs/nuclei --input images/ --out labels --postprocess instances

    medseg predict --model runs/chest --input study/ --out labels --format dicom-seg

    medseg predict --model spleen_ct_segmentation.zip --trust --input ct.nii.gz --out labels
    """
    if bool(images) == validation:
        raise typer.BadParameter("give either --input or --validation", param_hint="--input")
    chosen = _fold(fold)

    from medseg.runs.postprocess import load_postprocess
    from medseg.segmenters import exit_code, load_segmenter, predict_jobs, write_summary

    load = partial(
        load_segmenter,
        model,
        device,
        checkpoint=checkpoint,
        precision=precision,
        mode=mode,
        overlap=overlap,
        mirror=mirror,
        postprocess=None if postprocess is None else load_postprocess(postprocess),
        max_ram_bytes=_bytes(max_ram, "--max-ram"),
        max_vram_bytes=_bytes(max_vram, "--max-vram"),
        trust=trust,
    )
    jobs = _jobs_of_inputs(load(chosen), images) if images else _jobs_of_validation(load, model, chosen)
    with bars() as progress:
        outcomes = predict_jobs(jobs, out, progress, form=form)
    if len(outcomes) == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
    done = jobs[0][0].postprocess
    write_summary(outcomes, out / "summary.json", model=", ".join(map(str, model)), postprocess=done)
    _show(outcomes, as_json)
    if not done.does_nothing:
        status(f"Postprocessing: {done.told()}")
    return exit_code(outcomes)


def _fold(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if text.isdigit():
        return int(text)
    raise typer.BadParameter(f"'{text}' is neither a number from 0 nor 'all'", param_hint="--fold")


def _bytes(text: str | None, option: str) -> int | None:
    from medseg.io.sizes import parse_bytes

    return None if text is None else parse_bytes(text, option)


def _jobs_of_inputs(segmenter: Segmenter, images: list[Path]) -> list[tuple[Segmenter, Case]]:
    from medseg.io import find_cases

    return [(segmenter, case) for case in find_cases(images, len(segmenter.channel_names))]


def _jobs_of_validation(
    load: Any, models: list[Path], fold: int | Literal["all"]
) -> list[tuple[Segmenter, Case]]:
    from medseg.segmenters import validation_cases

    if len(models) > 1:
        raise typer.BadParameter("several models have no validation cases in common", param_hint="--model")
    cases = validation_cases(models[0], None if fold == "all" else [fold])
    segmenters = {index: load(fold=index) for index in cases}
    return [(segmenters[index], case) for index, found in cases.items() for case in found]


def _show(outcomes: list[CaseOutcome], as_json: bool) -> None:
    if as_json:
        print_json([outcome.as_dict() for outcome in outcomes])
    else:
        rows = [
            [
                outcome.case_id,
                "failed" if outcome.error else "done",
                f"{outcome.seconds:.1f}",
                str(outcome.error or _structures(outcome)),
            ]
            for outcome in outcomes
        ]
        print_table(
            "Segmented", ["case", "status", "seconds", "voxels, or reason"], rows, text_columns=(0, 1, 3)
        )
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        print(f"medseg: {failed} of {len(outcomes)} cases failed", file=sys.stderr)


def _structures(outcome: CaseOutcome) -> str:
    largest = sorted(outcome.voxels.items(), key=lambda entry: entry[1], reverse=True)[:_LISTED_STRUCTURES]
    listed = [f"{name} {count}" for name, count in outcome.voxels.items() if (name, count) in largest]
    if more := len(outcome.voxels) - len(listed):
        listed.append(f"and {more} smaller structures")
    found = ", ".join(listed) or "background only"
    return found if outcome.objects is None else f"{found}; objects: {outcome.objects}"
