from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.data import Dataset
from medseg.errors import BundleError, ConfigError, InputError
from medseg.files import read_json, sha256_of, write_json
from medseg.labels import LabelScheme
from medseg.networks import build_network, network_names
from medseg.runs import Plan, Recipe, RunFolder
from medseg.segmenters.weights import read_any_weights
from medseg.training import Budget, TrainingOptions, plan_from_dataset, train
from medseg.training.fine_tuning import Origin, load_matching, match_weights
from medseg.training.handover import EncoderSource
from medseg.training.starts import starts_of
from tests.data.bundles import write_own_bundle, zipped

Weights = dict[str, torch.Tensor]


def _options(steps: int = 1, **changes: Any) -> TrainingOptions:
    return TrainingOptions(Budget(max_steps=steps), seed=4, device="cpu", workers=0, **changes)


def _plan(plan: Plan, *names: str, network: str = "unet", **options: Any) -> Plan:
    """The plan of a small network for classes of these names, behind the background."""
    labels = LabelScheme.from_names(dict(enumerate(names, start=1)))
    chosen = {"in_channels": 1, "out_channels": len(labels), **options}
    made = plan.network.model_copy(update={"name": network, "options": chosen})
    return plan.model_copy(update={"labels": labels, "network": made})


def _network(plan: Plan, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(plan.network.name, **plan.network.options)


def _saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


SMALL = {"features": [4, 8]}


@pytest.fixture
def source(plan: Plan, tmp_path: Path) -> tuple[Plan, Weights, Path]:
    """A network of three structures, and its file."""
    theirs = _plan(plan, "liver", "spleen", "aorta", **SMALL)
    weights = _network(theirs, seed=1).state_dict()
    return theirs, weights, _saved(weights, tmp_path / "weights.pt")


Source = tuple[Plan, Weights, Path]


def test_what_has_the_same_name_and_shape_is_loaded_and_the_rest_is_left(source: Source) -> None:
    theirs, weights, path = source
    ours = _plan(theirs, "kidney", **SMALL)
    network, untouched = _network(ours), _network(ours)
    match = load_matching(network, ours, Origin(path))
    heads = [name for name in weights if weights[name].shape != untouched.state_dict()[name].shape]
    assert heads
    assert set(match.whole) == weights.keys() - set(heads)
    assert [entry.name for entry in match.not_loaded] == heads
    assert match.not_loaded[0].why == "shape (2, 4, 1, 1, 1) here, (4, 4, 1, 1, 1) there"
    assert match.not_used == match.not_loaded
    for name, tensor in network.state_dict().items():
        expected = untouched.state_dict()[name] if name in heads else weights[name]
        assert torch.equal(tensor, expected), name
    numbers = {name: t.numel() for name, t in untouched.state_dict().items() if t.is_floating_point()}
    assert match.weights == sum(numbers.values())
    assert match.loaded_weights == match.weights - sum(numbers[name] for name in heads)


def test_classes_are_matched_by_their_names(source: Source) -> None:
    theirs, weights, path = source
    ours = _plan(theirs, "Spleen", "kidney", "liver", **SMALL)  # as many classes, but others
    network, untouched = _network(ours), _network(ours).state_dict()
    match = load_matching(network, ours, Origin(path, theirs.labels.names))
    assert match.shared == ((0, 0), (1, 2), (3, 1))
    assert match.classes
    loaded = network.state_dict()
    for name in match.classes:
        for here, there in match.shared:
            assert torch.equal(loaded[name][here], weights[name][there])
        assert torch.equal(loaded[name][2], untouched[name][2])
    assert {entry.why for entry in match.not_loaded} == {"new classes at random: kidney"}
    assert {entry.why for entry in match.not_used} == {"other classes: aorta"}
    kidney = sum(untouched[name][2].numel() for name in match.classes)
    assert match.loaded_weights == match.weights - kidney


def test_the_same_classes_are_loaded_as_they_are(source: Source) -> None:
    theirs, weights, path = source
    network = _network(theirs)
    match = load_matching(network, theirs, Origin(path, theirs.labels.names))
    assert not match.classes
    assert not match.not_loaded
    assert match.loaded_weights == match.weights
    assert all(torch.equal(network.state_dict()[name], weights[name]) for name in weights)


def test_classes_of_other_names_are_left_even_if_there_are_as_many(source: Source) -> None:
    theirs, _, path = source
    names = ("air", "liver", "spleen", "aorta")
    ours = _plan(theirs, "a", "b", "c", **SMALL)
    match = match_weights(ours, Origin(path, names))
    assert not match.classes
    assert {entry.why for entry in match.not_loaded} == {"no class of the same name"}


@pytest.mark.parametrize("name", network_names())
def test_the_classes_of_every_network_are_found(name: str, plan: Plan, tmp_path: Path) -> None:
    theirs, ours = _plan(plan, "a", "b", network=name), _plan(plan, "b", "c", "d", network=name)
    weights = _network(theirs, seed=1).state_dict()
    path = _saved(weights, tmp_path / "weights.pt")
    network = _network(ours)
    match = load_matching(network, ours, Origin(path, theirs.labels.names))
    assert match.classes
    assert {entry.why for entry in match.not_loaded} == {"new classes at random: c, d"}
    for key, axes in match.classes.items():
        here, there = network.state_dict()[key], weights[key]
        for axis in axes:  # the background and b
            here = here.index_select(axis, torch.tensor([0, 1]))
            there = there.index_select(axis, torch.tensor([0, 2]))
        assert torch.equal(here, there)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {
            "epoch": 3,
            "state_dict": {f"network.{name}": t for name, t in weights.items()}
            | {"loss.weight": torch.ones(2)},
        },
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"network": weights, "step": 5, "optimizer": {}},
    ],
)
def test_wrapped_weights_are_recognised(
    wrap: Callable[[Weights], Any], source: Source, tmp_path: Path
) -> None:
    theirs, weights, _ = source
    match = match_weights(theirs, Origin(_saved(wrap(weights), tmp_path / "wrapped.pt")))
    assert match.loaded_weights == match.weights
    assert set(match.whole) == weights.keys()


