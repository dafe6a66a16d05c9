"""What every segmenter must do: give back the labels that belong to each voxel of the image's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from medseg.geometry import Grid
from medseg.inference import choose_compute
from medseg.io import Case, read_header, read_volume, write_volume
from medseg.labels import LabelScheme
from medseg.runs import Normalization, PreprocessingSpec
from medseg.segmenters import EnsembleSegmenter, NetworkSegmenter, Segmenter, predict_cases
from medseg.volume import Volume

LABELS = LabelScheme.from_names({2: "left", 5: "right", 9: "front", 300: "head"})
FLOAT32 = choose_compute("cpu", "float32")
ROUNDING = 1e-5  # of the range of scores: what single precision may lose
TIES_AT_MOST = 1e-3  # of all voxels
BORDER_TIES_AT_MOST = 3e-2  # where, besides, the image had to be continued beyond its border


def oblique(turn_degrees: float, axcodes: str) -> npt.NDArray[np.float64]:
    """Direction cosines near ``axcodes``, turned about two axes."""
    angle = np.deg2rad(turn_degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]
    directions = np.zeros((3, 3))
    for column, code in enumerate(axcodes):
        row = next(row for row, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        directions[row, column] = 1.0 if code in "RAS" else -1.0
    return np.asarray(turn @ directions)


def make_grid(axcodes: str, turn: float = 0.0, spacing: tuple[float, ...] = (1.1, 0.9, 2.5)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = oblique(turn, axcodes) * spacing
    affine[:3, 3] = (-38.0, 61.5, 17.25)
    return Grid((41, 37, 23), affine)


GRIDS = {
    **{axcodes: make_grid(axcodes) for axcodes in ("LAS", "PSR", "PIR", "LPS", "RAS")},
    "oblique LAS": make_grid("LAS", 25.0),
    "oblique PIR": make_grid("PIR", -12.0),
    "thick slices": Grid((31, 29, 5), make_grid("LAS", 8.0, (0.8, 0.8, 17.0)).affine),
}
SPACINGS = {
    "finer": (0.7, 0.8, 1.3),
    "coarser": (1.9, 2.3, 3.1),
    "mixed": (2.2, 0.6, 1.7),
}


def world(grid: Grid) -> npt.NDArray[np.float64]:
    """Position of each voxel centre, (3, X, Y, Z)."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return np.moveaxis(grid.to_world(indices), -1, 0)


