"""Label maps written slab by slab, against the same maps written whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError, ResourceError
from medseg.geometry import Grid
from medseg.io import LabelSink, read_volume, write_volume
from medseg.volume import Volume

GRID = Grid((4, 5, 6), np.array([[-0.8, 0, 0, 30], [0, 0, 2.5, -7], [0, 1.1, 0, 99], [0, 0, 0, 1.0]]))
SHEARED = Grid((4, 5, 6), np.array([[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
SUFFIXES = [".nii", ".nii.gz", ".mha", ".nrrd"]
Labels = npt.NDArray[np.generic]


def some_labels(dtype: str, highest: int, seed: int = 0) -> Labels:
    labels = np.random.default_rng(seed).integers(0, highest + 1, GRID.shape).astype(dtype)
    labels[0, 0, 0] = highest
    return labels


def slabs(axis: int, thickness: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    for start in range(0, GRID.shape[axis], thickness):
        chosen = [slice(None)] * 3
        chosen[axis] = slice(start, start + thickness)
        yield start, tuple(chosen)


def written_whole(labels: Labels, path: Path) -> bytes:
    write_volume(Volume(labels[np.newaxis], GRID), path, labels=True)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("dtype", "highest"), [("uint8", 104), ("int16", 104), ("int16", 300), ("uint16", 65535), ("int32", 9)]
)
def test_the_file_is_the_same_byte_by_byte(
    tmp_path: Path, suffix: str, axis: int, dtype: str, highest: int
) -> None:
    labels = some_labels(dtype, highest)
    with LabelSink(tmp_path / f"a{suffix}", GRID, dtype) as sink:
        for start, chosen in slabs(axis, 2):
            sink.write(axis, start, labels[chosen])
    assert (tmp_path / f"a{suffix}").read_bytes() == written_whole(labels, tmp_path / f"b{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_files_of_several_slabs(
    tmp_path: Path, suffix: str, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = some_labels("uint8", 104)
    expected = written_whole(labels, tmp_path / f"b{suffix}")
    monkeypatch.setattr("medseg.io.voxels._SLAB_BYTES", 50)  # two slices
    with LabelSink(tmp_path / f"a{suffix}", GRID, np.uint8) as sink:
        for start, chosen in slabs(axis, 3):
            sink.write(axis, start, labels[chosen])
    if suffix in (".nii", ".mha"):
        assert (tmp_path / f"a{suffix}").read_bytes() == expected
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array[0], labels)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_slabs_and_tiles_come_in_any_order(tmp_path: Path, data: st.DataObject) -> None:
    labels = some_labels("uint8", 3, data.draw(st.integers(0, 99)))
    cuts = [
        [0, *sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=2))), size] for size in GRID.shape
    ]
    boxes = [
        tuple(map(slice, (x, y, z), (x_end, y_end, z_end)))
        for x, x_end in zip(cuts[0], cuts[0][1:], strict=False)
        for y, y_end in zip(cuts[1], cuts[1][1:], strict=False)
        for z, z_end in zip(cuts[2], cuts[2][1:], strict=False)
    ]
    (tmp_path / "a.nii").unlink(missing_ok=True)
    with LabelSink(tmp_path / "a.nii", GRID, np.uint8) as sink:
        for box in data.draw(st.permutations(boxes)):
            axis = data.draw(st.integers(0, 2))
            corner = [side.start for side in box]
            start = corner.pop(axis)
            sink.write(axis, start, labels[box], (corner[0], corner[1]))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array[0], labels)


def test_labels_are_counted(tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape, np.int32)
    labels[1, 2, :3], labels[2, 2, 2], labels[3, 3, 3] = 7, 100_000, -4
    with LabelSink(tmp_path / "a.nii", GRID, np.int32) as sink:
        assert sink.counts == {}
        sink.write(2, 0, labels[:, :, :2])
        assert sink.counts == {0: 38, 7: 2}
        sink.write(2, 2, labels[:, :, 2:])
    assert sink.counts == {-4: 1, 0: 115, 7: 3, 100_000: 1}
    assert list(sink.counts) == [-4, 0, 7, 100_000]


def test_large_slabs_are_counted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.io.label_sink._COUNTED_AT_A_TIME", 7)
    labels = some_labels("uint8", 5)
    with LabelSink(tmp_path / "a.nii", GRID, np.uint8) as sink:
        sink.write(0, 0, labels.transpose(2, 1, 0).copy().transpose(2, 1, 0))
    values, numbers = np.unique(labels, return_counts=True)
    assert sink.counts == dict(zip(values.tolist(), numbers.tolist(), strict=True))


def test_missing_slices_are_never_taken_for_background(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    with (
        pytest.raises(GeometryError, match="labels of 40 voxels never came"),
        LabelSink(path, GRID, "u1") as sink,
    ):
        sink.write(2, 2, np.ones((4, 5, 4), np.uint8))
    with pytest.raises(GeometryError, match="labels of 120 voxels never came"), LabelSink(path, GRID, "u1"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_box_that_comes_twice_or_lies_outside_is_refused(tmp_path: Path) -> None:
    box = np.ones((2, 2, 2), np.uint8)
    sink = LabelSink(tmp_path / "a.nii", GRID, np.uint8)
    sink.write(2, 1, box, (1, 1))
    for start, corner in ((2, (2, 2)), (0, (0, 0)), (1, (1, 1))):
        with pytest.raises(GeometryError, match="a second time"):
            sink.write(2, start, box, corner)
    for start, corner in ((5, (0, 0)), (-1, (0, 0)), (0, (3, 0)), (0, (0, -1))):
        with pytest.raises(GeometryError, match="outside the grid"):
            sink.write(2, start, box, corner)
    sink.write(2, 3, box, (1, 1))
    assert sink.counts == {1: 16}


def test_labels_of_another_kind_are_refused(tmp_path: Path) -> None:
    sink = LabelSink(tmp_path / "a.nii", GRID, np.uint8)
    for dtype in ("int16", "float32", "int8"):
        with pytest.raises(InputError, match=f"labels are {dtype}, announced as uint8"):
            sink.write(2, 0, np.zeros((4, 5, 1), dtype))
    with pytest.raises(GeometryError, match="4 dimensions"):
        sink.write(2, 0, np.zeros((1, 4, 5, 1), np.uint8))
    with pytest.raises(InputError, match="type float32 cannot be written"):
        LabelSink(tmp_path / "a.nii", GRID, np.float32)


@pytest.mark.parametrize(
    ("name", "grid", "said"),
    [
        ("a.png", GRID, "no known image format"),
        ("a.mhd", GRID, "two files"),
        ("a.nrrd", SHEARED, "sheared"),
        (".", GRID, "is a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_before_work_starts(
    tmp_path: Path, name: str, grid: Grid, said: str
) -> None:
    with pytest.raises((InputError, GeometryError), match=said) as caught:
        LabelSink(tmp_path / name, grid, np.uint8)
    assert caught.value.where == str(tmp_path / name)
    assert not list(tmp_path.iterdir())


def write_all_ones(path: Path, failing: Callable[[], None]) -> None:
    with LabelSink(path, GRID, np.uint8) as sink:
        sink.write(2, 0, np.ones(GRID.shape, np.uint8))
        failing()


def test_an_error_leaves_nothing_and_an_older_file_as_it_was(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    path = tmp_path / "a.nii.gz"
    before = written_whole(some_labels("uint8", 2), path)
    with pytest.raises(ZeroDivisionError):
        write_all_ones(path, fail)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_at_the_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceError, match=r"a\.nii\.gz: no space left"):
        write_all_ones(
            tmp_path / "a.nii.gz", lambda: monkeypatch.setattr("medseg.io.nifti._write_stream", full)
        )
    assert not list(tmp_path.iterdir())


def test_labels_wait_in_the_chosen_folder_without_a_name(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with pytest.raises(InputError, match="scratch: does not exist"):
        LabelSink(tmp_path / "a.nii", GRID, "u1", scratch_folder=scratch).write(
            2, 0, np.ones((4, 5, 1), "u1")
        )
    scratch.mkdir()
    with LabelSink(tmp_path / "a.nii", GRID, "u1", scratch_folder=scratch) as sink:
        sink.write(2, 0, np.ones(GRID.shape, "u1"))
        assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
        assert not list(scratch.iterdir())


def test_memory_is_announced(tmp_path: Path) -> None:
    assert LabelSink(tmp_path / "a.nii.gz", GRID, np.int16).resident_bytes == 0
    assert LabelSink(tmp_path / "a.nrrd", GRID, np.int16).resident_bytes == 120 * 2


KILLED = """
import os, signal, sys
import numpy as np
from medseg.geometry import Grid
from medseg.io import LabelSink, nifti

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

