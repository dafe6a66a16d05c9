from __future__ import annotations

import errno
import os
import secrets
import shutil
import signal
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from medseg.data import Dataset, load_dataset
from medseg.data.reading import read_labelled_case
from medseg.errors import GeometryError, InputError, ResourceError
from medseg.files import sha256_of, write_json
from medseg.io import read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.progress import SilentProgress
from medseg.runs import Plan, Recipe
from medseg.runs.recipe import BorderWeightChoice, LossChoice
from medseg.training import cache as module
from medseg.training import plan_from_dataset
from medseg.training.arrays import write_array
from medseg.training.border_weights import border_weights_of
from medseg.training.cache import CachedCase, prepare_cases
from medseg.transforms import preprocess
from medseg.volume import Volume


@pytest.fixture
def dataset(phantoms: Dataset, tmp_path: Path) -> Dataset:
    """A copy that a test may change."""
    return load_dataset(shutil.copytree(phantoms.folder, tmp_path / "data"))


def _prepare(dataset: Dataset, plan: Plan, folder: Path, count: int = 2) -> list[CachedCase]:
    return prepare_cases(dataset.cases[:count], plan, folder, SilentProgress())


def _inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_arrays_are_what_preprocessing_gives(phantoms: Dataset, plan: Plan, cases: list[CachedCase]) -> None:
    assert [case.id for case in cases] == [case.id for case in phantoms.cases]
    for case, cached in zip(phantoms.cases, cases, strict=True):
        image, label = preprocess(*_spec_last(read_labelled_case(case, plan.labels, 1), plan))
        np.testing.assert_array_equal(cached.image, image.array)
        np.testing.assert_array_equal(cached.label, label.array[0])
        assert cached.image.dtype == np.float32
        assert cached.label.dtype == np.uint8


def _spec_last(pair: tuple[Volume, Volume], plan: Plan) -> tuple[Volume, Any, Volume]:
    return pair[0], plan.preprocessing, pair[1]


def _points_of(case: CachedCase, index: int) -> npt.NDArray[np.int32]:
    first = sum(case.class_points[:index])
    points: npt.NDArray[np.int32] = case.points[first : first + case.class_points[index]]
    return points


def test_foreground_points_lie_in_their_class(cases: list[CachedCase]) -> None:
    for case in cases:
        for index in range(1, 5):
            label, points = case.label[...], _points_of(case, index)
            assert len(points) == (label == index).sum()  # few enough to keep them all
            assert (label[tuple(points.T)] == index).all()
        assert case.class_points[0] == 0


def test_many_points_are_thinned_out_the_same_each_time(
    phantoms: Dataset, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POINTS_PER_CLASS", 5)
    (first,), (second,) = (_prepare(phantoms, plan, tmp_path / name, 1) for name in "ab")
    np.testing.assert_array_equal(first.points, second.points)
    assert max(first.class_points) == 5
    assert len(np.unique(first.points, axis=0)) == len(first.points)
    label = first.label[...]
    for index in range(1, 5):
        assert (label[tuple(_points_of(first, index).T)] == index).all()


def test_every_input_is_hashed(phantoms: Dataset, cases: list[CachedCase]) -> None:
    # In the Decathlon's layout image and label have the same file name.
    case, cached = phantoms.cases[0], cases[0]
    assert case.label is not None
    assert case.images[0].name == case.label.name
    assert cached.input_hashes == {"image_0": sha256_of(case.images[0]), "label": sha256_of(case.label)}


def test_what_is_there_is_used_again(dataset: Dataset, plan: Plan, tmp_path: Path) -> None:
    (case,) = _prepare(dataset, plan, tmp_path / "cache", 1)
    before = _inodes(case.folder)
    cases = _prepare(dataset, plan, tmp_path / "cache", 2)
    assert _inodes(case.folder) == before
    assert sorted((tmp_path / "cache").iterdir()) == [case.folder for case in cases]
    assert [case.folder.name.partition(".")[0] for case in cases] == ["mr_000", "mr_001"]


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_changed_file_is_prepared_anew(part: str, dataset: Dataset, plan: Plan, tmp_path: Path) -> None:
    before = _prepare(dataset, plan, tmp_path / "cache")
    inodes = _inodes(before[1].folder)
    case = dataset.cases[0]
    assert case.label is not None
    path = case.images[0] if part == "image" else case.label
    volume = read_volume(path)
    changed = volume.array.copy()
    changed[0, 0, 0, 0] = 1
    write_volume(Volume(changed, volume.grid), path, labels=part == "label")
    (cached, other) = _prepare(dataset, plan, tmp_path / "cache")
    assert cached.folder != before[0].folder
    assert other.folder == before[1].folder
    assert _inodes(other.folder) == inodes
    if part == "label":
        assert (cached.label[...] == 1).sum() == (read_volume(path).array == 1).sum()


def test_another_preprocessing_or_scheme_is_prepared_anew(
    dataset: Dataset, plan: Plan, tmp_path: Path
) -> None:
    (before,) = _prepare(dataset, plan, tmp_path / "cache", 1)
    coarser = plan.preprocessing.model_copy(update={"spacing_mm": (4.0, 4.0, 4.0)})
    (cached,) = _prepare(dataset, plan.model_copy(update={"preprocessing": coarser}), tmp_path / "cache", 1)
    assert cached.folder != before.folder
    assert cached.image.shape[1:] == cached.label.shape
    assert cached.image.shape[1] < 24
    labels = LabelScheme.from_names({1: "a", 2: "b", 3: "c", 4: "d", 9: "e"})
    (relabelled,) = _prepare(dataset, plan.model_copy(update={"labels": labels}), tmp_path / "cache", 1)
    assert relabelled.folder not in (before.folder, cached.folder)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["write_array", "write_json"])
