"""Training subsets, and the journal of a job."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.comparison.jobs import JobFolder, Key, run_of, split_of, training_subset
from medseg.comparison.journal import finished_cases, note_case
from medseg.data import make_split
from medseg.errors import ConfigError

IDS = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=12, unique=True)


@settings(deadline=None)
@given(IDS, st.integers(0, 5), st.data())
def test_smaller_subsets_lie_within_larger_ones(ids: list[str], seed: int, data: st.DataObject) -> None:
    large = data.draw(st.integers(1, len(ids)))
    small = data.draw(st.integers(1, large))
    inner, outer = training_subset(ids, small, seed), training_subset(reversed(ids), large, seed)
    assert set(inner) <= set(outer) <= set(ids)
    assert (len(inner), len(outer)) == (small, large)


def test_a_subset_is_what_anyone_can_recompute() -> None:
    ids = [f"case_{number}" for number in range(9)]
    digests = {hashlib.sha256(f"training subset 3:{case}".encode()).hexdigest(): case for case in ids}
    expected = tuple(sorted(digests[digest] for digest in sorted(digests)[:4]))
    assert training_subset(ids, 4, seed=3) == expected
    assert training_subset(ids, 4, seed=4) != expected


@pytest.mark.parametrize("size", [0, 10])
def test_sizes_that_are_not_there_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} training cases cannot be taken of 9; use 1 to 9"):
        training_subset([str(number) for number in range(9)], size, seed=0)


def test_the_held_out_cases_of_a_fold_do_not_depend_on_the_size() -> None:
    split = make_split([str(number) for number in range(10)], folds=5)
    for size in (2, 5, 8):
        own = split_of(Key("unet", size, 0, 3), split)
        assert own.validation(0) == split.validation(3)
        assert set(own.training(0)) <= set(split.training(3))
    assert split_of(Key("unet", None, 0, 3), split) == split


def test_folds_share_a_run_unless_each_has_a_subset_of_its_own() -> None:
    out = Path("out")
    assert run_of(Key("unet", None, 0, 1), (0,), out) == out / "runs/unet"
    assert run_of(Key("unet", None, 2, 1), (1, 2), out) == out / "runs/unet/seed_2"
    assert run_of(Key("unet", 5, 2, 1), (1, 2), out) == out / "runs/unet/size_5/seed_2/held_out_1"


def test_a_torn_line_of_the_journal_is_left_alone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert finished_cases(folder) == {}
    folder.predictions.mkdir()
    for name in ("a", "b"):
        (folder.predictions / f"{name}.nii.gz").touch()
    note_case({"case": "a", "output": "a.nii.gz"}, folder)
    with folder.cases.open("a") as handle:
        handle.write('{"case": "x", "out')
    note_case({"case": "b", "output": "b.nii.gz"}, folder)
    note_case({"case": "failed", "output": None}, folder)
    note_case({"case": "gone", "output": "gone.nii.gz"}, folder)
    assert set(finished_cases(folder)) == {"a", "b", "failed"}
