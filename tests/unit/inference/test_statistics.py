"""Statistics of an image from one pass in slabs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.geometry import Grid
from medseg.inference import image_statistics
from medseg.inference import statistics as module
from medseg.io import require_finite
from medseg.runs import Normalization, PreprocessingSpec
from medseg.transforms.normalization import Spread, normalize_, spread_of
from medseg.volume import Volume

ZSCORE = Normalization(scheme="zscore")
CT = Normalization(scheme="clip_zscore", lower=-100.0, upper=300.0, mean=50.0, std=25.0)
NONE = Normalization(scheme="none")


def volume(array: npt.NDArray[Any]) -> Volume:
    return Volume(array, Grid(array.shape[1:], np.eye(4)))


def spec(*schemes: Normalization) -> PreprocessingSpec:
    return PreprocessingSpec(normalization=schemes)


class Counting(Volume):
    """A volume that notes what is read of it."""

    def slices(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        asked.append((axis, start, stop))
        return super().slices(axis, start, stop)


asked: list[tuple[int, int, int]] = []


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, ">f4", ">i2", np.bool_])
def test_mean_and_deviation_are_numpys(axis: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLAB_BYTES", 200)
    array = (np.random.default_rng(0).normal(size=(2, 9, 8, 7)) * 40 + 100).astype(dtype)

    first, second = image_statistics(volume(array), spec(ZSCORE, ZSCORE), axis=axis)

    for spread, channel in zip((first, second), array, strict=True):
        assert spread is not None
        assert spread.mean == pytest.approx(channel.mean(dtype=np.float64), rel=1e-7)
        assert spread.std == pytest.approx(channel.std(dtype=np.float64), rel=1e-6)
        assert (spread.lowest, spread.highest) == (
            pytest.approx(float(channel.min())),
            pytest.approx(float(channel.max())),
        )


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(-3000, 3000), min_size=1, max_size=60), cuts=st.lists(st.integers(0, 60)))
def test_parts_in_any_cut_give_the_whole(values: list[int], cuts: list[int]) -> None:
    whole = torch.tensor(values, dtype=torch.float32)
    merged = Spread()
    for part in torch.tensor_split(whole, sorted(cuts)):
        merged = merged.merged(spread_of(part) if len(part) else Spread())

    assert merged.count == len(values)
    assert merged.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert merged.squares == pytest.approx(np.var(values) * len(values), rel=1e-9, abs=1e-6)


def test_a_large_mean_costs_no_digits() -> None:
    array = np.random.default_rng(0).integers(0, 2, (1, 30, 30, 30)).astype(np.float32) + 2.0**23

    (spread,) = image_statistics(volume(array), spec(ZSCORE))

    assert spread is not None
    assert spread.std == pytest.approx(array.std(dtype=np.float64), rel=1e-9)


def test_a_constant_channel_becomes_zero() -> None:
    (spread,) = image_statistics(volume(np.full((1, 3, 4, 5), 0.1)), spec(ZSCORE))

    assert spread is not None
    assert spread.is_constant
    assert normalize_(torch.full((3,), 0.1), ZSCORE, spread).tolist() == [0.0, 0.0, 0.0]


BODY = Normalization(scheme="zscore", background=0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_constant_background_has_no_say(axis: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLAB_BYTES", 200)
    rng = np.random.default_rng(0)
    array = (rng.normal(size=(1, 9, 8, 7)) * 40 + 300).astype(dtype)
    array[rng.random(array.shape) < 0.6] = 0
    array[0, 3] = array[0, :, 3] = array[0, :, :, 3] = 0  # whole slabs of it, along every axis

    (spread,) = image_statistics(volume(array), spec(BODY), axis=axis)

    assert spread is not None
    body = array[array != 0].astype(np.float64)
    assert (spread.count, spread.background_count) == (body.size, array.size - body.size)
    assert spread.mean == pytest.approx(body.mean(), rel=1e-7)
    assert spread.std == pytest.approx(body.std(), rel=1e-6)
    assert spread.lowest == pytest.approx(body.min())
    normalized = normalize_(torch.from_numpy(array[0].astype(np.float32)), BODY, spread).numpy()
    assert normalized[array[0] != 0].std() == pytest.approx(1.0, rel=1e-4)
    # The background is moved like all else, and stays below the body.
    assert np.unique(normalized[array[0] == 0]) == pytest.approx(-body.mean() / body.std(), rel=1e-5)


@pytest.mark.parametrize("values", [[0, 0, 5, 5], [0, 0, 0, 0], [5, 5, 5, 5]])
def test_where_the_body_is_of_one_value_the_whole_image_counts(values: list[int]) -> None:
    voxels = torch.tensor(values, dtype=torch.float32)
    expected = normalize_(voxels.clone(), ZSCORE, spread_of(voxels))
    found = normalize_(voxels.clone(), BODY, spread_of(voxels, 0.0))
    assert found.tolist() == expected.tolist()


def test_integers_under_fixed_numbers_are_not_read() -> None:
    asked.clear()
    array = np.ones((2, 3, 4, 5), np.int16)

    assert image_statistics(Counting(array, Grid((3, 4, 5), np.eye(4))), spec(CT, NONE)) == (None, None)
    assert asked == []


def test_everything_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLAB_BYTES", 2 * 15 * 4 * 2)
    asked.clear()
    array = np.ones((2, 3, 4, 5), np.float32)

    image_statistics(Counting(array, Grid((3, 4, 5), np.eye(4))), spec(CT, ZSCORE), axis=1)

    assert asked == [(1, 0, 2), (1, 2, 4)]


@pytest.mark.parametrize(
    "wrong", [[np.nan], [np.inf, -np.inf], [np.nan, np.inf]], ids=["NaN", "infinite", "both"]
)
@pytest.mark.parametrize("how", [ZSCORE, CT, NONE])
def test_voxels_that_are_not_finite_are_refused_as_reading_does(
    wrong: list[float], how: Normalization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLAB_BYTES", 100)
    array = np.ones((1, 6, 7, 8), np.float32)
    for index, value in enumerate(wrong):
        array[0, 1, index, -1 - index] = value
    with pytest.raises(InputError) as expected:
        require_finite(volume(array), "scan.nii")

    with pytest.raises(InputError) as found:
        image_statistics(volume(array), spec(how), where="scan.nii")

    assert str(found.value) == str(expected.value)


def test_nothing_but_nan_is_said_so() -> None:
    with pytest.raises(InputError, match="all 8 voxels are NaN"):
        image_statistics(volume(np.full((1, 2, 2, 2), np.nan)), spec(NONE))


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="has 2 channels, 1 needed"):
        image_statistics(volume(np.ones((2, 2, 2, 2))), spec(ZSCORE))


def test_read_only_and_turned_voxels_are_fine() -> None:
    array = np.arange(24.0, dtype=np.float32).reshape(1, 2, 3, 4)[:, ::-1, :, ::-1]
    array.flags.writeable = False

    (spread,) = image_statistics(volume(array), spec(ZSCORE))

    assert spread is not None
    assert spread.mean == 11.5
