"""From a folder of results to its report."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.comparison.comparison_report import write_comparison_report
from medseg.comparison.evaluation_folder import EvaluationFolder
from medseg.comparison.evaluation_report import evaluation_page
from medseg.comparison.folder import SETTINGS_JSON, ComparisonFolder
from medseg.comparison.instance_report import InstanceFolder, instance_page
from medseg.comparison.page import require_report_packages, write_page
from medseg.comparison.pair_report import PairFolder, pair_page
from medseg.errors import InputError
from medseg.evaluation.comparison import COMPARISON_JSON
from medseg.evaluation.tables import INSTANCES_CSV, METRICS_CSV

__all__ = ["REPORT_HTML", "write_report"]

REPORT_HTML = "report.html"


def write_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Path:
    """Write the report of an evaluation or a comparison as one HTML file that needs nothing else.

    Args:
        folder: What ``medseg evaluate`` or ``medseg compare`` wrote.
        out: The file; by default ``report.html`` in the folder.
        images: Folder of the cases' images, to draw on; by default the one that the evaluation drew on.
        title: Above everything; by default the folder's name.

    Returns:
        The file.

    Raises:
        InputError: The folder holds no such results, or they are damaged; or ``images`` holds no image of
            any case.
        ConfigError: matplotlib or jinja2 is not installed.
        ResourceError: The file cannot be written.
    """
    require_report_packages()
    path = Path(folder)
    target = path / REPORT_HTML if out is None else Path(out)
    if not path.is_dir():
        raise InputError("is no folder", where=path, fix="give the folder that 'medseg evaluate' wrote")
    if (path / SETTINGS_JSON).is_file():
        write_comparison_report(ComparisonFolder.open(path), target, images, title)
        return target
    if (path / COMPARISON_JSON).is_file():
        write_page(pair_page(PairFolder.open(path), images, title), target)
        return target
    if (path / INSTANCES_CSV).is_file():
        write_page(instance_page(InstanceFolder.open(path), title), target)
        return target
    if not (path / METRICS_CSV).is_file():
        cure = "give the --out folder of 'medseg evaluate' or 'medseg compare'"
        raise InputError(f"holds no {METRICS_CSV}", where=path, fix=cure)
    write_page(evaluation_page(EvaluationFolder.open(path), images, title), target)
    return target
