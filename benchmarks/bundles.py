"""Do bundles give what medseg gives, on images unlike each other, and what does an export take?

Each run is exported in every format and as one file, twice, to see that the archive is the same each
time; and proven on ten real images of different shapes, spacings and orientations:

    python benchmarks/bundles.py RUN … --data SHARED_DATA --out DIR [--python PYTHON_WITH_MONAI_ALONE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from medseg.bundle import FORMATS, Exported, ExportOptions, export_bundle
from medseg.files import sha256_of
from medseg.io import find_cases

IMAGES = (
    "mr/hippocampus/imagesTr/hippocampus_001.nii.gz",
    "mr/hippocampus/imagesTr/hippocampus_003.nii.gz",
    "mr/spinal_cord/t2/t2.nii.gz",
    "mr/spinal_cord/t1/t1w.nii.gz",
    "mr/spinal_cord/mt/mt1.nii.gz",
    "dicom/dicom2nifti/generic/anatomical/002_non_isotropic_ground_truth.nii.gz",
    "dicom/dicom2nifti/generic/anatomical/001_ground_truth.nii.gz",
    "dicom/dicom2nifti/generic/anatomical/001_ground_truth_reoriented.nii.gz",
    "mr/vertebra/sub-mri_label-6_T2w.nii.gz",
    "ct/vertebra/sub-ct_label-22_ct.nii.gz",
)


def main() -> None:
    """Export each run twice; print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True, type=Path, help="the folder of real test data")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--python", help="runs the bundles for their proof")
    given = parser.parse_args()
    cases = tuple(find_cases([given.data / name for name in IMAGES], 1))
    for run in given.runs:
        started = time.monotonic()
        plain = ExportOptions(formats=FORMATS, archive=True)
        first = export_bundle(run, given.out / "first" / run.name, plain)
        seconds = time.monotonic() - started
        again = export_bundle(run, given.out / "again" / run.name, plain)
        proven = export_bundle(
            run, given.out / "proven" / run.name, ExportOptions(cases=cases, python=given.python)
        )
        print(f"\n### {run.name}\n\n{told(proven)}\n\n{formats_of(first)}\n")
        same = sha256_of(first.archive or run) == sha256_of(again.archive or run)
        print(
            f"In every format, proven on one case: {seconds:.0f} s. "
            f"The archives are {'the same' if same else 'OTHERS'}."
        )


def told(exported: Exported) -> str:
    """The cases, as Markdown."""
    rows = [
        f"| {' x '.join(map(str, case.shape))} "
        f"| {' x '.join(f'{length:.3g}' for length in case.spacing_mm)} "
        f"| {case.axcodes}{' oblique' * case.oblique} | {case.differing} | {case.differing_near_ties} of "
        f"{case.near_ties} | {case.probability_difference:.1e} |"
        for case in exported.cases
    ]
    head = [
        "| voxels | mm | stored as | other labels | at near ties | probabilities |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def formats_of(exported: Exported) -> str:
    """The formats, as Markdown."""
    rows = [
        f"| {report.format} | {report.difference:.1e} | {report.other_labels} of {report.voxels} | "
        f"{report.other_size_difference:.1e} | {report.other_size_labels} |"
        for report in exported.formats
    ]
    head = ["| format | logits | labels | logits, other size | labels, other size |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
