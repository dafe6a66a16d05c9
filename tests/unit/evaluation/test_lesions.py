"""Lesions of a class, case by case, and their names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from medseg.errors import InputError
from medseg.evaluation import ScoringOptions, Status
from medseg.evaluation.lesions import lesion_classes, lesion_row
from medseg.labels import LabelScheme
from medseg.metrics import DistanceCriterion, OverlapCriterion

LABELS = LabelScheme.from_names({1: "tumour", 7: "edema"})


def test_a_hand_made_case() -> None:
    ref, pred = np.zeros((12, 5, 5), np.uint8), np.zeros((12, 5, 5), np.uint8)
    ref[0:2, 0, 0] = ref[5:7, 2, 2] = ref[10, 4, 4] = 7
    pred[1:3, 0, 0] = pred[9, 0, 0] = 7
    pred[0, 4, 4] = 1  # of another class
    row = lesion_row("case", pred, ref, 7, "edema", (1.0, 1.0, 1.0), ScoringOptions())
    assert (row.n_ref, row.n_pred, row.n_found, row.n_missed, row.n_invented) == (3, 2, 1, 2, 1)
    assert (row.sensitivity, row.precision, row.f1) == (1 / 3, 0.5, pytest.approx(0.4))
    assert row.mean_dice == pytest.approx(0.5 / 3)
    assert (row.case, row.label, row.name, row.status) == ("case", 7, "edema", Status.OK)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (ScoringOptions(), (2, 3, 1, 2)),
        (ScoringOptions(lesion_criterion=OverlapCriterion("iou", 0.5)), (2, 3, 0, 3)),
        (ScoringOptions(lesion_criterion=DistanceCriterion(2.0)), (2, 3, 2, 1)),
        (ScoringOptions(smallest_lesion_ml=0.002), (1, 2, 1, 1)),
    ],
)
def test_what_counts_as_found_is_chosen(options: ScoringOptions, counts: tuple[int, ...]) -> None:
    ref, pred = np.zeros((20, 3, 3), np.uint8), np.zeros((20, 3, 3), np.uint8)
    ref[0:3, 0, 0] = ref[10, 0, 0] = 1
    pred[2:5, 0, 0] = pred[12, 0, 0] = pred[17:19, 2, 2] = 1  # overlaps by 1 of 5; 2 mm away; far from all
    row = lesion_row("a", pred, ref, 1, "tumour", (1.0, 1.0, 1.0), options)
    assert (row.n_ref, row.n_pred, row.n_found, row.n_invented) == counts


@pytest.mark.parametrize(
    ("pred", "ref", "status", "numbers"),
    [
        ([1, 0, 0], [0, 0, 0], Status.SPURIOUS, (0, 1, math.nan, 0.0, 0.0)),
        ([0, 0, 0], [1, 0, 1], Status.MISSED, (2, 0, 0.0, math.nan, 0.0)),
        ([0, 0, 0], [0, 0, 0], Status.ABSENT, (0, 0, math.nan, math.nan, math.nan)),
        (None, [1, 0, 1], Status.NO_PREDICTION, (2, 0, 0.0, math.nan, 0.0)),
        (None, [0, 0, 0], Status.ABSENT, (0, 0, math.nan, math.nan, math.nan)),
    ],
)
def test_every_empty_case_is_stated(
    pred: list[int] | None, ref: list[int], status: Status, numbers: tuple[float, ...]
) -> None:
    maps = [None if values is None else np.array(values).reshape(3, 1, 1) for values in (pred, ref)]
    assert maps[1] is not None
    row = lesion_row("a", maps[0], maps[1], 1, "tumour", (1.0, 1.0, 1.0), ScoringOptions())
    assert row.status is status
    np.testing.assert_equal((row.n_ref, row.n_pred, row.sensitivity, row.precision, row.f1), numbers)


def test_counts_agree_with_scipy() -> None:
    generator = np.random.default_rng(0)
    ref = (generator.random((20, 20, 10)) < 0.02).astype(np.uint8)
    row = lesion_row("a", ref, ref, 1, "tumour", (1.0, 1.0, 1.0), ScoringOptions())
    expected = ndimage.label(ref, np.ones((3, 3, 3)))[1]
    assert row.n_ref == row.n_pred == row.n_found == expected > 20


def test_classes_are_named_by_name_or_value() -> None:
    assert lesion_classes(["edema", "1", "tumour"], LABELS) == (7, 1)
    assert lesion_classes([], LABELS) == ()
    assert lesion_classes(["3"], None) == (3,)
    # A name goes before a value that looks the same.
    assert lesion_classes(["7"], LabelScheme.from_names({1: "7", 7: "other"})) == (1,)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("tumor", LABELS, "'tumor' is no class; did you mean 'tumour'"),
        ("2", LABELS, "'2' is no class"),
        ("0", LABELS, "'0' is no class"),
        ("tumour", None, "give its value; no names are declared"),
        ("-1", None, "'-1' is no class"),
    ],
)
def test_other_names_are_refused(name: str, labels: LabelScheme | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lesion_classes([name], labels)
