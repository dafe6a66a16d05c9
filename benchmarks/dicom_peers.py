"""DICOM folders, healthy and faulty: what becomes of each by medseg and by its peers?

Writes the phantoms of ``tests/data/dicom_cases.py`` and takes the real series of ``--data``. Each is
converted by medseg (with ``--repair`` too where that may help), dcm2niix, dicom2nifti (their defaults),
SimpleITK's series reader, MONAI's ``PydicomReader`` and ``ITKReader``; what they write is compared with the
truth. Prints Markdown; the same in ``results.json``:

    PYTHONPATH=. python benchmarks/dicom_peers.py --out runs/dicom [--data DATA] [--peers-bin BIN] \
        [--peers-site SITE_PACKAGES]

right: voxels and affine are the truth's, after reorientation. repaired: resampled, and what is seen lies
within half a voxel of where it was. refused: nothing was written, or a volume is absent and the exit code
says so. silently wrong: anything else; what was said on standard error does not count.

``--peers-bin`` is the folder of ``dcm2niix`` and ``dicom2nifti``, ``--peers-site`` that of ``itk``. The truth
of a real series is the NIfTI
file beside it, else its slices stacked by position. ``--out`` is emptied first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from dicom_judge import Judgement, Outcome, judge, read_outputs
from measured import MEDSEG, table
from peers.dicom_readers import by_monai, by_monai_itk, by_simpleitk
from pydicom.pixels import apply_rescale

from medseg.files import write_json
from tests.data.dicom import LPS_FROM_RAS, SeriesTruth
from tests.data.dicom_cases import CASES, Written

SECONDS = 300
REPAIR = "medseg --repair"
Converter = Callable[[Path, Path], bool]
"""From a DICOM folder to a folder of NIfTI files; whether it ended without an error."""


@dataclass(frozen=True, eq=False)
class Folder:
    """One row of the table.

    Attributes:
        name: Shown.
        path: The DICOM files.
        written: The truth.
        phantom: Whether its landmarks are known.
    """

    name: str
    path: Path
    written: Written
    phantom: bool


def main() -> None:
    """Write phantoms, convert all folders by all converters, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--data", type=Path, help="a folder with dicom/ and seg/")
    parser.add_argument("--peers-bin", type=Path, help="where dcm2niix and dicom2nifti are")
    parser.add_argument("--peers-site", type=Path, help="the site-packages that hold itk")
    parser.add_argument("--only", nargs="+", default=[], help="names of converters")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.out, ignore_errors=True)
    folders = list(phantoms(chosen.out / "phantoms"))
    if chosen.data is not None:
        folders += real_series(chosen.data, chosen.out / "real")
    by_name = converters(chosen.peers_bin, chosen.peers_site)
    names = [name for name in by_name if not chosen.only or name in chosen.only]
    judged = {
        folder.name: {
            name: convert(folder, by_name[name], chosen.out / name)
            for name in names
            if name != REPAIR or folder.written.mendable
        }
        for folder in folders
    }
    report(judged, names, chosen.out)


def phantoms(out: Path) -> Iterator[Folder]:
    for name, make in CASES.items():
        path = out / name.replace(" ", "_").replace("%", "percent")
        yield Folder(name, path, make(path), phantom=True)


def real_series(data: Path, links: Path) -> Iterator[Folder]:
    """The series of the test data, a folder for each."""
    for reference in sorted((data / "dicom" / "dicom2nifti").rglob("*_ground_truth.nii.gz")):
        path = reference.with_name(reference.name.removesuffix("_ground_truth.nii.gz"))
        yield _referenced(path, reference, data)
    syntaxes = data / "dicom" / "transfer_syntaxes"
    for file in sorted((syntaxes / "In").glob("*.dcm")):
        path = links / f"transfer_syntax_{file.stem}"
        path.mkdir(parents=True)
        shutil.copy(file, path)
        yield _referenced(path, syntaxes / "Ref" / f"{file.stem}.nii", links)
    enhanced = data / "dicom" / "xa30_enhanced"
    for reference in sorted(enhanced.glob("*.nii")):
        yield _referenced(reference.with_suffix(""), reference, data)
    stacks = [data / "dicom" / "ge_ct_gantry_tilt", *sorted((data / "seg" / "dcmqi").glob("*/image"))]
    for path in [*stacks, data / "seg" / "dcmqi" / "ct-3slice"]:
        written = Written(stacked(path), mendable="tilt" in path.name)
        yield Folder(str(path.relative_to(data)), path, written, phantom=False)


def _referenced(path: Path, reference: Path, data: Path) -> Folder:
    image = nib.load(reference)
    array = np.asanyarray(image.dataobj)
    truth = SeriesTruth(array["R"] if array.dtype.names else array, image.affine, "")
    return Folder(str(path.relative_to(data)), path, Written((truth,)), phantom=False)


