from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from medseg.errors import ConfigError, GeometryError, InputError
from medseg.geometry import AxisMap, Grid
from medseg.io.dicom.segmentations import SeriesIdentity, read_contours, write_contours
from medseg.labels import LabelScheme
from medseg.volume import Volume

MakeSource = Callable[[Grid], list[Path]]
SCHEME = LabelScheme.from_names({2: "liver", 7: "left kidney", 900: "tumour"})


def random_labels(grid: Grid, seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(rng.choice(SCHEME.values, size=(1, *grid.shape)).astype(np.uint16), grid)


@given(data=st.data(), axes=st.from_type(AxisMap), seed=st.integers(0, 99))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_labels_come_back_as_they_went(
    data: st.DataObject,
    axes: AxisMap,
    seed: int,
    make_source: MakeSource,
    scanned_grids: st.SearchStrategy[Grid],
    tmp_path: Path,
) -> None:
    grid = data.draw(scanned_grids)
    labels = random_labels(grid, seed).mapped(axes)
    write_contours(labels, SCHEME, make_source(grid), tmp_path / "a.dcm")
    found = read_contours(tmp_path / "a.dcm", labels.grid)
    assert found.scheme.names == SCHEME.names
    assert found.scheme.values == SCHEME.values
    assert np.array_equal(found.label_maps[0].array, labels.array)


def write_example(make_source: MakeSource, grid: Grid, folder: Path, labels: Volume | None = None) -> Path:
    path = folder / "structures.dcm"
    write_contours(labels or random_labels(grid), SCHEME, make_source(grid), path)
    return path


def test_what_a_region_says(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    labels = random_labels(oblique)
    labels.array[labels.array == 7] = 0
    dataset = pydicom.dcmread(write_example(make_source, oblique, tmp_path, labels))
    assert dataset.PatientID == "4711"
    regions = [(region.ROINumber, region.ROIName) for region in dataset.StructureSetROISequence]
    assert regions == [(2, "liver"), (7, "left kidney"), (900, "tumour")]
    liver, kidney, tumour = dataset.ROIContourSequence
    assert "ContourSequence" not in kidney
    assert tuple(tumour.ROIDisplayColor) == SCHEME.foreground[2].color
    contour = liver.ContourSequence[0]
    assert contour.ContourGeometricType == "CLOSED_PLANAR"
    assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints
    types = [item.RTROIInterpretedType for item in dataset.RTROIObservationsSequence]
    assert types == ["ORGAN", "ORGAN", ""]
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 5


def test_each_contour_lies_on_the_image_that_it_names(
    make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    source = make_source(oblique)
    write_contours(random_labels(oblique).reoriented("SLA"), SCHEME, source, tmp_path / "a.dcm")
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, source)}
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    seen = set()
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        seen.add(image.SOPInstanceUID)
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - image.ImagePositionPatient
        directions = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
        assert np.abs(points @ np.cross(*directions)).max() < 1e-3
        columns = points @ directions[0] / float(image.PixelSpacing[1])
        assert columns.min() > -0.51
        assert columns.max() < image.Columns - 0.49
    assert len(seen) == 5


def test_a_seed_makes_equal_files(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    source, series = make_source(oblique), SeriesIdentity(created=datetime(2026, 1, 2), seed="a")
    for name in ("a.dcm", "b.dcm"):
        write_contours(random_labels(oblique), SCHEME, source, tmp_path / name, series=series)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def square(grid: Grid, plane: float, low: float, high: float, kind: str = "CLOSED_PLANAR") -> Dataset:
    corners = [(low, low, plane), (high, low, plane), (high, high, plane), (low, high, plane)]
    contour = Dataset()
    contour.ContourGeometricType = kind
    contour.NumberOfContourPoints = 4
    contour.ContourData = [f"{value:.4f}" for value in (grid.to_world(corners) * (-1, -1, 1)).ravel()]
    return contour


@pytest.fixture
def structures(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> Callable[..., Path]:
    """Writes a structure set whose regions hold the contours given, in order."""

    def write(*regions: list[Dataset]) -> Path:
        path = write_example(make_source, oblique, tmp_path)
        dataset = pydicom.dcmread(path)
        for region, contours in zip(dataset.ROIContourSequence, regions, strict=True):
            region.ContourSequence = contours
        dataset.save_as(path)
        return path

    return write


def test_regions_that_overlap_are_kept_apart(structures: Callable[..., Path], oblique: Grid) -> None:
    path = structures(
        [square(oblique, 1, -0.5, 3.5)], [square(oblique, 1, 1.5, 4.5)], [square(oblique, 2, 0.5, 1.5)]
    )
    found = read_contours(path, oblique)
    assert len(found.label_maps) == 2
    assert [int(found.mask(value).sum()) for value in (2, 7, 900)] == [16, 9, 1]


def test_a_contour_within_another_is_a_hole(structures: Callable[..., Path], oblique: Grid) -> None:
    nested = [square(oblique, 0, -0.5, 4.5), square(oblique, 0, 0.5, 2.5)]
    found = read_contours(structures(nested, [], []), oblique)
    assert int(found.mask(2).sum()) == 25 - 4
    assert not found.mask(2)[1:3, 1:3, 0].any()


def test_points_are_named_and_left_out(structures: Callable[..., Path], oblique: Grid) -> None:
    found = read_contours(structures([square(oblique, 0, 0, 1, "POINT")], [], []), oblique)
    assert found.notes == ("'liver' holds points or open lines, which are left out",)
    assert not found.label_maps[0].array.any()


def test_a_contour_close_to_a_plane_belongs_to_it(structures: Callable[..., Path], oblique: Grid) -> None:
    found = read_contours(structures([square(oblique, 1.08, -0.5, 1.5)], [], []), oblique)
    assert found.mask(2)[..., 1].sum() == 4


@pytest.mark.parametrize(
    ("plane", "what"),
    [(1.2, "0.2 planes off its plane"), (5.0, "beside the image"), (-1.0, "beside the image")],
)
def test_a_contour_off_the_planes_is_refused(
    plane: float, what: str, structures: Callable[..., Path], oblique: Grid
) -> None:
    path = structures([square(oblique, plane, -0.5, 1.5)], [], [])
    with pytest.raises(GeometryError, match=what):
        read_contours(path, oblique)


def test_a_grid_turned_against_the_contours_is_refused(
    make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    path = write_example(make_source, oblique, tmp_path)
    with pytest.raises(GeometryError, match=r"off its plane|beside the image"):
        read_contours(path, Grid((20, 20, 20), np.diag([1.0, 1.0, 1.0, 1.0])))


def test_large_and_small_numbers_are_renumbered(
    make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    path = write_example(make_source, oblique, tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.StructureSetROISequence[0].ROINumber = 0
    dataset.ROIContourSequence[0].ReferencedROINumber = 0
    dataset.save_as(path)
    found = read_contours(path, oblique)
    assert found.scheme.values == (0, 1, 2, 3)
    assert np.array_equal(found.mask(1), random_labels(oblique).array[0] == 2)


def test_what_is_no_structure_set_is_refused(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no structure set but a CT Image"):
        read_contours(make_source(oblique)[0], oblique)
    path = write_example(make_source, oblique, tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[0].ReferencedROINumber = 12345
    dataset.save_as(path)
    with pytest.raises(InputError, match="no valid DICOM object, or damaged"):
        read_contours(path, oblique)


def test_no_class_is_refused(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    empty = Volume(np.zeros((1, *oblique.shape), np.uint8), oblique)
    with pytest.raises(ConfigError, match="no class"):
        write_contours(empty, LabelScheme.from_names({}), make_source(oblique), tmp_path / "a.dcm")


def test_a_file_that_says_something_else_gets_no_name(
    monkeypatch: pytest.MonkeyPatch, make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    save_as = Dataset.save_as

    def spoil(dataset: Dataset, *arguments: object, **options: object) -> None:
        if "ROIContourSequence" in dataset:
            del dataset.ROIContourSequence[0].ContourSequence[0]
        save_as(dataset, *arguments, **options)  # type: ignore[arg-type]

    source = make_source(oblique)
    monkeypatch.setattr(Dataset, "save_as", spoil)
    with pytest.raises(InputError, match="what was written is not what was given: voxels differ"):
        write_contours(random_labels(oblique), SCHEME, source, tmp_path / "a.dcm")
    assert not list(tmp_path.iterdir())
