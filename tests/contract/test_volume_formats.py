"""One contract for every registered volume format."""

from __future__ import annotations

import itertools
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError, MedsegError, ResourceError
from medseg.geometry import Grid, axis_map
from medseg.io import read_header, read_volume, require_finite, write_volume
from medseg.registry import VOLUME_FORMATS
from medseg.volume import Volume

WRITERS = [suffix for suffix in VOLUME_FORMATS.names() if VOLUME_FORMATS.resolve(suffix).writes]
READ_ONLY = [suffix for suffix in VOLUME_FORMATS.names() if suffix not in WRITERS]
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
AXCODES = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]
SHAPE = (3, 4, 5)
LPS = np.array([-1.0, -1.0, 1.0])

every_writer = pytest.mark.parametrize("suffix", WRITERS)


def turned(
    angles: tuple[float, float, float], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> np.ndarray[Any, Any]:
    affine = np.eye(4)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(4)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        affine = affine @ turn
    affine[:3, :3] *= spacing
    affine[:3, 3] = origin
    return affine


OBLIQUE = Grid(SHAPE, turned((0.2, -0.4, 0.7), (0.7, 1.3, 5.0), (-101.5, 33.25, 812.0)))


def ramp(
    dtype: str = "int16", channels: int = 1, shape: tuple[int, int, int] = SHAPE
) -> np.ndarray[Any, Any]:
    return np.arange(channels * np.prod(shape)).reshape(channels, *shape).astype(dtype)


def test_there_are_formats_to_test() -> None:
    assert {".nii", ".nii.gz", ".nrrd", ".mha"} <= set(WRITERS)
    assert len(AXCODES) == 48


@every_writer
@pytest.mark.parametrize("axcodes", AXCODES)
def test_every_orientation_round_trips(tmp_path: Path, suffix: str, axcodes: str) -> None:
    volume = Volume(ramp(), Grid(SHAPE, np.diag([0.8, 1.5, 4.0, 1.0]))).mapped(axis_map("RAS", axcodes))
    write_volume(volume, tmp_path / f"a{suffix}")
    read = read_volume(tmp_path / f"a{suffix}")
    assert read.grid.axcodes == axcodes
    assert volume.grid.difference(read.grid) is None
    np.testing.assert_array_equal(read.array, volume.array)


@every_writer
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_round_trips(tmp_path: Path, suffix: str, dtype: str, channels: int) -> None:
    array = ramp(dtype, channels)
    if array.dtype.kind == "i":
        array -= 50
    write_volume(Volume(array, OBLIQUE), tmp_path / f"a{suffix}")
    header, read = read_header(tmp_path / f"a{suffix}"), read_volume(tmp_path / f"a{suffix}")
    assert (header.dtype, header.channels, header.grid) == (np.dtype(dtype), channels, read.grid)
    assert read.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read.array, array)


@every_writer
@pytest.mark.parametrize(
    ("dtype", "low", "high", "stored"),
    [
        ("bool", 0, 1, "uint8"),
        ("int64", -3, 9, "int16"),
        ("uint64", 0, 2**40, "int64"),
        ("float16", 0, 1, "float32"),
    ],
)
def test_types_that_few_programs_read_are_replaced_without_loss(
    tmp_path: Path, suffix: str, dtype: str, low: int, high: int, stored: str
) -> None:
    array = np.array([low, high] * 30).astype(dtype).reshape(1, *SHAPE)
    write_volume(Volume(array, OBLIQUE), tmp_path / f"a{suffix}")
    read = read_volume(tmp_path / f"a{suffix}").array
    assert read.dtype == np.dtype(stored)
    np.testing.assert_array_equal(read, array)


@every_writer
def test_nan_and_infinity_round_trip(tmp_path: Path, suffix: str) -> None:
    array = ramp("float32")
    array[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    write_volume(Volume(array, OBLIQUE), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, array)


@every_writer
@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 20.0)] * 3),
    origin=st.tuples(*[st.floats(-1000.0, 1000.0)] * 3),
    mirrored=st.booleans(),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_any_orthogonal_grid_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    angles: tuple[float, float, float],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    mirrored: bool,
    shape: tuple[int, int, int],
) -> None:
    affine = turned(angles, spacing, origin) @ np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0, 1.0])
    path = tmp_path_factory.mktemp("grid") / f"a{suffix}"
    volume = Volume(ramp(shape=shape), Grid(shape, affine))
    write_volume(volume, path)
    read = read_volume(path)
    assert volume.grid.difference(read.grid) is None
    np.testing.assert_array_equal(read.array, volume.array)


