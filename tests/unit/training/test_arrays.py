from __future__ import annotations

import itertools
from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import InputError
from medseg.files import sha256_of
from medseg.training import arrays as module
from medseg.training.arrays import StoredArray, _blocks, write_array

TYPES = ["uint8", "uint16", "int32", "float32"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_box_is_what_numpy_would_give(
    data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    box = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=len(shape)))
    dtype = data.draw(st.sampled_from(TYPES))
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_BLOCK_VOXELS", data.draw(st.integers(1, 100)))
        digest = write_array(array, tmp_path / "a.b2nd", box)
    stored = StoredArray(tmp_path / "a.b2nd")
    assert digest == sha256_of(tmp_path / "a.b2nd")
    assert (stored.shape, stored.dtype, len(stored)) == (array.shape, array.dtype, len(array))
    ranges = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape]
    place = tuple(slice(*ends) for ends in ranges)
    np.testing.assert_array_equal(stored[place], array[place])
    np.testing.assert_array_equal(stored[0], array[0])
    np.testing.assert_array_equal(stored, array)
    assert stored[place].dtype == dtype
    assert np.asarray(stored, dtype=np.float64).dtype == np.float64


def test_an_array_may_be_empty(tmp_path: Path) -> None:
    write_array(np.zeros((0, 3), np.int32), tmp_path / "a.b2nd", (256, 3))
    assert StoredArray(tmp_path / "a.b2nd")[...].shape == (0, 3)


def test_memory_need_not_be_contiguous(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    write_array(array, tmp_path / "a.b2nd", (2, 2))
    np.testing.assert_array_equal(StoredArray(tmp_path / "a.b2nd"), array)


@pytest.mark.parametrize(
    ("shape", "box", "blocks"),
    [
        ((1, 35, 50, 35), (40, 56, 40), (1, 35, 50, 35)),  # a small volume is one block
        ((2, 512, 512, 512), (128, 128, 128), (1, 64, 32, 32)),
        ((1, 512, 512, 30), (256, 256, 8), (1, 64, 128, 8)),  # thick slices: flat blocks
        ((512, 512, 1), (512, 512, 1), (256, 256, 1)),
        ((4000, 3), (256, 3), (256, 3)),
    ],
)
def test_blocks_suit_what_is_read(shape: tuple[int, ...], box: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    assert sorted(_blocks(shape, box)) == sorted(blocks)
    assert np.prod(_blocks(shape, box)) <= 2**16


def test_a_patch_decompresses_its_blocks_alone(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((1, 64, 64, 64)).astype(np.float32)
    write_array(array, tmp_path / "a.b2nd", (16, 16, 16))
    content = bytearray((tmp_path / "a.b2nd").read_bytes())
    spoilt = slice(len(content) // 2, len(content) // 2 + 2000)
    content[spoilt] = bytes(2000)
    (tmp_path / "a.b2nd").write_bytes(content)
    stored = StoredArray(tmp_path / "a.b2nd")
    right = 0
    for corner in itertools.product(range(0, 64, 16), repeat=3):
        place = (slice(None), *(slice(start, start + 16) for start in corner))
        try:
            right += np.array_equal(stored[place], array[place])
        except InputError as error:
            assert "is damaged" in str(error)
    assert 60 <= right < 64  # of 64, two or three are spoilt


def test_labels_take_hardly_any_space(tmp_path: Path) -> None:
    label = np.zeros((64, 64, 64), np.uint8)
    label[20:40, 10:50, 30:33] = 2
    write_array(label, tmp_path / "a.b2nd", (32, 32, 32))
    assert (tmp_path / "a.b2nd").stat().st_size < label.nbytes / 50


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        _ = StoredArray(tmp_path / "a.b2nd").shape
    (tmp_path / "a.b2nd").write_bytes(b"half")
    with pytest.raises(InputError, match="is damaged"):
        StoredArray(tmp_path / "a.b2nd")[...]
    with pytest.raises(ValueError, match="without a copy"):
        np.array(StoredArray(tmp_path / "a.b2nd"), copy=False)


def test_the_file_is_blosc2_s_own(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 5, (30, 20, 10)).astype(np.uint8)
    write_array(array, tmp_path / "a.b2nd", (8, 8, 8))
    np.testing.assert_array_equal(blosc2.open(str(tmp_path / "a.b2nd"), mode="r")[:], array)
