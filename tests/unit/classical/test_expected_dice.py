"""The labels of the best expected Dice, against all label maps that there are and against drawn truths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import softmax

from medseg.classical import best_dice_labels, best_dice_labels_bytes, expected_dice


def scores_of(rng: np.random.Generator, classes: int, *shape: int) -> np.ndarray:
    return rng.normal(scale=1.5, size=(classes, *shape))


def best_of_all(probabilities: np.ndarray) -> float:
    """Highest sum of Dice that any label map may expect, written down once more."""
    classes, voxels = probabilities.shape
    found = 0.0
    for labels in itertools.product(range(classes), repeat=voxels):
        total = 0.0
        for index in range(1, classes):
            chosen = np.equal(labels, index)
            total += 2.0 * probabilities[index, chosen].sum() / (chosen.sum() + probabilities[index].sum())
        found = max(found, total)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_of_one_class_no_label_map_expects_more(seed: int) -> None:
    scores = scores_of(np.random.default_rng(seed), 2, 10)
    probabilities = softmax(scores, axis=0)
    (found,) = expected_dice(probabilities, best_dice_labels(scores))
    assert found == pytest.approx(best_of_all(probabilities))


def test_of_several_classes_few_label_maps_expect_more() -> None:
    short, gained = [], 0
    for seed in range(12):
        scores = scores_of(np.random.default_rng(seed), 3, 7)
        scores[:, :3] = np.eye(3)[:, [0, 1, 2]] * 4.0  # each class is somewhere
        probabilities = softmax(scores, axis=0)
        found = expected_dice(probabilities, best_dice_labels(scores)).sum()
        plain = expected_dice(probabilities, scores.argmax(axis=0)).sum()
        assert found >= plain
        gained += found > plain
        short.append(best_of_all(probabilities) - found)
    assert gained >= 3
    assert np.mean(short) < 0.02
    assert min(short) == pytest.approx(0.0, abs=1e-9)


def test_it_reaches_more_of_truths_that_are_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    distance = np.linalg.norm(np.indices((16, 16, 16)).T - 7.5, axis=-1)
    vessel = 1.0 / (1.0 + np.exp(distance - 4.0))
    scores = np.log(np.stack([1.0 - vessel, vessel]))
    best, likely = best_dice_labels(scores), scores.argmax(axis=0)
    truths = rng.uniform(size=(50, *vessel.shape)) < vessel

    def dice(labels: np.ndarray) -> float:
        return float(np.mean([2.0 * (labels * t).sum() / (labels.sum() + t.sum()) for t in truths]))

    assert dice(best) > dice(likely) + 0.005
    assert expected_dice(np.exp(scores), best)[0] == pytest.approx(dice(best), abs=0.005)
    assert (best >= likely).all()


def test_certain_labels_stay_and_absent_classes_stay_away() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (5, 4, 3))
    certain = 20.0 * np.stack([labels == index for index in range(3)])
    np.testing.assert_array_equal(best_dice_labels(certain), labels)
    faint = np.log(np.stack([np.full(9, 0.7), np.full(9, 0.2), np.full(9, 0.1)]))
    assert not best_dice_labels(faint).any()
    assert expected_dice(np.exp(faint), np.zeros(9, int)).tolist() == [0.0, 0.0]


def test_memory_is_estimated() -> None:
    assert best_dice_labels_bytes((4, 5, 6), 3) == 120 * (36 + 16)
