"""Which postprocessing is tried, and what is found to help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from medseg.labels import LabelScheme
from medseg.metrics import confusion, overlaps_of
from medseg.postprocessing import postprocess
from medseg.postprocessing.choosing import (
    Candidate,
    candidate_dice,
    candidates,
    class_dice,
    combined,
    judge,
    smallest_components_ml,
    thresholds_ml,
)
from medseg.runs.postprocess import PostprocessChoice

SCHEME = LabelScheme.from_names({4: "liver", 9: "tumour"})  # values are not indices
INDICES = LabelScheme.from_names({1: "liver", 2: "tumour"})
SPACING = (1.0, 2.0, 5.0)  # 0.01 ml a voxel
LARGEST = Candidate("liver", PostprocessChoice(largest_component=("liver",)))

maps = hnp.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 2))


def test_smallest_components_by_hand() -> None:
    labels = np.zeros((4, 4, 1), np.uint8)
    labels[0, :, 0] = [1, 1, 0, 1]
    labels[2, :, 0] = [2, 2, 2, 0]
    found = smallest_components_ml(labels, SCHEME, SPACING)
    assert found == pytest.approx({"liver": 0.01, "tumour": 0.03})
    assert smallest_components_ml(np.zeros_like(labels), SCHEME, SPACING) == {}


def test_thresholds_never_drop_what_the_references_hold() -> None:
    volume = 0.0123456
    (found,) = thresholds_ml([{"liver": volume}] * 3).values()
    assert found == (0.00617, 0.0123)
    assert max(found) <= volume


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=20))
def test_the_least_is_tried_and_nothing_above_the_tenth_percentile_or_half_the_median(
    volumes: list[float],
) -> None:
    (found,) = thresholds_ml([{"liver": volume} for volume in volumes]).values()
    assert list(found) == sorted(set(found))
    assert max(found) <= max(np.percentile(volumes, 10), np.median(volumes) / 2) * (1 + 1e-6)
    assert any(0.989 * min(volumes) <= volume <= min(volumes) * (1 + 1e-6) for volume in found)


def test_each_class_is_cleaned_alone_and_simple_ways_come_first() -> None:
    tried = candidates(SCHEME, {"liver": (0.5,)})
    liver = [candidate.choice.told() for candidate in tried if candidate.of == "liver"]
    assert liver == [
        "liver from 0.5 ml",
        "largest component of liver",
        "holes filled of liver",
        "liver from 0.5 ml; holes filled of liver",
        "largest component of liver; holes filled of liver",
    ]
    assert len(tried) == 5 + 3
    assert all("tumour" not in words for words in liver)


@given(maps, maps)
@settings(max_examples=60, deadline=None)
def test_dice_is_that_of_the_evaluation(predicted: np.ndarray, reference: np.ndarray) -> None:
    found = class_dice(predicted, reference, SCHEME)
    values = SCHEME.to_values(predicted), SCHEME.to_values(reference)
    for overlap in overlaps_of(confusion(*values, SCHEME), SCHEME):
        assert found[overlap.name] == pytest.approx(1.0 if np.isnan(overlap.dice) else overlap.dice)


@given(maps, maps)
@settings(max_examples=60, deadline=None)
def test_within_the_box_of_a_class_it_is_what_postprocess_gives(
    predicted: np.ndarray, reference: np.ndarray
) -> None:
    tried = candidates(SCHEME, {"liver": (0.02, 0.05), "tumour": (0.03,)})
    found = candidate_dice(predicted, reference, SCHEME, SPACING, tried)
    for candidate, dice in zip(tried, found, strict=True):
        cleaned = postprocess(predicted, INDICES, SPACING, candidate.choice)
        assert dice == pytest.approx(class_dice(cleaned, reference, SCHEME)[candidate.of])


def test_a_false_structure_dropped_is_a_gain() -> None:
    predicted, empty = np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8)
    predicted[1, 1, 1] = 1
    drop = Candidate("liver", PostprocessChoice(smallest_volume_ml={"liver": 0.02}))
    assert class_dice(predicted, empty, SCHEME)["liver"] == 0.0
    assert candidate_dice(predicted, empty, SCHEME, SPACING, [drop]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("gains", "helps"),
    [
        ([0.0, 0.0, 0.0, 0.0], False),  # nothing happens
        ([0.1, 0.0, 0.0, 0.0], False),  # one case is chance
        ([0.1, 0.1, 0.0, 0.0], True),
        ([0.001, 0.001, 0.0, 0.0], True),  # small, but beyond chance
        ([0.1, 0.1, -0.001, -0.001], False),  # as many become worse
        ([0.1, 0.1, 0.1, -0.31], False),  # more become better, but the mean falls
        ([0.5, 0.005, 0.0, -0.01], False),  # rests on one case
        ([-0.1, -0.1, 0.0, 0.0], False),
        ([0.3], False),
    ],
)
def test_what_helps_beyond_chance(gains: list[float], helps: bool) -> None:
    before = np.full(len(gains), 0.5)
    trial = judge(LARGEST, before, before + np.array(gains))
    assert trial.helps is helps
    assert (trial.better, trial.worse) == (sum(g > 0 for g in gains), sum(g < 0 for g in gains))


@given(st.lists(st.floats(-0.5, 0.5).map(lambda gain: round(gain, 3)), min_size=2, max_size=30))
def test_the_rule_is_a_paired_t_above_one(gains: list[float]) -> None:
    before = np.full(len(gains), 0.5)
    trial = judge(LARGEST, before, before + np.array(gains))
    if np.std(gains) > 1e-6:
        t = stats.ttest_1samp(gains, 0.0).statistic
        if abs(t - 1.0) > 1e-6:
            assert trial.helps == (t > 1.0 and trial.better > trial.worse)


def test_the_best_way_of_each_class_is_kept_and_the_simplest_of_equals() -> None:
    before = np.array([0.5, 0.5, 0.5])

    def trial(of: str, gain: float, **choice: object) -> object:
        return judge(Candidate(of, PostprocessChoice.model_validate(choice)), before, before + gain)

    trials: list[object] = [
        trial("liver", 0.1, smallest_volume_ml={"liver": 0.5}),
        trial("liver", 0.2, largest_component=("liver",)),
        trial("liver", 0.2, largest_component=("liver",), fill_holes=("liver",)),
        trial("tumour", -0.1, largest_component=("tumour",)),
        trial("tumour", 0.1, fill_holes=("tumour",)),
    ]
    assert combined(trials) == PostprocessChoice(  # type: ignore[arg-type]
        largest_component=("liver",), fill_holes=("tumour",)
    )
    assert combined(trials, with_holes=False) == PostprocessChoice(  # type: ignore[arg-type]
        largest_component=("liver",)
    )
    assert combined([]).does_nothing
