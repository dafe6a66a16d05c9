"""Models of nnU-Net's as segmenters: the whole way written out once more, choices, and refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from skimage.transform import resize

from medseg.errors import BundleError, ConfigError, InputError
from medseg.geometry import Grid
from medseg.runs.nnunet import Architecture
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import load_segmenter
from medseg.segmenters.nnunet.architecture import build_nnunet
from medseg.segmenters.nnunet.preprocessing import NORMALIZATIONS
from medseg.volume import Volume
from tests.data.bundles import Betrayal, edit_json
from tests.data.nnunet import architecture, write_nnunet_folder

GRID = Grid((14, 11, 9), np.array([[-1.0, 0, 0, 5], [0, 1.0, 0, 2], [0, 0, 1.5, -7], [0, 0, 0, 1]]))


def image(channels: int = 1, grid: Grid = GRID, *, border: int = 0) -> Volume:
    noise = np.random.default_rng(5).normal(size=(channels, *grid.shape))
    array = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1)).astype(np.float32) * 5 + 1
    if border:
        array[:, :border], array[:, :, -border:] = 0, 0
    return Volume(array, grid)


def by_hand(
    folder: Path, volume: Volume, spacing: tuple[float, float, float], fold: int = 0
) -> npt.NDArray[Any]:
    """The labels of an image that one window holds: nnU-Net's steps, in the order in which it has them."""
    stored = volume.array.transpose(0, 3, 2, 1)
    mask = ndimage.binary_fill_holes((stored != 0).any(axis=0))
    box = ndimage.find_objects(mask.astype(int))[0]
    crop = stored[(slice(None), *box)].astype(np.float64)
    crop = (crop - crop.mean(axis=(1, 2, 3), keepdims=True)) / crop.std(axis=(1, 2, 3), keepdims=True)
    own = volume.grid.spacing_mm[::-1]
    shape = [round(size * old / new) for size, old, new in zip(crop.shape[1:], own, spacing, strict=True)]
    seen = np.stack([resize(one, shape, 3, mode="edge", anti_aliasing=False) for one in crop])
    missing = [(0, 0)] + [((16 - size) // 2, 16 - size - (16 - size) // 2) for size in shape]
    x = torch.from_numpy(np.pad(seen, missing)).float()[None]
    network = build_nnunet(Architecture.model_validate(architecture()), len(stored), 3).eval()
    content = torch.load(folder / f"fold_{fold}/checkpoint_final.pth", weights_only=False)
    network.load_state_dict({name: content["network_weights"][name] for name in network.state_dict()})
    with torch.no_grad():
        flips = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]
        scores = sum(torch.flip(network(torch.flip(x, axes)), axes) for axes in flips)[0]
    inner = tuple(slice(low, 16 - high) for low, high in missing[1:])
    logits = scores[(slice(None), *inner)].double().numpy()
    back = np.stack([resize(one, crop.shape[1:], 1, mode="edge", anti_aliasing=False) for one in logits])
    labels = np.zeros(stored.shape[1:], int)
    labels[box] = back.argmax(axis=0)
    return labels.transpose(2, 1, 0)


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 1.0), (1.0, 1.0, 1.0), (1.2, 0.8, 1.1)])
def test_the_whole_way(spacing: tuple[float, float, float], tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model", spacing=spacing, channels=("T1", "T2"))
    volume = image(2, border=2)
    labels = load_segmenter(folder, "cpu").segment(volume)
    expected = by_hand(folder, volume, spacing)
    assert labels.grid == volume.grid
    assert (np.bincount(expected.ravel(), minlength=3) > 10).all()
    assert not labels.array[0, :2].any()  # cropped away
    # Half precision decides differently where two classes are as good as equal.
    assert (labels.array[0] == expected).mean() > 0.995


def test_what_it_is(tmp_path: Path) -> None:
    segmenter = load_segmenter(write_nnunet_folder(tmp_path / "model"), "cpu")
    assert segmenter.labels.names == ("background", "anterior", "posterior")
    assert segmenter.channel_names == ("MRI",)
    plan = segmenter.plan(image())
    assert plan.by_part["scores as the network gives them"] > 0
    stage = segmenter.scores(image())
    scores = stage.read(0, stage.length)
    torch.testing.assert_close(torch.logsumexp(scores, dim=0), torch.zeros(GRID.shape), atol=1e-5, rtol=0)


def test_logits_of_folds_are_averaged(tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model", folds=(0, 1))
    first, second, both = (load_segmenter(folder, "cpu", fold) for fold in (0, 1, "all"))  # type: ignore[arg-type]
    logits = [
        one._logits(torch.randn(1, 16, 16, 16, generator=torch.manual_seed(1)))
        for one in (first, second, both)
    ]  # type: ignore[attr-defined]
    torch.testing.assert_close(logits[2], (logits[0] + logits[1]) / 2)
    assert not torch.equal(logits[0], logits[1])
    with pytest.raises(ConfigError, match="fold 2 is not trained; choose of 0, 1, or all"):
        load_segmenter(folder, "cpu", 2)


def test_the_fold_that_saw_all_cases_serves_alone(tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model", folds=("all",))
    assert len(load_segmenter(folder, "cpu").weights) == 1  # type: ignore[attr-defined]
    both = write_nnunet_folder(tmp_path / "both", folds=("all", 0))
    assert len(load_segmenter(both, "cpu").weights) == 1  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match=r"has no fold with a checkpoint_best.pth"):
        load_segmenter(folder, "cpu", checkpoint="best")


def test_axes_in_another_order(tmp_path: Path) -> None:
    order = [2, 0, 1]
    plain = write_nnunet_folder(tmp_path / "plain", spacing=(1.0, 1.5, 1.0))
    turned = write_nnunet_folder(
        tmp_path / "turned", spacing=(1.0, 1.5, 1.0), plans={"transpose_forward": order}
    )
    volume = image()
    # The array of the turned model has as axes (x, z, y) what the plain one has as (z, y, x).
    permuted = Volume(volume.array.transpose(0, 2, 3, 1), Grid((11, 9, 14), np.diag([1.0, 1.5, 1.0, 1.0])))
    expected = load_segmenter(plain, "cpu").segment(permuted).array[0].transpose(2, 0, 1)
    np.testing.assert_array_equal(load_segmenter(turned, "cpu").segment(volume).array[0], expected)


def test_a_reader_that_turns_images(tmp_path: Path) -> None:
    folder = write_nnunet_folder(
        tmp_path / "model", mirrored=None, plans={"image_reader_writer": "NibabelIOWithReorient"}
    )
    volume = image()
    expected = load_segmenter(folder, "cpu").segment(volume)
    for axcodes in ("LPS", "PIR", "SAR"):
        labels = load_segmenter(folder, "cpu").segment(volume.reoriented(axcodes))
        np.testing.assert_array_equal(labels.reoriented(GRID.axcodes).array, expected.array)
    edit_json(folder / "plans.json", lambda plans: plans.update(image_reader_writer="SimpleITKIO"))
    stored = load_segmenter(folder, "cpu").segment(volume)
    assert (stored.array != expected.array).mean() > 0.01  # it sees left as right


def test_planes_are_gone_through_one_by_one(tmp_path: Path) -> None:
    folder = write_nnunet_folder(
        tmp_path / "model", patch=(16, 16), spacing=(1.0, 1.0), mirrored=(0, 1), network=architecture(2)
    )
    volume = image()
    labels = load_segmenter(folder, "cpu").segment(volume).array[0]
    assert len(np.unique(labels)) == 3
    mean, std = volume.array.mean(), volume.array.std()
    same = np.where(np.arange(9) < 4, (volume.array - mean) / std, 0)  # the other planes have no say
    edit_json(
        folder / "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"].update(normalization_schemes=["NoNormalization"]),
    )
    alone = load_segmenter(folder, "cpu").segment(Volume(same.astype(np.float32), GRID)).array[0]
    np.testing.assert_array_equal(alone[..., :4], labels[..., :4])


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("CTNormalization", lambda x, _: (np.clip(x, -5, 9) - 2) / 3),
        ("NoNormalization", lambda x, _: x),
        ("RescaleTo01Normalization", lambda x, _: (x - x.min()) / (x.max() - x.min())),
        ("ZScoreNormalization", lambda x, _: (x - x.mean()) / x.std()),
        ("masked", lambda x, m: np.where(m, (x - x[m].mean()) / x[m].std(), x)),
    ],
)
def test_intensities(scheme: str, expected: Callable[..., Any]) -> None:
    from medseg.runs.nnunet import IntensityProperties

    facts = IntensityProperties(mean=2.0, std=3.0, percentile_00_5=-5.0, percentile_99_5=9.0)
    array = image().array[0].copy()
    mask = array > 0
    found = array.copy()
    name = "ZScoreNormalization" if scheme == "masked" else scheme
    NORMALIZATIONS[name](found, mask if scheme == "masked" else None, facts)
    np.testing.assert_allclose(found, expected(array.astype(float), mask), atol=1e-4)


