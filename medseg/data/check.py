"""What ruins trainings, found before they start."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.data.layouts import DATASET_JSON, Dataset, case_files, read_dataset
from medseg.errors import MedsegError
from medseg.geometry import Grid
from medseg.io import SUFFIXES, Case, read_header, read_volume
from medseg.labels import BACKGROUND, LabelScheme
from medseg.progress import Progress, SilentProgress, track

__all__ = [
    "MAJORITY_SHARE",
    "SPACING_MAD_FACTOR",
    "SPACING_RATIO",
    "CheckReport",
    "Finding",
    "check_dataset",
]

SPACING_MAD_FACTOR = 5.0
"""A spacing is an outlier if its logarithm lies more than so many (normal-consistent) median absolute
deviations from the median of its axis …"""

SPACING_RATIO = 1.5
"""… and if it is also more than so many times coarser or finer than the median: where nearly all spacings are
equal the deviation is zero, and a difference of a few per cent harms nothing."""

MAJORITY_SHARE = 0.75
"""Orientations are expected to agree if at least this share of the cases agrees; the others stand out."""

_FEWEST_CASES_FOR_OUTLIERS = 5
_MAD_TO_SIGMA = 1.4826
_SHOWN = 5

Severity = Literal["error", "warning"]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or suspicious.

    Attributes:
        severity: ``"error"``: no training should start; ``"warning"``: someone should look.
        case: The case's id; empty where the whole dataset is meant.
        check: Which check found it.
        message: What was found.
    """

    severity: Severity
    case: str
    check: str
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What a check of a dataset found.

    Attributes:
        dataset: The dataset's name.
        cases: Number of labelled cases.
        findings: Errors first, then by case.
    """

    dataset: str
    cases: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What must be mended."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What should be looked at."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")


def check_dataset(
    where: str | os.PathLike[str], *, jobs: int | None = None, progress: Progress | None = None
) -> CheckReport:
    """Read every training case whole and look for what ruins trainings.

    Errors: missing or unpaired files, files that cannot be read, a wrong number of channels, grids that
    differ between the images, the label and the instance map of a case, NaN or infinite values, images of one
    value only, label values that are not whole numbers or not declared, instance ids that are not whole
    numbers from 0, labels in which no voxel is labelled, the same image twice with different labels.

    Warnings: declared classes that no label holds, labels that hold background only, a channel of one value
    only, the same image twice, files that no case uses, missing test images, another number of cases than
    declared, instance maps of some cases only, spacings (``SPACING_MAD_FACTOR``, ``SPACING_RATIO``) and
    orientations (``MAJORITY_SHARE``) that stand out.

    Args:
        where: As for ``load_dataset``.
        jobs: Cases read at a time, each of which takes the memory of its files; up to four by default.
        progress: Counts cases.

    Raises:
        InputError: There is no dataset, or its JSON file is malformed.
    """
    dataset = read_dataset(where)
    workers = min(4, os.cpu_count() or 1) if jobs is None else jobs
    with ThreadPoolExecutor(workers) as pool:
        inspections = pool.map(lambda case: _inspect(case, dataset), dataset.cases)
        facts = list(
            track(inspections, f"check {dataset.name}", progress or SilentProgress(), len(dataset.cases))
        )
    findings = chain(
        chain.from_iterable(fact.findings for fact in facts),
        _declarations(dataset, facts),
        _duplicates(facts),
        _outliers(facts),
        _stray_files(dataset),
    )
    order = {"error": 0, "warning": 1}
    return CheckReport(
        dataset=dataset.name,
        cases=len(dataset.cases),
        findings=tuple(sorted(findings, key=lambda f: (order[f.severity], f.case, f.check, f.message))),
    )


@dataclass
class _Facts:
    """What is kept of a case once its voxels are forgotten."""

    case: str
    findings: list[Finding] = field(default_factory=list)
    grid: Grid | None = None
    image_digest: str | None = None
    label_digest: str | None = None
    label_values: frozenset[int] = frozenset()

    def error(self, check: str, message: str) -> None:
        self.findings.append(Finding("error", self.case, check, message))

    def warn(self, check: str, message: str) -> None:
        self.findings.append(Finding("warning", self.case, check, message))


def _inspect(case: Case, dataset: Dataset) -> _Facts:
    facts = _Facts(case.id)
    for path in case_files(case):
        if not path.is_file():
            kind = {case.label: "label", case.instances: "instance map"}.get(path, "image")
            facts.error("missing", f"{kind} {_shown(path, dataset)} does not exist")
    if all(image.is_file() for image in case.images):
        _inspect_images(case, dataset, facts)
    if case.label is not None and case.label.is_file():
        _inspect_label(case.label, dataset, facts)
    if case.instances is not None and case.instances.is_file():
        _inspect_instances(case.instances, dataset, facts)
    return facts


def _inspect_images(case: Case, dataset: Dataset, facts: _Facts) -> None:
    try:
        headers = [read_header(image) for image in case.images]
    except MedsegError as error:
        facts.error("unreadable", str(error))
        return
    facts.grid = headers[0].grid
    channels, expected = sum(header.channels for header in headers), len(dataset.channel_names)
    if channels != expected:
        facts.error("channels", f"{channels} instead of {expected} ({', '.join(dataset.channel_names)})")
    digest = hashlib.sha256()
    for header in headers:
        difference = facts.grid.difference(header.grid)
        if difference is not None:
            facts.error(
                "grid", f"{_shown(header.path, dataset)} lies on another than the first: {difference}"
            )
        try:
            volume = read_volume(header.path)
        except MedsegError as error:
            facts.error("unreadable", str(error))
            return
        _inspect_intensities(volume.array, _shown(header.path, dataset), facts)
        _add_to(digest, volume.array)
    facts.image_digest = digest.hexdigest()


def _inspect_intensities(array: Array, name: str, facts: _Facts) -> None:
    """Look at (C, X, Y, Z)."""
    if not np.issubdtype(array.dtype, np.integer):
        wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
        if wrong:
            facts.error(
                "not finite", f"{name} holds NaN or infinite values in {wrong} of {array.size} voxels"
            )
            return
    constant = [index for index, channel in enumerate(array) if channel.min() == channel.max()]
    if len(constant) == len(array):
        facts.error("constant", f"every voxel of {name} is {array.flat[0]:g}")
    elif constant:
        facts.warn("constant", f"channels of {name} with one value only: {', '.join(map(str, constant))}")


def _inspect_label(path: Path, dataset: Dataset, facts: _Facts) -> None:
    array = _read_map(path, "label", dataset, facts)
    if array is None:
        return
    whole, broken = _whole_values(array, "label values", facts)
    facts.label_values = frozenset(int(value) for value in whole)
    ignored = {value for value in (dataset.labels.ignore,) if value is not None}
    undeclared = sorted(facts.label_values - set(dataset.labels.values) - ignored)
    if undeclared:
        facts.error("label values", f"not declared: {_listed(map(str, undeclared))}")
    if facts.label_values and facts.label_values <= ignored and not len(broken):
        facts.error("empty label", f"no voxel is labelled: all are {dataset.labels.ignore}, which is ignored")
    elif facts.label_values <= {BACKGROUND, *ignored} and not len(broken):
        facts.warn("empty label", "holds background only")
    digest = hashlib.sha256()
    _add_to(digest, array)
    facts.label_digest = digest.hexdigest()


def _inspect_instances(path: Path, dataset: Dataset, facts: _Facts) -> None:
    array = _read_map(path, "instance map", dataset, facts)
    if array is None:
        return
    whole, _ = _whole_values(array, "instances", facts)
    if len(negative := whole[whole < 0]):
        facts.error("instances", f"ids below 0: {_listed(f'{value:g}' for value in negative)}")


def _read_map(path: Path, kind: str, dataset: Dataset, facts: _Facts) -> Array | None:
    """A map of one channel; its grid is compared to the images'."""
    try:
        volume = read_volume(path)
    except MedsegError as error:
        facts.error("unreadable", str(error))
        return None
    if volume.channels != 1:
        facts.error("channels", f"{kind} {_shown(path, dataset)} has {volume.channels} channels instead of 1")
        return None
    difference = None if facts.grid is None else facts.grid.difference(volume.grid)
    if difference is not None:
        facts.error("grid", f"the {kind} lies on another grid: {difference}")
    return volume.array


