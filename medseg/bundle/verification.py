"""Proof that a bundle gives what medseg gives: label maps and probabilities of real cases, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medseg.bundle.clean_process import CleanPython
from medseg.bundle.content import BundleContent
from medseg.errors import BundleError, GeometryError, InputError
from medseg.io import Case, read_volume, split_suffix, write_volume
from medseg.postprocessing import postprocess
from medseg.segmenters import EnsembleSegmenter, Segmenter, load_segmenter, open_image
from medseg.volume import Volume

__all__ = [
    "MARGIN",
    "TOLERANCE",
    "CaseAgreement",
    "as_json",
    "compare_case",
    "placed_case",
    "require_agreement",
    "verify_bundle",
]

TOLERANCE = 1e-4
"""Largest difference between the bundle's probabilities and medseg's."""

MARGIN = 2 * TOLERANCE
"""Where the two best classes are nearer to each other than this, either may win."""

_NIFTI = (".nii", ".nii.gz")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CaseAgreement:
    """What the bundle and medseg make of one image.

    Attributes:
        shape: Voxels of the image along each axis.
        spacing_mm: Their distances.
        axcodes: Orientation in which they are stored.
        oblique: Whether the image's axes are turned against the body's.
        voxels: How many there are.
        near_ties: Voxels whose two best classes are nearer to each other than ``MARGIN``.
        differing_near_ties: Those of them that have another label.
        differing: Other voxels that have another label; of a bundle that agrees, none.
        probability_difference: The largest; ``None`` where the bundle writes no probabilities.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axcodes: str
    oblique: bool
    voxels: int
    near_ties: int
    differing_near_ties: int
    differing: int
    probability_difference: float | None

    @property
    def agrees(self) -> bool:
        """Whether the bundle gives what medseg gives."""
        return self.differing == 0 and (self.probability_difference or 0.0) <= TOLERANCE


def verify_bundle(
    bundle: Path, content: BundleContent, cases: Sequence[Case], python: CleanPython, scratch: Path
) -> list[CaseAgreement]:
    """Segment cases by the bundle, where medseg cannot be imported, and by medseg; compare.

    Args:
        bundle: The bundle's folder.
        content: The run that it was made of.
        cases: Images.
        python: Where the bundle runs.
        scratch: A folder for images and results.

    Raises:
        BundleError: The bundle does not run, or gives something else.
        InputError: A case has other channels, or cannot be read.
    """
    images, results = scratch / "images", scratch / "results"
    placed = [placed_case(case, f"case_{number}", images) for number, case in enumerate(cases, start=1)]
    python.bundle(
        bundle,
        "run",
        *("--config_file", "configs/inference.yaml"),
        *("--meta_file", "configs/metadata.json"),
        *("--logging_file", "configs/logging.conf"),
        *("--dataset_dir", str(images)),
        *("--output_dir", str(results)),
        *("--save_probabilities", "True"),
        *("--device", "$torch.device('cpu')"),
    )
    segmenter = _segmenter(content)
    found = []
    for number, (case, files) in enumerate(zip(cases, placed, strict=True), start=1):
        name = split_suffix(files[0])[0]  # MONAI names results after the first file of a case
        labels = _result(results / f"{name}.nii.gz", case)
        probabilities = _result(results / f"{name}_probabilities.nii", case)
        found.append(compare_case(segmenter, files, labels, probabilities))
        require_agreement(found[-1], number)
    return found


def require_agreement(found: CaseAgreement, number: int) -> None:
    """Refuse a bundle that gives something else than medseg.

    Raises:
        BundleError: It does, on the case of this number.
    """
    if not found.agrees:
        raise BundleError(
            f"the bundle gives another label to {found.differing} voxels of {found.voxels}, and "
            f"probabilities that differ by {found.probability_difference or 0.0:.2g}",
            where=f"verification on case {number}",
            fix="report this; nothing was written",
        )


def compare_case(
    segmenter: Segmenter, files: Sequence[Path], labels: Volume, probabilities: Volume | None = None
) -> CaseAgreement:
    """Compare a bundle's results for one image with a segmenter's.

    Args:
        segmenter: medseg's.
        files: The image, in one file or in one a channel.
        labels: The bundle's label map, on the image's grid.
        probabilities: The bundle's probabilities, (K, X, Y, Z), on the same grid, where it writes them.

    Raises:
        GeometryError: The bundle's results lie on another grid than the image.
    """
    with open_image(files, segmenter.channel_names) as image:
        grid, stage = image.grid, segmenter.scores(image)
        scores = stage.read(0, stage.length)
    for result in (labels, probabilities):
        if result is not None and (difference := grid.difference(result.grid)):
            raise GeometryError(f"the bundle's result lies on another grid: {difference}", where=files[0])
    is_mean = isinstance(segmenter, EnsembleSegmenter)
    expected: FloatArray = (scores if is_mean else torch.softmax(scores, dim=0)).numpy()
    scheme = segmenter.labels
    own = scheme.to_values(expected.argmax(axis=0))
    postprocess(own, scheme, grid.spacing_mm, segmenter.postprocess, out=own)
    second, first = np.partition(expected, -2, axis=0)[-2:]
    near = first - second < MARGIN
    other = own != labels.array[0]
    apart = None if probabilities is None else float(np.abs(expected - probabilities.array).max())
    tilted = np.abs(np.sort(np.abs(grid.directions), axis=0)[:2]).max() > 1e-3
    return CaseAgreement(
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        axcodes=grid.axcodes,
        oblique=bool(tilted),
        voxels=grid.voxel_count,
        near_ties=int(near.sum()),
        differing_near_ties=int((other & near).sum()),
        differing=int((other & ~near).sum()),
        probability_difference=apart,
    )


def as_json(cases: Sequence[CaseAgreement]) -> list[dict[str, Any]]:
    """For ``docs/verification.json``: cases by number, for their names are nobody's business."""
    return [{"case": number, **asdict(case)} for number, case in enumerate(cases, start=1)]


def _segmenter(content: BundleContent) -> Segmenter:
    """The folds of the bundle, as ``medseg predict --mode sliding-window`` runs them on a processor."""
    without_objects = content.postprocess.model_copy(update={"instances": None})
    members = [
        load_segmenter(
            content.source,
            "cpu",
            fold=fold,
            checkpoint=content.checkpoint if content.earlier is None else "last",
            mode="sliding-window",
            postprocess=without_objects,
        )
        for fold in content.folds
    ]
    return members[0] if len(members) == 1 else EnsembleSegmenter(members)


def placed_case(case: Case, name: str, folder: Path) -> list[Path]:
    """The files of a case as the bundle finds them; linked if they are NIfTI, else converted."""
    folder.mkdir(parents=True, exist_ok=True)
    if case.dicom is not None:
        raise InputError("is a DICOM series, which a bundle does not read", where=case.id, fix="convert it")
    placed = []
    for channel, source in enumerate(case.images):
        suffix = split_suffix(source)[1]
        stem = name if len(case.images) == 1 else f"{name}_{channel:04}"
        target = folder / f"{stem}{suffix if suffix in _NIFTI else '.nii'}"
        if suffix in _NIFTI:
            target.symlink_to(source.resolve())
        else:
            write_volume(read_volume(source), target)
        placed.append(target)
    return placed


def _result(path: Path, case: Case) -> Volume:
    if not path.is_file():
        raise BundleError(f"wrote no {path.name}", where=f"the bundle, for {case.id}", fix="report this")
    return read_volume(path)