def test_a_name_s_own_prefix_stays() -> None:
    from medseg.segmenters.weights import named_like

    stored = {"model.0.weight": torch.ones(1)}
    assert named_like(stored, stored) == stored
    assert named_like({"0.weight": torch.ones(1)}, stored).keys() == {"0.weight"}


def test_what_fits_nowhere_is_refused(source: Source, tmp_path: Path) -> None:
    theirs, weights, _ = source
    with pytest.raises(ConfigError, match=r"nothing in it fits the network, which has '.*; there is 'foo'"):
        match_weights(theirs, Origin(_saved({"foo": torch.ones(2)}, tmp_path / "other.pt")))
    name = next(iter(weights))
    broken = {**weights, name: weights[name] * float("nan")}
    with pytest.raises(BundleError, match="is NaN or infinite; start from other weights"):
        match_weights(theirs, Origin(_saved(broken, tmp_path / "broken.pt")))


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], {"model": {}}, {"model": 3}])
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no network's weights; save network\.state_dict"):
        read_any_weights(_saved(content, tmp_path / "none.pt"))


class _Anything:
    pass


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds more than weights, which loading would execute"):
        read_any_weights(_saved({"model": _Anything()}, tmp_path / "pickled.pt"))


def test_a_bundle_says_what_its_classes_are(source: Source, tmp_path: Path) -> None:
    _, weights, _ = source
    bundle = tmp_path / "bundle"
    (bundle / "models").mkdir(parents=True)
    torch.save(weights, bundle / "models" / "model.pt")
    recipe = Recipe(init_from=str(bundle))
    assert EncoderSource.of(recipe) is None
    assert Origin.of(recipe, 0) == Origin(bundle / "models" / "model.pt")
    channels = {"0": "background", "1": "liver", "2": "spleen", "3": "aorta"}
    metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    write_json(metadata, bundle / "configs" / "metadata.json")
    assert Origin.of(recipe, 0) == Origin(bundle / "models" / "model.pt", tuple(channels.values()))
    write_json({"network_data_format": {"outputs": {}}}, bundle / "configs" / "metadata.json")
    assert Origin.of(recipe, 0) == Origin(bundle / "models" / "model.pt")


def test_nothing_to_start_from_is_refused(tmp_path: Path) -> None:
    assert Origin.of(Recipe(), 0) is None
    with pytest.raises(InputError, match="is not there; give --init-from a run's folder, a MONAI bundle's"):
        Origin.of(Recipe(init_from=str(tmp_path / "none")), 0)
    with pytest.raises(InputError, match="holds neither a run nor a bundle"):
        Origin.of(Recipe(init_from=str(tmp_path)), 0)


def test_two_starts_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="init_encoder and init_from exclude each other"):
        Recipe(init_encoder="a", init_from="b")
    both = Recipe(init_encoder="a").model_copy(update={"init_from": "b"})
    with pytest.raises(ConfigError, match="exclude each other; choose one of them"):
        EncoderSource.of(both)


