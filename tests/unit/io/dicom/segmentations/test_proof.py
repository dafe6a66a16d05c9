"""Each way in which a written object can disagree with what was given is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.geometry import Grid
from medseg.io.dicom.segmentations import (
    read_segmentation,
    write_contours,
    write_fractions,
    write_segmentation,
)
from medseg.io.dicom.segmentations.proof import (
    prove_contours,
    prove_fractions,
    prove_label_map,
    require_same_masks,
)
from medseg.labels import LabelScheme
from medseg.volume import Volume

pytest.importorskip("highdicom", reason="DICOM SEG is written with highdicom")

MakeSource = Callable[[Grid], list[Path]]
SCHEME = LabelScheme.from_names({1: "liver", 2: "spleen"})
NAMES = {1: "liver", 2: "spleen"}


@pytest.fixture
def labels(oblique: Grid) -> Volume:
    array = np.zeros((1, *oblique.shape), np.uint8)
    array[0, 1:3, 2:5, 1:4], array[0, 4:6, 1:4, 2:4] = 1, 2
    return Volume(array, oblique)


def planes_of(volume: Volume) -> np.ndarray:
    return volume.array[0].transpose(2, 1, 0).copy()


def test_what_a_label_map_can_lack(make_source: MakeSource, labels: Volume, tmp_path: Path) -> None:
    path, expected, grid = tmp_path / "a.dcm", planes_of(labels), labels.grid
    write_segmentation(labels, SCHEME, make_source(grid), path)
    prove_label_map(path, expected, grid, NAMES)
    with pytest.raises(InputError, match="segments are missing"):
        prove_label_map(path, expected, grid, {1: "liver"})
    with pytest.raises(InputError, match="lie outside the source images"):
        prove_label_map(path, expected[:, :-1], grid, NAMES)
    with pytest.raises(InputError, match="lie outside the source images"):
        prove_label_map(path, expected[:3], grid, NAMES)
    expected[0, 0, 0] = 2  # on a plane that has no frame
    with pytest.raises(InputError, match="voxels differ"):
        prove_label_map(path, expected, grid, NAMES)


def test_a_centroid_that_moved(make_source: MakeSource, labels: Volume, tmp_path: Path) -> None:
    path, grid = tmp_path / "a.dcm", labels.grid
    write_segmentation(labels, SCHEME, make_source(grid), path)
    affine = grid.affine.copy()
    affine[0, 3] += 0.2
    with pytest.raises(InputError, match=r"centroid of 'liver' moved by 0\.2 mm"):
        require_same_masks(path, read_segmentation(path), planes_of(labels), Grid(grid.shape, affine), NAMES)


def test_segments_that_overlap(make_source: MakeSource, labels: Volume, tmp_path: Path) -> None:
    path, grid = tmp_path / "a.dcm", labels.grid
    fractions = np.repeat(labels.array > 0, 2, axis=0).astype(np.float32)
    write_fractions(Volume(fractions, grid), SCHEME, make_source(grid), path)
    with pytest.raises(InputError, match="segments overlap"):
        prove_label_map(path, planes_of(labels), grid, NAMES)

    expected = fractions.transpose(3, 2, 1, 0).copy()
    prove_fractions(path, expected, grid, 255)
    for place, words in (((2, 3, 1, 0), "fractions differ"), ((0, 0, 0, 1), "a frame is missing")):
        changed = expected.copy()
        changed[place] = 0.5
        with pytest.raises(InputError, match=words):
            prove_fractions(path, changed, grid, 255)


def test_contours_that_lack_a_region_or_a_voxel(
    make_source: MakeSource, labels: Volume, tmp_path: Path
) -> None:
    path, expected = tmp_path / "a.dcm", planes_of(labels)
    write_contours(labels, SCHEME, make_source(labels.grid), path)
    prove_contours(path, expected, labels.grid, SCHEME)
    with pytest.raises(InputError, match="regions overlap or are missing"):
        prove_contours(path, expected, labels.grid, LabelScheme.from_names({1: "liver"}))
    expected[1, 2, 1] = 0
    with pytest.raises(InputError, match="voxels differ"):
        prove_contours(path, expected, labels.grid, SCHEME)
