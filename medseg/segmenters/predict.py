"""Many cases, each on its own: one that fails leaves the others alone."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medseg.errors import ConfigError, InputError, MedsegError, ResourceError, did_you_mean
from medseg.files import require_writable_folder, write_json
from medseg.io import Case, read_volume, split_suffix
from medseg.labels import LabelScheme
from medseg.progress import Progress, SilentProgress, track
from medseg.registry import VOLUME_FORMATS
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters.cases import Segmented, instances_path, segment_to_file
from medseg.segmenters.protocol import Segmenter
from medseg.segmenters.segmentation_plan import SegmentationPlan

if TYPE_CHECKING:
    from medseg.io.dicom.verdict import Verdict

__all__ = ["CaseOutcome", "exit_code", "output_paths", "predict_cases", "predict_jobs", "write_summary"]

_FALLBACK_SUFFIX = ".nii.gz"  # for images in a format that can be read but not written, and for DICOM


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case.

    Attributes:
        case_id: The case.
        seconds: How long it took.
        output: The label map that was written; ``None`` if it failed.
        voxels: Number of voxels of each structure that was found, by name, without the background.
        plan: How it was done, and what memory was planned for; ``None`` if it failed.
        objects: How many objects were told apart, and written to ``instances/``; ``None`` where they were not
            asked for, or it failed.
        error: Why it failed; ``None`` if it did not.
        verdict: On the geometry of a DICOM volume; ``None`` for other images.
        notes: What else the user should know of what was written.
    """

    case_id: str
    seconds: float
    output: Path | None
    voxels: dict[str, int]
    plan: SegmentationPlan | None = None
    objects: int | None = None
    error: MedsegError | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "case": self.case_id,
            "status": "done" if self.error is None else "failed",
            "seconds": round(self.seconds, 3),
            "output": None if self.output is None else str(self.output),
            "voxels": self.voxels,
            "objects": self.objects,
            "plan": None if self.plan is None else self.plan.as_dict(),
            "reason": None if self.error is None else str(self.error),
            "geometry": None if self.verdict is None else self.verdict.as_dict(),
            "notes": list(self.notes),
        }


def predict_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    out_folder: str | os.PathLike[str],
    progress: Progress | None = None,
) -> list[CaseOutcome]:
    """Segment cases and write their label maps, named as their images, on their images' grids.

    Args:
        segmenter: The method.
        cases: The images.
        out_folder: Where label maps go; made if need be.
        progress: Shows how far it has come.

    Returns:
        One outcome per case, in their order; a case that failed holds its error.

    Raises:
        InputError: Two cases would be written to one file, or one over an input. Nothing was done.
        ResourceError: The folder cannot be written to. Nothing was done.
    """
    return predict_jobs([(segmenter, case) for case in cases], out_folder, progress)


def predict_jobs(
    jobs: Sequence[tuple[Segmenter, Case]],
    out_folder: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    form: str | None = None,
) -> list[CaseOutcome]:
    """As ``predict_cases``, with a segmenter for each case: validation cases have their fold's own.

    Args:
        jobs: Segmenters and images.
        out_folder: Where label maps go; made if need be.
        progress: Shows how far it has come.
        form: Of DICOM object, such as ``"dicom-seg"``, if label maps are to be written so: one of
            ``medseg.io.dicom.segmentations.FORMS``. Then all images must be DICOM volumes.

    Raises:
        ConfigError: There is no such form, or it cannot hold what was asked for. Nothing was done.
    """
    folder = Path(out_folder)
    cases = [case for _, case in jobs]
    if form is not None:
        _require_form(form, jobs)
    outputs = output_paths(cases, folder, None if form is None else ".dcm")
    if any(segmenter.postprocess.instances for segmenter, _ in jobs):
        _refuse_overwriting([instances_path(path) for path in outputs], cases)
    created = not folder.exists()
    require_writable_folder(folder)
    tasks = list(zip(jobs, outputs, strict=True))
    shown = progress or SilentProgress()
    outcomes = [
        _predict(segmenter, case, output, form, shown)
        for (segmenter, case), output in track(tasks, "Segmenting", shown)
    ]
    if created:
        _remove_if_empty(instances_path(folder / "any").parent)
        _remove_if_empty(folder)
    return outcomes


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _require_form(form: str, jobs: Sequence[tuple[Segmenter, Case]]) -> None:
    """Refuse before work starts what would fail after it."""
    from medseg.io.dicom.segmentations import FORMS  # takes pydicom, which other images do not need

    if form not in FORMS:
        raise ConfigError(f"'{form}' is no form of DICOM object", fix=did_you_mean(form, FORMS))
    other = next((case for _, case in jobs if case.dicom is None), None)
    if other is not None:
        raise ConfigError(
            f"an object of form '{form}' refers to DICOM images, this is none",
            where=other.images[0],
            fix="give a DICOM folder as input, or leave the form out",
        )
    if any(segmenter.postprocess.instances for segmenter, _ in jobs):
        raise ConfigError(
            f"objects that are told apart have no place in form '{form}'",
            where="--postprocess",
            fix="leave one of both out",
        )


