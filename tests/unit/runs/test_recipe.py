from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medseg.errors import ConfigError, InputError
from medseg.runs import Augmentation, MethodRecipe, Recipe, load_any_recipe, load_recipe, recipe_names
from medseg.segmenters.methods import options_of


def _load(text: str | bytes, folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_that_come_along_load_and_say_what_they_are(name: str) -> None:
    recipe = load_any_recipe(name)
    assert recipe.description
    if isinstance(recipe, MethodRecipe):
        assert options_of(recipe) is not None  # its method knows them
    else:
        assert load_recipe(name) == recipe


def test_there_is_a_recipe_to_start_with() -> None:
    assert "unet" in recipe_names()


def test_an_empty_mapping_is_the_default_recipe(tmp_path: Path) -> None:
    assert _load("{}", tmp_path) == Recipe()


def test_a_recipe_survives_writing_and_reading(tmp_path: Path) -> None:
    from medseg.runs.documents import save_yaml

    shared = [3, 3, 1]  # YAML would write the second one as an alias of the first
    recipe = Recipe(
        description="ä: yes #1",
        spacing_mm=(1 / 3, 1e-5, 2.0),
        network={"name": "unet", "base_features": 7, "options": {"kernel_sizes": [shared, shared]}},
        augmentation=None,
        training={"patch_size": (8, 8, 4), "batch_size": 3},
    )
    save_yaml(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    # YAML 1.1 takes 1e-3 for a text.
    assert _load("optimizer: {learning_rate: 1e-3}", tmp_path).optimizer.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("fold: 3", "fold", "folds"),
        ("netwrk: {name: unet}", "netwrk", "network"),
        ("network: {base_feature: 8}", "network.base_feature", "base_features"),
        ("loss: {nme: dice_ce}", "loss.nme", "name"),
        ("optimizer: {learning_rat: 0.1}", "optimizer.learning_rat", "learning_rate"),
        ("augmentation: {rotation_degress: 3}", "augmentation.rotation_degress", "rotation_degrees"),
        ("training: {patchsize: [8, 8, 8]}", "training.patchsize", "patch_size"),
        ("inference: {overlp: 0.5}", "inference.overlp", "overlap"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(
    text: str, key: str, suggestion: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(text, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'recipe.yaml'}: unknown key '{key}'; did you mean '{suggestion}'?"
    )


def test_a_misspelling_is_told_before_what_it_leaves_missing_or_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'optimizer\.nme'; did you mean 'name'"):
        _load("folds: ten\noptimizer: {nme: sgd}", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("folds: 1", "key 'folds': Input should be greater than or equal to 2 (given: 1)"),
        ("folds: ten", "key 'folds': Input should be a valid integer"),
        ("split_seed: 1.5", "key 'split_seed': Input should be a valid integer"),
        ("description: [1]", "key 'description': Input should be a valid string"),
        ("description: 2020-01-01", "key 'description': Input should be a valid string"),
        ("network: [1]", "key 'network'"),
        ("augmentation: true", "key 'augmentation'"),
        ("spacing_mm: [1, 1]", "key 'spacing_mm.2' is missing"),
        ("spacing_mm: [1, 1, 0]", "key 'spacing_mm.2': Input should be greater than 0"),
        ("spacing_mm: [1, 1, .nan]", "key 'spacing_mm.2': Input should be a finite number"),
        ("network: {base_features: 0}", "key 'network.base_features'"),
        ("optimizer: {name: adam}", "key 'optimizer.name': Input should be 'adamw' or 'sgd' (given: 'adam')"),
        ("optimizer: {learning_rate: 0}", "key 'optimizer.learning_rate'"),
        (
            "optimizer: {learning_rate: .inf}",
            "key 'optimizer.learning_rate': Input should be a finite number",
        ),
        ("optimizer: {weight_decay: -1}", "key 'optimizer.weight_decay'"),
        ("optimizer: {warmup: 1}", "key 'optimizer.warmup'"),
        ("optimizer: {gradient_clip: 0}", "key 'optimizer.gradient_clip'"),
        ("augmentation: {spatial_probability: 1.1}", "key 'augmentation.spatial_probability'"),
        ("augmentation: {rotation_degrees: 181}", "key 'augmentation.rotation_degrees'"),
        ("augmentation: {scale: 1}", "key 'augmentation.scale'"),
        ("augmentation: {mirror: up}", "key 'augmentation.mirror'"),
        ("augmentation: {mirror_sides: swop}", "key 'augmentation.mirror_sides'"),
        ("augmentation: {elastic: 0.4}", "key 'augmentation.elastic'"),
        ("augmentation: {blur_sigma_voxels: [2, 1]}", "key 'augmentation.blur_sigma_voxels': the lower end"),
        ("augmentation: {low_resolution_voxels: 0.5}", "key 'augmentation.low_resolution_voxels'"),
        ("augmentation: {ghosting: 1.1}", "key 'augmentation.ghosting'"),
        ("augmentation: {noise_std: -1}", "key 'augmentation.noise_std'"),
        ("augmentation: {brightness: 1}", "key 'augmentation.brightness'"),
        ("augmentation: {gamma_range: [0, 1]}", "key 'augmentation.gamma_range.0'"),
        ("augmentation: {gamma_range: [2, 1]}", "key 'augmentation.gamma_range': the lower end is above"),
        ("training: {max_steps: 0}", "key 'training.max_steps'"),
        ("training: {patch_size: [8, 8, 0]}", "key 'training.patch_size.2'"),
        ("training: {batch_size: 0}", "key 'training.batch_size'"),
        ("training: {foreground_fraction: 2}", "key 'training.foreground_fraction'"),
        ("training: {checkpoint_every: 0}", "key 'training.checkpoint_every'"),
        (
            "training: {validate_every: 30, checkpoint_every: 20}",
            "key 'training': validate_every 30 is not a multiple of checkpoint_every 20",
        ),
        ("training: {precision: float16}", "key 'training.precision'"),
        ("inference: {overlap: 1}", "key 'inference.overlap'"),
        ("inference: {blend: mean}", "key 'inference.blend'"),
        ("network: {name: unte}", "unknown network 'unte', did you mean 'unet'?"),
        ("loss: {name: dise_ce}", "unknown loss 'dise_ce', did you mean 'dice_ce'?"),
        ("network: {options: {in_channels: 3}}", "'in_channels' is decided by the data"),
        ("network: {options: {out_channels: 3}}", "'out_channels' is decided by the data"),
        ("network: {options: {spatial_dims: 2}}", "'spatial_dims' is decided by the data"),
        ("loss: {options: {softmax: false}}", "'softmax' is decided by the data"),
        ("loss: {options: {sigmoid: true}}", "'sigmoid' is decided by the data"),
        ("loss: {options: {to_onehot_y: false}}", "'to_onehot_y' is decided by the data"),
        ("network: {options: {norm: 2020-01-01}}", "key 'network.options.norm'"),
        ("1: 2", "key '1'"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(text, tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / "recipe.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- folds", "", "just words", "42"])
def test_what_holds_no_keys_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold keys and values"):
        _load(text, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "description: !!python/object/apply:os.mkdir [{}]",
        "description: !!python/name:os.system",
        "!!python/object/new:os.mkdir {{args: [{}]}}",
        "description: !anything 1",
    ],
)
def test_tags_are_refused_and_nothing_runs(text: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(ConfigError, match=r"is not valid YAML \(line 1: could not determine a constructor"):
        _load(text.format(made), tmp_path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("folds: 3\nfolds: 4", "line 2: key 'folds' is given twice"),
        ("optimizer:\n  warmup: 0\n  warmup: 0.1", "line 3: key 'warmup' is given twice"),
        ("description: &a x\nnetwork: {name: *a}", "line 2: aliases are not allowed"),
        ("network: &n\n  options: *n", "line 2: aliases are not allowed"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("description: [", "line 1"),
        (b"description: \xff", "is not valid YAML"),
        ("description: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_yaml_that_misleads_is_refused(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(text, tmp_path)
    assert words in str(caught.value)


def test_long_values_are_shortened_in_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(yaml.safe_dump({"folds": ["x" * 1000] * 1000}), tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'unett'; did you mean 'unet'"):
        load_recipe("unett")


def test_recipes_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Augmentation().mirror = "all"  # type: ignore[misc]
