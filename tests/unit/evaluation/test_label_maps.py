"""What counts as a label map, and which values it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.evaluation.label_maps import MOST_CLASSES, read_label_map, values_in
from medseg.geometry import Grid
from medseg.io import write_volume
from medseg.volume import Volume

WHERE = Path("a.nii")


def volume_of(array: np.ndarray) -> Volume:
    array = array.reshape(1, -1, 1, 1)
    return Volume(array, Grid(array.shape[1:], np.eye(4)))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 120), min_size=1, max_size=40),
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.int64]),
    st.integers(0, 3),
)
def test_values_are_those_that_occur(values: list[int], dtype: type, shape: int) -> None:
    array = np.resize(np.array(values, dtype), (1, 8, 5, 3) if shape else (1, len(values), 1, 1))
    array = np.asfortranarray(array) if shape == 2 else array[:, ::-1] if shape == 3 else array
    assert values_in(Volume(array, Grid(array.shape[1:], np.eye(4))), WHERE) == set(array.ravel().tolist())


def test_many_voxels_are_looked_at_in_parts() -> None:
    array = np.zeros((1, 128, 128, 130), np.int16)
    array[0, -1, -1, -1], array[0, 0, 0, 0] = 300, 7
    assert values_in(Volume(array, Grid((128, 128, 130), np.eye(4))), WHERE) == {0, 7, 300}


def test_very_large_values_are_found_too() -> None:
    assert values_in(volume_of(np.array([0, 2**40, 5])), WHERE) == {0, 5, 2**40}


def test_too_many_values_are_refused() -> None:
    assert len(values_in(volume_of(np.arange(MOST_CLASSES)), WHERE)) == MOST_CLASSES
    with pytest.raises(InputError, match=f"holds {MOST_CLASSES + 1} different values"):
        values_in(volume_of(np.arange(MOST_CLASSES + 1)), WHERE)


@pytest.mark.parametrize("values", [[0.0, 1.0, 300.0], [4.0, 4.0, 4.0], [0.0, 2.0**40, 1.0]])
def test_floating_point_label_maps_become_integers(tmp_path: Path, values: list[float]) -> None:
    write_volume(volume_of(np.array(values, np.float64)), tmp_path / "a.nii")
    array = read_label_map(tmp_path / "a.nii").array
    assert array.dtype.kind in "iu"
    assert array.ravel().tolist() == values


@pytest.mark.parametrize("value", [0.25, -1.0, -np.inf, np.nan, np.inf, 1e300])
def test_other_numbers_are_no_labels(tmp_path: Path, value: float) -> None:
    write_volume(volume_of(np.array([0.0, value])), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: is no label map"):
        read_label_map(tmp_path / "a.nii")


def test_negative_integers_are_no_labels(tmp_path: Path) -> None:
    write_volume(volume_of(np.array([0, -1], np.int16)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: is no label map"):
        read_label_map(tmp_path / "a.nii")