def test_the_plan_takes_over_what_a_run_rests_on(
    phantoms: Dataset, make_run: Callable[..., Path], recipe: Recipe
) -> None:
    run = RunFolder(make_run("run", trained=(0, 1)))
    started = Recipe(training=recipe.training, init_from=str(run.path))
    plan = plan_from_dataset(phantoms, started)
    assert plan.preprocessing.spacing_mm == (1.3, 1.3, 1.3)
    assert plan.network.options["features"] == [4, 8]
    assert plan.reasons["spacing_mm"] == f"as in {run.path}, which it starts from"
    starts = starts_of(started, plan, (0, 1))
    assert [start.weights for start in starts.values()] == [run.fold(0).weights(), run.fold(1).weights()]
    assert starts[0].origin == Origin(run.fold(0).weights(), ("background", "anterior", "posterior"))
    with pytest.raises(
        ConfigError, match="has no fold 2 to take the weights from; train that fold there, or"
    ):
        starts_of(started, plan, (2,))
    other = started.model_copy(update={"network": started.network.model_copy(update={"name": "segnet"})})
    with pytest.raises(
        ConfigError, match=r"of network 'unet', the recipe trains 'segnet'; .* that trained 'seg"
    ):
        plan_from_dataset(phantoms, other)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_bundle_of_a_run_stands_for_the_run(
    phantoms: Dataset, make_run: Callable[..., Path], recipe: Recipe, tmp_path: Path, form: str
) -> None:
    run = RunFolder(make_run("run", trained=(0, 1)))
    bundle = write_own_bundle(run.path, tmp_path / "bundle")
    if form == "zip":
        bundle = zipped(bundle, tmp_path / "bundle.zip")
    of_run, of_bundle = (
        Recipe(training=recipe.training, init_from=str(place)) for place in (run.path, bundle)
    )
    plans = [plan_from_dataset(phantoms, started) for started in (of_run, of_bundle)]
    assert plans[1].model_copy(update={"reasons": {}}) == plans[0].model_copy(update={"reasons": {}})
    assert plans[1].reasons["spacing_mm"] == f"as in {bundle}, which it starts from"
    starts = [starts_of(started, plans[0], (0, 1)) for started in (of_run, of_bundle)]
    for fold in (0, 1):
        (ours, theirs) = (side[fold] for side in starts)
        assert ours.match == theirs.match
        assert sha256_of(ours.weights) == sha256_of(theirs.weights)
    report = starts[1][0].report
    assert report is not None
    assert report["weights"] == f"{bundle.resolve()}/models/model.pt"
    encoder = Recipe(training=recipe.training, init_encoder=str(bundle))
    source = EncoderSource.of(encoder)
    assert source is not None
    assert source.part == "encoder"
    assert sha256_of(source.weights(1)) == sha256_of(run.fold(1).weights())


def test_a_run_says_what_it_started_from(
    phantoms: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.training.module import SegmentationModule

    first = train(phantoms, recipe, tmp_path / "first", folds=[0], options=_options())
    path = first.fold(0).weights()
    begun: list[Weights] = []
    original = SegmentationModule.on_train_start

    def on_train_start(self: SegmentationModule) -> None:
        begun.append({key: value.clone() for key, value in self.network.state_dict().items()})
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "on_train_start", on_train_start)
        started = recipe.model_copy(update={"init_from": str(first.path)})
        run = train(phantoms, started, tmp_path / "run", folds=[1], options=_options())
    weights = torch.load(path, weights_only=True)
    assert all(torch.equal(begun[0][name], weights[name]) for name in weights)
    facts = {"weights": str(path.resolve()), "sha256": sha256_of(path)}
    assert run.manifest()["init_from"] == {"fold_1": facts}
    report = read_json(run.start_report)["fold_1"]
    assert report["weights"] == str(path.resolve())
    assert report["loaded_weights"] == report["all_weights"] > 0
    assert set(report["loaded"]) == weights.keys()
    assert report["not_loaded"] == report["not_used"] == {}
    run.fold(1).finished_mark.unlink()
    name = next(iter(weights))
    torch.save({**weights, name: weights[name] + 1.0}, path)
    with pytest.raises(ConfigError, match="holds a run with another init_from"):
        train(phantoms, started, run.path, folds=[1], options=_options(resume=True))


def test_what_does_not_fit_leaves_no_run(phantoms: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    path = _saved({"foo": torch.ones(1)}, tmp_path / "other.pt")
    started = recipe.model_copy(update={"init_from": str(path)})
    with pytest.raises(ConfigError, match="nothing in it fits"):
        train(phantoms, started, tmp_path / "run", folds=[0], options=_options())
    assert not (tmp_path / "run").exists()


def test_the_summary_is_short(source: Source) -> None:
    theirs, _, path = source
    ours = _plan(theirs, "kidney", features=[4, 8, 16])
    match = match_weights(ours, Origin(path))
    lines = match.summary(Origin(path)).splitlines()
    assert f"Starts from {path}: {match.loaded_weights:,} of {match.weights:,} weights" in lines[0]
    assert sum("not loaded" in line for line in lines) == 10 < len(match.not_loaded)
    assert lines[-1].endswith("see init_from.json in the run")
    json.dumps(match.to_json(Origin(path)))