def stacked(path: Path) -> tuple[SeriesTruth, ...]:
    """Slices in the order of their positions along the normal, each where it says that it lies.

    Slices of another thickness are a volume of their own; a file that holds both is as good as two.
    """
    datasets = [pydicom.dcmread(file) for file in sorted(path.glob("*.dcm"))]
    thicknesses = sorted({float(dataset.SliceThickness) for dataset in datasets})
    return tuple(
        _stack([dataset for dataset in datasets if dataset.SliceThickness == thickness])
        for thickness in thicknesses
    )


def _stack(datasets: list[pydicom.Dataset]) -> SeriesTruth:
    across, down = np.reshape(datasets[0].ImageOrientationPatient, (2, 3)).astype(float)
    datasets.sort(key=lambda dataset: np.dot(np.cross(across, down), dataset.ImagePositionPatient))
    positions = np.array([dataset.ImagePositionPatient for dataset in datasets], dtype=float)
    between_rows, between_columns = map(float, datasets[0].PixelSpacing)
    lps = np.eye(4)
    step = np.diff(positions, axis=0).mean(axis=0)
    lps[:3, :3] = np.stack([across * between_columns, down * between_rows, step], axis=1)
    lps[:3, 3] = positions[0]
    array = np.stack([apply_rescale(dataset.pixel_array, dataset).T for dataset in datasets], axis=-1)
    return SeriesTruth(array, LPS_FROM_RAS @ lps, "", origins_mm=positions @ LPS_FROM_RAS[:3, :3])


def converters(peers_bin: Path | None, peers_site: Path | None) -> dict[str, Converter]:
    medseg = [*MEDSEG, "convert", "{source}", "{out}"]
    by_name: dict[str, Converter] = {
        "medseg": partial(by_command, medseg),
        REPAIR: partial(by_command, [*medseg, "--repair"]),
    }
    if peers_bin is not None:
        by_name["dcm2niix"] = partial(
            by_command, [str(peers_bin / "dcm2niix"), "-o", "{out}", "-f", "%s_%e", "{source}"]
        )
        by_name["dicom2nifti"] = partial(by_command, [str(peers_bin / "dicom2nifti"), "{source}", "{out}"])
    by_name["SimpleITK"] = Library(by_simpleitk)
    by_name["MONAI, pydicom"] = Library(by_monai)
    if peers_site is not None:
        by_name["MONAI, ITK"] = Library(by_monai_itk, peers_site)
    return by_name


def by_command(command: Sequence[str], source: Path, out: Path) -> bool:
    filled = [part.format(source=source, out=out) for part in command]
    with (out.parent / f"{out.name}.log").open("wb") as log:
        done = subprocess.run(filled, stdout=log, stderr=log, timeout=SECONDS, check=False)
    return done.returncode == 0


def also_import_from(site: Path | None) -> None:
    if site is not None:
        sys.path.append(str(site))


class Library:
    """A reader in a process of its own, which lasts until a broken file takes it down."""

    def __init__(self, read: Callable[[Path, Path], None], site: Path | None = None) -> None:
        self.read = read
        self.site = site
        self.pool: ProcessPoolExecutor | None = None

    def __call__(self, source: Path, out: Path) -> bool:
        """Read a folder, write what was read; whether it went well."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                # Behind all else, so that what is installed here stays what is used.
                initializer=also_import_from,
                initargs=(self.site,),
            )
        error = self.pool.submit(self.read, source, out).exception(timeout=SECONDS)
        (out.parent / f"{out.name}.log").write_text(repr(error))
        if isinstance(error, BrokenProcessPool):
            self.pool = None
        return error is None


def convert(folder: Folder, converter: Converter, out: Path) -> Judgement:
    place = out / folder.name.replace("/", "_").replace(" ", "_")
    place.mkdir(parents=True)
    succeeded = converter(folder.path, place)
    outputs = read_outputs(place)
    print(f"{folder.name}: {out.name} wrote {len(outputs)}", file=sys.stderr)
    return judge(outputs, folder.written, not succeeded, folder.phantom)


def report(judged: dict[str, dict[str, Judgement]], names: Sequence[str], out: Path) -> None:
    rows = [
        [series, *(str(by[name].outcome) if name in by else None for name in names)]
        for series, by in judged.items()
    ]
    print(table(["series", *names], rows))
    counts = {name: Counter(by[name].outcome for by in judged.values() if name in by) for name in names}
    print()
    print(table(["", *names], [[outcome, *(counts[name][outcome] for name in names)] for outcome in Outcome]))
    print()
    for series, by in judged.items():
        for name, one in by.items():
            if one.note:
                print(f"- {series}, {name}: {one.note}")
    libraries = {name: version(name) for name in ("pydicom", "SimpleITK", "monai")}
    content: dict[str, Any] = {
        "platform": platform.platform(),
        "versions": libraries,
        "series": {series: {name: asdict(one) for name, one in by.items()} for series, by in judged.items()},
    }
    write_json(content, out / "results.json")
    print(json.dumps(libraries))


if __name__ == "__main__":
    main()
