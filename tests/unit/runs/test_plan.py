from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medseg.errors import ConfigError
from medseg.geometry import Grid
from medseg.labels import LabelScheme
from medseg.runs import Fingerprint, NetworkPlan, Normalization, Plan, PreprocessingSpec
from medseg.runs.documents import load_json, save_json

numbers = st.floats(allow_nan=False, allow_infinity=False)
lengths = st.floats(1e-3, 1e3)


def _plan(**changes: Any) -> Plan:
    parts: dict[str, Any] = {
        "dataset": "Köpfe",
        "channel_names": ("CT", "T1"),
        "labels": LabelScheme.from_names({3: "left kidney", 7: "right kidney"}),
        "fingerprint": Fingerprint(
            cases=3,
            median_shape=(30, 31, 32),
            largest_shape=(40, 41, 42),
            median_spacing_mm=(0.1, 1 / 3, 2.0),
            foreground_intensity=({"lower": -1 / 3, "upper": 1e-300, "mean": 0.1, "std": 7e22},),
            class_voxels=(10**12, 3, 0),
        ),
        "preprocessing": PreprocessingSpec(
            spacing_mm=(0.1, 1 / 3, 2.0),
            normalization=(
                Normalization(scheme="clip_zscore", lower=-1 / 3, upper=0.1, mean=0.05, std=1e-7),
                Normalization(scheme="zscore"),
            ),
        ),
        "patch_size": (16, 16, 8),
        "batch_size": 2,
        "network": NetworkPlan(name="unet", options={"features": [4, 8], "dropout": 0.1, "norm": None}),
        "reasons": {"spacing_mm": "given by the recipe"},
    }
    return Plan(**(parts | changes))


def test_a_plan_survives_writing_and_reading_exactly(tmp_path: Path) -> None:
    plan = _plan()
    save_json(plan, tmp_path / "plan.json")
    assert load_json(Plan, tmp_path / "plan.json") == plan


@settings(max_examples=50, deadline=None)
@given(spacing=st.tuples(lengths, lengths, lengths), lower=numbers, width=lengths)
def test_no_digit_is_lost(spacing: tuple[float, float, float], lower: float, width: float) -> None:
    upper = lower + width
    if not lower < upper < math.inf:  # too far from zero to tell the two apart
        return
    scheme = Normalization(scheme="clip_zscore", lower=lower, upper=upper, mean=lower, std=width)
    spec = PreprocessingSpec(spacing_mm=spacing, normalization=(scheme,))
    assert PreprocessingSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_plan_is_plain_json(tmp_path: Path) -> None:
    save_json(_plan(), tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["labels"]["classes"][1]["name"] == "left kidney"


def test_channels_must_be_as_many_as_normalisations() -> None:
    with pytest.raises(ValidationError, match="differ in the number of channels"):
        _plan(channel_names=("CT",))


@pytest.mark.parametrize(
    ("sampling", "words"),
    [((1.0,), "not one number for each class"), ((0.5, 0.4), "does not sum to 1"), ((1.5, -0.5), "greater")],
)
def test_class_sampling_is_a_share_for_each_class(sampling: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _plan(class_sampling=sampling)
    assert _plan(class_sampling=(0.25, 0.75)).class_sampling == (0.25, 0.75)


def test_plans_from_before_there_was_more_to_say_are_read(tmp_path: Path) -> None:
    content = _plan().model_dump(mode="json")
    for key in ("class_sampling", "inference_mode"):
        del content[key]
    for key in ("shape", "spacing_mm", "channels", "classes"):
        del content["fingerprint"][key]
    for channel in content["preprocessing"]["normalization"]:
        del channel["background"]
    (tmp_path / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_json(Plan, tmp_path / "plan.json") == _plan()


def test_a_batch_holds_a_patch() -> None:
    with pytest.raises(ValidationError, match="batch_size"):
        _plan(batch_size=0)


def test_unknown_keys_of_a_plan_are_refused_at_every_depth(tmp_path: Path) -> None:
    content = _plan().model_dump(mode="json")
    for place, suggestion in (
        (content, "batch_size"),
        (content["preprocessing"], "axcodes"),
        (content["preprocessing"]["normalization"][1], "scheme"),
        (content["fingerprint"], "cases"),
    ):
        key = suggestion + "s"
        place[key] = place[suggestion]
        (tmp_path / "plan.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"unknown key '.*{key}'; did you mean '{suggestion}'"):
            load_json(Plan, tmp_path / "plan.json")
        del place[key]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    content = _plan().model_dump(mode="json")
    del content["preprocessing"]["normalization"]
    (tmp_path / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"key 'preprocessing\.normalization' is missing; add it"):
        load_json(Plan, tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scheme": "clip_zscore", "lower": 0, "upper": 1, "mean": 0.5}, "needs lower, upper, mean and std"),
        ({"scheme": "clip_zscore", "lower": 1, "upper": 1, "mean": 1, "std": 1}, "lower must be below upper"),
        ({"scheme": "clip_zscore", "lower": 0, "upper": 1, "mean": 0.5, "std": 0}, "greater than 0"),
        ({"scheme": "clip_zscore", "lower": 0, "upper": math.inf, "mean": 0, "std": 1}, "finite number"),
        ({"scheme": "zscore", "mean": 0.0}, "zscore takes no numbers"),
        ({"scheme": "none", "std": 1.0}, "none takes no numbers"),
        ({"scheme": "none", "background": 0.0}, "none takes no background"),
        (
            {"scheme": "clip_zscore", "lower": 0, "upper": 1, "mean": 0, "std": 1, "background": 0.0},
            "clip_zscore takes no background",
        ),
        ({"scheme": "minmax"}, "'zscore', 'clip_zscore' or 'none'"),
        ({"scheme": "zscore", "mode": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_normalisation_is_complete_or_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Normalization(**fields)


def test_preprocessing_needs_a_channel_and_an_orientation() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        PreprocessingSpec(normalization=())
    with pytest.raises(ConfigError, match="'RAX' is not an orientation"):
        PreprocessingSpec(axcodes="RAX", normalization=(Normalization(scheme="none"),))


def test_axcodes_are_written_in_capitals() -> None:
    assert PreprocessingSpec(axcodes="lps", normalization=(Normalization(scheme="none"),)).axcodes == "LPS"


def test_the_network_grid_is_oriented_then_resampled() -> None:
    # Stored P, I, R with 2, 4, 1 mm: seen as R, A, S the axes have 1, 2, 4 mm and 10, 6, 5 voxels.
    affine = np.array([[0, 0, 1, 5], [-2, 0, 0, 6], [0, -4, 0, 7], [0, 0, 0, 1]], dtype=float)
    native = Grid((6, 5, 10), affine)
    assert native.axcodes == "PIR"
    keep = PreprocessingSpec(normalization=(Normalization(scheme="none"),))
    assert keep.network_grid(native) == native.reoriented("RAS")
    spec = PreprocessingSpec(spacing_mm=(1, 1, 2), normalization=(Normalization(scheme="none"),))
    grid = spec.network_grid(native)
    assert grid.axcodes == "RAS"
    assert grid.spacing_mm == (1.0, 1.0, 2.0)
    assert grid.shape == (10, 11, 9)
    np.testing.assert_allclose(grid.to_world([0, 0, 0]), [5, 6 - 2 * 5, 7 - 4 * 4])
