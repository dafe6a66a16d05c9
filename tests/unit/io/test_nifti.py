from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.errors import InputError, ResourceError
from medseg.geometry import Grid
from medseg.io import read_header, read_volume, write_volume
from medseg.volume import Volume

MakeNifti = Callable[..., Path]
SHAPE = (3, 4, 5)
RAMP = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def test_an_unscaled_integer_image_keeps_type_order_and_values(make_nifti: MakeNifti) -> None:
    volume = read_volume(make_nifti(RAMP))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, RAMP[np.newaxis])
    np.testing.assert_array_equal(volume.grid.affine, np.diag([-2.0, 2.0, 3.0, 1.0]))


def test_a_header_is_read_without_voxels(make_nifti: MakeNifti) -> None:
    path = make_nifti(np.zeros((3, 4, 5, 2), np.float32))
    header = read_header(path)
    assert (header.path, header.grid.shape, header.channels, header.dtype) == (path, SHAPE, 2, np.float32)
    assert header.nbytes == 60 * 2 * 4


def test_the_fourth_dimension_holds_the_channels(make_nifti: MakeNifti) -> None:
    array = np.arange(120, dtype=np.int16).reshape(3, 4, 5, 2)
    volume = read_volume(make_nifti(array))
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, 3, 0))
    assert volume.array.base is not None  # a view: the channels are not copied to the front


@pytest.mark.parametrize("tail", [(1,), (1, 1), (1, 1, 1)])
def test_trailing_dimensions_of_one_do_not_count(make_nifti: MakeNifti, tail: tuple[int, ...]) -> None:
    assert read_volume(make_nifti(RAMP.reshape(*SHAPE, *tail))).array.shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((3, 4), "2D image (3x4)"), ((3, 4, 5, 1, 3), "5D image (3x4x5x1x3)"), ((7,), "1D image (7)")],
)
def test_other_dimensions_are_refused(make_nifti: MakeNifti, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(make_nifti(np.zeros(shape, np.int16)))
    assert said in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    "dim", [[3, -3, 4, 5, 1, 1, 1, 1], [0, 3, 4, 5, 1, 1, 1, 1], [3, 3, 0, 5, 1, 1, 1, 1], [8] * 8]
)
def test_invalid_dimensions_are_refused(make_nifti: MakeNifti, dim: list[int]) -> None:
    with pytest.raises(InputError, match=r"dimensions .* are not valid"):
        read_volume(make_nifti(RAMP, dim=dim))


