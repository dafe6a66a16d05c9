"""Label maps as DICOM objects: do others find the same voxels in the same place, and is it valid DICOM?

Writes a volume with 40 labels, oblique and anisotropic, as binary SEG, as label map SEG and as RTSTRUCT;
reads them with highdicom, dcmqi's ``segimage2itkimage`` and SimpleITK, and compares every voxel and the
centroid of every structure. With ``dciodvfy`` (Debian's dicom3tools) it looks for errors that the images do
not have. Prints Markdown:

    PYTHONPATH=. python benchmarks/dicom_segmentations.py --out runs/dicom_seg [--dcmqi BIN/segimage2itkimage]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from measured import table

from medseg.io.dicom import DicomVolume, scan_dicom
from medseg.io.dicom.segmentations import FORMS, read_contours, read_segmentation, write_object
from medseg.io.dicom.segmentations.proof import centroids_mm
from medseg.labels import LabelScheme
from medseg.volume import Volume
from tests.data.dicom import LPS_FROM_RAS, affine_of, phantom, write_series

SHAPE = (192, 160, 60)
SPACING_MM = (0.8, 0.7, 2.5)
ROTATION_DEGREES = (21.0, -14.0, 33.0)
LABELS = 40
VALUES = tuple(range(3, 3 + 5 * LABELS, 5))
"""Values that are not contiguous, as label maps have them."""

Masks = dict[int, np.ndarray]
Reader = Callable[[Path, Path], tuple[Masks, np.ndarray]]
"""From an object, with a folder to work in, to masks (X, Y, Z) by structure, 1 to 40, and the affine."""


def main() -> None:
    """Write, read by all, validate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dcmqi", type=Path, help="segimage2itkimage")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.out, ignore_errors=True)
    affine = affine_of(ROTATION_DEGREES, SPACING_MM, SHAPE)
    write_series(chosen.out / "ct", phantom(SHAPE, affine), affine)
    (volume,) = scan_dicom(chosen.out / "ct").volumes
    labels = forty_labels(volume)
    scheme = LabelScheme.from_names({value: f"structure {value}" for value in VALUES})
    rows = []
    for form in FORMS:
        path = chosen.out / f"{form}.dcm"
        started = time.process_time()
        write_object(form, labels, scheme, volume, path)
        seconds = time.process_time() - started
        errors = errors_of(path, volume)
        for name, read in readers(form, volume, chosen.dcmqi).items():
            place = chosen.out / f"{form}_{name.split()[0]}"
            place.mkdir()
            try:
                same, moved = compared(read(path, place), labels)
            except RuntimeError as error:
                print(f"{form}, {name}: {str(error).splitlines()[-1]}")
                rows.append([form, name, "cannot be read", "", errors, f"{seconds:.1f}"])
                continue
            rows.append([form, name, f"{same} of {LABELS}", f"{moved:.1e}", errors, f"{seconds:.1f}"])
    header = ["form", "read by", "structures equal", "centroids, mm", "new errors", "CPU-s to write"]
    print(table(header, rows))


def forty_labels(volume: DicomVolume) -> Volume:
    """Ellipsoids on a lattice of 5 x 4 x 2, each of a value of its own; they touch here and there."""
    assert volume.grid is not None  # noqa: S101
    shape = volume.grid.shape
    places = np.moveaxis(np.indices(shape), 0, -1)
    array = np.zeros(shape, np.uint8)
    cells = np.array(np.unravel_index(range(LABELS), (5, 4, 2))).T
    for value, cell in zip(VALUES, cells, strict=True):
        centre = (cell + 0.5) / (5, 4, 2) * shape
        radii = np.array(shape) / (5, 4, 2) * np.array([0.52, 0.45, 0.4])
        array[(((places - centre) / radii) ** 2).sum(axis=-1) < 1] = value
    return Volume(array[np.newaxis], volume.grid)


def readers(form: str, volume: DicomVolume, dcmqi: Path | None) -> dict[str, Reader]:
    by_medseg = {"medseg": by_medseg_contours(volume) if form == "rtstruct" else by_medseg_segments}
    if form == "rtstruct":
        return by_medseg
    by_name = {**by_medseg, "highdicom": by_highdicom}
    if dcmqi is not None and form == "dicom-seg":
        by_name["dcmqi, its files by SimpleITK"] = lambda path, place: by_dcmqi(dcmqi, path, place)
    by_name["SimpleITK, frame by frame"] = by_simpleitk
    return by_name