def test_an_interrupted_case_is_not_there(
    error: BaseException,
    moment: str,
    dataset: Dataset,
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, fail)
        with pytest.raises((ResourceError, KeyboardInterrupt)) as caught:
            _prepare(dataset, plan, tmp_path / "cache", 1)
    if isinstance(caught.value, ResourceError):
        assert str(caught.value).startswith(f"{tmp_path / 'cache' / 'mr_000'}.")
        assert ": no space left on the disk" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []
    (cached,) = _prepare(dataset, plan, tmp_path / "cache", 1)
    assert len(cached.image.shape) == 4


def test_what_a_killed_process_left_is_not_taken_for_a_case(
    dataset: Dataset, plan: Plan, tmp_path: Path
) -> None:
    (whole,) = _prepare(dataset, plan, tmp_path / "cache", 1)
    expected = whole.image[...]
    (whole.folder / "case.json").unlink()
    (whole.folder / "image.b2nd").write_bytes(b"half")
    (cached,) = _prepare(dataset, plan, tmp_path / "cache", 1)
    np.testing.assert_array_equal(cached.image, expected)


def test_processes_that_prepare_a_case_at_once_make_one(
    dataset: Dataset, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = module.write_json

    def let_the_other_finish(value: Any, path: Path) -> None:
        monkeypatch.setattr(module, "write_json", slower)
        _prepare(dataset, plan, tmp_path / "cache", 1)
        slower(value, path)

    monkeypatch.setattr(module, "write_json", let_the_other_finish)
    (cached,) = _prepare(dataset, plan, tmp_path / "cache", 1)
    assert cached.complete
    assert list((tmp_path / "cache").iterdir()) == [cached.folder]


def test_a_full_disk_keeps_its_reason(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(100_000)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_array(noise, tmp_path / "array.b2nd", box=(1000,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG


def test_a_case_that_has_gone_bad_is_refused(dataset: Dataset, plan: Plan, tmp_path: Path) -> None:
    label = dataset.cases[0].label
    assert label is not None
    volume = read_volume(label)
    write_volume(Volume(volume.array[..., :-1], volume.grid.cropped((0, 0, 0), (24, 24, 19))), label)
    with pytest.raises(GeometryError, match="is not on the grid of"):
        _prepare(dataset, plan, tmp_path / "cache", 1)
    with pytest.raises(ValueError, match="has no label"):
        prepare_cases([replace(dataset.cases[1], label=None)], plan, tmp_path / "cache", SilentProgress())


class _Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone", "description"])
def test_a_damaged_case_is_made_anew_and_said_so(
    damage: str, dataset: Dataset, plan: Plan, tmp_path: Path
) -> None:
    cases = _prepare(dataset, plan, tmp_path / "cache", 2)
    expected, untouched = cases[0].image[...], _inodes(cases[1].folder)
    path = cases[0].folder / "image.b2nd"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "description":
        write_json({"arrays": {"image": "0" * 64}}, cases[0].folder / "case.json")
    else:
        content[-100] ^= 0xFF
        path.write_bytes(content if damage == "flipped" else content[:-100])
    assert not cases[0].is_whole()
    told = _Notes()
    again = prepare_cases(dataset.cases[:2], plan, tmp_path / "cache", told)
    assert told.notes == ["the preprocessed case mr_000 is damaged: it is made anew"]
    assert again[0].is_whole()
    np.testing.assert_array_equal(again[0].image, expected)
    assert _inodes(again[1].folder) == untouched


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed in the middle of their work")
@pytest.mark.parametrize("moment", ["array", "description", "rename", "end"])
def test_what_a_kill_leaves_is_never_trusted_wrongly(
    moment: str, dataset: Dataset, plan: Plan, tmp_path: Path
) -> None:
    child = os.fork()
    if child == 0:  # dies in the middle of the second case
        try:
            torch.set_num_threads(1)
            _kill_oneself(moment)
            prepare_cases(dataset.cases[:2], plan, tmp_path / "cache", SilentProgress(), workers=1)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = list((tmp_path / "cache").iterdir())
    assert any(path.name.startswith(".mr_001") for path in left) is (moment != "end")
    cases = _prepare(dataset, plan, tmp_path / "cache", 2)
    undisturbed = _prepare(dataset, plan, tmp_path / "other", 2)
    for case, expected in zip(cases, undisturbed, strict=True):
        assert case.is_whole()
        for name in ("image", "label", "points"):
            np.testing.assert_array_equal(getattr(case, name), getattr(expected, name))


def _kill_oneself(moment: str) -> None:
    """Let this process die by SIGKILL while it makes its second case."""
    write_array, write_json, replace = module.write_array, module.write_json, Path.replace
    calls = {"write_array": 0, "write_json": 0, "replace": 0}

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def array(values: Any, path: Path, box: Any) -> str:
        calls["write_array"] += 1
        if moment == "array" and calls["write_array"] == 5:
            path.write_bytes(b"half")
            die()
        return write_array(values, path, box)

    def description(value: Any, path: Path) -> None:
        calls["write_json"] += 1
        if moment == "description" and calls["write_json"] == 2:
            die()
        write_json(value, path)

    def rename(path: Path, target: Path) -> Path:
        ours = path.name.startswith(".mr_001") and path.is_dir()
        if ours and moment == "rename":
            die()
        result = replace(path, target)
        if ours:
            die()
        return result

    module.write_array, module.write_json = array, description
    Path.replace = rename  # type: ignore[method-assign]


def test_a_worker_holds_one_case_at_a_time(
    make_dataset: Callable[..., Dataset], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((64, 64, 32), np.uint8)
    label[20:40, 20:40, 10:20] = 1
    images = [rng.normal(size=(1, *label.shape)).astype(np.float32) for _ in range(8)]
    dataset = make_dataset(images, [label] * 8, names={"0": "background", "1": "one"})
    plan = plan_from_dataset(dataset, recipe)
    make, lock, now, most = module._network_arrays, threading.Lock(), 0, 0

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return make(*given, **options)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(module, "_network_arrays", counted)

    def peak(count: int, workers: int) -> int:
        tracemalloc.start()
        try:
            folder = tmp_path / secrets.token_hex(4)
            prepare_cases(dataset.cases[:count], plan, folder, SilentProgress(), workers=workers)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1, 1)  # what is imported on the way
    one = peak(1, 1)
    assert one > images[0].nbytes
    assert peak(8, 1) < one + 0.5 * images[0].nbytes
    assert most == 1
    assert peak(8, 2) < 2.0 * (one + 0.5 * images[0].nbytes)
    assert most <= 2


def test_the_number_of_workers_changes_nothing(phantoms: Dataset, plan: Plan, tmp_path: Path) -> None:
    one, three = (
        prepare_cases(phantoms.cases, plan, tmp_path / str(workers), SilentProgress(), workers=workers)
        for workers in (1, 3)
    )
    for first, second in zip(one, three, strict=True):
        assert first.folder.name == second.folder.name
        for file in first.folder.iterdir():
            assert file.read_bytes() == (second.folder / file.name).read_bytes()


def test_voxels_that_nobody_has_labelled(
    make_dataset: Callable[..., Dataset], recipe: Recipe, tmp_path: Path
) -> None:
    label = np.full((12, 10, 8), 9, np.uint8)  # scribbles
    label[2, 2:8, 3], label[6, 2:8, 3], label[6, 5, 3] = 0, 1, 5
    image = np.random.default_rng(0).normal(size=(1, *label.shape)).astype(np.float32)
    names = {"0": "background", "1": "one", "5": "five", "9": "ignore"}
    dataset = make_dataset([image] * 2, [label] * 2, names=names)
    assert dataset.labels.ignore == 9
    weighted = recipe.model_copy(update={"loss": LossChoice(border_weights=BorderWeightChoice(w0=0.0))})
    plan = plan_from_dataset(dataset, weighted)
    assert plan.fingerprint.class_voxels == (12, 10, 2)
    (case, _) = prepare_cases(
        dataset.cases, plan, tmp_path, SilentProgress(), border_weights_of(weighted, plan)
    )
    classes = case.label[...]
    np.testing.assert_array_equal(np.unique(classes, return_counts=True)[1], [6, 5, 1, 948])
    assert classes.max() == plan.labels.ignore_index == 3
    np.testing.assert_array_equal(case.weight, classes != 3)
    assert case.class_points == (12, 5, 1)
    assert (classes[tuple(_points_of(case, 0).T)] != 3).all()
    assert (classes[tuple(_points_of(case, 1).T)] == 1).all()
    assert (classes[tuple(_points_of(case, 2).T)] == 2).all()


def test_a_case_in_which_nobody_has_labelled_anything_is_refused(
    make_dataset: Callable[..., Dataset], recipe: Recipe
) -> None:
    label = np.full((8, 8, 8), 9, np.uint8)
    half = label.copy()
    half[:4] = 1
    images = [np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)] * 2
    names = {"0": "background", "1": "one", "9": "ignore"}
    dataset = make_dataset(images, [half, label], names=names)
    with pytest.raises(InputError, match=r"case_1.nii: holds no labelled voxel: all are 9"):
        plan_from_dataset(dataset, recipe)