@pytest.mark.parametrize(
    "name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_types_and_byte_orders(make_nifti: MakeNifti, name: str, endian: str, version: int) -> None:
    volume = read_volume(make_nifti(RAMP.astype(name), endian=endian, version=version))
    assert volume.array.dtype == np.dtype(name)
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array[0], RAMP)


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (np.dtype("complex64"), "complex"),
        (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
    ],
)
def test_voxels_that_are_no_real_numbers_are_refused(
    make_nifti: MakeNifti, dtype: np.dtype[Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_volume(make_nifti(np.zeros(SHAPE, dtype)))


@pytest.mark.parametrize(
    ("code", "said"), [(77, "datatype code 77"), (0, "type"), (1, "type"), (1536, "type")]
)
def test_types_that_are_unknown_bits_or_quadruple_precision_are_refused(
    make_nifti: MakeNifti, code: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_volume(make_nifti(RAMP, datatype=code))


@pytest.mark.parametrize(
    ("stored", "slope", "expected"),
    [
        ("int16", 0.5, "float32"),
        ("uint8", 2.0, "float32"),
        ("int32", 0.5, "float64"),
        ("float32", 2.0, "float32"),
        ("float64", 2.0, "float64"),
        ("int16", 1e36, "float64"),
        ("int16", 1e-40, "float64"),
    ],
)
def test_scaling_is_applied_in_a_type_that_holds_it(
    make_nifti: MakeNifti, stored: str, slope: float, expected: str
) -> None:
    path = make_nifti(RAMP.astype(stored), scl_slope=slope, scl_inter=-10.0)
    volume = read_volume(path)
    assert volume.array.dtype == read_header(path).dtype == np.dtype(expected)
    oracle = np.asarray(nib.load(path).dataobj)
    np.testing.assert_allclose(volume.array[0], oracle, rtol=1e-6)


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_no_slope_means_no_scaling(make_nifti: MakeNifti, slope: float) -> None:
    volume = read_volume(make_nifti(RAMP, scl_slope=slope, scl_inter=7.0))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array[0], RAMP)


def test_a_slope_of_one_scales_only_if_there_is_an_intercept(make_nifti: MakeNifti) -> None:
    assert read_volume(make_nifti(RAMP, scl_slope=1.0, scl_inter=0.0)).array.dtype == np.int16
    shifted = read_volume(make_nifti(RAMP, scl_slope=1.0, scl_inter=-1024.0)).array
    np.testing.assert_array_equal(shifted[0], RAMP.astype(np.float32) - 1024)


def test_an_intercept_of_nan_is_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(InputError, match="scl_inter"):
        read_volume(make_nifti(RAMP, scl_slope=2.0, scl_inter=np.nan))


def test_nan_and_infinity_are_read(make_nifti: MakeNifti) -> None:
    array = np.array([[[np.nan, np.inf, -np.inf, 1.0]]], np.float32)
    np.testing.assert_array_equal(read_volume(make_nifti(array)).array[0], array)


def test_extensions_before_the_voxels_are_skipped(make_nifti: MakeNifti, tmp_path: Path) -> None:
    content = make_nifti(RAMP).read_bytes()
    path = tmp_path / "extended.nii"
    header = nib.Nifti1Header(content[:348], check=False)
    header["vox_offset"] = 352 + 32
    path.write_bytes(header.binaryblock + b"\1\0\0\0" + bytes(32) + content[352:])
    np.testing.assert_array_equal(read_volume(path).array[0], RAMP)


@pytest.mark.parametrize("offset", [0, 348, np.nan, 352.5])
def test_voxels_within_the_header_are_refused(make_nifti: MakeNifti, offset: float) -> None:
    with pytest.raises(InputError, match="vox_offset"):
        read_volume(make_nifti(RAMP, vox_offset=offset))


def test_voxels_past_the_end_are_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(InputError, match="truncated"):
        read_header(make_nifti(RAMP, vox_offset=4096))


@pytest.mark.parametrize("name", ["huge.nii", "huge.nii.gz"])
def test_a_header_announcing_too_much_is_refused_unread(make_nifti: MakeNifti, name: str) -> None:
    with pytest.raises(InputError, match="30000x30000x30000") as caught:
        read_volume(make_nifti(RAMP, name=name, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]))
    assert "54.0 TB" in str(caught.value)


def test_sizes_whose_product_overflows_are_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(InputError, match="truncated"):
        read_volume(make_nifti(RAMP, version=2, dim=[3, 2**31, 2**31, 2**31, 1, 1, 1, 1]))


def test_a_volume_larger_than_memory_is_refused(
    make_nifti: MakeNifti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.io.sizes.available_memory_bytes", lambda: 400)
    read_volume(make_nifti(RAMP))
    with pytest.raises(ResourceError, match="needs 480 bytes of memory to be read, 400 bytes are free"):
        read_volume(make_nifti(np.zeros((3, 4, 5, 4), np.int16)))
    monkeypatch.setattr("medseg.io.sizes.available_memory_bytes", lambda: 300)
    with pytest.raises(ResourceError, match="needs 360 bytes"):
        read_volume(make_nifti(RAMP, scl_slope=2.0))


@pytest.mark.parametrize("kept", [1, 100, 347, 348, 352, 400])
def test_a_truncated_plain_file_is_refused(make_nifti: MakeNifti, kept: int) -> None:
    path = make_nifti(RAMP)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)


@pytest.mark.parametrize("kept", [2, 5, 12, 40, -1, -5, -9])
def test_a_truncated_compressed_file_is_refused(make_nifti: MakeNifti, kept: int) -> None:
    path = make_nifti(np.random.default_rng(0).normal(size=SHAPE), name="cut.nii.gz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.nii\.gz: .*truncated"):
        read_volume(path)


def test_a_whole_compressed_file_with_too_few_voxels_is_refused(make_nifti: MakeNifti) -> None:
    with pytest.raises(InputError, match="truncated"):
        read_volume(make_nifti(RAMP, name="short.nii.gz", dim=[3, 3, 4, 6, 1, 1, 1, 1]))


def test_a_compressed_file_with_more_than_its_voxels_is_read(make_nifti: MakeNifti) -> None:
    volume = read_volume(make_nifti(RAMP, name="long.nii.gz", dim=[3, 3, 4, 4, 1, 1, 1, 1]))
    np.testing.assert_array_equal(volume.array[0], RAMP.ravel("F")[:48].reshape((3, 4, 4), order="F"))


@pytest.mark.parametrize("position", [-3, -7, 200])
def test_a_corrupt_compressed_file_is_refused(make_nifti: MakeNifti, position: int) -> None:
    path = make_nifti(np.random.default_rng(0).normal(size=SHAPE), name="bad.nii.gz")
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.nii\.gz: is corrupt"):
        read_volume(path)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "a.nii", "is empty"),
        (b"", "a.nii.gz", "is empty"),
        (b"hello world, this is no image at all", "a.nii", "is no NIfTI file"),
        (gzip.compress(b"hello world, this is no image", mtime=0), "a.nii.gz", "is no NIfTI file"),
        (b"hello world", "a.nii.gz", "is not compressed by gzip"),
        (gzip.compress(b"hello", mtime=0), "a.nii", "is compressed by gzip"),
    ],
)
def test_a_file_that_is_no_nifti_is_refused(tmp_path: Path, content: bytes, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_volume(tmp_path / name)
    assert caught.value.fix


@pytest.mark.parametrize(("magic", "said"), [(b"ni1", "pair of files"), (b"", "Analyze")])
def test_headers_of_other_kinds_are_refused(make_nifti: MakeNifti, magic: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_volume(make_nifti(RAMP, magic=magic))


GRID = Grid(SHAPE, np.diag([-2.0, 2.0, 3.0, 1.0]))


def test_a_written_header_says_what_it_must_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    write_volume(Volume(RAMP[np.newaxis], GRID), path)
    header = nib.load(path).header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 2)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-6)
    assert [
        bytes(header[name]).strip(b"\0") for name in ("descrip", "aux_file", "intent_name", "db_name")
    ] == [b""] * 4
    raw = nib.Nifti1Header(path.read_bytes()[:348], check=False)
    assert (float(raw["scl_slope"]), float(raw["scl_inter"])) == (1.0, 0.0)
    assert path.stat().st_size == 352 + RAMP.nbytes


def test_a_sheared_grid_is_kept_in_the_sform_alone(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 1.0
    grid = Grid(SHAPE, affine)
    write_volume(Volume(RAMP[np.newaxis], grid), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 0)
    assert read_volume(tmp_path / "a.nii.gz").grid == grid


def test_equal_volumes_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(Volume(RAMP[np.newaxis], GRID), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_long_axis_is_written_as_nifti_2(tmp_path: Path) -> None:
    grid = Grid((40000, 1, 1), np.eye(4))
    write_volume(Volume(np.ones((1, 40000, 1, 1), np.uint8), grid), tmp_path / "long.nii.gz")
    assert isinstance(nib.load(tmp_path / "long.nii.gz"), nib.Nifti2Image)
    assert read_volume(tmp_path / "long.nii.gz").grid == grid


def test_slabs_are_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.io.voxels._SLAB_BYTES", 50)
    array = np.random.default_rng(0).integers(0, 99, (2, *SHAPE)).astype(np.int16)
    write_volume(Volume(array, GRID), tmp_path / "a.nii")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "a.nii").dataobj), np.moveaxis(array, 0, 3))
