"""Bundles that were not made here: the same voxels as MONAI's own run, and nothing executed unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.errors import BundleError, ConfigError
from medseg.geometry import Grid
from medseg.io import read_volume, write_volume
from medseg.runs.postprocess import PostprocessChoice
from medseg.segmenters import load_segmenter
from medseg.volume import Volume
from tests.data.bundles import (
    SEGRESNET,
    UNET,
    Betrayal,
    edit_json,
    network_metadata,
    run_by_monai,
    write_zoo_bundle,
    zipped,
)

# An LPS image with thick slices, and an oblique one in other axes: neither lies as the network sees it.
TILT = np.eye(4)
TILT[:3, :3] = Rotation.from_euler("zyx", [95, 8, -80], degrees=True).as_matrix() @ np.diag([1.1, 1.2, 2.8])
GRIDS = {
    "LPS": Grid((23, 20, 9), np.array([[-1.0, 0, 0, 9], [0, -1.2, 0, 4], [0, 0, 3.0, -2], [0, 0, 0, 1]])),
    "oblique": Grid((18, 21, 10), TILT),
}


def image_on(grid: Grid, path: Path, channels: int = 1) -> Path:
    noise = np.random.default_rng(3).normal(size=(channels, *grid.shape))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 1)) * 6
    write_volume(Volume(smooth.astype(np.float32), grid), path)
    return path


VARIANTS: dict[str, dict[str, Any]] = {
    "UNet, scores inverted": {"network": UNET},
    "UNet, labels inverted, YAML": {"network": UNET, "inverted": "labels", "yaml": True},
    "UNet, one class, expressions": {
        "network": UNET | {"out_channels": 1},
        "classes": ("spleen",),
        "expressions": True,
        "normalization": {"_target_": "NormalizeIntensityd", "keys": "image"},
    },
    "SegResNet, two channels": {
        "network": SEGRESNET,
        "classes": ("background", "core", "rim"),
        "channels": ("T1", "T2"),
        "spacing": (1.3, 1.3, 1.6),
        "normalization": {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
        | {"channel_wise": True},
    },
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_voxels_as_by_monai(variant: str, grid: str, tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", **VARIANTS[variant])
    channels = len(VARIANTS[variant].get("channels", ("image",)))
    files = [image_on(GRIDS[grid], tmp_path / f"image_{index}.nii.gz") for index in range(channels)]
    expected = read_volume(run_by_monai(bundle, [str(file) for file in files], tmp_path / "out"))

    segmenter = load_segmenter(bundle, "cpu", trust="expressions" in variant)
    labels = segmenter.segment(files)

    assert labels.grid == read_volume(files[0]).grid
    assert expected.grid.shape == labels.grid.shape
    shares = [float((labels.array == value).mean()) for value in segmenter.labels.values]
    assert sum(share > 0.004 for share in shares) > 1, shares
    np.testing.assert_array_equal(labels.array, expected.array)


@pytest.mark.parametrize("grid", GRIDS)
def test_what_the_bundle_does_not_bring_back_is_brought_back(grid: str, tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET, inverted="not", spacing=(1.3, 1.45, 1.9))
    file = image_on(GRIDS[grid], tmp_path / "image.nii.gz")
    seen = read_volume(run_by_monai(bundle, [str(file)], tmp_path / "out", resample=False))
    native = read_volume(file).grid
    indices = np.stack([*np.meshgrid(*map(np.arange, native.shape), indexing="ij"), np.ones(native.shape)])
    places = np.tensordot(np.linalg.inv(seen.grid.affine) @ native.affine, indices, axes=1)[:3]
    expected = ndimage.map_coordinates(seen.array[0], places, order=0, mode="nearest")

    labels = load_segmenter(bundle, "cpu").segment(file)

    assert labels.grid == native
    halfway = np.abs(places - np.floor(places) - 0.5).min(axis=0) < 1e-3  # as near to one as to the other
    assert halfway.mean() < 0.3
    np.testing.assert_array_equal(labels.array[0][~halfway], expected[~halfway])


def test_its_classes_are_those_that_its_metadata_name(tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET)
    segmenter = load_segmenter(zipped(bundle, tmp_path / "bundle.zip"), "cpu")
    assert segmenter.labels.names == ("background", "spleen")
    assert segmenter.channel_names == ("image",)
    chosen = PostprocessChoice(largest_component=("spleen",))
    file = image_on(GRIDS["LPS"], tmp_path / "image.nii.gz")
    cleaned = load_segmenter(bundle, "cpu", postprocess=chosen).segment(file).array
    assert ndimage.label(cleaned[0])[1] == 1 < ndimage.label(segmenter.segment(file).array[0])[1]


def test_scores_are_the_probabilities_before_the_best_class(tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET, inverted="scores")
    segmenter = load_segmenter(bundle, "cpu")
    volume = read_volume(image_on(GRIDS["LPS"], tmp_path / "image.nii.gz"))
    stage = segmenter.scores(volume)
    probabilities = torch.softmax(stage.read(0, stage.length), dim=0)
    assert len(np.unique(probabilities)) > 100
    ensemble = load_segmenter([bundle, bundle], "cpu")
    np.testing.assert_array_equal(ensemble.segment(volume).array, segmenter.segment(volume).array)


EXECUTED: dict[str, tuple[dict[str, Any], str]] = {
    "import": ({"imports": ["$import os"]}, r"imports#0: '\$import os'"),
    "unused expression": ({"handlers": [{"x": "$print(1)"}]}, r"handlers#0#x: '\$print\(1\)'"),
    "expression": ({"network_def": UNET | {"dropout": "$0.1"}}, r"network_def#dropout: '\$0.1'"),
    "other package": ({"network_def": UNET | {"_target_": "os.system"}}, r"calls 'os.system'"),
    "by way of MONAI": (
        {"network_def": {"_target_": "monai.transforms.io.array.os.system", "command": "touch fired"}},
        r"calls 'monai.transforms.io.array.os.system'",
    ),
    "a command": (
        {"inferer": {"_target_": "run_cmd", "cmd_list": ["touch", "fired"]}},
        r"inferer#_target_: calls 'run_cmd'",
    ),
    "weights from an address": (
        {"network_def": {"_target_": "HoVerNet", "pretrained_url": "http://127.0.0.1:9/x"}},
        r"calls 'HoVerNet'",
    ),
    "by a reference": (
        {"network_def": UNET | {"_target_": "@what"}, "what": "os.system"},
        r"network_def#_target_: calls '@what'",
    ),
    "referred": (
        {"network_def": UNET | {"norm": "@what"}, "what": {"_target_": "monai.bundle.download", "name": "x"}},
        r"what#_target_: calls 'monai.bundle.download'",
    ),
    "another file": ({"handlers": "%/etc/passwd"}, r"handlers: takes in '%/etc/passwd'"),
    "script": (
        {"network_def": {"_target_": "scripts.net.Net"}},
        r"calls 'scripts.net.Net', file 'scripts/net.py'",
    ),
    "debugger": ({"network_def": UNET | {"_mode_": "debug"}}, r"network_def#_mode_: 'debug'"),
    "no name": ({"network_def": UNET | {"_target_": ["os.system"]}}, r"calls \['os.system'\]"),
    "module that runs": ({"network_def": {"_target_": "monai.bundle.__main__.x"}}, r"__main__"),
    "control characters": ({"x": "$'\x1b[2J\n'"}, r"x: \"\$'\\x1b\[2J\\n'\""),
}


@pytest.mark.parametrize("what", EXECUTED)
def test_nothing_is_executed_unless_trusted(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, message = EXECUTED[what]
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET, more=more)
    script = bundle / "scripts" / "net.py"
    script.parent.mkdir()
    script.write_text("open('fired', 'w')\n", encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BundleError, match=message) as caught:
        load_segmenter(bundle, "cpu")
    told = str(caught.value)
    assert "would execute code of its own" in told
    assert told.endswith("allow it by --trust (trust=True)")
    assert len(told.splitlines()) == 1
    assert caught.value.exit_code == 6
    assert not list((tmp_path / "here").iterdir())


def test_everything_is_listed(tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET, expressions=True)
    with pytest.raises(BundleError) as caught:
        load_segmenter(bundle, "cpu")
    for expression in ("$import glob", "$torch.device(", "$@network_def.to(@device)"):
        assert expression in str(caught.value)
    assert "/eval" not in str(caught.value)  # files are medseg's to write, so that is not evaluated


def test_a_trusted_bundle_may_use_its_scripts(tmp_path: Path) -> None:
    weights = []
    for number in (1, 2):  # each its own, under one name
        more = {
            "network_def": {"_target_": "scripts.net.Net", "bias": float(number)},
            "_meta_used": "@_meta_#name",
        }
        bundle = write_zoo_bundle(tmp_path / f"bundle_{number}", UNET, more=more)
        script = bundle / "scripts" / "net.py"
        script.parent.mkdir()
        (script.parent / "__init__.py").touch()
        script.write_text(
            "import torch\n\n\nclass Net(torch.nn.Module):\n"
            f"    number = {number}\n\n"
            "    def __init__(self, bias):\n        super().__init__()\n"
            "        self.layer = torch.nn.Conv3d(1, 2, 1)\n\n"
            "    def forward(self, x):\n        return self.layer(x)\n",
            encoding="utf-8",
        )
        torch.save(torch.nn.Sequential().state_dict(), bundle / "models/model.pt")
        layer = torch.nn.Conv3d(1, 2, 1)
        torch.save(
            {f"layer.{key}": value for key, value in layer.state_dict().items()}, bundle / "models/model.pt"
        )
        weights.append(load_segmenter(bundle, "cpu", trust=True).network.number)  # type: ignore[attr-defined]
    assert weights == [1, 2]


def test_weights_that_are_code_are_refused_even_if_trusted(tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET)
    betrayal = Betrayal(tmp_path / "fired")
    torch.save({"model": betrayal}, bundle / "models/model.pt")
    with pytest.raises(BundleError, match="holds more than weights"):
        load_segmenter(bundle, "cpu", trust=True)
    assert not betrayal.fired


SHAPE = (16, 16, 16)
BROKEN: dict[str, tuple[dict[str, Any], tuple[Any, ...], str]] = {
    "channels": ({}, (("T1", "T2"), ("background", "spleen"), SHAPE), "input .1, 2, 16, .* does not take"),
    "classes": ({}, (("image",), ("background", "a", "b"), SHAPE), "an output .1, 3, .* gives .1, 2, "),
    "names": ({}, (("image",), ("same", "same"), SHAPE), "two labels have the same name"),
    "no network": ({"network_def": "UNet"}, (), "does not configure a network and an inferer"),
    "options": ({"network_def": UNET | {"strides": []}}, (), "inference cannot be made .ValueError"),
    "weights": ({"network_def": UNET | {"channels": [4, 16]}}, (), "do not fit the bundle's network: "),
    "reference": ({"network_def": UNET | {"norm": "@nothing"}}, (), "cannot be made"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_contradicts_itself_is_refused(what: str, tmp_path: Path) -> None:
    more, told, message = BROKEN[what]
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET)
    edit_json(bundle / "configs/inference.json", lambda config: config.update(more))
    if told:
        edit_json(bundle / "configs/metadata.json", lambda metadata: metadata.update(network_metadata(*told)))
    with pytest.raises(BundleError, match=message) as caught:
        load_segmenter(bundle, "cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_label_map_cannot_hold_is_refused(tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET)

    def overlap(config: dict[str, Any]) -> None:
        config["postprocessing"]["transforms"][2] = {
            "_target_": "AsDiscreted",
            "keys": "pred",
            "threshold": 0.5,
        }

    edit_json(bundle / "configs/inference.json", overlap)
    with pytest.raises(BundleError, match="its 2 structures may overlap"):
        load_segmenter(bundle, "cpu")
    edit_json(bundle / "configs/inference.json", lambda config: config.pop("postprocessing"))
    volume = read_volume(image_on(GRIDS["LPS"], tmp_path / "image.nii.gz"))
    with pytest.raises(BundleError, match=r"ends with \(2, .*\), not with one label map"):
        load_segmenter(bundle, "cpu").segment(volume)


def test_choices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET)
    for options, where in (
        ({"mode": "streaming"}, "--mode"),
        ({"overlap": 0.2}, "--overlap"),
        ({"precision": "bfloat16"}, "--precision"),
    ):
        with pytest.raises(ConfigError, match="is gone through as it is configured") as caught:
            load_segmenter(bundle, "cpu", **options)  # type: ignore[arg-type]
        assert caught.value.where == where
    with pytest.raises(ConfigError, match="fold 3 is not trained"):
        load_segmenter(bundle, "cpu", 3)
    with pytest.raises(ConfigError, match="nothing was chosen on validation cases"):
        load_segmenter(bundle, "cpu", postprocess=PostprocessChoice(chosen_by="validation"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network_def: !!python/object/apply:os.mkdir [fired]", "is not valid YAML"),
        ("a: &a [1]\nb: *a", "aliases are not allowed"),
        ("- $import os", "does not hold keys and values"),
        ("network_def: UNet\nnetwork_def: os.system", "is given twice"),
    ],
)
def test_yaml_is_plain_data(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_zoo_bundle(tmp_path / "bundle", UNET, yaml=True)
    (bundle / "configs/inference.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for trust in (False, True):
        with pytest.raises(BundleError, match=message) as caught:
            load_segmenter(bundle, "cpu", trust=trust)
        assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "here").iterdir())
