"""Volumes read slab by slab, against the same files read whole."""

from __future__ import annotations

import gc
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError, ResourceError
from medseg.geometry import Grid
from medseg.io import open_volume, read_volume, write_volume
from medseg.io.spool import DiskArray, scratch_array
from medseg.volume import Slices, Volume

MakeNifti = Callable[..., Path]
# So many rows that slices across the fastest axis are worth another copy.
RAMP = np.arange(3 * 10 * 11, dtype=np.int16).reshape(3, 10, 11)
SUFFIXES = [".nii", ".nii.gz", ".mha", ".nrrd"]


def assert_same_slabs(image: Slices, whole: Volume, thickness: int) -> None:
    assert image.grid == whole.grid
    assert (image.channels, image.dtype) == (whole.channels, whole.dtype)
    for axis in range(3):
        for start in range(0, whole.grid.shape[axis], thickness):
            stop = min(start + thickness, whole.grid.shape[axis])
            slab = image.slices(axis, start, stop)
            assert slab.dtype == whole.dtype
            assert slab.dtype.isnative
            np.testing.assert_array_equal(slab, whole.slices(axis, start, stop))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("thickness", [1, 2, 9])
def test_slabs_are_those_of_the_whole(make_nifti: MakeNifti, name: str, endian: str, thickness: int) -> None:
    path = make_nifti(RAMP, name=name, endian=endian)
    with open_volume(path) as image:
        assert image.resident_bytes == 0
        assert_same_slabs(image, read_volume(path), thickness)


def test_one_slice_by_hand(make_nifti: MakeNifti) -> None:
    with open_volume(make_nifti(RAMP, endian=">")) as image:
        np.testing.assert_array_equal(image.slices(0, 1, 2), RAMP[None, 1:2])
        np.testing.assert_array_equal(image.slices(1, 8, 10), RAMP[None, :, 8:])
        np.testing.assert_array_equal(image.slices(2, 0, 2), RAMP[None, :, :, :2])


@pytest.mark.parametrize("stored", ["uint8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_scaling_gives_the_same_bits(make_nifti: MakeNifti, stored: str, endian: str) -> None:
    path = make_nifti(RAMP.astype(stored), endian=endian, scl_slope=0.1, scl_inter=-10.7)
    with open_volume(path) as image:
        assert_same_slabs(image, read_volume(path), 2)


def test_the_file_is_never_changed(make_nifti: MakeNifti) -> None:
    path = make_nifti(RAMP, endian=">", scl_slope=2.0)
    before = path.read_bytes()
    with open_volume(path) as image:
        image.slices(0, 0, 2)[:] = 77
        image.slices(2, 0, 2)[:] = 77
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format(tmp_path: Path, suffix: str, compressed: bool, channels: int) -> None:
    """Those of ITK store channels fastest, NIfTI slowest."""
    path = tmp_path / f"a{suffix}"
    array = np.arange(channels * 360, dtype=np.float32).reshape(channels, 4, 9, 10)
    if suffix in (".mha", ".nrrd"):
        ordered = array[0].T if channels == 1 else array.transpose(3, 2, 1, 0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(ordered), isVector=channels > 1)
        sitk.WriteImage(image, str(path), useCompression=compressed)
    else:
        write_volume(Volume(array, Grid((4, 9, 10), np.eye(4))), path)
    with open_volume(path) as opened:
        np.testing.assert_array_equal(opened.slices(2, 0, 10), array)
        assert_same_slabs(opened, read_volume(path), 2)


def test_several_files_are_channels(make_nifti: MakeNifti) -> None:
    paths = [
        make_nifti(RAMP, name="a.nii"),
        make_nifti(np.stack([RAMP, RAMP + 5], axis=3), name="b.nii.gz", endian=">"),
        make_nifti(RAMP.astype(np.uint8), name="c.nii", scl_slope=0.3),
    ]
    with open_volume(paths) as image:
        assert image.channels == 4
        assert_same_slabs(image, read_volume(paths), 2)


def test_files_on_different_grids_are_refused(make_nifti: MakeNifti) -> None:
    paths = [make_nifti(RAMP, name="a.nii"), make_nifti(RAMP, np.diag([2.0, 2.0, 3.0, 1.0]), name="b.nii.gz")]
    with pytest.raises(GeometryError, match=r"b\.nii\.gz: lies on another grid than .*a\.nii"):
        open_volume(paths)


def test_no_file_is_refused() -> None:
    with pytest.raises(InputError, match="no file is given"):
        open_volume([])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 12), (3, 2)])
