"""Every network can be carried: its source, rewritten, makes the same network without medseg."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from medseg.bundle.content import read_content
from medseg.bundle.metadata import Statement, metadata
from medseg.bundle.scripts import carries_loss, loss_definition, network_definition, write_scripts
from medseg.bundle.steps import after_network, before_network
from medseg.bundle.train_config import training_config
from medseg.errors import InputError
from medseg.networks import build_network
from medseg.registry import LOSSES, NETWORKS
from medseg.runs import Normalization, Recipe, RunFolder
from medseg.training.parts import build_loss


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder whose ``scripts`` can be imported, until the test ends."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            del sys.modules[name]
        importlib.invalidate_caches()

    forget()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    forget()


def content_of(name: str, **options: Any) -> Any:
    """A bundle's content as far as its scripts depend on it."""
    plan = SimpleNamespace(
        network=SimpleNamespace(name=name, options=options),
        preprocessing=SimpleNamespace(spacing_mm=None),
        labels=SimpleNamespace(ignore_index=None),
    )
    return SimpleNamespace(plan=plan, recipe=Recipe())


@pytest.mark.parametrize("behind", [{}, {"context": "basic"}, {"crf": {"iterations": 2}}])
@pytest.mark.parametrize("name", NETWORKS.names())
def test_the_carried_network_is_medsegs(name: str, behind: dict[str, Any], carried: Path) -> None:
    named = inspect.signature(NETWORKS.resolve(name)).parameters
    narrow: dict[str, Any] = {"features": (2, 4)} if "features" in named else {"base_features": 2}
    options = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, **narrow, **behind}
    content = content_of(name, **options)
    write_scripts(content, carried / "scripts")

    definition = network_definition(content.plan)
    network = ConfigParser({"network": definition}).get_parsed_content("network").eval()

    assert type(network).__module__.startswith("scripts.networks.")
    own = build_network(name, **options).eval()
    network.load_state_dict(own.state_dict())
    image = torch.randn(1, 1, 9, 8, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(image), own(image))


MakeRun = Callable[..., Path]


def test_two_channels_have_schemes_of_their_own(make_run: MakeRun) -> None:
    run = RunFolder(
        make_run(channel_names=("CT", "T1"), labels={1: "$liver", 7: "left lung", 9: "right lung"})
    )
    clip = Normalization(scheme="clip_zscore", lower=-100.0, upper=300.0, mean=50.0, std=25.0)
    plan = run.plan()
    spec = plan.preprocessing.model_copy(
        update={"normalization": (clip, Normalization(scheme="zscore", background=0.0)), "spacing_mm": None}
    )
    run.save_plan(plan.model_copy(update={"preprocessing": spec}))
    run.save_recipe(Recipe(postprocess={"largest_component": ["left lung"], "fill_holes": "all"}))
    content = read_content(run.path, "two")

    steps = before_network(content)
    assert [step["_target_"].rpartition(".")[2] for step in steps] == [
        "RequireImaged",
        "NormalizeChannelsd",
        "Orientationd",
    ]
    assert steps[1]["normalization"] == [
        {"scheme": "clip_zscore", "lower": -100.0, "upper": 300.0, "mean": 50.0, "std": 25.0},
        {"scheme": "zscore", "background": 0.0},
    ]
    mapped, cleaned = after_network(content, ["pred"])[-2:]
    assert mapped["target_labels"] == [0, 1, 7, 9]
    assert (cleaned["largest_component"], cleaned["fill_holes"]) == ([7], [1, 7, 9])

    described = metadata(content, Statement(), {})["network_data_format"]
    assert described["inputs"]["image"]["channel_def"] == {"0": "CT", "1": "T1"}
    assert described["outputs"]["pred"]["channel_def"]["1"] == "'$liver'"  # else MONAI would execute it