def test_plans_of_older_versions(tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model")
    expected = load_segmenter(folder, "cpu").segment(image()).array

    def older(plans: dict[str, Any]) -> None:
        configuration = plans["configurations"].pop("3d_fullres")
        del configuration["architecture"]
        plans["configurations"]["base"] = configuration | {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 6,
            "conv_kernel_sizes": [[3, 3, 3]] * 2,
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage_encoder": [1, 2],
            "n_conv_per_stage_decoder": [1],
        }
        plans["configurations"]["3d_fullres"] = {"inherits_from": "base"}

    edit_json(folder / "plans.json", older)
    np.testing.assert_array_equal(load_segmenter(folder, "cpu").segment(image()).array, expected)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "regions": ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "'whole' is a region of several"),
    "gaps": ({"labels": {"background": 0, "a": 1, "b": 5}}, r"label values \[0, 1, 5\] have gaps"),
    "cascade": ({"previous_stage": "3d_lowres"}, "is a cascade, which begins with the labels of '3d_lowres'"),
    "preprocessor": ({"preprocessor_name": "Mine"}, "prepares images by 'Mine'"),
    "reader": ({"plans": {"image_reader_writer": "Tiff3DIO"}}, "reads images by 'Tiff3DIO'"),
    "normalisation": ({"normalization_schemes": ["Mine"]}, "normalises by 'Mine'"),
    "resampling": ({"resampling_fn_data": "resample_torch"}, "resamples by 'resample_torch'"),
    "channels": ({"normalization_schemes": ["NoNormalization"] * 2}, "normalises 2 channels of 1"),
    "axes": ({"plans": {"transpose_forward": [0, 0, 1]}}, "has no order of axes"),
    "mirrors": ({"mirrored": (0, 3)}, r"mirrors along axes \(0, 3\), which the patch has not"),
    "loop": ({"plans": {"configurations": {"3d_fullres": {"inherits_from": "3d_fullres"}}}}, "from itself"),
    "configuration": ({"plans": {"configurations": {"2d": {}}}}, "no configuration .3d_fullres.; there"),
    "order": ({"resampling_fn_data_kwargs": {"order": 9}}, "resampling_fn_data_kwargs.order"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_reproduced_is_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    options, message = REFUSED[what]
    folder = write_nnunet_folder(tmp_path / "model", **options)
    with pytest.raises(BundleError, match=message) as caught:
        load_segmenter(folder, "cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model")
    place = folder / "fold_0/checkpoint_final.pth"
    content = torch.load(place, weights_only=False)
    betrayal = Betrayal(tmp_path / "fired")
    del_one = dict(list(content["network_weights"].items())[1:])
    for changed, message in (
        ({**content, "logging": betrayal}, "holds more than weights, which loading would execute"),
        ({"state_dict": {}}, "is no checkpoint of nnU-Net v2"),
        ({**content, "network_weights": del_one}, "do not fit the model's plans: .* is missing"),
    ):
        torch.save(changed, place)
        with pytest.raises(BundleError, match=message):
            load_segmenter(folder, "cpu")
    assert not betrayal.fired
    place.unlink()
    with pytest.raises(BundleError, match=r"has no fold with a checkpoint_final.pth"):
        load_segmenter(folder, "cpu")
    (folder / "plans.json").write_text("{}")
    torch.save(content, place)
    with pytest.raises(BundleError, match=r"plans.json is damaged: key '.*' is missing"):
        load_segmenter(folder, "cpu")


def test_choices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"'xy' is a way .*, and .* is gone through as nnU-Net does"):
        load_segmenter(folder, "cpu", mirror="xy")
    with pytest.raises(ConfigError, match="nothing was chosen on validation cases"):
        load_segmenter(folder, "cpu", postprocess=PostprocessChoice(chosen_by="validation"))
    with pytest.raises(InputError, match="has 2 channels, the model needs 1"):
        load_segmenter(folder, "cpu").segment(image(2))


def test_an_image_of_nothing(tmp_path: Path) -> None:
    folder = write_nnunet_folder(tmp_path / "model")
    labels = load_segmenter(folder, "cpu").segment(Volume(np.zeros((1, 14, 11, 9), np.float32), GRID))
    assert labels.grid == GRID