def _whole_values(array: Array, check: str, facts: _Facts) -> tuple[Array, Array]:
    """The values that a map holds: whole numbers, and what else."""
    present = np.unique(array)
    whole = present[np.isfinite(present) & (present == np.round(present))]
    broken = present[~np.isin(present, whole)]
    if len(broken):
        facts.error(check, f"not whole numbers: {_listed(f'{value:g}' for value in broken)}")
    return whole, broken


def _declarations(dataset: Dataset, facts: Sequence[_Facts]) -> Iterator[Finding]:
    found = frozenset[int]().union(*(fact.label_values for fact in facts))
    for absent in _absent(dataset.labels, found):
        yield Finding("warning", "", "label values", f"no label map holds {absent}")
    without = [case.id for case in dataset.cases if case.instances is None]
    if 0 < len(without) < len(dataset.cases):
        message = f"no map of {len(without)} of {len(dataset.cases)} cases: {_listed(without)}"
        yield Finding("warning", "", "instances", message)
    declared = dataset.declared_count
    if declared is not None and declared != len(dataset.cases):
        message = f"numTraining is {declared}, there are {len(dataset.cases)} labelled cases"
        yield Finding("warning", "", "count", message)


def _absent(labels: LabelScheme, found: frozenset[int]) -> Iterator[str]:
    for entry in labels.foreground:
        if entry.value not in found:
            yield f"{entry.value} ({entry.name})"


