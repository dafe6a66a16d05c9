"""From a run folder to a segmenter, and every way in which a run can be damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import BundleError, ConfigError, InputError, MedsegError
from medseg.geometry import Grid
from medseg.networks import build_network
from medseg.segmenters import EnsembleSegmenter, NetworkSegmenter, load_segmenter, validation_cases
from medseg.volume import Volume

WEIGHTS = Path("fold_0/checkpoints/last.pt")


def image() -> Volume:
    voxels = np.random.default_rng(0).normal(size=(1, 12, 11, 9))
    return Volume(voxels, Grid((12, 11, 9), np.diag([-1.0, 1.0, 2.0, 1.0])))


def test_a_run_gives_the_network_that_it_stores(make_run: Callable[..., Path]) -> None:
    run = make_run()

    segmenter = load_segmenter(run, "cpu", precision="float32")

    assert isinstance(segmenter, NetworkSegmenter)
    assert segmenter.labels.values == (0, 1, 7)
    assert segmenter.channel_names == ("MRI",)
    torch.manual_seed(0)
    network = build_network("unet", 3, in_channels=1, out_channels=3, features=(4, 8)).eval()
    patch = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(segmenter.network(patch), network(patch))
    labels = segmenter.segment(image())
    assert labels.grid == image().grid
    assert set(np.unique(labels.array)) <= {0, 1, 7}


def test_folds_are_chosen_or_joined(make_run: Callable[..., Path]) -> None:
    run = make_run(trained=(0, 1))

    assert isinstance(load_segmenter(run, fold=1), NetworkSegmenter)
    for fold in ("all", None):
        ensemble = load_segmenter(run, fold=fold)  # type: ignore[arg-type]
        assert isinstance(ensemble, EnsembleSegmenter)
        assert len(ensemble.members) == 2
    with pytest.raises(ConfigError, match=r"fold 4 is not trained; choose of 0, 1, or all"):
        load_segmenter(run, fold=4)


def test_options_reach_the_inferer(make_run: Callable[..., Path]) -> None:
    run = make_run()
    windows = load_segmenter(run, "cpu", precision="bfloat16", mode="sliding-window", overlap=0.25)

    assert isinstance(windows, NetworkSegmenter)
    assert windows.compute.dtype == torch.bfloat16
    details = windows.plan(image()).inference.details
    assert details["overlap"] == (0.25, 0.25, 0.25)
    assert details["window"] == (16, 16, 16)
    stream = load_segmenter(run, "cpu", precision="bfloat16", mode="streaming").plan(image()).inference
    assert (stream.mode, stream.details["precision"]) == ("streaming", "bf16")
    mirrored = load_segmenter(run, "cpu", mirror="xy", mode="streaming").plan(image()).inference
    assert (mirrored.axis, mirrored.details["mirrored_axes"]) == (2, [0, 1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "fast"}, r"--mode: 'fast' cannot be chosen; use auto, streaming, sliding-window"),
        ({"overlap": 1.0}, r"--overlap: '1.0' cannot be chosen; use 0 to 0.9"),
        ({"mirror": "left"}, r"--mirror: 'left' cannot be chosen; name axes of the network grid"),
    ],
)
def test_options_are_checked(given: dict[str, Any], message: str, make_run: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=message):
        load_segmenter(make_run(), "cpu", **given)


def test_several_runs_are_one_ensemble(make_run: Callable[..., Path]) -> None:
    run = make_run(trained=(0, 1))

    ensemble = load_segmenter([run, run], "cpu", max_ram_bytes=10**10)

    assert isinstance(ensemble, EnsembleSegmenter)
    assert len(ensemble.members) == 4


def change_plan(run: Path, **changes: Any) -> None:
    path = run / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    torch.save(change(torch.load(run / WEIGHTS, weights_only=True)), run / WEIGHTS)


def cut(run: Path) -> None:
    whole = (run / WEIGHTS).read_bytes()
    (run / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def with_nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name, tensor = next(iter(weights.items()))
    return {**weights, name: torch.full_like(tensor, torch.nan)}


DAMAGES: dict[str, tuple[Callable[[Path], object], type[MedsegError], str]] = {
    "no folder": (lambda run: run.rename(run.with_name("moved")), InputError, "is no folder"),
    "no plan": (lambda run: (run / "plan.json").unlink(), InputError, "holds no run"),
    "plan is no JSON": (
        lambda run: (run / "plan.json").write_text('{"dataset": '),
        BundleError,
        r"plan.json: the run is damaged: is not valid JSON",
    ),
    "plan lacks a key": (
        lambda run: (run / "plan.json").write_text('{"dataset": "toy"}'),
        BundleError,
        "the run is damaged: key .* is missing",
    ),
    "plan names no network": (
        lambda run: change_plan(run, network={"name": "unte", "options": {}}),
        BundleError,
        "the plan's network cannot be built: unknown network 'unte'",
    ),
    "plan gives a wrong option": (
        lambda run: change_plan(run, network={"name": "unet", "options": {"features": [0]}}),
        BundleError,
        "the plan's network cannot be built: features=0",
    ),
    "no recipe": (lambda run: (run / "recipe.yaml").unlink(), BundleError, "recipe.yaml: the run is damaged"),
    "no weights": (lambda run: (run / WEIGHTS).unlink(), BundleError, "has no trained weights yet"),
    "weights are cut": (cut, BundleError, "last.pt: the weights are damaged"),
    "weights are empty": (
        lambda run: (run / WEIGHTS).write_bytes(b""),
        BundleError,
        "last.pt: the weights are damaged",
    ),
    "weights are text": (
        lambda run: (run / WEIGHTS).write_text("not weights"),
        BundleError,
        "last.pt: the weights are damaged",
    ),
    "weights hold code": (
        lambda run: (run / WEIGHTS).write_bytes(pickle.dumps({"head.weight": Path})),
        BundleError,
        "last.pt: the weights are damaged",
    ),
    "weights are a list": (
        lambda run: torch.save([1, 2], run / WEIGHTS),
        BundleError,
        "holds something other than weights",
    ),
    "a weight is missing": (
        lambda run: change_weights(run, lambda weights: {k: weights[k] for k in list(weights)[1:]}),
        BundleError,
        "the weights do not fit the plan: '.*' is missing",
    ),
    "a weight is foreign": (
        lambda run: change_weights(run, lambda weights: {**weights, "extra": torch.zeros(1)}),
        BundleError,
        "'extra' belongs to another network",
    ),
    "a weight has another shape": (
        lambda run: change_plan(run, network={"name": "unet", "options": {"features": [6, 8]}}),
        BundleError,
        r"the weights do not fit the plan: '.*' has shape \(4,.*\) instead of \(6,",
    ),
    "a weight is NaN": (lambda run: change_weights(run, with_nan), BundleError, "is NaN or infinite"),
}


@pytest.mark.parametrize(("damage", "kind", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_refused_in_one_line(
    damage: Callable[[Path], object], kind: type[MedsegError], message: str, make_run: Callable[..., Path]
) -> None:
    run = make_run()
    damage(run)

    with pytest.raises(kind, match=message) as caught:
        load_segmenter(run, "cpu")
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_options_that_make_no_sense_are_refused(make_run: Callable[..., Path]) -> None:
    run = make_run()

    with pytest.raises(ConfigError, match="unknown checkpoint 'bset'; did you mean 'best'"):
        load_segmenter(run, checkpoint="bset")
    with pytest.raises(BundleError, match=r"best.pt: has no such weights"):
        load_segmenter(run, checkpoint="best")
    for overlap in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="--overlap"):
            load_segmenter(run, overlap=overlap)


def test_validation_needs_the_data_that_the_run_was_trained_on(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        validation_cases(make_run("gone", data=tmp_path / "gone"))
    broken = make_run("broken")
    (broken / "split.json").write_text("{}")
    with pytest.raises(BundleError, match="the run is damaged"):
        validation_cases(broken)
    nameless = make_run("nameless")
    (nameless / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match=r"manifest.json does not name the data"):
        validation_cases(nameless)
