"""Rescaling: exact, in the smallest type; against whole-number arithmetic without limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.io.dicom.modality import MeasuredStack

Array = np.ndarray[Any, Any]


def measured(planes: list[Array], slopes: list[float], intercepts: list[float]) -> Array:
    stack = MeasuredStack(slopes, intercepts, *planes[0].shape)
    for index, plane in enumerate(planes):
        stack.put(index, plane)
    return stack.finished()


def plane(values: list[int], dtype: str) -> Array:
    return np.array([values], dtype)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "values", "dtype"),
    [
        (plane([0, 4095], "uint16"), 1, -1024, [-1024, 3071], "int16"),  # CT
        (plane([-2000, 3071], "int16"), 1, -1024, [-3024, 2047], "int16"),
        (plane([0, 4095], "uint16"), 1, 0, [0, 4095], "int16"),  # MR
        (plane([0, 65535], "uint16"), 1, 0, [0, 65535], "uint16"),
        (plane([0, 65535], "uint16"), 1, -1024, [-1024, 64511], "int32"),
        (plane([-32768, 32767], "int16"), 2, 1, [-65535, 65535], "int32"),
        (plane([0, 255], "uint8"), 1, 0, [0, 255], "uint8"),
        (plane([0, 255], "uint8"), 1, -1, [-1, 254], "int16"),
        (plane([-5, 5], "int8"), 1, 0, [-5, 5], "int16"),
        (plane([0, 2**32 - 1], "uint32"), 1, 0, [0, 2**32 - 1], "uint32"),
        (plane([0, 2**32 - 1], "uint32"), 1000, -1, [-1, 1000 * (2**32 - 1) - 1], "float64"),
        (plane([0, 3], "uint16"), 0.5, 1.0, [1.0, 2.5], "float32"),
        (plane([0, 3], "uint16"), 1, 0.25, [0.25, 3.25], "float32"),
        (plane([1, 3], "int32"), 0.5, 0, [0.5, 1.5], "float64"),
        (plane([0, 3], "uint16"), 1e300, 0, [0, 3e300], "float64"),
    ],
)
def test_values_and_type_by_hand(
    stored: Array, slope: float, intercept: float, values: list[float], dtype: str
) -> None:
    found = measured([stored], [float(slope)], [float(intercept)])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[0, 0], values)


def test_each_plane_has_its_own_rescaling() -> None:  # PET
    planes = [plane([1, 2], "int16"), plane([1, 2], "int16")]
    found = measured(planes, [0.5, 2.0], [0.0, 1.0])
    np.testing.assert_array_equal(found[:, 0], [[0.5, 1.0], [3.0, 5.0]])
    assert found.dtype == np.float32


def test_planes_stored_in_different_ways() -> None:
    planes = [plane([0, 60000], "uint16"), plane([-1, 1], "int16")]
    found = measured(planes, [1.0, 1.0], [0.0, 0.0])
    np.testing.assert_array_equal(found[:, 0], [[0, 60000], [-1, 1]])


def test_floating_point_stays() -> None:
    stored = np.array([[0.1, -2.5]], np.float32)
    found = measured([stored], [1.0], [0.0])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], stored)


@given(
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    slopes=st.lists(st.integers(-300, 300).filter(bool), min_size=3, max_size=3),
    intercepts=st.lists(st.integers(-70000, 70000), min_size=3, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_whole_numbers_are_exact(dtype: str, slopes: list[int], intercepts: list[int], seed: int) -> None:
    limits = np.iinfo(dtype)
    stored = np.random.default_rng(seed).integers(limits.min, limits.max, (3, 4, 5), dtype, endpoint=True)
    found = measured(list(stored), [float(s) for s in slopes], [float(i) for i in intercepts])
    wanted = stored.astype(object) * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None]
    np.testing.assert_array_equal(found, wanted.astype(np.int64))
    assert found.dtype.kind in "iu"
