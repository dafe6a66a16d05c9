from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.geometry import Grid
from medseg.io import require_finite
from medseg.io.values import require_real, scaled_dtype, stored_dtype
from medseg.volume import Volume


@pytest.mark.parametrize("name", ["bool", "int8", "uint64", "float16", "float32", "float64"])
def test_real_numbers_pass(name: str) -> None:
    require_real(np.dtype(name), "a")


@pytest.mark.parametrize(
    "dtype", ["complex64", "S4", "M8[s]", "O", np.longdouble, [("R", "u1"), ("G", "u1")]]
)
def test_other_types_are_refused(dtype: Any) -> None:
    with pytest.raises(InputError, match="a: voxels are"):
        require_real(np.dtype(dtype), "a")


@settings(max_examples=60, deadline=None)
@given(
    stored=st.sampled_from(["int8", "uint8", "int16", "uint16"]),
    slope=st.floats(1e-6, 1e6),
    intercept=st.floats(-1e4, 1e4),
)
def test_scaled_neighbours_stay_apart(stored: str, slope: float, intercept: float) -> None:
    dtype = scaled_dtype(np.dtype(stored), slope, intercept)
    values = np.arange(np.iinfo(stored).min, np.iinfo(stored).max + 1).astype(dtype)
    assert (np.diff(values * dtype.type(slope) + dtype.type(intercept)) > 0).all()


@pytest.mark.parametrize(
    ("array", "labels", "expected"),
    [
        (np.array([True]), False, "uint8"),
        (np.array([True]), True, "uint8"),
        (np.float16([1]), False, "float32"),
        (np.float32([1]), False, "float32"),
        (np.array([1.0], ">f8"), False, "float64"),
        (np.int32([1]), False, "int32"),
        (np.array([1], ">i2"), False, "int16"),
        (np.int32([1]), True, "uint8"),
        (np.int64([-1, 5]), False, "int16"),
        (np.int64([2**40]), False, "int64"),
        (np.uint64([70000]), False, "int32"),
        (np.int16([0, 300]), True, "int16"),
        (np.int32([0, 40000]), True, "uint16"),
    ],
)
def test_what_is_written_holds_every_value(array: np.ndarray[Any, Any], labels: bool, expected: str) -> None:
    dtype = stored_dtype(array, labels=labels, where="a")
    assert (dtype, dtype.isnative) == (np.dtype(expected), True)
    np.testing.assert_array_equal(array.astype(dtype), array)


@pytest.mark.parametrize(
    ("array", "labels"), [(np.float32([1]), True), (np.complex64([1]), False), (np.uint64([2**63]), False)]
)
def test_what_cannot_be_written_is_refused(array: np.ndarray[Any, Any], labels: bool) -> None:
    with pytest.raises(InputError):
        stored_dtype(array, labels=labels, where="a")


def volume(array: np.ndarray[Any, Any]) -> Volume:
    return Volume(array, Grid(array.shape[1:], np.eye(4)))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({(0, 0, 0, 0): np.nan}, "holds 1 NaN voxels"),
        (
            {(1, 2, 1, 3): np.inf, (0, 1, 0, 0): -np.inf, (1, 0, 0, 2): np.nan},
            "holds 1 NaN and 2 infinite voxels",
        ),
    ],
)
def test_voxels_that_are_not_finite_are_counted(bad: dict[tuple[int, ...], float], said: str) -> None:
    array = np.zeros((2, 3, 2, 4), np.float32)
    for index, value in bad.items():
        array[index] = value
    with pytest.raises(InputError, match=f"scan.nii: {said}"):
        require_finite(volume(array), "scan.nii")


def test_an_image_of_all_nan_is_said_so() -> None:
    with pytest.raises(InputError, match="all 12 voxels are NaN"):
        require_finite(volume(np.full((1, 3, 2, 2), np.nan)), "a")


@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_finite_voxels_pass(dtype: str) -> None:
    require_finite(volume(np.ones((2, 3, 2, 4), dtype)), "a")
