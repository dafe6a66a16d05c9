"""``medseg data``: the catalogue, fetching, checking and splitting of datasets."""

from __future__ import annotations

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
    status,
)
from medseg.errors import InputError

if TYPE_CHECKING:
    from medseg.data.check import CheckReport

__all__ = ["app"]

app = typer.Typer()

DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="D",
        help="A folder with a dataset.json (Medical Segmentation Decathlon or nnU-Net raw), a MONAI datalist "
        "(.json), or the name of a fetched dataset.",
    ),
]
ManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="A catalogue of your own, in data_manifest.json's form.")
]


@app.command("list")
def list_datasets(
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Show the datasets that can be fetched by name.

    Example: medseg data list
    """
    from medseg.data.fetch import is_fetched
    from medseg.data.manifest import data_home, load_manifest

    catalogue = load_manifest(manifest)
    if as_json:
        print_json(catalogue.model_dump(mode="json"))
        return
    rows = [
        (
            entry.name,
            f"{entry.modality}: {entry.task}",
            _or_unknown(entry.training_cases),
            "-" if entry.layout == "generated" else _or_unknown(_megabytes(entry.size_bytes)),
            entry.licence,
            "yes" if is_fetched(entry, data_home()) else "no",
        )
        for entry in catalogue.datasets
    ]
    columns = ("name", "task", "cases", "MB", "licence", "here")
    print_table(f"Datasets; those that are here lie in {data_home()}", columns, rows, text_columns=(0, 1))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that 'medseg data list' shows.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to put it in; $MEDSEG_DATA or ~/.medseg/data by default."),
    ] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Do not delete the archive once it is unpacked.")
    ] = False,
    manifest: ManifestOption = None,
    quiet: QuietOption = False,  # noqa: ARG001
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Download, verify and unpack a dataset; go on where an earlier call stopped.

    Example: medseg data fetch Task04_Hippocampus --out data
    """
    from medseg.data.fetch import fetch_dataset, is_fetched
    from medseg.data.manifest import data_home, load_manifest

    entry = load_manifest(manifest).entry(name)
    home = data_home() if out is None else out
    was_there = is_fetched(entry, home)
    with bars() as progress:
        folder = fetch_dataset(entry, home, keep_archive=keep_archive, progress=progress)
    status(f"{entry.name} ({entry.licence}) {'is there already' if was_there else 'is ready'}: {folder}")
    if as_json:
        print_json({"name": entry.name, "folder": str(folder), "was_there": was_there})


@app.command()
def check(
    dataset: DatasetArgument,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Cases read at a time.")] = None,
    quiet: QuietOption = False,  # noqa: ARG001
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Look for what ruins trainings: missing, damaged, mismatched and mislabelled files, and outliers.

    Leaves with exit code 2 if there are errors, with 0 if there are warnings only.

    Example: medseg data check data/Task04_Hippocampus
    """
    from medseg.data.check import check_dataset

    with bars() as progress:
        report = check_dataset(dataset, jobs=jobs, progress=progress)
    if as_json:
        print_json(_as_json(report))
    elif report.findings:
        rows = [(found.severity, found.case, found.check, found.message) for found in report.findings]
        columns = ("severity", "case", "check", "message")
        print_table(report.dataset, columns, rows, text_columns=range(len(columns)))
    errors, warnings = len(report.errors), len(report.warnings)
    status(f"{report.dataset}: {report.cases} cases, {errors} errors, {warnings} warnings")
    if report.errors:
        raise typer.Exit(InputError.exit_code)


@app.command()
def split(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    folds: Annotated[
        int | None, typer.Option("--folds", help="By default as many as the datalist declares, or 5, or one a case.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed deals the cases differently.")] = 0,
    quiet: QuietOption = False,  # noqa: ARG001
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Deal the cases to cross-validation folds; the same cases and seed give the same folds everywhere.

    Example: medseg data split data/Task04_Hippocampus --folds 5 --out split.json
    """
    from medseg.data.layouts import load_dataset, split_dataset

    dealt = split_dataset(load_dataset(dataset), folds, seed)
    dealt.save(out)
    sizes = ", ".join(str(len(fold)) for fold in dealt.folds)
    status(f"{out}: {len(dealt.case_ids)} cases, validating in {len(dealt.folds)} folds: {sizes}")
    if as_json:
        print_json(dealt.model_dump(mode="json"))


def _as_json(report: CheckReport) -> dict[str, Any]:
    return {
        "dataset": report.dataset,
        "cases": report.cases,
        "errors": len(report.errors),
        "warnings": len(report.warnings),
        "findings": [
            {"severity": f.severity, "case": f.case, "check": f.check, "message": f.message}
            for f in report.findings
        ],
    }


def _megabytes(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else round(size_bytes / 1e6)


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)
