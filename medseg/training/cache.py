"""Preprocessed cases on disk, from which patches are read without decompressing a whole volume.

One folder per case, each array a file of compressed blocks. A case's folder appears by one rename when it is
complete, and is named by a key of everything that it was made from: a changed file, label scheme or
preprocessing makes another one, and processes that prepare the same case at once make the same one. A case
that is used again is proven whole first, by the hashes of its files.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.reading import read_case, read_instance_map, read_labelled_case
from medseg.errors import InputError, explain_os_errors
from medseg.files import read_json, sha256_of, write_json
from medseg.io import Case
from medseg.labels import LabelScheme
from medseg.progress import Progress, track
from medseg.runs import Plan
from medseg.training.arrays import SUFFIX, StoredArray, write_array
from medseg.training.border_weights import BorderWeights
from medseg.transforms import preprocess
from medseg.volume import Volume

__all__ = ["CachedCase", "prepare_cases"]

_VERSION = 3
_KEY_LETTERS = 16
_DESCRIPTION = "case.json"
_POINTS_PER_CLASS = 4_000
_POINTS_AT_A_TIME = 256
_WORKERS = 4


@dataclass(frozen=True)
class CachedCase:
    """A preprocessed case on disk; of its arrays only what is asked for is read."""

    id: str
    folder: Path

    def __reduce__(self) -> tuple[object, ...]:
        return CachedCase, (self.id, self.folder)  # another process reads the description itself

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return (self.folder / _DESCRIPTION).is_file()

    def is_whole(self) -> bool:
        """Whether all of it is there as it was written; reads all of its files."""
        if not self.complete:
            return False
        try:
            hashes = read_json(self.folder / _DESCRIPTION)["arrays"]
            return all(sha256_of(self._path(name)) == digest for name, digest in hashes.items())
        except (InputError, KeyError, AttributeError, TypeError):
            return False  # a file is gone, or this is no such description

    @cached_property
    def image(self) -> StoredArray:
        """Shape (C, X, Y, Z) on the network grid, normalised."""
        return StoredArray(self._path("image"))

    @property
    def labelled(self) -> bool:
        """Whether there is a label."""
        return "label" in self._description["arrays"]

    @cached_property
    def label(self) -> StoredArray:
        """Class indices (X, Y, Z) on the network grid."""
        return StoredArray(self._path("label"))

    @cached_property
    def weight(self) -> StoredArray:
        """Weights of the voxels (X, Y, Z) on the network grid, where the recipe asks for border weights."""
        return StoredArray(self._path("weight"))

    @cached_property
    def points(self) -> StoredArray:
        """Positions (n, 3) of some voxels of each class, class by class, ``class_points`` of them each."""
        return StoredArray(self._path("points"))

    @property
    def class_points(self) -> tuple[int, ...]:
        """How many ``points`` each class index has.

        Those of index 0 are voxels of any class, the background's among them, where the scheme leaves
        some unlabelled; else there are none.
        """
        return tuple(self._description["class_points"])

    @property
    def input_hashes(self) -> dict[str, str]:
        """SHA-256 of each file that the case was made from: ``image_0``, …, ``label``, ``instances``."""
        hashes: dict[str, str] = self._description["inputs"]
        return hashes

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = read_json(self.folder / _DESCRIPTION)
        return description

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"


def prepare_cases(
    cases: Sequence[Case],
    plan: Plan,
    folder: Path,
    progress: Progress,
    weights: BorderWeights | None = None,
    workers: int | None = None,
) -> list[CachedCase]:
    """Preprocess the cases that ``folder`` does not hold whole, several at a time.

    Each worker is a thread, for reading, decompressing and the arithmetic of arrays run side by side there,
    and holds one case in memory. What comes out does not depend on their number.

    Args:
        cases: With labels, or all of them without.
        plan: Labels, preprocessing, and the patches that will be read.
        folder: The cache.
        progress: Shows how far it has come, and tells of damaged cases.
        weights: How voxels are weighted, if they are.
        workers: Cases at a time; as many as there are cores, but four at most, if left out.

    Returns:
        The cases, in the order given.
    """
    count = min(_WORKERS, os.cpu_count() or 1) if workers is None else workers
    with ThreadPoolExecutor(count) as pool:
        prepared = pool.map(lambda case: _prepare(case, plan, folder, weights, progress), cases)
        return list(track(prepared, "Preprocessing", progress, total=len(cases)))


def _prepare(
    case: Case, plan: Plan, folder: Path, weights: BorderWeights | None, progress: Progress
) -> CachedCase:
    inputs = {f"image_{channel}": sha256_of(path) for channel, path in enumerate(case.images)}
    if case.label is not None:
        inputs["label"] = sha256_of(case.label)
    if weights is not None and weights.of_dataset and case.instances is not None:
        inputs["instances"] = sha256_of(case.instances)
    labels = (plan.labels.values, plan.labels.ignore)
    made_from = (_VERSION, plan.preprocessing.model_dump_json(), labels, sorted(inputs.items()))
    parts = made_from if weights is None else (*made_from, weights)
    key = hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
    cached = CachedCase(case.id, folder / f"{case.id}.{key[:_KEY_LETTERS]}")
    if cached.is_whole():
        return cached
    if cached.complete:
        progress.note(f"the preprocessed case {case.id} is damaged: it is made anew")
    arrays, class_points = _network_arrays(case, plan, weights, seed=key)
    temporary = folder / f".{case.id}.{secrets.token_hex(4)}.part"
    with explain_os_errors(cached.folder):
        temporary.mkdir(parents=True)
        try:
            hashes = {
                name: write_array(array, temporary / f"{name}{SUFFIX}", _box(name, plan))
                for name, array in arrays.items()
            }
            # The arrays are not synchronised to disk: after a power failure their hashes give them away.
            description = {"key": key, "inputs": inputs, "arrays": hashes, "class_points": class_points}
            write_json(description, temporary / _DESCRIPTION)
            if not cached.is_whole():
                shutil.rmtree(cached.folder, ignore_errors=True)
                temporary.replace(cached.folder)
        except OSError:
            if not cached.is_whole():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return cached


def _box(name: str, plan: Plan) -> Sequence[int]:
    return (_POINTS_AT_A_TIME, 3) if name == "points" else plan.patch_size


def _network_arrays(
    case: Case, plan: Plan, weights: BorderWeights | None, seed: str
) -> tuple[dict[str, npt.NDArray[Any]], list[int]]:
    channels, labels = plan.preprocessing.channels, plan.labels
    if case.label is None:
        if labels.foreground:  # refused with words by read_labelled_case, whose callers come first
            raise ValueError(f"case {case.id} has no label")
        alone = preprocess(read_case(case, channels), plan.preprocessing)
        return {"image": alone.array.astype(np.float32, copy=False)}, [0]
    image, label = read_labelled_case(case, labels, channels)
    maps = [label.array]
    if weights is not None and weights.of_dataset:
        maps.append(read_instance_map(case, image.grid).array)
    stacked = Volume(np.concatenate(maps), image.grid)
    network_image, network_maps = preprocess(image, plan.preprocessing, stacked)
    classes = network_maps.array[0].astype(label.array.dtype)
    points, class_points = _points(classes, labels, seed)
    arrays = {
        "image": network_image.array.astype(np.float32, copy=False),
        "label": classes,
        "points": points,
    }
    if weights is not None:
        instances = network_maps.array[1] if weights.of_dataset else None
        ignored = classes == (len(labels) if labels.ignore_index is None else labels.ignore_index)
        known = np.where(ignored, 0, classes)
        arrays["weight"] = weights.map_of(known, instances, network_image.grid.spacing_mm)
        arrays["weight"][ignored] = 0.0
    return arrays, class_points


def _points(
    classes: npt.NDArray[Any], labels: LabelScheme, seed: str
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Some voxels of each class, and how many; of index 0 labelled ones of any class, if some are not."""
    generator = np.random.default_rng(int(seed[:16], 16))
    flat = classes.ravel()
    chosen = [np.zeros(0, dtype=np.int64)]
    if labels.ignore_index is not None:
        chosen = [_thinned(np.flatnonzero(flat != labels.ignore_index), generator)]
    inside = np.flatnonzero(flat)
    inside = inside[np.argsort(flat[inside], kind="stable")]
    counts = np.bincount(flat, minlength=len(labels))[1 : len(labels)]
    ends = np.cumsum(counts)
    chosen += [
        _thinned(inside[end - count : end], generator) for end, count in zip(ends, counts, strict=True)
    ]
    positions = np.unravel_index(np.concatenate(chosen), classes.shape)
    return np.stack(positions, axis=1).astype(np.int32), [len(group) for group in chosen]


def _thinned(voxels: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    if len(voxels) <= _POINTS_PER_CLASS:
        return voxels
    return np.sort(generator.choice(voxels, _POINTS_PER_CLASS, replace=False, shuffle=False))
