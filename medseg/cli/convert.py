"""``medseg convert``: DICOM folders to volumes, volumes to other formats, label maps to DICOM and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.cli.console import (
    DebugOption,
    JsonOption,
    QuietOption,
    bars,
    output,
    print_json,
    print_table,
    status,
)

if TYPE_CHECKING:
    from medseg.conversion import ConversionReport, ConvertedVolume

__all__ = ["command"]


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A folder of DICOM files, a DICOM file, or a volume.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder; or a file, as ct.nii.gz, for one volume.")
    ],
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Also resample uneven spacing, and interpolate missing slices; tilt always is."
        ),
    ] = False,
    keep_names: Annotated[
        bool,
        typer.Option(
            "--keep-names", help="Name files by series number and description; they may tell who it is."
        ),
    ] = False,
    stack: Annotated[
        bool,
        typer.Option("--stack", help="Write the volumes of a series as channels of one, where grids agree."),
    ] = False,
    series: Annotated[
        Path | None,
        typer.Option("--source", help="The folder of the DICOM images that a label map or SEG belongs to."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="With OUT as .dcm: a dataset.json that names the classes."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="With OUT as .dcm: dicom-seg, dicom-labelmap or rtstruct.")
    ] = "dicom-seg",
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read headers.", show_default="as many as is worth while"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,  # noqa: ARG001
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Convert DICOM folders to volumes, label maps to DICOM SEG, and back; each is read back and compared.

    A volume whose geometry cannot be trusted is refused, with the reason; the others are written, and the
    exit code is not 0. Beside each lies a JSON file with verdict, repairs and hashes of its source.

    Examples:
    medseg convert scanner/ volumes/

    medseg convert scanner/ct/ ct.nii.gz --repair

    medseg convert scanner/dwi/ volumes/ --stack --keep-names

    medseg convert ct.nii.gz ct.nrrd

    medseg convert labels.nii.gz labels.dcm --source scanner/ct/ --labels dataset.json

    medseg convert labels.dcm labels.nii.gz --source scanner/ct/
    """
    from medseg.conversion import convert
    from medseg.io.dicom import Repairs

    with bars() as progress:
        report = convert(
            source,
            out,
            repairs=Repairs(uneven=repair, missing=repair),
            keep_names=keep_names,
            channels="stacked" if stack else "apart",
            series=series,
            labels=labels,
            form=form,
            processes=jobs,
            progress=progress,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        _show(report)
    for warning in report.warnings:
        status(f"medseg: {warning}")
    missing = [volume for volume in report.volumes if volume.error is not None]
    if missing:
        print(f"medseg: {_not_written(len(missing), len(report.volumes))}", file=sys.stderr)
    return report.exit_code


def _not_written(missing: int, volumes: int) -> str:
    if volumes == 1:
        return "the volume was not written"
    return f"{missing} of {volumes} volumes {'was' if missing == 1 else 'were'} not written"


def _show(report: ConversionReport) -> None:
    # Descriptions may hold names: they are for the eyes of whoever sits at the terminal.
    labelled = output.is_terminal and any(volume.label for volume in report.volumes)
    columns = ["name", "outcome", "modality", "verdict", "size", "spacing mm", "file, or reason"]
    rows = [_row(volume) + ([volume.label] if labelled else []) for volume in report.volumes]
    print_table(
        "Volumes", [*columns, *(["series"] if labelled else [])], rows, text_columns=(0, 1, 2, 3, 6, 7)
    )
    if report.set_aside:
        counts = [[kind, str(count)] for kind, count in report.set_aside.items()]
        print_table("Set aside", ["kind", "files"], counts)


def _row(volume: ConvertedVolume) -> list[str]:
    size = " x ".join(map(str, volume.shape))
    remarks = [*volume.notes, *([str(volume.error)] if volume.error is not None else [])]
    return [
        volume.name,
        volume.outcome.value,
        volume.modality,
        " ".join([volume.status, *volume.reasons]),
        f"{size} x {volume.channels}" if volume.channels > 1 else size,
        " x ".join(f"{length:.4g}" for length in volume.spacing_mm),
        "; ".join([volume.file, *remarks] if volume.file else remarks),
    ]
