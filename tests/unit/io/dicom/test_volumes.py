"""Volumes read from files of every kind, and refused with their verdict's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from medseg.errors import GeometryError, InputError, ResourceError
from medseg.geometry import Grid
from medseg.io.dicom.frames import Frame, Series, Tile
from medseg.io.dicom.verdict import DicomVolume, Finding, Reason, Status, Verdict
from medseg.io.dicom.volumes import read_dicom_volume, require_accepted
from medseg.progress import SilentProgress

MakeSlice = Callable[..., Path]
SERIES = Series("1.2.3", "1.2", None, "1.2.840.10008.5.1.4.1.1.2", "CT", number=4, description="Doe, John")


def frame(path: Path, shape: tuple[int, int], **fields: Any) -> Frame:
    values: dict[str, Any] = {
        "path": path,
        "sop_instance_uid": "1.2.3.4",
        "number": 0,
        "tile": None,
        "series": SERIES,
        "rows": shape[0],
        "columns": shape[1],
        "samples": 1,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "position": (0.0, 0.0, 0.0),
        "orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        "spacing": (1.0, 1.0),
    }
    return Frame(**{**values, **fields})


def volume(*frames: Frame) -> DicomVolume:
    grid = Grid((frames[0].columns, frames[0].rows, len(frames)), np.diag([-1.0, -1.0, 2.0, 1.0]))
    return DicomVolume(SERIES, frames, Verdict(), grid=grid)


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).integers(0, 4096, shape).astype(np.uint16)


def test_slices_in_the_order_of_frames(make_slice: MakeSlice) -> None:
    planes = noise(4, 5, 7)
    paths = [make_slice(plane, f"{index}.dcm") for index, plane in enumerate(planes)]
    made = volume(*(frame(paths[index], (5, 7), intercept=-1024.0) for index in (2, 0, 3, 1)))
    found = read_dicom_volume(made)
    assert found.grid == made.grid
    assert found.array.dtype == np.int16
    np.testing.assert_array_equal(found.array[0], planes[[2, 0, 3, 1]].transpose(2, 1, 0).astype(int) - 1024)


def test_voxels_lie_as_files_have_them(make_slice: MakeSlice) -> None:
    found = read_dicom_volume(volume(frame(make_slice(noise(5, 7)), (5, 7))))
    assert found.array[0].flags.f_contiguous


def test_frames_of_one_file_in_any_order(make_slice: MakeSlice) -> None:
    planes = noise(4, 5, 7)
    path = make_slice(planes)
    frames = [frame(path, (5, 7), number=number, slope=float(number)) for number in (3, 1, 2)]
    found = read_dicom_volume(volume(*frames)).array[0]
    for slice_, number in enumerate((3, 1, 2)):
        np.testing.assert_array_equal(found[:, :, slice_], planes[number].T * number)


def test_tiles_of_a_mosaic(make_slice: MakeSlice) -> None:
    tiles = noise(4, 5, 7)
    path = make_slice(np.block([[tiles[0], tiles[1]], [tiles[2], tiles[3]]]))
    corners = [(0, 0), (0, 7), (5, 0), (5, 7)]
    frames = [frame(path, (5, 7), tile=Tile(*corner)) for corner in corners[:3]]
    found = read_dicom_volume(volume(*frames)).array[0]
    np.testing.assert_array_equal(found, tiles[:3].transpose(2, 1, 0))


@pytest.mark.parametrize("tile", [Tile(6, 0), Tile(0, 8), Tile(-1, 0)])
def test_a_tile_beyond_its_plane(make_slice: MakeSlice, tile: Tile) -> None:
    path = make_slice(noise(10, 14))
    with pytest.raises(InputError, match="cannot be taken"):
        read_dicom_volume(volume(frame(path, (5, 7), tile=tile)))


def test_a_file_that_has_changed_since_the_scan(make_slice: MakeSlice) -> None:
    path = make_slice(noise(10, 14))
    with pytest.raises(InputError, match="scan the folder again"):
        read_dicom_volume(volume(frame(path, (5, 7))))
    with pytest.raises(InputError, match="scan the folder again"):
        read_dicom_volume(volume(frame(path, (10, 14), number=1)))


def test_one_truncated_file_of_several(make_slice: MakeSlice) -> None:
    paths = [make_slice(noise(5, 7), f"{index}.dcm") for index in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-8])
    with pytest.raises(InputError, match="ends too early") as caught:
        read_dicom_volume(volume(*(frame(path, (5, 7)) for path in paths)))
    assert caught.value.where == str(paths[1])


def test_a_refused_volume_speaks_with_its_verdict(make_slice: MakeSlice) -> None:
    made = replace(
        volume(frame(make_slice(noise(5, 7)), (5, 7))),
        verdict=Verdict(
            (
                Finding(Reason.MISSING_SLICES, Status.REFUSED, "3 slices are missing", "ask for --repair"),
                Finding(Reason.LONG_TEXT, Status.OK, "a long text"),
            )
        ),
    )
    with pytest.raises(GeometryError) as caught:
        require_accepted(made)
    assert str(caught.value) == "CT series 4: 3 slices are missing (missing-slices); ask for --repair"
    with pytest.raises(GeometryError, match="3 slices are missing"):
        read_dicom_volume(made)


def test_no_frames_and_no_grid() -> None:
    empty = DicomVolume(SERIES, (), Verdict(), grid=Grid((1, 1, 1), np.eye(4)))
    with pytest.raises(InputError, match="no frames"):
        read_dicom_volume(empty)
    with pytest.raises(GeometryError, match="no grid"):
        read_dicom_volume(replace(empty, grid=None))


def test_what_does_not_fit_into_memory() -> None:
    made = volume(*[frame(Path("a.dcm"), (65535, 65535))] * 10000)
    with pytest.raises(ResourceError, match="of memory"):
        read_dicom_volume(made)


def test_progress_counts_slices(make_slice: MakeSlice) -> None:
    seen: list[float] = []

    class Watching(SilentProgress):
        @contextmanager
        def task(self, description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
            assert description == "slices"
            assert total == 3
            yield seen.append

    path = make_slice(noise(3, 5, 7))
    read_dicom_volume(volume(*(frame(path, (5, 7), number=n) for n in range(3))), progress=Watching())
    assert sum(seen) == 3