def output_paths(cases: Sequence[Case], folder: Path, suffix: str | None = None) -> list[Path]:
    """Where the label map of each case goes: named as its case, in its image's format or with ``suffix``.

    Raises:
        InputError: Two cases would be written to one file, or one over an input.
    """
    paths = [folder / _output_name(case, suffix) for case in cases]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise InputError("would be written by two cases", where=twice[0], fix="give cases names of their own")
    _refuse_overwriting(paths, cases)
    return paths


def _refuse_overwriting(paths: Sequence[Path], cases: Sequence[Case]) -> None:
    inputs = {file.resolve() for case in cases for file in (*case.images, case.label) if file is not None}
    for path in paths:
        if path.resolve() in inputs:
            raise InputError(
                "is an input and would be overwritten", where=path, fix="choose another folder for --out"
            )


def _output_name(case: Case, suffix: str | None) -> str:
    if Path(case.id).name != case.id:
        raise InputError(f"case name '{case.id}' is no file name", fix="rename the case")
    if suffix is not None:
        return f"{case.id}{suffix}"
    if case.dicom is not None:
        return f"{case.id}{_FALLBACK_SUFFIX}"
    suffix = split_suffix(case.images[0])[1]
    if not VOLUME_FORMATS.resolve(suffix)().writes:
        suffix = _FALLBACK_SUFFIX
    return f"{case.id}{suffix}"


def _predict(
    segmenter: Segmenter, case: Case, output: Path, form: str | None, progress: Progress
) -> CaseOutcome:
    started = time.monotonic()
    verdict = None if case.dicom is None else case.dicom.verdict
    notes: tuple[str, ...] = ()
    try:
        if form is None:
            done = segment_to_file(segmenter, case, output, progress)
        else:
            done, notes = _segment_to_object(segmenter, case, output, form, progress)
    except (MedsegError, MemoryError, RuntimeError, ValueError) as error:
        seconds = time.monotonic() - started
        return CaseOutcome(case.id, seconds, None, {}, error=_explained(error, case), verdict=verdict)
    return CaseOutcome(
        case.id,
        time.monotonic() - started,
        output,
        _voxels(done.counts, segmenter.labels),
        done.plan,
        done.objects,
        verdict=verdict,
        notes=notes,
    )


def _segment_to_object(
    segmenter: Segmenter, case: Case, output: Path, form: str, progress: Progress
) -> tuple[Segmented, tuple[str, ...]]:
    """By way of a label map on the disk, for images are segmented slab by slab and objects written whole."""
    from medseg.io.dicom.segmentations import write_object
    from medseg.io.dicom.segmentations.source import RESAMPLED_NOTE, read_source

    source = case.dicom or case.images
    read_source(source)  # what it cannot refer to is refused before the work
    with tempfile.TemporaryDirectory(prefix=".medseg-", dir=output.parent) as scratch:
        labels = Path(scratch) / f"{case.id}.nii"
        done = segment_to_file(segmenter, case, labels, progress)
        images = write_object(form, read_volume(labels), segmenter.labels, source, output)
    return done, () if images.resampled is None else (RESAMPLED_NOTE,)


def _explained(error: Exception, case: Case) -> MedsegError:
    if isinstance(error, MedsegError):
        return error
    where = case.images[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return ResourceError("not enough memory", where=where, fix="free some, or use another --device")
    line = str(error).strip().partition("\n")[0]
    return MedsegError(
        f"failed unexpectedly ({type(error).__name__}: {line})", where=where, fix="report this with the image"
    )


def _voxels(counts: Mapping[int, int], scheme: LabelScheme) -> dict[str, int]:
    return {entry.name: counts[entry.value] for entry in scheme.foreground if entry.value in counts}


def exit_code(outcomes: Sequence[CaseOutcome]) -> int:
    """0 if all went well; the errors' own code if all failures share it, else 1."""
    codes = {outcome.error.exit_code for outcome in outcomes if outcome.error is not None}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else 1


def write_summary(
    outcomes: Sequence[CaseOutcome],
    path: str | os.PathLike[str],
    *,
    model: str,
    postprocess: PostprocessChoice | None = None,
) -> None:
    """Write what became of each case, and what was done to label maps, as JSON."""
    failed = sum(outcome.error is not None for outcome in outcomes)
    summary = {
        "model": model,
        "postprocess": None if postprocess is None else postprocess.model_dump(mode="json"),
        "done": len(outcomes) - failed,
        "failed": failed,
    }
    write_json({**summary, "cases": [outcome.as_dict() for outcome in outcomes]}, path)