@dataclass(frozen=True)
class LinearScores:
    """Class scores that are linear in world position: each class owns what is nearest to its seed."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    @classmethod
    def within(cls, grid: Grid, seed: int = 3) -> LinearScores:
        corners = grid.corners_mm()
        centre, size = corners.mean(axis=0), np.ptp(corners, axis=0)
        weight = np.random.default_rng(seed).uniform(-0.4, 0.4, (len(LABELS), 3)) * size
        return cls(weight, -(weight**2).sum(axis=1) / 2 - weight @ centre)

    def at(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.tensordot(self.weight, positions, axes=1) + self.bias[:, None, None, None]

    def of_the_image(self) -> nn.Module:
        """A 1x1x1 convolution of an image whose channels are world x, y, z."""
        network = nn.Conv3d(3, len(LABELS), 1)
        weight = torch.from_numpy(self.weight.astype(np.float32)).reshape(len(LABELS), 3, 1, 1, 1)
        network.load_state_dict({"weight": weight, "bias": torch.from_numpy(self.bias.astype(np.float32))})
        return network


class PositionNetwork(nn.Module):
    """Gives the scores that belong to each voxel of a known grid, whatever the image shows."""

    def __init__(self, scores: LinearScores, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("scores", torch.from_numpy(scores.at(world(grid)).astype(np.float32)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2:] == self.scores.shape[1:]
        return self.scores.expand(len(images), -1, -1, -1, -1)


def preprocessing(spacing_mm: tuple[float, float, float] | None, channels: int = 3) -> PreprocessingSpec:
    return PreprocessingSpec(
        spacing_mm=spacing_mm, normalization=[Normalization(scheme="none") for _ in range(channels)]
    )


def segmenter_of(
    network: nn.Module, spec: PreprocessingSpec, patch_size: tuple[int, int, int] = (24, 24, 24)
) -> NetworkSegmenter:
    return NetworkSegmenter(
        network,
        labels=LABELS,
        channel_names=tuple("xyz"),
        preprocessing=spec,
        patch_size=patch_size,
        compute=FLOAT32,
    )


def segmenters(scores: LinearScores, spec: PreprocessingSpec) -> dict[str, Segmenter]:
    """Every kind of segmenter, each with the same scores."""

    def one() -> NetworkSegmenter:
        return segmenter_of(scores.of_the_image(), spec)

    return {"network": one(), "ensemble": EnsembleSegmenter([one(), one(), one()])}


def through_files(segmenter: Segmenter, grid: Grid, folder: Path, suffix: str = ".nii.gz") -> Volume:
    """Write an image of world coordinates, predict it, read the label map."""
    image = folder / "images" / f"case{suffix}"
    write_volume(Volume(world(grid).astype(np.float32), grid), image)
    (outcome,) = predict_cases(segmenter, [Case("case", (image,))], folder / "labels")
    assert outcome.error is None
    assert outcome.output == folder / "labels" / f"case{suffix}"
    found, stored = read_header(outcome.output), read_header(image)
    assert found.grid == stored.grid  # shape and affine, to the last bit
    assert found.dtype == np.int16
    return read_volume(outcome.output)


def judge(
    labels: Volume, scores: LinearScores, grid: Grid, displaced_mm: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.bool_]:
    """Compare with the labels that the scores give at each voxel.

    Args:
        labels: What was segmented.
        scores: The truth.
        grid: The native grid.
        displaced_mm: How far interpolation moves the position that a voxel stands for, (3, X, Y, Z).

    Returns:
        The voxels that were left out since their two best scores tie.
    """
    truth = scores.at(world(grid))
    second, best = np.sort(truth, axis=0)[-2:]
    margin = np.full(grid.shape, ROUNDING * np.ptp(truth))
    if displaced_mm is not None:
        moved = np.tensordot(scores.weight, displaced_mm, axes=1)
        margin += np.ptp(moved, axis=0)
    clear = best - second > margin
    expected = LABELS.to_values(truth.argmax(axis=0))
    assert len(np.unique(expected)) >= 4
    np.testing.assert_array_equal(labels.array[0][clear], expected[clear])
    return ~clear


def displacement(grid: Grid, spec: PreprocessingSpec) -> npt.NDArray[np.float64]:
    """By how much world coordinates change on their way onto the network grid and back, by SciPy.

    Inside the image they do not. At its border the network grid reaches up to half a voxel beyond the
    outermost voxel centres, and there an image is continued by its outermost values.
    """

    def sample(array: npt.NDArray[np.float64], source: Grid, target: Grid) -> npt.NDArray[np.float64]:
        where = np.moveaxis(source.to_index(np.moveaxis(world(target), 0, -1)), -1, 0)
        return np.stack([map_coordinates(channel, where, order=1, mode="nearest") for channel in array])

    seen = spec.network_grid(grid)
    return sample(sample(world(grid), grid, seen), seen, grid) - world(grid)


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_scores_linear_in_position_give_the_labels_of_each_native_voxel(
    grid: Grid, spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    spec = preprocessing(spacing)
    seen = spec.network_grid(grid)
    scores = LinearScores.within(grid)

    labels = through_files(segmenter_of(PositionNetwork(scores, seen), spec, seen.shape), grid, tmp_path)

    assert judge(labels, scores, grid).mean() < TIES_AT_MOST


@pytest.mark.parametrize("kind", ["network", "ensemble"])
@pytest.mark.parametrize("spacing", [None, *SPACINGS.values()], ids=["native", *SPACINGS])
@pytest.mark.parametrize("name", ["LPS", "PIR", "oblique LAS", "thick slices"])
def test_an_image_of_world_coordinates_comes_back_through_windows(
    name: str, spacing: tuple[float, float, float] | None, kind: str, tmp_path: Path
) -> None:
    grid = GRIDS[name]
    spec = preprocessing(spacing)
    scores = LinearScores.within(grid)

    labels = through_files(segmenters(scores, spec)[kind], grid, tmp_path)

    displaced_mm = displacement(grid, spec)
    ties = judge(labels, scores, grid, displaced_mm)
    inside = np.abs(displaced_mm).max(axis=0) < 1e-6
    assert inside.any()
    assert ties[inside].mean() < TIES_AT_MOST
    assert ties.mean() < BORDER_TIES_AT_MOST


REAL_FILES = {
    "RAS": "mr/spinal_cord/t1/t1w.nii.gz",
    "PSR": "mr/spinal_cord/t2/t2.nii.gz",
    "oblique LAS, 17 mm slices": "mr/spinal_cord/mt/mt0.nii.gz",
    "PIR": "mr/vertebra/sub-mri_label-6_T2w.nii.gz",
    "LPS": "ct/totalsegmentator/example_mr_sm.nii.gz",
    "oblique LAS": "dicom/transfer_syntaxes/Ref/1.nii",
    "oblique LPS": "dicom/dicom2nifti/generic/anatomical/002_non_isotropic_ground_truth.nii.gz",
    "RAS, xa30": "dicom/xa30_enhanced/5_anat-T1w_acq-tfl.nii",
}


@pytest.mark.data
@pytest.mark.parametrize("path", REAL_FILES.values(), ids=REAL_FILES)
@pytest.mark.parametrize("spacing", [(2.4, 1.7, 3.6), (1.3, 0.9, 1.2)], ids=["coarser", "finer"])
def test_real_grids_come_back_whole(
    path: str, spacing: tuple[float, float, float], test_data: Path, tmp_path: Path
) -> None:
    grid = read_header(test_data / path).grid
    spec = preprocessing(spacing)
    seen = spec.network_grid(grid)
    scores = LinearScores.within(grid)
    suffix = ".nii" if path.endswith(".nii") else ".nii.gz"
    segmenter = segmenter_of(PositionNetwork(scores, seen), spec, seen.shape)

    labels = through_files(segmenter, grid, tmp_path, suffix)

    assert labels.grid == grid
    assert judge(labels, scores, grid).mean() < TIES_AT_MOST
