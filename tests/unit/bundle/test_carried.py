"""What a bundle carries does what medseg does: compared with medseg, and with small cases by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, SaveImaged
from torch import nn

from medseg.bundle.carried.cases import find_images, labelled_cases
from medseg.bundle.carried.mirroring import Mirrored
from medseg.bundle.carried.postprocessing import CleanLabelsd
from medseg.bundle.carried.preprocessing import EnclosingSpacingd, NormalizeChannelsd, RequireImaged
from medseg.geometry import Grid
from medseg.inference import NetworkImage, RestoredScores
from medseg.inference.mirroring import Mirrored as MedsegMirrored
from medseg.io import read_volume
from medseg.labels import LabelScheme
from medseg.postprocessing import postprocess
from medseg.runs import Normalization, PreprocessingSpec
from medseg.runs.recipe import PostprocessChoice
from medseg.transforms import NormalizeChannelsd as MedsegNormalizeChannelsd
from medseg.transforms import preprocess
from medseg.volume import Volume

SPACING = (1.3, 2.1, 0.9)


def tilted_grid(shape: tuple[int, int, int], axcodes: str, spacing_mm: tuple[float, ...]) -> Grid:
    """A grid in this orientation, turned by a tenth of a radian about the body's axis."""
    directions = np.zeros((3, 3))
    for column, code in enumerate(axcodes):
        row = next(row for row, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        directions[row, column] = 1.0 if code in "RAS" else -1.0
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions * spacing_mm
    affine[:3, 3] = (-31.5, 12.25, 90.0)
    return Grid(shape, affine)


def to_network(spacing_mm: tuple[float, ...]) -> Compose:
    orient = Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    return Compose([EnclosingSpacingd("image", spacing_mm, axcodes="RAS"), orient])


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "PSR", "PIR", "ILA"])
@pytest.mark.parametrize(
    ("shape", "spacing_mm"), [((7, 9, 5), (1.1, 0.8, 3.0)), ((6, 1, 8), SPACING), ((4, 5, 3), (1, 1, 1))]
)
def test_network_grid_and_native_grid_are_medsegs(
    axcodes: str, shape: tuple[int, int, int], spacing_mm: tuple[float, ...]
) -> None:
    grid = tilted_grid(shape, axcodes, spacing_mm)
    image = Volume(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32), grid)
    spec = PreprocessingSpec(spacing_mm=SPACING, normalization=[Normalization(scheme="none")] * 2)
    steps = to_network(SPACING)

    seen = steps({"image": image.to_metatensor()})

    expected = preprocess(image, spec)
    assert Volume.from_metatensor(seen["image"]).grid.difference(expected.grid) is None
    np.testing.assert_allclose(seen["image"].numpy(), expected.array, atol=1e-5)
    in_slabs = NetworkImage(image, spec, axis=2).read(0, expected.grid.shape[2])[0]
    assert torch.equal(seen["image"].as_tensor(), in_slabs)

    scores = torch.randn(3, *seen["image"].shape[1:], generator=torch.Generator().manual_seed(1))
    seen["pred"] = MetaTensor(scores).copy_meta_from(seen["image"])
    back = Invertd("pred", steps, orig_keys="image", nearest_interp=False)(seen)["pred"]

    restored = RestoredScores.of(scores, expected.grid, grid)
    assert Volume.from_metatensor(back).grid.difference(grid) is None
    np.testing.assert_allclose(back.numpy(), restored.read(0, restored.length).numpy(), atol=1e-5)


def test_resampling_by_hand() -> None:
    image = MetaTensor(torch.tensor([0.0, 4.0, 6.0]).reshape(1, 1, 1, 3), affine=np.diag([1.0, 1, 2, 1]))
    finer = EnclosingSpacingd("image", (1.0, 1.0, 1.0))
    seen = finer({"image": image})
    assert seen["image"].ravel().tolist() == [0, 2, 4, 5, 6]
    assert finer.inverse(seen)["image"].ravel().tolist() == [0, 4, 6]


def test_labels_are_resampled_to_the_nearest() -> None:
    image = Volume(
        np.random.default_rng(3).integers(0, 5, (1, 6, 7, 5)).astype(np.uint8), Grid((6, 7, 5), np.eye(4))
    )
    spec = PreprocessingSpec(spacing_mm=SPACING, normalization=[Normalization(scheme="none")])
    zeros = Volume(np.zeros((1, 6, 7, 5), np.float32), image.grid)
    _, expected = preprocess(zeros, spec, image)
    found = EnclosingSpacingd("image", SPACING, interpolation="nearest")({"image": image.to_metatensor()})[
        "image"
    ]
    assert np.array_equal(found.numpy(), expected.array)


SCHEMES: list[dict[str, Any]] = [
    {"scheme": "zscore"},
    {"scheme": "zscore", "background": 0.0},
    {"scheme": "clip_zscore", "lower": -20.0, "upper": 60.0, "mean": 10.0, "std": 12.5},
    {"scheme": "none"},
]