def by_medseg_segments(path: Path, _place: Path) -> tuple[Masks, np.ndarray]:
    found = read_segmentation(path)
    return in_order(found.scheme.values[1:], found.mask), found.grid.affine


def by_medseg_contours(volume: DicomVolume) -> Reader:
    def read(path: Path, _place: Path) -> tuple[Masks, np.ndarray]:
        assert volume.grid is not None  # noqa: S101
        found = read_contours(path, volume.grid)
        return in_order(found.scheme.values[1:], found.mask), found.grid.affine

    return read


def in_order(values: tuple[int, ...], mask_of: Callable[[int], np.ndarray]) -> Masks:
    return {number: mask_of(value) for number, value in enumerate(sorted(values), start=1)}


def by_highdicom(path: Path, _place: Path) -> tuple[Masks, np.ndarray]:
    import highdicom as hd

    seg = hd.seg.segread(path)
    found = seg.get_volume(combine_segments=True, relabel=False)
    array, lps = np.asarray(found.array), np.asarray(found.affine)
    # Its axes run through planes, rows and columns.
    masks = in_order(tuple(seg.segment_numbers), lambda value: (array == value).transpose(2, 1, 0))
    return masks, LPS_FROM_RAS @ lps[:, [2, 1, 0, 3]]


def by_dcmqi(program: Path, path: Path, place: Path) -> tuple[Masks, np.ndarray]:
    command = [program, "--inputDICOM", path, "--outputDirectory", place, "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    masks, affine = {}, np.eye(4)
    for file in place.glob("*.nrrd"):
        image = sitk.ReadImage(file)
        number = int(file.stem.split("-")[0].split("_")[-1])
        masks[number] = sitk.GetArrayFromImage(image).T != 0
        affine = ras_affine(image)
    return masks, affine


def by_simpleitk(path: Path, _place: Path) -> tuple[Masks, np.ndarray]:
    """Voxels alone: ITK knows nothing of frames' places, so they are taken from the header."""
    import pydicom

    array = sitk.GetArrayFromImage(sitk.ReadImage(path))
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    found = read_segmentation(path)
    positions = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in
                 dataset.PerFrameFunctionalGroupsSequence]  # fmt: skip
    planes = np.rint(found.grid.to_index(np.array(positions, float) * [-1, -1, 1])[:, 2]).astype(int)
    numbers = sorted(int(item.SegmentNumber) for item in dataset.SegmentSequence if item.SegmentNumber)
    masks = {number: np.zeros(found.grid.shape, bool) for number in range(1, len(numbers) + 1)}
    for frame, group, plane in zip(array, dataset.PerFrameFunctionalGroupsSequence, planes, strict=True):
        if "SegmentIdentificationSequence" in group:
            number = numbers.index(int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)) + 1
            masks[number][..., plane] |= frame.T != 0
            continue
        for number, value in enumerate(numbers, start=1):
            masks[number][..., plane] |= value == frame.T
    return masks, found.grid.affine


def ras_affine(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_FROM_RAS @ affine


def compared(found: tuple[Masks, np.ndarray], labels: Volume) -> tuple[int, float]:
    """How many structures have the same voxels in the patient, and how far a centroid moved at most."""
    masks, affine = found
    given = centroids_mm(labels.array[0].transpose(2, 1, 0), labels.grid)
    same, farthest = 0, 0.0
    for number, value in enumerate(VALUES, start=1):
        mask = masks.get(number)
        if mask is None or not mask.any():
            farthest = np.inf
            continue
        voxels = np.argwhere(mask)
        places = voxels @ affine[:3, :3].T + affine[:3, 3]
        farthest = max(farthest, float(np.linalg.norm(places.mean(axis=0) - given[value])))
        indices = np.rint(labels.grid.to_index(places)).astype(int)
        wanted = np.argwhere(labels.array[0] == value)
        same += len(indices) == len(wanted) and set(map(tuple, indices)) == set(map(tuple, wanted))
    return same, farthest


def errors_of(path: Path, volume: DicomVolume) -> str:
    """Errors that dciodvfy finds in an object, and in none of its images."""
    program = shutil.which("dciodvfy")
    if program is None:
        return "not looked for"
    ours = told_by(program, path) - told_by(program, volume.frames[0].path)
    for error in sorted(ours):
        print(f"{path.name}: {error}")
    return str(len(ours))


def told_by(program: str, path: Path) -> set[str]:
    done = subprocess.run([program, str(path)], capture_output=True, text=True, errors="replace", check=False)
    return {line.strip() for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


if __name__ == "__main__":
    main()
