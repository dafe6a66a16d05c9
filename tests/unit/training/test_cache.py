from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medseg.data import Dataset, load_dataset
from medseg.errors import GeometryError, ResourceError
from medseg.files import sha256_of
from medseg.io import read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.progress import SilentProgress
from medseg.runs import Plan
from medseg.training import cache as module
from medseg.training.arrays import write_array
from medseg.training.cache import CachedCase, prepare_cases
from medseg.training.fingerprint import read_labelled_case
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