def test_slices_that_are_not_there_are_refused(make_nifti: MakeNifti, start: int, stop: int) -> None:
    with open_volume(make_nifti(RAMP)) as image, pytest.raises(GeometryError, match="are asked for"):
        image.slices(2, start, stop)


def test_no_slices_are_none(make_nifti: MakeNifti) -> None:
    with open_volume(make_nifti(RAMP)) as image:
        assert image.slices(2, 3, 3).shape == (1, 3, 10, 0)


@pytest.mark.parametrize("kept", [40, 80, -1, -5, -9])
def test_truncated_compression_is_noticed_when_opened(make_nifti: MakeNifti, kept: int) -> None:
    path = make_nifti(RAMP, name="a.nii.gz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="truncated"):
        open_volume(path)


def test_a_wrong_checksum_is_noticed_when_opened(make_nifti: MakeNifti) -> None:
    path = make_nifti(RAMP, name="a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is corrupt"):
        open_volume(path)


def test_an_archive_shorter_than_its_header_says_is_noticed(make_nifti: MakeNifti) -> None:
    path = make_nifti(RAMP, name="a.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(InputError, match="truncated"):
        open_volume(path)


def test_a_file_that_is_shortened_while_open_is_noticed(make_nifti: MakeNifti) -> None:
    path = make_nifti(RAMP)
    with open_volume(path) as image:
        os.truncate(path, 420)
        image.slices(2, 0, 1)
        with pytest.raises(InputError, match=r"made\.nii: ends too early"):
            image.slices(2, 3, 5)


def test_too_little_room_on_the_disk_is_said_before_unpacking(
    make_nifti: MakeNifti, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_nifti(RAMP, name="a.nii.gz")

    def never(*_: object) -> None:
        pytest.fail("unpacked")

    monkeypatch.setattr(DiskArray, "unpack", never)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(ResourceError, match="has 100 bytes free, 660 bytes are needed") as caught:
        open_volume(path, scratch_folder=tmp_path)
    assert caught.value.where == str(tmp_path)


def test_a_scratch_folder_that_does_not_exist(make_nifti: MakeNifti, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: does not exist"):
        open_volume(make_nifti(RAMP, name="a.nii.gz"), scratch_folder=tmp_path / "nowhere")


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are counted where Linux lists them"
)
@pytest.mark.parametrize("damaged", [False, True])
def test_temporary_files_have_no_name_and_are_closed(
    make_nifti: MakeNifti, tmp_path: Path, damaged: bool
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    paths = [make_nifti(RAMP, name=name) for name in ("a.nii.gz", "b.nii", "c.nii.gz")]
    if damaged:
        paths[2].write_bytes(paths[2].read_bytes()[:-3])
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    if damaged:
        with pytest.raises(InputError, match=r"c\.nii\.gz"):
            open_volume(paths, scratch_folder=scratch)
    else:
        with open_volume(paths, scratch_folder=scratch) as image:
            opened = len(list(Path("/proc/self/fd").iterdir()))
            image.slices(0, 0, 1)  # across the fastest axis: a second copy of each
            assert len(list(Path("/proc/self/fd").iterdir())) == opened + 3 == before + 6
            assert not list(scratch.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_copy_for_which_the_disk_is_too_full_is_not_taken_for_whole(
    make_nifti: MakeNifti, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ResourceError("no space left on the disk")

    with open_volume(make_nifti(RAMP)) as image:
        with monkeypatch.context() as patched:
            patched.setattr(DiskArray, "write", full)
            for _ in range(2):
                with pytest.raises(ResourceError, match="no space"):
                    image.slices(0, 0, 1)
        np.testing.assert_array_equal(image.slices(0, 0, 1), RAMP[None, :1])


def test_nothing_is_unpacked_twice(make_nifti: MakeNifti, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    unpack = DiskArray.unpack

    def counted(array: DiskArray, stream: Any, path: Path) -> None:
        opened.append(path)
        unpack(array, stream, path)

    monkeypatch.setattr(DiskArray, "unpack", counted)
    path = make_nifti(RAMP, name="a.nii.gz")
    with open_volume(path) as image:
        for _ in range(2):
            for axis in range(3):
                image.slices(axis, 0, 2)
    assert opened == [path]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape = draw(st.tuples(*[st.integers(1, 6)] * 4))
    order = tuple(draw(st.permutations(range(4))))
    ends = [sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
    return shape, order, tuple(a for a, _ in ends), tuple(b for _, b in ends)


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from(["<i2", ">i2", "u1", "<f8"]))
def test_boxes_on_the_disk_are_numpys_slices(box: tuple[Any, ...], dtype: str) -> None:
    shape, order, start, stop = box
    expected = np.arange(np.prod(shape)).reshape(shape)
    array = scratch_array(shape, order, np.dtype(dtype))
    array.write((0, 0, 0, 0), expected)
    chosen = tuple(map(slice, start, stop))
    np.testing.assert_array_equal(array.read(start, stop), expected.astype(dtype)[chosen])
    expected[chosen] = -expected[chosen]
    array.write(start, expected[chosen])
    np.testing.assert_array_equal(array.read((0,) * 4, shape), expected.astype(dtype))
    array.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes(), st.integers(1, 40))
def test_blocks_cover_all_once_in_one_piece_each(
    monkeypatch: pytest.MonkeyPatch, box: tuple[Any, ...], limit: int
) -> None:
    shape, order, *_ = box
    monkeypatch.setattr("medseg.io.spool._BLOCK_BYTES", limit)
    array = scratch_array(shape, order, np.dtype(np.uint8))
    covered = np.zeros(shape, int)
    place = 0
    flat = np.arange(np.prod(shape)).reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    for start, stop in array.blocks():
        chosen = tuple(map(slice, start, stop))
        covered[chosen] += 1
        size = covered[chosen].size
        assert size <= limit
        assert sorted(flat[chosen].ravel()) == list(range(place, place + size))
        place += size
    assert (covered == 1).all()
    array.close()


@pytest.mark.data
@pytest.mark.parametrize(
    "pattern",
    [
        "mr/hippocampus/imagesTr/hippocampus_00[1-4].nii.gz",
        "mr/hippocampus/labelsTr/hippocampus_001.nii.gz",
        "mr/spinal_cord/*/*.nii.gz",
        "ct/totalsegmentator/**/*.nii.gz",
        "dicom/dicom2nifti/**/*ground_truth.nii.gz",
        "seg/dcmqi/**/*.nrrd",
    ],
)
def test_real_files(test_data: Path, pattern: str) -> None:
    paths = sorted(test_data.glob(pattern))[:6]
    assert paths
    refused = 0
    for path in paths:
        expected, found = outcome(read_volume, path), outcome(open_volume, path)
        if isinstance(expected, Volume):
            with found as image:
                assert_same_slabs(image, expected, 7)
        else:
            assert found == expected
            refused += 1
    assert refused < len(paths)


def outcome(read: Callable[[Path], Any], path: Path) -> Any:
    """What was read, or the error's text."""
    try:
        return read(path)
    except (InputError, GeometryError) as error:
        return str(error)
