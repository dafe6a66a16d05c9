"""Preprocessed cases on disk, from which patches are read without loading a whole volume.

One folder per case, each array a ``.npy`` file that is mapped into memory. A case's folder appears by one
rename when it is complete, and is named by a key of everything that it was made from: a changed file, label
scheme or preprocessing makes another one, and processes that prepare the same case at once make the same one.
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
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import explain_os_errors
from medseg.files import read_json, sha256_of, write_json
from medseg.io import Case
from medseg.progress import Progress, track
from medseg.runs import Plan
from medseg.training.border_weights import BorderWeights
from medseg.training.fingerprint import read_case, read_instance_map, read_labelled_case
from medseg.transforms import preprocess
from medseg.volume import Volume

__all__ = ["CachedCase", "prepare_cases"]

_VERSION = 2
_KEY_LETTERS = 16
_DESCRIPTION = "case.json"
_POINTS_PER_CLASS = 4_000
_WORKERS = 4


@dataclass(frozen=True)
class CachedCase:
    """A preprocessed case on disk; arrays are mapped into memory when they are first used."""

    id: str
    folder: Path

    def __reduce__(self) -> tuple[object, ...]:
        return CachedCase, (self.id, self.folder)  # another process maps the arrays itself

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return (self.folder / _DESCRIPTION).is_file()

    @cached_property
    def image(self) -> npt.NDArray[np.float32]:
        """Shape (C, X, Y, Z) on the network grid, normalised."""
        return self._array("image")

    @property
    def labelled(self) -> bool:
        """Whether there is a label."""
        return (self.folder / "label.npy").is_file()

    @cached_property
    def label(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Class indices (X, Y, Z) on the network grid."""
        return self._array("label")

    @cached_property
    def foreground(self) -> npt.NDArray[np.int32]:
        """Some voxels of each class, (n, 4): class index, then the voxel's position."""
        return self._array("foreground")

    @cached_property
    def weight(self) -> npt.NDArray[np.float32]:
        """Weights of the voxels (X, Y, Z) on the network grid, where the recipe asks for border weights."""
        return self._array("weight")

    @cached_property
    def input_hashes(self) -> dict[str, str]:
        """SHA-256 of each file that the case was made from: ``image_0``, …, ``label``, ``instances``."""
        hashes: dict[str, str] = read_json(self.folder / _DESCRIPTION)["inputs"]
        return hashes

    def _array(self, name: str) -> npt.NDArray[Any]:
        with explain_os_errors(self.folder):
            array: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array


def prepare_cases(
    cases: Sequence[Case],
    plan: Plan,
    folder: Path,
    progress: Progress,
    weights: BorderWeights | None = None,
) -> list[CachedCase]:
    """Preprocess the cases that ``folder`` does not hold yet, several at a time.

    Args:
        cases: With labels, or all of them without.
        plan: Labels and preprocessing.
        folder: The cache.
        progress: Shows how far it has come.
        weights: How voxels are weighted, if they are.

    Returns:
        The cases, in the order given.
    """
    workers = min(_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        prepared = pool.map(lambda case: _prepare(case, plan, folder, weights), cases)
        return list(track(prepared, "Preprocessing", progress, total=len(cases)))


def _prepare(case: Case, plan: Plan, folder: Path, weights: BorderWeights | None) -> CachedCase:
    inputs = {f"image_{channel}": sha256_of(path) for channel, path in enumerate(case.images)}
    if case.label is not None:
        inputs["label"] = sha256_of(case.label)
    if weights is not None and weights.of_dataset and case.instances is not None:
        inputs["instances"] = sha256_of(case.instances)
    made_from = (_VERSION, plan.preprocessing.model_dump_json(), plan.labels.values, sorted(inputs.items()))
    parts = made_from if weights is None else (*made_from, weights)
    key = hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
    target = folder / f"{case.id}.{key[:_KEY_LETTERS]}"
    cached = CachedCase(case.id, target)
    if cached.complete:
        return cached
    arrays = _network_arrays(case, plan, weights, seed=key)
    temporary = folder / f".{case.id}.{secrets.token_hex(4)}.part"
    with explain_os_errors(target):
        temporary.mkdir(parents=True)
        try:
            for name, array in arrays.items():
                _save(array, temporary / f"{name}.npy")
            write_json({"key": key, "inputs": inputs}, temporary / _DESCRIPTION)
            if not cached.complete:
                shutil.rmtree(target, ignore_errors=True)
                temporary.replace(target)
        except OSError:
            if not cached.complete:  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return cached


def _network_arrays(
    case: Case, plan: Plan, weights: BorderWeights | None, seed: str
) -> dict[str, npt.NDArray[Any]]:
    channels = plan.preprocessing.channels
    if case.label is None:
        if plan.labels.foreground:  # refused with words by read_labelled_case, whose callers come first
            raise ValueError(f"case {case.id} has no label")
        alone = preprocess(read_case(case, channels), plan.preprocessing)
        return {"image": alone.array.astype(np.float32, copy=False)}
    image, label = read_labelled_case(case, plan.labels, channels)
    maps = [label.array]
    if weights is not None and weights.of_dataset:
        maps.append(read_instance_map(case, image.grid).array)
    stacked = Volume(np.concatenate(maps), image.grid)
    network_image, network_maps = preprocess(image, plan.preprocessing, stacked)
    classes = network_maps.array[0].astype(label.array.dtype)
    arrays = {
        "image": network_image.array.astype(np.float32, copy=False),
        "label": classes,
        "foreground": _foreground(classes, len(plan.labels), seed),
    }
    if weights is not None:
        instances = network_maps.array[1] if weights.of_dataset else None
        arrays["weight"] = weights.map_of(classes, instances, network_image.grid.spacing_mm)
    return arrays


def _save(array: npt.NDArray[Any], path: Path) -> None:
    # Into a real file numpy writes by itself, and forgets why it could not, as on a full disk.
    with path.open("wb") as handle:
        np.save(SimpleNamespace(write=handle.write), np.ascontiguousarray(array), allow_pickle=False)


def _foreground(classes: npt.NDArray[Any], count: int, seed: str) -> npt.NDArray[np.int32]:
    generator = np.random.default_rng(int(seed[:16], 16))
    rows = []
    for index in range(1, count):
        positions = np.argwhere(classes == index)
        if len(positions) > _POINTS_PER_CLASS:
            positions = positions[generator.choice(len(positions), _POINTS_PER_CLASS, replace=False)]
        rows.append(np.insert(positions, 0, index, axis=1))
    return np.concatenate(rows).astype(np.int32)