def test_intensities_that_stay_as_stored_need_no_step(make_run: MakeRun) -> None:
    run = RunFolder(make_run())
    plan = run.plan()
    spec = plan.preprocessing.model_copy(update={"normalization": (Normalization(scheme="none"),)})
    run.save_plan(plan.model_copy(update={"preprocessing": spec}))
    names = [step["_target_"] for step in before_network(read_content(run.path, "plain"))]
    assert [name.rpartition(".")[2] for name in names] == [
        "RequireImaged",
        "EnclosingSpacingd",
        "Orientationd",
    ]


@pytest.mark.parametrize(
    ("mirror", "labels", "axes"),
    [
        ("left_right", {1: "liver"}, [0]),
        ("left_right", {1: "left lung", 2: "right lung"}, []),
        ("all", {1: "left lung", 2: "right lung"}, [1, 2]),
        ("all", {1: "liver"}, [0, 1, 2]),
        ("none", {1: "liver"}, []),
    ],
)
def test_patches_are_flipped_where_no_label_changes_sides(
    make_run: MakeRun, mirror: str, labels: dict[int, str], axes: list[int]
) -> None:
    run = RunFolder(make_run(labels=labels))
    run.save_recipe(Recipe(augmentation={"mirror": mirror}))
    steps = training_config(read_content(run.path, "x"))["train"]["preprocessing"]["transforms"]
    assert [step["spatial_axis"] for step in steps if step["_target_"] == "RandFlipd"] == axes


def test_a_loss_that_monai_has_is_monais(make_run: MakeRun) -> None:
    run = RunFolder(make_run())
    run.save_recipe(Recipe(loss={"name": "dice", "options": {"batch": True, "squared_pred": True}}))
    assert loss_definition(read_content(run.path, "x")) == {
        "_target_": "DiceLoss",
        "softmax": True,
        "to_onehot_y": True,
        "batch": True,
        "squared_pred": True,
    }
    run.save_recipe(Recipe(loss={"name": "dice", "options": {"weight": [1.0, 2.0]}}))
    assert loss_definition(read_content(run.path, "x"))["_target_"] == "scripts.losses.modules.DiceLoss"


@pytest.mark.parametrize("ignore", [None, 255])
@pytest.mark.parametrize("name", LOSSES.names())
def test_the_loss_of_a_bundle_is_medsegs(
    name: str, ignore: int | None, make_run: MakeRun, carried: Path
) -> None:
    run = RunFolder(make_run())
    run.save_recipe(Recipe(loss={"name": name}))
    plan = run.plan()
    run.save_plan(plan.model_copy(update={"labels": replace(plan.labels, ignore=ignore)}))
    content = read_content(run.path, "x")
    write_scripts(content, carried / "scripts")
    classes, generator = content.classes, torch.Generator().manual_seed(0)
    scores = torch.randn(2, classes, 8, 7, 6, generator=generator)
    target = torch.randint(0, classes + (ignore is not None), (2, 1, 8, 7, 6), generator=generator)

    loss = ConfigParser({"loss": loss_definition(content)}).get_parsed_content("loss")

    assert type(loss).__module__.startswith("scripts.losses." if carries_loss(content) else "monai.")
    expected = build_loss(content.recipe, content.plan)(scores, target)
    torch.testing.assert_close(loss(scores, target.float()).mean(), expected, atol=1e-6, rtol=1e-6)


def test_unlabelled_voxels_are_left_out_of_the_training_alone(make_run: MakeRun) -> None:
    run = RunFolder(make_run(labels={1: "liver"}))
    plan = run.plan()
    run.save_plan(plan.model_copy(update={"labels": replace(plan.labels, ignore=9)}))
    config = training_config(read_content(run.path, "x"))

    def mapped(part: str) -> list[Any]:
        steps = config[part]["preprocessing"]["transforms"]
        return [step["target_labels"] for step in steps if step["_target_"] == "MapLabelValued"]

    assert mapped("train") == [[0, 1, 2]]
    assert mapped("validate") == [[0, 1, 0]]
    assert config["loss"]["ignore_index"] == 2


def test_methods_that_are_not_networks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text("{}")
    with pytest.raises(InputError, match="not learnt by a network"):
        read_content(tmp_path, "x")