path, moment = sys.argv[1:]
with LabelSink(path, Grid((4, 5, 6), np.eye(4)), np.uint8, scratch_folder=os.path.dirname(path)) as sink:
    sink.write(2, 0, np.ones((4, 5, 6), np.uint8))
    if moment == "writing":
        die()
    nifti._write_stream = lambda stream, *_: (stream.write(b"half"), die())
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
@pytest.mark.parametrize("moment", ["writing", "finishing"])
def test_killed_half_way_there_is_no_file_under_the_final_name(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "a.nii"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    left = [found.name for found in tmp_path.iterdir()]
    assert len(left) == (moment == "finishing")
    assert all(".part." in name for name in left)


MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from medseg.geometry import Grid
from medseg.io import LabelSink, open_volume

def go(name, axis):
    with open_volume(f"{name}.nii.gz") as image, LabelSink(f"{name}_{axis}.nii.gz", image.grid, "u1") as sink:
        for start in range(0, image.grid.shape[axis], 8):
            stop = min(start + 8, image.grid.shape[axis])
            sink.write(axis, start, (image.slices(axis, start, stop)[0] > 0).astype("u1"))

def peak_mib():  # of this program alone; getrusage counts the one that started it
    return int(re.search("VmHWM:[^0-9]*([0-9]+) kB", Path("/proc/self/status").read_text())[1]) / 1024

go("small", 0)
base = peak_mib()
for axis in range(3):
    go("large", axis)
print(peak_mib() - base)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peaks are read where Linux tells them")
def test_neither_image_nor_labels_are_held_in_memory(tmp_path: Path) -> None:
    for name, shape in (("small", (8, 8, 8)), ("large", (300, 200, 800))):
        voxels = np.zeros((1, *shape), np.int16)
        write_volume(Volume(voxels, Grid(shape, np.eye(4))), tmp_path / f"{name}.nii.gz")
    command = [sys.executable, "-c", MEASURED]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert 4 < float(done.stdout) < 64  # the image has 92 MiB, its labels 46


@pytest.mark.data
@pytest.mark.parametrize("name", ["mr/hippocampus/labelsTr/hippocampus_001.nii.gz", "ct/totalsegmentator"])
def test_real_label_maps(test_data: Path, tmp_path: Path, name: str) -> None:
    chosen = test_data / name
    paths = [chosen] if chosen.is_file() else sorted(chosen.rglob("*seg*.nii.gz"))
    assert paths
    for path in paths:
        whole = read_volume(path)
        labels = Volume(whole.array.astype(np.int32), whole.grid)
        write_volume(labels, tmp_path / "whole.nii.gz", labels=True)
        for axis in range(3):
            with LabelSink(tmp_path / "slabs.nii.gz", labels.grid, np.int32) as sink:
                for start in range(0, labels.grid.shape[axis], 9):
                    stop = min(start + 9, labels.grid.shape[axis])
                    sink.write(axis, start, labels.slices(axis, start, stop)[0])
            assert (tmp_path / "slabs.nii.gz").read_bytes() == (tmp_path / "whole.nii.gz").read_bytes()
            assert sum(sink.counts.values()) == labels.grid.voxel_count