@every_writer
@pytest.mark.parametrize("layout", ["C", "F", "reversed", "strided", "big-endian", "read-only"])
def test_the_layout_in_memory_does_not_matter(tmp_path: Path, suffix: str, layout: str) -> None:
    array = {
        "C": ramp(),
        "F": np.asfortranarray(ramp()),
        "reversed": ramp()[:, ::-1, :, ::-1],
        "strided": ramp(shape=(6, 8, 10))[:, ::2, ::2, ::2],
        "big-endian": ramp().astype(">i2"),
        "read-only": np.broadcast_to(np.int16(7), (1, *SHAPE)),
    }[layout]
    write_volume(Volume(array, OBLIQUE), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, array)


@every_writer
def test_an_independent_program_sees_the_same_place_and_value(tmp_path: Path, suffix: str) -> None:
    """NIfTI and ITK formats alike are read by SimpleITK; NIfTI by nibabel too."""
    path, array = tmp_path / f"a{suffix}", ramp("float32")
    write_volume(Volume(array, OBLIQUE), path)
    image = sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (2, 0, 1), (1, 3, 4)):
        np.testing.assert_allclose(
            LPS * image.TransformIndexToPhysicalPoint(index), OBLIQUE.to_world(index), atol=1e-3
        )
        assert image.GetPixel(*index) == array[(0, *index)]
    if suffix.startswith(".nii"):
        oracle = nib.load(path)
        np.testing.assert_allclose(oracle.affine, OBLIQUE.affine, atol=1e-4)
        np.testing.assert_array_equal(oracle.get_fdata(), array[0])


@every_writer
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_file_of_an_independent_program_is_read_in_place(
    tmp_path: Path, suffix: str, mirrored: bool
) -> None:
    path, array = tmp_path / f"a{suffix}", ramp("float32")[0]
    grid = Grid(SHAPE, OBLIQUE.affine @ np.diag([1.0, -1.0 if mirrored else 1.0, 1.0, 1.0]))
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin((LPS * grid.origin_mm).tolist())
    image.SetDirection((LPS[:, np.newaxis] * grid.directions).ravel().tolist())
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    assert grid.difference(volume.grid) is None
    np.testing.assert_array_equal(volume.array[0], array)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations([".nii.gz", ".nrrd", ".mha"], 2)))
def test_converting_there_and_back_changes_nothing(tmp_path: Path, source: str, target: str) -> None:
    write_volume(Volume(ramp(channels=2), OBLIQUE), tmp_path / f"a{source}")
    first = read_volume(tmp_path / f"a{source}")
    write_volume(first, tmp_path / f"b{target}")
    second = read_volume(tmp_path / f"b{target}")
    assert first.grid.difference(second.grid) is None
    np.testing.assert_array_equal(first.array, second.array)


@every_writer
def test_a_label_map_lies_exactly_on_the_grid_of_its_image(tmp_path: Path, suffix: str) -> None:
    write_volume(Volume(ramp("float32"), OBLIQUE), tmp_path / "image.nii.gz")
    image = read_volume(tmp_path / "image.nii.gz")
    path = tmp_path / f"label{suffix}"
    write_volume(Volume((image.array > 5).astype(np.int64), image.grid), path, labels=True)
    header = read_header(path)
    assert header.dtype == np.uint8
    assert image.grid.difference(header.grid) is None
    if suffix.startswith(".nii"):
        assert header.grid == image.grid
        np.testing.assert_array_equal(nib.load(path).affine, nib.load(tmp_path / "image.nii.gz").affine)


