"""From scores to label maps that are postprocessed, and to objects beside them, within their memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from medseg.errors import ConfigError, ResourceError
from medseg.geometry import Grid
from medseg.inference import choose_compute
from medseg.io import Case, read_volume, write_volume
from medseg.io.sizes import resident_bytes
from medseg.labels import LabelScheme
from medseg.postprocessing import find_instances, postprocess, postprocess_memory
from medseg.runs import Normalization, PreprocessingSpec
from medseg.runs.postprocess import InstanceChoice, PostprocessChoice
from medseg.segmenters import (
    EnsembleSegmenter,
    NetworkSegmenter,
    SegmentationPlan,
    cases,
    instances_path,
    predict_cases,
    segment_case,
    segment_to_file,
)
from medseg.volume import Volume

GRID = Grid((26, 24, 22), np.diag([-1.0, 1.5, 1.0, 1.0]))
CELLS = LabelScheme.from_names({6: "cell"})
INSTANCES = PostprocessChoice(fill_holes="all", instances=InstanceChoice())
CLEAN = PostprocessChoice(largest_component="all", fill_holes="all")


def bright() -> nn.Module:
    """Scores that give class 1 to what is brighter than a half."""
    network = nn.Conv3d(1, 2, 1)
    weights = {"weight": torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, -1.0])}
    network.load_state_dict(weights)
    return network


def segmenter(choice: PostprocessChoice | None, **options: object) -> NetworkSegmenter:
    return NetworkSegmenter(
        bright(),
        labels=CELLS,
        channel_names=("MRI",),
        preprocessing=PreprocessingSpec(normalization=[Normalization(scheme="none")]),
        patch_size=(8, 8, 8),
        postprocess=choice,
        compute=choose_compute("cpu", "float32"),
        **options,
    )


def cells() -> Volume:
    """Two balls that touch, the first with a hole in it, and a third that is small."""
    x, y, z = np.indices(GRID.shape)
    first = (x - 8) ** 2 + (1.5 * (y - 12)) ** 2 + (z - 11) ** 2 < 49
    second = (x - 18) ** 2 + (1.5 * (y - 12)) ** 2 + (z - 11) ** 2 < 49
    image = (first | second).astype(np.float32)
    image[8, 12, 11] = 0.0
    image[2:4, 2:4, 2:4] = 1.0
    return Volume(image[np.newaxis], GRID)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "cells.nii.gz"
    write_volume(cells(), path)
    return path


def test_the_label_map_is_what_postprocessing_makes_of_it(image: Path, tmp_path: Path) -> None:
    plain = segment_case(segmenter(None), cells()).array[0]
    expected = postprocess(plain, CELLS, GRID.spacing_mm, CLEAN)

    in_memory = segment_case(segmenter(CLEAN), cells())
    written = segment_to_file(segmenter(CLEAN), image, tmp_path / "out" / "cells.nii.gz")

    assert (plain != expected).sum() == 1 + 8
    np.testing.assert_array_equal(in_memory.array[0], expected)
    labels = read_volume(tmp_path / "out" / "cells.nii.gz")
    np.testing.assert_array_equal(labels.array[0], expected)
    assert labels.grid == GRID
    assert written.counts == {0: int((expected == 0).sum()), 6: int((expected == 6).sum())}
    assert written.objects is None
    assert not (tmp_path / "out" / "instances").exists()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_objects_are_written_beside_the_label_map(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cells{suffix}"

    written = segment_to_file(segmenter(INSTANCES), cells(), path)

    labels, objects = read_volume(path), read_volume(instances_path(path))
    assert instances_path(path) == tmp_path / "instances" / f"cells{suffix}"
    assert objects.array.dtype == np.int32
    assert objects.grid == labels.grid == GRID
    assert written.objects == 3
    np.testing.assert_array_equal(objects.array > 0, labels.array == 6)
    expected = find_instances(labels.array[0], CELLS, GRID.spacing_mm, InstanceChoice())
    np.testing.assert_array_equal(objects.array[0], expected)
    filled = PostprocessChoice(fill_holes="all")  # its hole would make two thin sides of the first ball
    np.testing.assert_array_equal(labels.array, segment_case(segmenter(filled), cells()).array)


def test_every_case_counts_its_objects(image: Path, tmp_path: Path) -> None:
    empty = tmp_path / "images" / "empty.nii.gz"
    write_volume(Volume(np.zeros((1, *GRID.shape), np.float32), GRID), empty)

    outcomes = predict_cases(
        segmenter(INSTANCES), [Case("cells", (image,)), Case("empty", (empty,))], tmp_path / "out"
    )

    assert [outcome.as_dict()["objects"] for outcome in outcomes] == [3, 0]
    assert read_volume(tmp_path / "out" / "instances" / "empty.nii.gz").array.max() == 0


def test_an_input_is_not_overwritten_by_objects(image: Path, tmp_path: Path) -> None:
    inside = tmp_path / "instances" / "cells.nii.gz"
    inside.parent.mkdir()
    image.rename(inside)

    outcomes = predict_cases(segmenter(CLEAN), [Case("cells", (inside,))], tmp_path / "out")
    assert outcomes[0].error is None
    with pytest.raises(Exception, match="is an input and would be overwritten"):
        predict_cases(segmenter(INSTANCES), [Case("cells", (inside,))], tmp_path)
    assert not (tmp_path / "cells.nii.gz").exists()


def test_a_failure_leaves_neither_file(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ResourceError("no space left on the disk", where="out")

    monkeypatch.setattr(cases, "_hand_on", full)  # the last step, when objects are written already

    (outcome,) = predict_cases(segmenter(INSTANCES), [Case("cells", (image,))], tmp_path / "out")

    assert isinstance(outcome.error, ResourceError)
    assert not (tmp_path / "out").exists()


def test_members_of_an_ensemble_postprocess_as_one() -> None:
    ensemble = EnsembleSegmenter([segmenter(INSTANCES), segmenter(INSTANCES)])

    assert ensemble.postprocess == INSTANCES
    np.testing.assert_array_equal(
        EnsembleSegmenter([segmenter(CLEAN), segmenter(CLEAN)]).segment(cells()).array,
        segmenter(CLEAN).segment(cells()).array,
    )
    with pytest.raises(ConfigError, match="differ in postprocessing; choose one for all by --postprocess"):
        EnsembleSegmenter([segmenter(CLEAN), segmenter(None)])


def test_a_class_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="unknown class 'cel'; did you mean 'cell'"):
        segmenter(PostprocessChoice(fill_holes=("cel",)))


def large(shape: tuple[int, int, int]) -> Volume:
    zero: npt.NDArray[np.float32] = np.zeros(1, np.float32)
    return Volume(np.broadcast_to(zero, (1, *shape)), Grid(shape, np.eye(4)))


@pytest.mark.parametrize("members", [1, 2])
def test_memory_is_counted_once(members: int) -> None:
    image = large((256, 256, 100))
    memory = postprocess_memory(image.grid.shape, CELLS.dtype, INSTANCES)

    def plan(choice: PostprocessChoice | None) -> SegmentationPlan:
        several = [segmenter(choice, shared_by=members) for _ in range(members)]
        return (several[0] if members == 1 else EnsembleSegmenter(several)).plan(image)

    streamed, held = plan(None), plan(INSTANCES)

    assert "label map" not in streamed.by_part
    assert held.by_part["label map"] == memory.labels == image.grid.voxel_count
    assert held.postprocessing == memory
    assert held.peak_bytes == held.by_part["process"] + memory.labels + memory.work
    assert streamed.peak_bytes == sum(streamed.by_part.values()) < held.peak_bytes
    assert held.as_dict()["postprocessing_bytes"] == memory.work


def test_what_does_not_fit_is_refused_before_work_starts() -> None:
    image = large((256, 256, 200))
    memory = postprocess_memory(image.grid.shape, CELLS.dtype, INSTANCES)
    limit = resident_bytes() + memory.work // 2
    tight = segmenter(INSTANCES, max_ram_bytes=limit)

    with pytest.raises(ResourceError, match=r"postprocessing may need .* \(the whole label map 13.1 MB, and"):
        tight.segment(image)
    assert segmenter(None, max_ram_bytes=limit).plan(image).peak_bytes < limit
