"""Bundles that were runs: read as such, and every way in which they can lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import BundleError, ConfigError, InputError, MedsegError
from medseg.geometry import Grid
from medseg.segmenters import EnsembleSegmenter, load_segmenter
from medseg.segmenters.bundles import opening
from medseg.segmenters.bundles.opening import open_bundle, told_path
from medseg.volume import Volume
from tests.data.bundles import Betrayal, edit_json, with_member, write_own_bundle, zipped

MakeRun = Callable[..., Path]


def image() -> Volume:
    voxels = np.random.default_rng(0).normal(size=(1, 12, 11, 9))
    return Volume(voxels, Grid((12, 11, 9), np.diag([-1.0, 1.0, 2.0, 1.0])))


@pytest.fixture
def bundle(make_run: MakeRun, tmp_path: Path) -> Path:
    return write_own_bundle(make_run(), tmp_path / "bundle")


@pytest.mark.parametrize("form", ["folder", "zip", "zip of a folder"])
def test_a_bundle_segments_as_its_run(make_run: MakeRun, tmp_path: Path, form: str) -> None:
    run = make_run()
    place = write_own_bundle(run, tmp_path / "bundle")
    if form != "folder":
        place = zipped(place, tmp_path / "bundle.zip", within="bundle/" if form == "zip of a folder" else "")
    expected = load_segmenter(run, "cpu").segment(image())
    labels = load_segmenter(place, "cpu").segment(image())
    assert labels.grid == expected.grid
    assert len(np.unique(expected.array)) > 1
    np.testing.assert_array_equal(labels.array, expected.array)


def test_folds_are_averaged_or_chosen(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(trained=(0, 1))
    bundle = write_own_bundle(run, tmp_path / "bundle")
    ensemble = load_segmenter(bundle, "cpu")
    assert isinstance(ensemble, EnsembleSegmenter)
    for fold in ("all", 1):
        expected = load_segmenter(run, "cpu", fold).segment(image())  # type: ignore[arg-type]
        labels = load_segmenter(bundle, "cpu", fold).segment(image())  # type: ignore[arg-type]
        np.testing.assert_array_equal(labels.array, expected.array)
    with pytest.raises(ConfigError, match="fold 2 is not trained; choose of 0, 1, or all"):
        load_segmenter(bundle, fold=2)
    with pytest.raises(ConfigError, match="a bundle holds one checkpoint of each fold"):
        load_segmenter(bundle, checkpoint="best")


def test_its_postprocessing_is_taken_over(make_run: MakeRun, tmp_path: Path) -> None:
    chosen = {"largest_component": ["anterior"]}
    bundle = write_own_bundle(make_run(), tmp_path / "bundle", postprocess=chosen)
    assert load_segmenter(bundle, "cpu").postprocess.largest_component == ("anterior",)
    write_own_bundle(make_run("other"), tmp_path / "open", postprocess={"chosen_by": "validation"})
    with pytest.raises(ConfigError, match="postprocessing was left to validation cases"):
        load_segmenter(tmp_path / "open", "cpu")


def test_later_versions_may_say_more(bundle: Path) -> None:
    edit_json(bundle / "configs/medseg.json", lambda document: document.update(made_by="medseg 9"))
    assert load_segmenter(bundle, "cpu").labels.values == (0, 1, 7)
    edit_json(bundle / "configs/medseg.json", lambda document: document.update(schema_version=2))
    with pytest.raises(BundleError, match="'schema_version'"):
        load_segmenter(bundle, "cpu")


def test_an_archive_is_unpacked_once_and_named_as_itself(bundle: Path, tmp_path: Path) -> None:
    archive = zipped(bundle, tmp_path / "bundle.zip")
    first, second = open_bundle(archive), open_bundle(archive)
    assert first == second
    assert first.name == str(archive)
    assert told_path(first.only_weights()) == f"{archive.resolve()}/models/model.pt"
    assert told_path(bundle / "models/model.pt") == str(bundle / "models/model.pt")


def _tensor(document: dict[str, Any], side: str) -> Any:
    return document["network_data_format"][side]["image" if side == "inputs" else "pred"]


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "channels": (
        lambda d: _tensor(d, "inputs").update(num_channels=2, channel_def={"0": "T1", "1": "T2"}),
        r"metadata.json tells of 2 channels of the image, the plan of 1",
    ),
    "classes": (
        lambda d: _tensor(d, "outputs").update(num_channels=4, channel_def=None),
        r"metadata.json tells of 4 classes, the plan of 3",
    ),
    "names": (
        lambda d: _tensor(d, "outputs").update(num_channels=4),
        r"metadata.json counts 4 channels of the outputs and names 3",
    ),
    "input shape": (
        lambda d: _tensor(d, "inputs").update(spatial_shape=[16, 16]),
        r"tells of an input \(1, 1, 16, 16\), which the network does not take",
    ),
    "output shape": (
        lambda d: _tensor(d, "outputs").update(spatial_shape=[8, 16, 16]),
        r"tells of an output \(1, 3, 8, 16, 16\), the network gives \(1, 3, 16, 16, 16\)",
    ),
    "huge shape": (
        lambda d: _tensor(d, "inputs").update(spatial_shape=[10**9] * 3),
        r"tells of the impossible shape",
    ),
    "no number": (
        lambda d: _tensor(d, "inputs").update(num_channels="many"),
        r"tells of 'many' channels of the inputs",
    ),
    "nothing": (lambda d: d.pop("network_data_format"), r"does not tell of network_data_format inputs image"),
}


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_lie_are_refused(bundle: Path, lie: str) -> None:
    change, message = LIES[lie]
    edit_json(bundle / "configs/metadata.json", change)
    with pytest.raises(BundleError, match=message) as caught:
        load_segmenter(bundle, "cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_shapes_that_are_rules_are_no_lie(bundle: Path) -> None:
    edit_json(
        bundle / "configs/metadata.json",
        lambda d: _tensor(d, "inputs").update(spatial_shape=["16*n", "16*n", "16*n"]),
    )
    assert load_segmenter(bundle, "cpu").channel_names == ("MRI",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "'/etc/passwd' is an absolute path"),
        ("C:\\weights.pt", "is an absolute path"),
        ("../run/fold_0/checkpoints/last.pt", "leads out of the bundle"),
        ("models/..\\..\\x.pt", "leads out of the bundle"),
        ("models/none.pt", "has no models/none.pt"),
    ],
)
def test_weights_lie_within_the_bundle(bundle: Path, name: str, message: str) -> None:
    edit_json(bundle / "configs/medseg.json", lambda document: document.update(weights=[name]))
    with pytest.raises(BundleError) as caught:
        load_segmenter(bundle, "cpu")
    assert message.replace("\\", "\\\\") in str(caught.value) or message in str(caught.value)


def test_pickles_are_refused_and_not_run(bundle: Path, tmp_path: Path) -> None:
    betrayal = Betrayal(tmp_path / "fired")
    torch.save({"weight": betrayal}, bundle / "models/model.pt")
    with pytest.raises(BundleError, match="holds more than weights, which loading would execute"):
        load_segmenter(bundle, "cpu")
    assert not betrayal.fired


def test_programs_are_refused(bundle: Path) -> None:
    torch.jit.script(torch.nn.Conv3d(1, 3, 1)).save(str(bundle / "models/model.pt"))
    with pytest.raises(BundleError, match=r"holds a program \(TorchScript\)"):
        load_segmenter(bundle, "cpu")


@pytest.mark.parametrize(
    ("name", "link", "message"),
    [
        ("../../evil.py", False, "'../../evil.py' is a path that leads out of the folder"),
        ("/etc/evil", False, "'/etc/evil' is an absolute path"),
        ("C:\\evil", False, "is an absolute path"),
        ("models/link.pt", True, "'models/link.pt' is a link"),
    ],
)
def test_archives_that_reach_out_are_refused(
    bundle: Path, tmp_path: Path, name: str, link: bool, message: str
) -> None:
    archive = with_member(zipped(bundle, tmp_path / "bundle.zip"), name, b"/etc/passwd", link=link)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BundleError) as caught:
        load_segmenter(archive, "cpu")
    assert message in str(caught.value).replace("\\\\", "\\")
    assert len(str(caught.value).splitlines()) == 1
    assert set(tmp_path.rglob("*")) == before


def test_archives_that_swell_are_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    archive = with_member(zipped(bundle, tmp_path / "bundle.zip"), "docs/zeros", bytes(8 << 20))
    with pytest.raises(BundleError, match=r"unpacks to more than .*, far beyond its own size"):
        load_segmenter(archive, "cpu")


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    zipped(tmp_path / "empty", tmp_path / "empty.zip")
    (tmp_path / "text.zip").write_text("no archive")
    for name, kind, message in (
        ("empty.zip", InputError, "holds no bundle"),
        ("text.zip", BundleError, "is neither a tar nor a zip archive"),
        ("empty", InputError, "holds no run"),
        ("none.zip", InputError, "is no folder"),
    ):
        with pytest.raises(MedsegError, match=message) as caught:
            load_segmenter(tmp_path / name, "cpu")
        assert type(caught.value) is kind