@every_writer
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 8)).astype(np.uint8)
    write_volume(Volume(noise, Grid((8, 8, 8), np.eye(4))), path)
    content = path.read_bytes()
    for kept in (0, 1, 3, 100, len(content) // 2, len(content) - 20, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises((InputError, GeometryError), match=rf"cut\{suffix}: .+; .+"):
            read_volume(path)
    path.write_bytes(content)
    read_volume(path)


@every_writer
def test_a_volume_larger_than_memory_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(Volume(ramp(), OBLIQUE), tmp_path / f"a{suffix}")
    monkeypatch.setattr("medseg.io.sizes.available_memory_bytes", lambda: 119)
    with pytest.raises(ResourceError, match="needs 120 bytes of memory"):
        read_volume(tmp_path / f"a{suffix}")
    assert read_header(tmp_path / f"a{suffix}").channels == 1


@every_writer
@pytest.mark.parametrize("stage", ["write", "read_header"])
def test_a_failure_midway_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    write_volume(Volume(ramp(), OBLIQUE), path)
    before = path.read_bytes()
    chosen = VOLUME_FORMATS.resolve(suffix)
    write = chosen.write

    def fail(self: Any, *arguments: Any) -> None:
        if stage == "write":
            write(self, *arguments)
        raise InputError("broke off", where=arguments[-1])

    monkeypatch.setattr(chosen, stage, fail)
    with pytest.raises(InputError, match=rf"/a\{suffix}: broke off"):
        write_volume(Volume(ramp() + 1, OBLIQUE), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 kB: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@every_writer
@pytest.mark.usefixtures("small_files")
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 40, 40, 40))
    with pytest.raises(ResourceError, match=rf"big\{suffix}: .+; .+"):
        write_volume(Volume(noise, Grid((40, 40, 40), np.eye(4))), tmp_path / f"big{suffix}")
    assert not list(tmp_path.iterdir())


@every_writer
def test_a_place_that_cannot_hold_files(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MedsegError, match="file"):
        write_volume(Volume(ramp(), OBLIQUE), tmp_path / "file" / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", READ_ONLY)
def test_formats_that_are_only_read_say_what_to_write(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=r"; write \.\w+"):
        write_volume(Volume(ramp(), OBLIQUE), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def all_files(folder: Path, *patterns: str) -> list[Path]:
    found = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    assert found
    return found


@pytest.mark.data
def test_every_mr_and_ct_volume_is_read_as_nibabel_reads_it(test_data: Path) -> None:
    files = [*all_files(test_data / "mr", "*.nii.gz"), *all_files(test_data / "ct", "*.nii.gz")]
    for path in files:
        if path.name.startswith("warp_"):
            continue
        volume, oracle = read_volume(path), nib.load(path)
        np.testing.assert_allclose(
            volume.array[0], oracle.get_fdata(), rtol=1e-5, atol=1e-4, err_msg=str(path)
        )
        np.testing.assert_allclose(volume.grid.affine, oracle.affine, rtol=1e-6, atol=1e-4, err_msg=str(path))


@pytest.mark.data
def test_label_maps_take_the_exact_affine_of_real_images(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "mr" / "spinal_cord"
    seen = set()
    for path in [
        folder / "t1/t1w.nii.gz",
        folder / "t2/t2.nii.gz",
        folder / "mt/mt1.nii.gz",
        *all_files(test_data / "mr/vertebra", "*T2w.nii.gz"),
    ]:
        image = read_volume(path)
        seen.add(image.grid.axcodes)
        write_volume(Volume(image.array > 0, image.grid), tmp_path / "label.nii.gz", labels=True)
        written, original = nib.load(tmp_path / "label.nii.gz"), nib.load(path)
        np.testing.assert_array_equal(written.affine, original.affine)
        assert written.shape == original.shape
    assert seen == {"RAS", "PSR", "LAS", "PIR"}


@pytest.mark.data
def test_real_files_with_infinite_values_and_with_displacements(test_data: Path) -> None:
    folder = test_data / "mr" / "spinal_cord" / "mt"
    ratio = read_volume(folder / "mtr.nii.gz")
    assert np.isinf(ratio.array).sum() == 633
    with pytest.raises(InputError, match=r"mtr\.nii\.gz: holds 633 infinite voxels"):
        require_finite(ratio, folder / "mtr.nii.gz")
    for path in all_files(folder, "warp_*.nii.gz"):
        with pytest.raises(InputError, match="is a 5D image"):
            read_volume(path)


@pytest.mark.data
def test_real_nrrd_files_are_read_as_simpleitk_reads_them(test_data: Path) -> None:
    for path in all_files(test_data / "seg" / "dcmqi", "*.nrrd"):
        volume, oracle = read_volume(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(oracle).T)
        last = tuple(size - 1 for size in volume.grid.shape)
        np.testing.assert_allclose(
            LPS * volume.grid.to_world(last), oracle.TransformIndexToPhysicalPoint(last)
        )


@pytest.mark.data
def test_real_files_cut_anywhere_are_refused(test_data: Path, tmp_path: Path) -> None:
    source = (test_data / "mr" / "spinal_cord" / "t2" / "t2.nii.gz").read_bytes()
    path = tmp_path / "cut.nii.gz"
    for kept in range(0, len(source), len(source) // 40):
        path.write_bytes(source[:kept])
        with pytest.raises(MedsegError, match=r"cut\.nii\.gz"):
            read_volume(path)
