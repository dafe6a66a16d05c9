from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.splits import Split, make_split
from medseg.errors import ConfigError, InputError

case_ids = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=40, unique=True)


@settings(max_examples=60, deadline=None)
@given(ids=case_ids, folds=st.integers(2, 7), seed=st.integers(-5, 2**40), order=st.randoms())
def test_each_case_validates_once_in_folds_of_even_size(ids, folds, seed, order):
    if folds > len(ids):
        with pytest.raises(ConfigError, match="use fewer folds"):
            make_split(ids, folds, seed)
        return
    split = make_split(ids, folds, seed)
    sizes = [len(fold) for fold in split.folds]
    assert sorted(case_id for fold in split.folds for case_id in fold) == sorted(ids)
    assert max(sizes) - min(sizes) <= 1
    for fold in range(folds):
        assert set(split.training(fold)) == set(ids) - set(split.validation(fold))
        assert list(split.training(fold)) == sorted(split.training(fold))
    shuffled = list(ids)
    order.shuffle(shuffled)
    assert make_split(shuffled, folds, seed) == split


def test_the_deal_is_the_documented_one():
    # By hand, with `printf 7:a | sha256sum`: c 18ec…, a 82d9…, d d3a3…, b ec2a…
    assert make_split(["a", "b", "c", "d"], folds=2, seed=7).folds == (("c", "d"), ("a", "b"))


def test_the_deal_never_changes():
    ids = [f"case_{index:03d}" for index in range(10)]
    assert make_split(ids, folds=5, seed=0).folds == (
        ("case_000", "case_004"),
        ("case_006", "case_009"),
        ("case_007", "case_008"),
        ("case_002", "case_005"),
        ("case_001", "case_003"),
    )


def test_another_seed_deals_differently():
    ids = [f"case_{index:03d}" for index in range(20)]
    assert make_split(ids, seed=0).folds != make_split(ids, seed=1).folds


def test_hash_randomisation_of_python_does_not_matter():
    code = "from medseg.data.splits import make_split; print(make_split(map(str, range(30)), 3, 1).folds)"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {f"{make_split(map(str, range(30)), 3, 1).folds}\n"}


@pytest.mark.parametrize("folds", [-1, 0, 1])
def test_fewer_than_two_folds_are_refused(folds):
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        make_split(["a", "b"], folds)


def test_a_case_given_twice_is_refused():
    with pytest.raises(ConfigError, match="case 'b' is given twice"):
        make_split(["a", "b", "b"], 2)


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_fold_that_is_not_there_is_refused(fold):
    split = make_split(["a", "b"], 2)
    with pytest.raises(ConfigError, match="choose one of 0 to 1"):
        split.validation(fold)
    with pytest.raises(ConfigError, match="choose one of 0 to 1"):
        split.training(fold)


def test_it_survives_the_way_to_disk_and_back(tmp_path):
    split = make_split(["a", "b", "ü"], 2, seed=3)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split


def test_cases_that_only_train_are_in_every_training_set():
    split = Split(seed=None, folds=(("a",), ("b",)), training_only=("z",))
    assert split.training(0) == ("b", "z")
    assert split.training(1) == ("a", "z")
    assert split.case_ids == ("a", "b", "z")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"seed": 0, "folds": [["a"], ["a"]]}, "case 'a' appears twice"),
        ({"seed": 0, "folds": [["a"], ["b"]], "training_only": ["b"]}, "case 'b' appears twice"),
        ({"seed": 0, "folds": [["a"], []]}, "a fold has no validation case"),
        ({"seed": 0, "folds": []}, "a fold has no validation case"),
        ({"seed": 0, "folds": [["a"]]}, "no case is left to train on"),
        ({"seed": 0, "folds": [["a"], ["b"]], "fold": 1}, "fold: Extra inputs"),
        ({"seed": 0, "folds": [["a"], ["b"]], "schema_version": 2}, "schema_version"),
        ({"folds": [["a"], ["b"]]}, "seed: Field required"),
        ([["a"], ["b"]], "is not a split"),
    ],
)
def test_a_file_that_is_no_split_is_refused_with_its_reason(tmp_path: Path, content, reason):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason) as caught:
        Split.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (3, 3), (4, 4), (5, 5), (6, 5), (40, 5)])
def test_fewer_than_five_cases_are_left_out_one_by_one(count, folds):
    ids = [f"case_{index:02d}" for index in range(count)]
    split = make_split(ids)
    assert len(split.folds) == folds
    assert split.leaves_one_out is (count <= 5)
    assert sorted(case_id for fold in split.folds for case_id in fold) == ids


@pytest.mark.parametrize("folds", [None, 2, 5])
def test_a_single_case_is_refused_with_the_reason(folds):
    with pytest.raises(ConfigError, match=r"'a' is the only one: .* none is left to train on; add a case"):
        make_split(["a"], folds)


def test_more_folds_than_cases_that_somebody_asks_for_are_refused():
    with pytest.raises(ConfigError, match="5 folds for 3 cases"):
        make_split(["a", "b", "c"], 5)


def test_no_case_at_all_is_refused():
    with pytest.raises(ConfigError, match="for 0 cases"):
        make_split([])


def test_cases_that_only_train_are_never_left_out():
    assert not Split(seed=None, folds=(("a",), ("b",)), training_only=("z",)).leaves_one_out
