"""Pictures of the worst, the median and the best case, on the image or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import ConfigError, InputError
from medseg.evaluation import Pair, Pictures, evaluate_folders, find_pairs
from medseg.evaluation.overlays import rank_cases
from medseg.evaluation.pairs import find_images
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume

GRID = Grid((16, 14, 12), np.eye(4))
SHIFTS = {"a": 2, "b": 0, "c": 5, "d": 1}


def write(path: Path, array: np.ndarray, grid: Grid = GRID) -> Path:
    write_volume(Volume(array[None], grid), path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:9, 4:9, 3:8] = 1
    for case, shift in SHIFTS.items():
        write(tmp_path / "ref" / f"{case}.nii", labels)
        write(tmp_path / "pred" / f"{case}.nii", np.roll(labels, shift, axis=0))
        image = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
        write(tmp_path / "img" / f"{case}_0000.nii", image + labels)
    return tmp_path / "pred", tmp_path / "ref"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [("worst", "a")]),
        (2, [("worst", "a"), ("best", "b")]),
        (3, [("worst", "a"), ("median", "b"), ("best", "c")]),
        (4, [("worst", "a"), ("median", "c"), ("best", "d")]),
    ],
)
def test_no_case_is_drawn_twice(count: int, expected: list[tuple[str, str]]) -> None:
    scores = {case: 0.1 * index for index, case in enumerate("abcd"[:count])}
    pairs = [Pair(case, None, Path(case)) for case in "abcd"]
    assert [(entry.rank, entry.pair.case) for entry in rank_cases(scores, pairs, "Dice")] == expected


def test_overlays_are_drawn_on_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    image_module = pytest.importorskip("matplotlib.image")
    found = evaluate_folders(*folders, tmp_path / "out", pictures=Pictures(tmp_path / "img"))
    plain = evaluate_folders(*folders, tmp_path / "plain", pictures=Pictures())
    entries = found.summary["overlays"]
    assert [(entry["rank"], entry["case"]) for entry in entries] == [
        ("worst", "c"),
        ("median", "d"),
        ("best", "b"),
    ]
    assert entries[0]["image"] == str(tmp_path / "img" / "c_0000.nii")
    assert plain.summary["overlays"][0] == {
        "rank": "worst",
        "case": "c",
        "file": "overlays/worst.png",
        "image": None,
        "note": None,
    }
    for entry in entries:
        with_image = image_module.imread(tmp_path / "out" / entry["file"])
        without = image_module.imread(tmp_path / "plain" / entry["file"])
        assert with_image.shape[0] > without.shape[0] + 200  # a row more
        assert without[..., :3].std() > 0.05


def test_an_image_that_does_not_fit_is_said_and_not_used(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = np.zeros(GRID.shape, np.float32)
    write(tmp_path / "img" / "c_0000.nii", image, Grid(GRID.shape, np.diag([2.0, 1.0, 1.0, 1.0])))
    (tmp_path / "img" / "d_0000.nii").unlink()
    (tmp_path / "img" / "b_0000.nii").write_bytes(b"nothing")
    found = evaluate_folders(*folders, tmp_path / "out", pictures=Pictures(tmp_path / "img"))
    worst, median, best = (entry["note"] for entry in found.summary["overlays"])
    assert "another grid: spacing 2x1x1 mm instead of 1x1x1 mm" in worst
    assert median == "there is no image of this case"
    assert "b_0000.nii" in best
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 3


def test_images_are_found_before_work_starts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="nowhere: does not exist"):
        evaluate_folders(*folders, tmp_path / "out", pictures=Pictures(tmp_path / "nowhere"))
    write(tmp_path / "other" / "x.nii", np.zeros(GRID.shape, np.float32))
    with pytest.raises(InputError, match=r"other: holds the image of no case \(no a, for example\)"):
        evaluate_folders(*folders, tmp_path / "out", pictures=Pictures(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


def test_images_are_named_as_cases_or_as_first_channels(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cases = [pair.case for pair in find_pairs(*folders).pairs]
    write(tmp_path / "img" / "a.nii", np.zeros(GRID.shape, np.float32))
    found = find_images(tmp_path / "img", cases)
    assert {case: path.name for case, path in found.items()} == {
        "a": "a.nii",
        "b": "b_0000.nii",
        "c": "c_0000.nii",
        "d": "d_0000.nii",
    }
    assert find_images(tmp_path / "img" / "a.nii", ["any"]) == {"any": tmp_path / "img" / "a.nii"}


def test_without_matplotlib_pictures_are_refused_before_work_starts(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.evaluation.overlays.can_draw", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[report\]', or give --no-pictures"):
        evaluate_folders(*folders, tmp_path / "out", pictures=Pictures())
    assert not (tmp_path / "out").exists()
    assert evaluate_folders(*folders, tmp_path / "out").summary["overlays"] == []


def test_cases_without_anything_to_see_are_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    labels = np.zeros(GRID.shape, np.uint8)
    write(tmp_path / "ref" / "empty.nii", labels)
    write(tmp_path / "pred" / "empty.nii", labels)
    labels[2:5, 2:5, 2:5] = 1
    write(tmp_path / "ref" / "full.nii", labels)
    write(tmp_path / "pred" / "full.nii", labels)
    write(tmp_path / "ref" / "lost.nii", labels)
    found = evaluate_folders(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "out", pictures=Pictures(), require_all=True
    )
    drawn = [(entry["rank"], entry["case"]) for entry in found.summary["overlays"]]
    assert drawn == [("worst", "lost"), ("best", "full")]
