"""Registries: names to things, without importing the things."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest

from medseg.errors import ConfigError, did_you_mean
from medseg.registry import LOSSES, METHODS, NETWORKS, Entry, Registry


@pytest.fixture
def registry() -> Registry:
    return Registry("function", {"sqrt": Entry("math:sqrt", "root"), "cosine": Entry("math:cos", "cosine")})


def test_names_are_sorted(registry: Registry) -> None:
    assert registry.names() == ("cosine", "sqrt")


def test_membership(registry: Registry) -> None:
    assert "sqrt" in registry
    assert "tan" not in registry
    assert 3 not in registry


def test_resolve_imports_the_attribute(registry: Registry) -> None:
    assert registry.resolve("sqrt") is math.sqrt


def test_entry_tells_target_and_summary(registry: Registry) -> None:
    assert registry.entry("cosine") == Entry("math:cos", "cosine")


@pytest.mark.parametrize("method", ["entry", "resolve"])
def test_misspelt_name_is_answered_with_the_nearest(registry: Registry, method: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown function 'sqr'; did you mean 'sqrt'\?"):
        getattr(registry, method)("sqr")


def test_unknown_name_is_answered_with_all(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="choose one of cosine, sqrt"):
        registry.entry("zzz")


def test_register_adds_a_name(registry: Registry) -> None:
    registry.register("tangent", "math:tan", "tangent")
    assert registry.resolve("tangent") is math.tan
    assert registry.names() == ("cosine", "sqrt", "tangent")


def test_register_refuses_a_taken_name(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="'sqrt' is registered already"):
        registry.register("sqrt", "math:tan", "not the root")
    assert registry.resolve("sqrt") is math.sqrt


@pytest.mark.parametrize("target", ["math", "math.tan", "a:b:c", ":tan", "math:", ""])
def test_register_refuses_what_is_no_target(registry: Registry, target: str) -> None:
    with pytest.raises(ConfigError, match="'module:attribute'"):
        registry.register("tangent", target, "tangent")
    assert "tangent" not in registry


def test_a_registry_does_not_share_the_table_it_was_made_from() -> None:
    table = {"sqrt": Entry("math:sqrt", "root")}
    Registry("function", table).register("tangent", "math:tan", "tangent")
    assert list(table) == ["sqrt"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("segnt", "did you mean 'segnet'?"),
        ("UNET", "did you mean 'unet'?"),
        ("q", "choose one of segnet, unet"),
    ],
)
def test_did_you_mean(name: str, answer: str) -> None:
    assert did_you_mean(name, ["unet", "segnet"]) == answer


@pytest.mark.parametrize(
    ("registry", "name"),
    [(registry, name) for registry in (NETWORKS, LOSSES, METHODS) for name in registry.names()],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_every_built_in_name_resolves(registry: Registry, name: str) -> None:
    entry = registry.entry(name)
    module, attribute = entry.target.split(":")
    assert registry.resolve(name) is getattr(importlib.import_module(module), attribute)
    assert callable(registry.resolve(name))
    assert entry.summary
    assert not entry.summary.endswith(".")


def test_names_are_known_without_torch() -> None:
    code = "import sys, medseg.registry as r; r.NETWORKS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