def _duplicates(facts: Sequence[_Facts]) -> Iterator[Finding]:
    groups: defaultdict[str, list[_Facts]] = defaultdict(list)
    for fact in facts:
        if fact.image_digest is not None:
            groups[fact.image_digest].append(fact)
    for first, *others in groups.values():
        for other in others:
            if first.label_digest == other.label_digest:
                yield Finding("warning", other.case, "duplicate", f"same image as {first.case}")
            else:
                message = f"same image as {first.case}, another label"
                yield Finding("error", other.case, "duplicate", message)


def _outliers(facts: Sequence[_Facts]) -> Iterator[Finding]:
    grids = {fact.case: fact.grid for fact in facts if fact.grid is not None}
    if len(grids) < _FEWEST_CASES_FOR_OUTLIERS:
        return
    ranked = Counter(grid.axcodes for grid in grids.values()).most_common()
    usual, count = ranked[0]
    if count >= MAJORITY_SHARE * len(grids):
        for case, grid in grids.items():
            if grid.axcodes != usual:
                message = f"{grid.axcodes}, {count} of {len(grids)} cases are {usual}"
                yield Finding("warning", case, "orientation", message)
    # Axes are compared in anatomical order, so that an image stored sideways does not stand out for it.
    spacing_mm = np.array([grid.reoriented("RAS").spacing_mm for grid in grids.values()])
    median_mm = np.median(spacing_mm, axis=0)
    distance = np.abs(np.log(spacing_mm / median_mm))
    sigma = _MAD_TO_SIGMA * np.median(distance, axis=0)
    stands_out = (distance > SPACING_MAD_FACTOR * sigma) & (distance > np.log(SPACING_RATIO))
    for case, spacing, flags in zip(grids, spacing_mm, stands_out, strict=True):
        if flags.any():
            message = f"{_mm(spacing)} mm (R, A, S), the median is {_mm(median_mm)} mm"
            yield Finding("warning", case, "spacing", message)


def _stray_files(dataset: Dataset) -> Iterator[Finding]:
    missing = [case for case in dataset.test_cases if not all(image.is_file() for image in case.images)]
    for case in missing:
        yield Finding("warning", case.id, "missing", "an image of this test case does not exist")
    if not (dataset.folder / DATASET_JSON).is_file():
        return  # a datalist may pick from a folder what it likes
    used = {path for case in (*dataset.cases, *dataset.test_cases) for path in case_files(case)}
    for name in ("imagesTr", "labelsTr", "instancesTr"):
        folder = dataset.folder / name
        present = folder.iterdir() if folder.is_dir() else iter(())
        volumes = (path for path in present if path.name.endswith(tuple(SUFFIXES)))
        stray = sorted(path.name for path in volumes if path not in used and not path.name.startswith("."))
        if stray:
            yield Finding("warning", "", "unused", f"{len(stray)} files in {name}: {_listed(stray)}")


def _add_to(digest: hashlib._Hash, array: Array) -> None:
    """Hash values, not bytes: the same image may be stored as another type."""
    digest.update(repr(array.shape).encode())
    for channel in array:
        with np.errstate(over="ignore", invalid="ignore"):
            digest.update(np.ascontiguousarray(channel, dtype=np.float32).data)


def _shown(path: Path, dataset: Dataset) -> str:
    return str(path.relative_to(dataset.folder) if path.is_relative_to(dataset.folder) else path)


def _listed(values: Iterable[str]) -> str:
    everything = list(values)
    return ", ".join(everything[:_SHOWN]) + (", …" if len(everything) > _SHOWN else "")


def _mm(lengths: Array) -> str:
    return "x".join(f"{length:.3g}" for length in lengths)
