from __future__ import annotations

import sys
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
from medseg.io.dicom.segmentations import (
    AlgorithmIdentification,
    SeriesIdentity,
    read_contours,
    read_fractions,
    read_segmentation,
    write_contours,
    write_fractions,
    write_seg,
    write_segmentation,
)
from medseg.labels import LabelScheme
from medseg.volume import Volume

highdicom = pytest.importorskip("highdicom", reason="DICOM SEG is written with highdicom")

MakeSource = Callable[[Grid], list[Path]]
SCHEME = LabelScheme.from_names({2: "liver", 7: "left kidney", 9: "tumour"})


def random_labels(grid: Grid, seed: int = 0, scheme: LabelScheme = SCHEME) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(rng.choice(scheme.values, size=(1, *grid.shape)).astype(np.uint8), grid)


@given(data=st.data(), axes=st.from_type(AxisMap), seed=st.integers(0, 99))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_labels_come_back_as_they_went(
    data: st.DataObject,
    axes: AxisMap,
    seed: int,
    kind: str,
    make_source: MakeSource,
    scanned_grids: st.SearchStrategy[Grid],
    tmp_path: Path,
) -> None:
    grid = data.draw(scanned_grids)
    source, labels = make_source(grid), random_labels(grid, seed)
    out = tmp_path / "out.dcm"
    write_segmentation(labels.mapped(axes), SCHEME, source, out, kind=kind)
    found = read_segmentation(out, source)
    assert found.scheme.names == SCHEME.names
    assert grid.difference(found.grid) is None
    assert np.array_equal(found.scheme.to_indices(found.label_maps[0].array), SCHEME.to_indices(labels.array))


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_highdicom_reads_the_same_voxels_in_the_same_place(
    kind: str, make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    names = {value: f"structure {value}" for value in range(1, 41)}
    scheme = LabelScheme.from_names(names)
    labels = random_labels(oblique, 1, scheme)
    write_segmentation(labels.reoriented("RAS"), scheme, make_source(oblique), tmp_path / "a.dcm", kind=kind)
    volume = highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True)
    indices = np.indices(oblique.shape).reshape(3, -1)
    positions = oblique.to_world(indices.T) * (-1, -1, 1)
    places = volume.map_reference_to_indices(positions)
    assert np.abs(places - np.rint(places)).max() < 1e-6
    found = volume.array[tuple(np.rint(places).astype(int).T)]
    assert np.array_equal(found, labels.array[0].ravel())


