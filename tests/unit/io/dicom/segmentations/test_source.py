from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import GeometryError, InputError
from medseg.geometry import AxisMap, Grid
from medseg.io.dicom.segmentations.source import read_source
from medseg.volume import Volume

MakeSource = Callable[[Grid], list[Path]]


def edit(path: Path, **values: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_files_may_come_in_any_order(make_source: MakeSource, oblique: Grid) -> None:
    paths = make_source(oblique)
    images = read_source(paths[::-1])
    assert oblique.difference(images.grid) is None
    assert [dataset.InstanceNumber for dataset in images.datasets] == [100, 99, 98, 97, 96]


@given(data=st.data(), axes=st.from_type(AxisMap))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_volume_is_aligned_whatever_its_axes(
    data: st.DataObject, axes: AxisMap, make_source: MakeSource, scanned_grids: st.SearchStrategy[Grid]
) -> None:
    grid = data.draw(scanned_grids)
    images = read_source(make_source(grid))
    volume = Volume(np.arange(grid.voxel_count).reshape(1, *grid.shape), grid)
    aligned = images.aligned(volume.mapped(axes), "it")
    assert np.array_equal(aligned.array, volume.array)


@pytest.mark.parametrize("change", ["shifted", "cropped", "turned", "flipped in place"])
def test_another_grid_is_refused(make_source: MakeSource, oblique: Grid, change: str) -> None:
    affine = oblique.affine.copy()
    shape = oblique.shape
    if change == "shifted":
        affine[0, 3] += 0.5
    elif change == "cropped":
        shape = (7, 6, 4)
    elif change == "turned":
        affine[:3, :3] = affine[:3, [1, 2, 0]]
    else:
        affine[:3, 2] *= -1
    images = read_source(make_source(oblique))
    with pytest.raises(GeometryError, match="is not on the grid of the source images"):
        images.aligned(Volume(np.zeros((1, *shape)), Grid(shape, affine)), "it")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"SeriesInstanceUID": "1.2.3"}, "differ in SeriesInstanceUID"),
        ({"Rows": 9}, "differ in Rows"),
        ({"PixelSpacing": [0.8, 0.701]}, "differ in orientation or spacing"),
        ({"ImagePositionPatient": None}, "where it lies"),
        ({"ImageOrientationPatient": None}, "how its rows and columns lie"),
        ({"SOPInstanceUID": ""}, "no SOPInstanceUID"),
    ],
)
def test_what_is_no_volume_is_refused(
    make_source: MakeSource, oblique: Grid, changes: dict[str, object], what: str
) -> None:
    paths = make_source(oblique)
    edit(paths[2], **changes)
    with pytest.raises((InputError, GeometryError), match=what):
        read_source(paths)


def test_a_missing_or_doubled_slice_is_refused(make_source: MakeSource, oblique: Grid) -> None:
    paths = make_source(oblique)
    with pytest.raises(GeometryError, match="4 source frames do not fill 5 planes"):
        read_source([*paths[:2], *paths[3:]])
    with pytest.raises(GeometryError, match="6 source frames do not fill 5 planes"):
        read_source([*paths, paths[0]])


def test_orientations_may_differ_by_rounding(make_source: MakeSource, oblique: Grid) -> None:
    paths = make_source(oblique)
    rounded = [round(float(part), 5) for part in pydicom.dcmread(paths[2]).ImageOrientationPatient]
    edit(paths[2], ImageOrientationPatient=rounded)
    assert oblique.difference(read_source(paths).grid) is None


def test_no_file_and_no_dicom_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source image"):
        read_source([])
    text = tmp_path / "a.dcm"
    text.write_text("not DICOM")
    with pytest.raises(InputError, match=r"a\.dcm: is no valid DICOM object"):
        read_source([text])
    with pytest.raises(InputError, match="does not exist"):
        read_source([tmp_path / "b.dcm"])