@pytest.mark.parametrize("content", ["skull-stripped", "constant", "two values", "large mean"])
def test_normalization_is_medsegs(content: str) -> None:
    noise = torch.randn((4, 5, 6, 7), generator=torch.Generator().manual_seed(2)) * 30
    images = {
        "skull-stripped": noise.where(noise > 0, 0.0),
        "constant": torch.full((4, 5, 6, 7), 7.5),
        "two values": (noise > 0).float(),
        "large mean": noise + 1e6,
    }
    image = images[content]
    expected = MedsegNormalizeChannelsd("image", SCHEMES)({"image": image})["image"]
    found = NormalizeChannelsd("image", SCHEMES)({"image": image})["image"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "image", [torch.zeros(2, 3, 3, 3), torch.zeros(1, 3, 3), torch.full((1, 3, 3, 3), torch.nan)]
)
def test_what_the_network_cannot_take_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"needed|NaN"):
        RequireImaged("image", channels=1)({"image": image})


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirror_images_are_averaged_as_medseg_does(axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, image = nn.Conv3d(1, 4, 3, padding=1), torch.randn(2, 1, 5, 6, 7)
    swapped = (0, 2, 1, 3)
    with torch.no_grad():
        expected = MedsegMirrored(network, axes, swapped, left_right_axis=0)(image)
        found = Mirrored(network, axes, swapped, left_right_axis=0)(image)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_both_statements_of_a_files_geometry_agree(shear: float, tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, shear, 4], [0, 3, 0, 9], [0, 0, 2, -7], [0, 0, 0, 1.0]])
    labels = MetaTensor(torch.arange(24).reshape(1, 2, 3, 4), affine=torch.from_numpy(affine))
    labels.meta["filename_or_obj"] = "a.nii.gz"
    save = SaveImaged(
        "pred",
        output_dir=tmp_path,
        output_postfix="",
        separate_folder=False,
        resample=False,
        output_dtype="uint8",
        writer="medseg.bundle.carried.writing.AgreeingNiftiWriter",
        print_log=False,
    )
    save({"pred": labels})
    found = read_volume(tmp_path / "a.nii.gz")  # refuses files that contradict themselves
    assert found.grid.difference(Grid((2, 3, 4), affine)) is None
    assert np.array_equal(found.array, labels.numpy())
    assert nib.load(tmp_path / "a.nii.gz").header["qform_code"] == (0 if shear else 1)


LABELS = LabelScheme.from_names({1: "one", 4: "four"})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_label_maps_are_cleaned_as_medseg_does(data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.sampled_from([0, 0, 1, 4]), min_size=60, max_size=60))
    choice = PostprocessChoice(
        smallest_volume_ml=data.draw(st.sampled_from([{}, {"one": 0.003}, {"one": 0.002, "four": 0.006}])),
        largest_component=data.draw(st.sampled_from(["none", "all", "union", ["four"]])),
        fill_holes=data.draw(st.sampled_from(["none", "all", ["one"]])),
        connectivity=data.draw(st.sampled_from(["faces", "edges", "corners"])),
    )
    labels = np.asarray(bits, np.uint8).reshape(3, 4, 5)
    grid = Grid((3, 4, 5), np.diag([1.0, 1.0, 1.5, 1.0]))
    values = {"one": 1, "four": 4}
    named = [*values] if choice.largest_component == "all" else choice.largest_component
    clean = CleanLabelsd(
        "pred",
        {values[name]: ml for name, ml in choice.smallest_volume_ml.items()},
        named if isinstance(named, str) else [values[name] for name in named],
        [values[name] for name in (values if choice.fill_holes == "all" else choice.fill_holes)],
        choice.connectivity,
    )
    pred = MetaTensor(torch.from_numpy(labels[None]).float(), affine=torch.from_numpy(grid.affine.copy()))
    expected = postprocess(labels, LABELS, grid.spacing_mm, choice)
    assert np.array_equal(clean({"pred": pred})["pred"].numpy()[0], expected)


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_file_is_a_case(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a_0001.nii", ".hidden.nii", "notes.txt")
    found = [Path(case["image"]).name for case in find_images(str(tmp_path), channels=1)]
    assert found == ["a_0001.nii", "b.nii.gz"]


def test_channels_in_files_of_their_own_are_joined(tmp_path: Path) -> None:
    names = [f"{case}_{channel:04}.nii.gz" for case, channel in itertools.product("ab", range(2))]
    touch(tmp_path / "imagesTr", *names)
    touch(tmp_path / "labelsTr", "b.nii.gz")
    images = find_images(str(tmp_path / "imagesTr"), channels=2)
    assert [[Path(path).name for path in case["image"]] for case in images] == [names[:2], names[2:]]
    (case,) = labelled_cases(str(tmp_path), channels=2)
    assert Path(case["label"]).name == "b.nii.gz"
    (tmp_path / "imagesTr" / "a_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match="case 'a'"):
        find_images(str(tmp_path / "imagesTr"), channels=2)


def test_folders_without_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--dataset_dir"):
        find_images(str(tmp_path), channels=1)
    with pytest.raises(FileNotFoundError, match="--dataset_dir"):
        labelled_cases(str(tmp_path), channels=1)