def test_what_a_segment_says(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    write_segmentation(
        random_labels(oblique),
        SCHEME,
        make_source(oblique),
        tmp_path / "a.dcm",
        algorithm=AlgorithmIdentification("a network", "2"),
        series=SeriesIdentity("Three organs", 77),
    )
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    assert (dataset.SeriesDescription, dataset.SeriesNumber, dataset.PatientID) == (
        "Three organs",
        77,
        "4711",
    )
    liver, kidney, tumour = dataset.SegmentSequence
    assert [item.SegmentNumber for item in (liver, kidney, tumour)] == [1, 2, 3]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentAlgorithmName == "a network"
    assert liver.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "2"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Left"
    category = tumour.SegmentedPropertyCategoryCodeSequence[0]
    assert category.CodeMeaning == "Morphologically Abnormal Structure"
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5
    colors = read_segmentation(tmp_path / "a.dcm").scheme.foreground
    assert [entry.color for entry in colors] == [entry.color for entry in SCHEME.foreground]


def test_names_in_any_language(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    source = make_source(oblique)
    for path in source:
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Zoë"
        dataset.save_as(path)
    scheme = LabelScheme.from_names({2: "foie größer", 7: "肝臓", 9: "печень"})
    write_segmentation(random_labels(oblique), scheme, source, tmp_path / "a.dcm")
    write_contours(random_labels(oblique), scheme, source, tmp_path / "b.dcm")
    assert read_segmentation(tmp_path / "a.dcm").scheme.names == scheme.names
    assert read_contours(tmp_path / "b.dcm", oblique).scheme.names == scheme.names
    for name in ("a.dcm", "b.dcm"):
        assert pydicom.dcmread(tmp_path / name).PatientName == "Müller^Zoë"


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_empty_segments_are_kept(kind: str, make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    labels = np.zeros((1, *oblique.shape), dtype=np.uint8)
    labels[0, 3, 2, 1] = 7
    source = make_source(oblique)
    write_segmentation(Volume(labels, oblique), SCHEME, source, tmp_path / "a.dcm", kind=kind)
    found = read_segmentation(tmp_path / "a.dcm", source)
    assert found.scheme.names == SCHEME.names
    assert [int(found.mask(value).sum()) for value in found.scheme.values[1:]] == [0, 1, 0]


def test_a_label_map_without_any_voxel(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    source, empty = make_source(oblique), Volume(np.zeros((1, *oblique.shape), np.uint8), oblique)
    write_segmentation(empty, SCHEME, source, tmp_path / "a.dcm")
    found = read_segmentation(tmp_path / "a.dcm", source)
    assert found.scheme.names == SCHEME.names
    assert not found.label_maps[0].array.any()


def test_voxels_to_ignore_belong_to_no_segment(
    make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    scheme = LabelScheme.from_names({1: "liver"}, ignore=5)
    labels = np.full((1, *oblique.shape), 5, dtype=np.uint8)
    labels[0, :2] = 1
    source = make_source(oblique)
    write_segmentation(Volume(labels, oblique), scheme, source, tmp_path / "a.dcm")
    assert np.array_equal(read_segmentation(tmp_path / "a.dcm", source).mask(1), labels[0] == 1)


def test_a_seed_makes_equal_files(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    source = make_source(oblique)
    series = SeriesIdentity(created=datetime(2026, 1, 2, 3, 4, 5), seed="a")
    files = [tmp_path / name for name in ("a.dcm", "b.dcm", "c.dcm", "d.dcm")]
    write_segmentation(random_labels(oblique), SCHEME, source, files[0], series=series)
    write_segmentation(random_labels(oblique), SCHEME, source, files[1], series=series)
    write_segmentation(random_labels(oblique, 1), SCHEME, source, files[2], series=series)
    write_segmentation(random_labels(oblique), SCHEME, source, files[3])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in files}) == 3


def test_probabilities_come_back_in_steps(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, *oblique.shape)).astype(np.float32)
    values[1] = 0.0
    source = make_source(oblique)
    write_fractions(Volume(values, oblique).reoriented("SPL"), SCHEME, source, tmp_path / "a.dcm")
    found, scheme = read_fractions(tmp_path / "a.dcm", source)
    assert scheme.names == SCHEME.names
    assert np.abs(found.array - values).max() <= 0.5 / 255 + 1e-6
    seen = read_segmentation(tmp_path / "a.dcm", source)
    assert np.array_equal(seen.mask(1), np.around(values[0] * 255) >= 127.5)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.full((3, 7, 6, 5), 1.5), "not all in 0 to 1"),
        (np.full((3, 7, 6, 5), np.nan), "not all in 0 to 1"),
        (np.zeros((4, 7, 6, 5)), "4 channels of probabilities for 3 classes"),
    ],
)
def test_what_is_no_probability_is_refused(
    values: np.ndarray, what: str, make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=what):
        write_fractions(Volume(values, oblique), SCHEME, make_source(oblique), tmp_path / "a.dcm")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused(make_source: MakeSource, oblique: Grid, tmp_path: Path) -> None:
    source, labels, out = make_source(oblique), random_labels(oblique), tmp_path / "a.dcm"
    with pytest.raises(InputError, match="label value 9 is not declared"):
        write_segmentation(labels, LabelScheme.from_names({2: "liver", 7: "kidney"}), source, out)
    shifted = Grid(oblique.shape, oblique.affine + _shift(0.3))
    with pytest.raises(GeometryError, match="is displaced"):
        write_segmentation(Volume(labels.array, shifted), SCHEME, source, out)
    with pytest.raises(InputError, match="one channel"):
        write_segmentation(Volume(np.zeros((2, *oblique.shape)), oblique), SCHEME, source, out)
    huge = LabelScheme.from_names({70000: "liver"})
    with pytest.raises(ConfigError, match="above 65535"):
        write_segmentation(Volume(labels.array * 0, oblique), huge, source, out, kind="labelmap")
    with pytest.raises(ConfigError, match="no kind of segmentation"):
        write_segmentation(labels, SCHEME, source, out, kind="ternary")  # type: ignore[arg-type]
    assert not out.exists()


def _shift(millimetres: float) -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[0, 3] = millimetres
    return shift


def test_without_highdicom_the_error_names_the_command(
    monkeypatch: pytest.MonkeyPatch, make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[dicom\]'"):
        write_segmentation(random_labels(oblique), SCHEME, make_source(oblique), tmp_path / "a.dcm")


@pytest.mark.parametrize("fault", ["moved", "one voxel", "plane lost"])
def test_a_file_that_says_something_else_gets_no_name(
    fault: str, monkeypatch: pytest.MonkeyPatch, make_source: MakeSource, oblique: Grid, tmp_path: Path
) -> None:
    settle = write_seg._settle

    def spoil(dataset: Dataset, *others: object) -> None:
        settle(dataset, *others)  # type: ignore[arg-type]
        frames = dataset.PerFrameFunctionalGroupsSequence
        if fault == "moved":
            for frame in frames:
                frame.PlanePositionSequence[0].ImagePositionPatient[0] += 0.2
        elif fault == "one voxel":
            dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]
        else:
            frames.pop()
            dataset.NumberOfFrames -= 1

    monkeypatch.setattr(write_seg, "_settle", spoil)
    with pytest.raises(InputError, match="what was written is not what was given"):
        write_segmentation(random_labels(oblique), SCHEME, make_source(oblique), tmp_path / "a.dcm")
    assert not list(tmp_path.iterdir())
