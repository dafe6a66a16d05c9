"""Bounding boxes, of masks and of label maps, against looking at every voxel."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.components import bounding_box
from medseg.metrics.surface_boxes import boxes_of_labels, union


@given(mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)))
@settings(max_examples=60, deadline=None)
def test_the_box_is_the_smallest(mask: np.ndarray) -> None:
    box = bounding_box(mask)
    where = np.argwhere(mask)
    if not len(where):
        assert box is None
    else:
        ends = zip(where.min(axis=0).tolist(), (where.max(axis=0) + 1).tolist(), strict=True)
        assert box == tuple(slice(*both) for both in ends)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float32, np.float64])
@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_boxes_of_many_labels_are_those_of_each(dtype: type, seed: int) -> None:
    label_map = np.random.default_rng(seed).choice([0, 0, 0, *range(3, 60, 3)], (4, 5, 6)).astype(dtype)
    values = list(range(59, 0, -1))
    assert boxes_of_labels(label_map, values) == [bounding_box(label_map == value) for value in values]


@pytest.mark.parametrize("offset", [-40, 70_000, 2**40])
def test_values_may_be_negative_or_large(offset: int) -> None:
    label_map = np.arange(30).reshape(5, 6) // 2 + offset
    values = [offset + value for value in range(20)]
    assert boxes_of_labels(label_map, values) == [bounding_box(label_map == value) for value in values]


def test_labels_without_a_voxel_have_no_box() -> None:
    assert boxes_of_labels(np.zeros((3, 3), np.uint8), list(range(1, 20))) == [None] * 19
    assert boxes_of_labels(np.zeros((0, 3), np.uint8), list(range(1, 20))) == [None] * 19
    assert boxes_of_labels(np.ones((3, 3), np.uint8), []) == []


def test_a_union_with_nothing_is_the_other() -> None:
    box = (slice(1, 3), slice(0, 2))
    assert union(box, None) == union(None, box) == box
    assert union(None, None) is None
    assert union(box, (slice(2, 5), slice(1, 2))) == (slice(1, 5), slice(0, 2))
