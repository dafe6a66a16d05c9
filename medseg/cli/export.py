"""``medseg export``: from a run, or an earlier bundle, to a MONAI bundle that has been proven."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from medseg.bundle import Exported

__all__ = ["command"]


def command(
    model: Annotated[Path, typer.Option(help="The folder of a run, or a bundle (folder or .zip).")],
    out: Annotated[Path, typer.Option(help="The bundle's folder, which is made; its name is the bundle's.")],
    fold: Annotated[
        str, typer.Option(help="One fold, or 'all': the mean of those that are trained.")
    ] = "all",
    checkpoint: Annotated[
        str, typer.Option(help="last: weights of the last step; best: of the best validation.")
    ] = "last",
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Write models/model.pt2 too, a graph of any size.")
    ] = False,
    torchscript: Annotated[bool, typer.Option("--torchscript", help="Write models/model.ts too.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write models/model.onnx too.")] = False,
    openvino: Annotated[
        bool, typer.Option("--openvino", help="Write models/model.xml and .bin too.")
    ] = False,
    as_zip: Annotated[
        bool, typer.Option("--zip", help="Write OUT.zip too, the same byte for byte each time, and its hash.")
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            help="Images that the bundle is proven on; may be given several times.",
            show_default="the run's first validation case",
        ),
    ] = None,
    verify_python: Annotated[
        str | None,
        typer.Option(
            help="The Python that runs the bundle for its proof, with MONAI and without medseg.",
            show_default="this one, medseg hidden",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="The --out folder of medseg evaluate, whose scores and intervals go into the model card.",
            show_default="the training's last validation, or an earlier bundle's",
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Of the bundle.", show_default="0.1.0, or an earlier bundle's")
    ] = None,
    changes: Annotated[str | None, typer.Option(help="What is new in this version.")] = None,
    authors: Annotated[str | None, typer.Option(help="Who answers for it.")] = None,
    copyright_notice: Annotated[str | None, typer.Option("--copyright", help="Of the weights.")] = None,
    license_name: Annotated[
        str | None,
        typer.Option(
            "--license", help="The licence's name.", show_default="Apache-2.0, or an earlier bundle's"
        ),
    ] = None,
    license_file: Annotated[
        Path | None, typer.Option(help="The licence's text.", show_default="medseg's, or an earlier bundle's")
    ] = None,
    intended_use: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    data_source: Annotated[
        str | None, typer.Option(help="Where the training data came from, and its licence.")
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Make a MONAI bundle of a run or of another bundle, which needs nothing of medseg.

    Before it gets its name, MONAI runs it where medseg cannot be imported, and its label maps and
    probabilities are compared with medseg's. An export that disagrees fails and leaves nothing.

    Examples:
    medseg export --model runs/hippocampus --out hippocampus_bundle

    medseg export --model runs/hippocampus --out bundle --fold 0 --onnx --torch-export --zip

    medseg export --model runs/hippocampus --out bundle --input a.nii.gz --verify-python clean/bin/python

    medseg export --model bundle.zip --out bundle_2 --input a.nii.gz --onnx --version 0.2.0
    """
    from medseg.bundle import FORMATS, ExportOptions, channels_of, export_bundle, statement_of
    from medseg.io import find_cases

    said = {
        "version": version,
        "changes": changes,
        "authors": authors,
        "copyright": copyright_notice,
        "license": license_name,
        "intended_use": intended_use,
        "data_source": data_source,
    }
    wanted = zip(FORMATS, (torch_export, torchscript, onnx, openvino), strict=True)
    options = ExportOptions(
        folds=_folds(fold),
        checkpoint=checkpoint,
        formats=tuple(name for name, chosen in wanted if chosen),
        archive=as_zip,
        cases=tuple(find_cases(images, channels_of(model))) if images else (),
        python=verify_python,
        scores=scores,
        statement=statement_of(model, {key: text for key, text in said.items() if text is not None}),
        license_file=license_file,
        trust=trust,
    )
    with bars() as progress:
        exported = export_bundle(model, out, options, progress)
    _show(exported, as_json)


def _folds(text: str) -> tuple[int, ...] | None:
    if text == "all":
        return None
    if text.isdigit():
        return (int(text),)
    raise typer.BadParameter(f"'{text}' is neither a number from 0 nor 'all'", param_hint="--fold")


def _show(exported: Exported, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "bundle": str(exported.bundle),
                "archive": None if exported.archive is None else str(exported.archive),
                "cases": exported.cases_as_json(),
                "formats": [report.as_json() for report in exported.formats],
            }
        )
        return
    rows = [
        [
            str(number),
            " x ".join(map(str, case.shape)),
            " x ".join(f"{length:.3g}" for length in case.spacing_mm),
            case.axcodes,
            str(case.differing),
            f"{case.differing_near_ties} of {case.near_ties}",
            "" if case.probability_difference is None else f"{case.probability_difference:.1e}",
        ]
        for number, case in enumerate(exported.cases, start=1)
    ]
    columns = ["case", "voxels", "mm", "stored as", "other labels", "at near ties", "probabilities"]
    print_table("The bundle against medseg", columns, rows, text_columns=(0, 1, 2, 3))
    if exported.formats:
        formats = [
            [
                report.file,
                f"{report.difference:.1e}",
                str(report.other_labels),
                f"{report.other_size_difference:.1e}",
                str(report.other_size_labels),
            ]
            for report in exported.formats
        ]
        headings = ["file", "logits", "labels", "logits, other size", "labels, other size"]
        print_table("Formats against PyTorch", headings, formats)
    status(f"Bundle: {exported.bundle}")
    if exported.archive is not None:
        status(f"Archive: {exported.archive}")
