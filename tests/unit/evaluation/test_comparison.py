"""Two predictions of the same references: what is compared, what is left out, who is shown to be better."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.evaluation import (
    Measure,
    ScoringOptions,
    compare_folders,
    compare_measures,
    compare_paired,
    evaluate_folders,
    evaluate_instance_folders,
    holm,
)
from medseg.evaluation.comparison import prediction_names
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume

GRID = Grid((12, 10, 8), np.eye(4))
CASES = [f"case_{number}" for number in range(8)]


def write(path: Path, array: np.ndarray, grid: Grid = GRID) -> None:
    write_volume(Volume(array[None].astype(np.uint8), grid), path, labels=True)


def boxes(shift: int) -> np.ndarray:
    labels = np.zeros(GRID.shape)
    labels[1 + shift : 5 + shift, 2:7, 2:6] = 1
    labels[7:10, 2:7, 2 : 5 - shift] = 2
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """References; predictions that are a voxel off; predictions that are right but for one case."""
    for number, case in enumerate(CASES):
        write(tmp_path / "ref" / f"{case}.nii", boxes(0))
        write(tmp_path / "off" / f"{case}.nii", boxes(1))
        write(tmp_path / "right" / f"{case}.nii", boxes(0 if number else 2))
    (tmp_path / "ref" / "dataset.json").write_text(
        json.dumps({"labels": {"liver": 1, "spleen": 2, "gone": 3}})
    )
    return tmp_path


def test_measures_are_compared_on_the_cases_that_both_have() -> None:
    nan = math.nan
    first = [
        Measure("liver", "dice", {"a": 0.9, "b": 0.8, "c": nan, "d": 0.7, "e": 0.9}),
        Measure("liver", "hd95_mm", {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0}),
    ]
    second = [
        Measure("liver", "dice", {"a": 0.5, "b": nan, "c": 0.1, "d": 0.6, "e": 0.4}),
        Measure("spleen", "dice", {"a": 0.5}),
    ]
    dice, distance, spleen = compare_measures(first, second, ["a", "b", "c", "d"])
    assert (dice.test.n, dice.n_left_out) == (2, 2)
    assert (dice.first_mean, dice.second_mean) == (pytest.approx(0.8), pytest.approx(0.55))
    assert dice.test.mean_difference == pytest.approx(0.25)
    for empty in (distance, spleen):
        assert (empty.test.n, empty.n_left_out) == (0, 4)
        assert math.isnan(empty.first_mean)
        assert math.isnan(empty.p_holm)
        assert empty.favours(("A", "B")) is None


def test_tests_are_those_of_the_statistics_corrected_together() -> None:
    generator = np.random.default_rng(0)
    cases = [str(number) for number in range(12)]
    numbers = generator.normal(size=(2, 3, 12))
    numbers[1, 0] += 2.0
    tables = [
        [Measure(str(row), "dice", dict(zip(cases, side[row], strict=True))) for row in range(3)]
        for side in numbers
    ]
    found = compare_measures(*tables, cases)
    alone = [compare_paired(numbers[0, row], numbers[1, row]) for row in range(3)]
    assert [entry.test for entry in found] == alone
    assert [entry.p_holm for entry in found] == list(holm([test.p_value for test in alone]))
    assert [entry.favours(("A", "B")) for entry in found] == ["B", None, None]


@pytest.mark.parametrize(("metric", "better"), [("dice", "A"), ("hd95_bound_mm", "B")])
def test_smaller_distances_are_better(metric: str, better: str) -> None:
    cases = [str(number) for number in range(8)]
    first = Measure("liver", metric, {case: 5.0 + index for index, case in enumerate(cases)})
    second = Measure("liver", metric, dict.fromkeys(cases, 1.0))
    (found,) = compare_measures([first], [second], cases)
    assert found.p_holm < 0.05
    assert found.favours(("A", "B")) == better


def test_folders_are_compared_class_by_class_and_over_classes(folders: Path) -> None:
    for case in CASES[5:7]:
        (folders / "right" / f"{case}.nii").unlink()
    found = compare_folders(
        [folders / "off", folders / "right"], folders / "ref", folders / "out", evaluate_one=evaluate_folders
    )
    assert found.names == ("off", "right")
    assert found.cases == (*CASES[:5], CASES[7])
    assert found.left_out == (tuple(CASES[5:7]), ())
    assert {path.name for path in (folders / "out").iterdir()} == {"comparison.json", "off", "right"}
    assert (folders / "out" / "off" / "metrics.csv").is_file()
    summary = json.loads((folders / "out" / "comparison.json").read_text())
    assert summary == found.summary()
    assert summary["left_out"] == {"only off": CASES[5:7], "only right": []}
    rows = {(row["of"], row["metric"]): row for row in summary["compared"]}
    assert set(rows) == {
        (of, metric)
        for of in ("liver", "spleen", "gone", "mean over classes")
        for metric in ("dice", "nsd", "hd95_bound_mm", "assd_bound_mm")
    }
    liver = rows["liver", "dice"]
    assert (liver["n"], liver["n_left_out"]) == (6, 0)
    off = 2 * 3 * 20 / (4 * 20 * 2)
    right = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert liver["mean"] == pytest.approx({"off": off, "right": np.mean(right)})
    assert liver["mean_difference"] == pytest.approx(off - np.mean(right))
    # Six differences of one size share the mean rank 3.5; one of them is in favour of "off".
    assert liver["effect_size"] == pytest.approx((3.5 - 5 * 3.5) / 21)
    gone = rows["gone", "dice"]
    assert (gone["n"], gone["n_left_out"], gone["p_value"], gone["interval"]) == (0, 6, None, None)
    tests = sum(row["p_holm"] is not None for row in summary["compared"])
    assert f"all {tests} tests" in summary["test"]


def test_a_missed_structure_counts_against_who_missed_it(folders: Path) -> None:
    for case in CASES:
        write(folders / "right" / f"{case}.nii", np.where(boxes(0) == 2, 0, boxes(0)))
    found = compare_folders(
        [folders / "off", folders / "right"], folders / "ref", folders / "out", evaluate_one=evaluate_folders
    )
    rows = {(entry.of, entry.metric): entry for entry in found.compared}
    spleen = rows["spleen", "hd95_bound_mm"]
    assert (spleen.test.n, spleen.n_left_out, spleen.test.effect_size) == (8, 0, -1.0)
    assert spleen.test.p_value < 0.01 < spleen.second_mean
    assert found.summary()["failures"]["right"]["spleen"] == {
        "n_missed": 8,
        "n_spurious": 0,
        "n_no_prediction": 0,
    }


def test_overlap_alone_is_compared_by_dice_alone(folders: Path) -> None:
    found = compare_folders(
        [folders / "off", folders / "right"],
        folders / "ref",
        folders / "out",
        evaluate_one=partial(evaluate_folders, options=ScoringOptions(surface=None)),
        names=["x", "y"],
    )
    assert {entry.metric for entry in found.compared} == {"dice"}
    assert (folders / "out" / "y" / "summary.json").is_file()


def test_instances_are_compared_too(folders: Path) -> None:
    found = compare_folders(
        [folders / "off", folders / "right"],
        folders / "ref",
        folders / "out",
        evaluate_one=evaluate_instance_folders,
    )
    assert [entry.metric for entry in found.compared] == ["pq", "f1_0.5", "aji", "dice"]
    assert all(entry.of == "objects" and entry.test.n == 8 for entry in found.compared)
    assert set(found.summary()["failures"]["off"]) == {"n_missed", "n_spurious", "n_no_prediction"}


def test_what_does_not_fit_is_refused_before_any_work(folders: Path) -> None:
    write(folders / "right" / f"{CASES[3]}.nii", boxes(0), Grid(GRID.shape, np.diag([1.0, 1.0, 3.0, 1.0])))
    called: list[object] = []

    def never(*arguments: object) -> object:
        called.append(arguments)
        raise AssertionError

    compare = partial(compare_folders, ref=folders / "ref", out=folders / "out", evaluate_one=never)  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match=r"right/case_3\.nii: lies on another grid"):
        compare([folders / "off", folders / "right"])
    with pytest.raises(InputError, match="nowhere: does not exist"):
        compare([folders / "off", folders / "nowhere"])
    with pytest.raises(InputError, match=r"off: is the folder of what is to be scored, too"):
        compare([folders / "off", folders / "off"], out=folders, names=["off", "x"])
    assert not called
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("predictions", "names", "message"),
    [
        (["a"], [], "1 predictions cannot be compared"),
        (["a", "b", "c"], [], "3 predictions cannot be compared"),
        (["a", "b"], ["x"], "1 names for 2 predictions"),
        (["x/pred", "y/pred"], [], "both predictions are called 'pred'"),
        (["a", "b"], ["x", "../x"], r"'\.\./x' cannot name a folder"),
        (["a", "b"], ["x", ".."], r"'\.\.' cannot name a folder"),
        (["a", "b"], ["", "x"], "'' cannot name a folder"),
    ],
)
def test_names_that_do_not_do_are_refused(predictions: list[str], names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prediction_names(predictions, names)


def test_files_are_named_without_their_suffix() -> None:
    assert prediction_names(["out/unet.nii.gz", "out/segnet.nii.gz"]) == ("unet", "segnet")
